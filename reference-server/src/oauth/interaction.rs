//! Who is at the browser, and the pages on the way to a code.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use mcp_gateway_auth::login::read_cookie;
use mcp_gateway_auth::page::{self, ClientOrigin, ErrorPage};
use mcp_gateway_auth::server::{
    Connected, ConsentPage, DeviceConfirm, DeviceStep, Interaction, KnownBy, LoggedIn, NotConnected, Problem,
    RedirectKind,
};
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Action, Target};
use mcp_gateway_core::policy::SnapshotRules;
use mcp_gateway_core::record::{Principal, Scope, Subject, TenantId, User};
use mcp_gateway_core::snapshot::Snapshots;
use mcp_gateway_core::{Body, BoxError};
use url::Url;

use crate::app::Logins;

/// Servers of the page on which a person chooses one; a client that wants another has to name it.
const CHOICES: usize = 200;

/// People by the sessions of their browsers.
#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) logins: Logins,
    pub(crate) snapshots: Snapshots,
    pub(crate) access: Arc<SnapshotRules>,
}

#[async_trait]
impl Interaction for Browser {
    async fn who(&self, head: &Parts) -> Result<Option<LoggedIn>, BoxError> {
        // A cookie that is there twice was planted: whoever is there shall log in anew.
        let Ok(Some(token)) = read_cookie(&head.headers, self.logins.cookies.session()) else { return Ok(None) };
        let Some(session) = self.logins.sessions.find(token).await? else { return Ok(None) };
        if self.snapshots.refuses() {
            return Err("the directory of users has been cut off for too long".into());
        }
        let snapshot = self.snapshots.load();
        let user = snapshot.users.get(&*session.value.user);
        // Whoever is disabled gets to the login page, which says no more than to a stranger.
        let stands = user.is_some_and(|user| user.enabled && user.epoch == session.value.epoch);
        let subject = User::subject(TenantId::default(), &session.value.user);
        Ok(stands.then(|| LoggedIn { subject, session: Some(session.id.into()) }))
    }

    async fn login(&self, _: &Parts, return_to: &str) -> Response<Body> {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", return_to).finish();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SEE_OTHER;
        let location = HeaderValue::from_str(&format!("/login?{query}"));
        response.headers_mut().insert(LOCATION, location.unwrap_or(HeaderValue::from_static("/login")));
        response
    }

    async fn consent(&self, head: &Parts, asked: &ConsentPage) -> Response<Body> {
        let user = match self.name(&asked.subject).await {
            Ok(user) => user,
            Err(error) => {
                tracing::warn!(%error, "a person cannot be read");
                return self.problem(head, &Problem::Unavailable).await;
            }
        };
        let host = Url::parse(&asked.client_id).ok().and_then(|url| url.host_str().map(str::to_owned));
        let client = match (asked.known_by, &host) {
            (KnownBy::Operator, _) => ClientOrigin::Registered,
            (KnownBy::Document, Some(host)) => ClientOrigin::Document { host },
            _ => ClientOrigin::SelfRegistered,
        };
        let redirect_host = match &asked.redirect {
            RedirectKind::Https(host) => host.clone(),
            RedirectKind::Loopback => "a program on this computer".to_owned(),
            RedirectKind::Scheme(scheme) => format!("the program on this computer that opens {scheme}: links"),
        };
        let choices = if asked.server.is_none() { self.choices(&asked.subject) } else { Vec::new() };
        let choices: Vec<_> = choices.iter().map(|(id, name)| page::Choice { id, name }).collect();
        let scopes: Vec<&str> = asked.scopes.iter().map(|scope| meaning(scope)).collect();
        page::ConsentPage {
            action: &asked.action,
            csrf: &asked.csrf,
            request: &asked.request,
            user: &user,
            client_name: asked.client_name.as_deref(),
            client,
            redirect_uri: &asked.redirect_uri,
            redirect_host: &redirect_host,
            on_this_computer: !matches!(asked.redirect, RedirectKind::Https(_)),
            server: asked.server.as_ref().map(|(_, name)| &**name),
            choices: &choices,
            scopes: &scopes,
        }
        .render()
        .into_response::<String>(StatusCode::OK)
        .map(body)
    }

    async fn connected(&self, _: &Parts, connected: &Connected) -> Response<Body> {
        let page = page::ConnectedPage { server: &connected.server, to: Some(&connected.to) };
        page.render().into_response::<String>(StatusCode::OK).map(body)
    }

    async fn not_connected(&self, _: &Parts, not_connected: &NotConnected) -> Response<Body> {
        let page = page::NotConnectedPage { to: &not_connected.to };
        page.render().into_response::<String>(StatusCode::OK).map(body)
    }

    async fn device(&self, head: &Parts, step: &DeviceStep) -> Response<Body> {
        let page = match step {
            DeviceStep::Enter(entry) => {
                let problem = entry.wrong.then_some("No device waits under this code, or not any more.");
                let (action, csrf, user_code) = (&*entry.action, &*entry.csrf, &*entry.user_code);
                page::DevicePage { action, csrf, user_code, problem }.render()
            }
            DeviceStep::Confirm(asked) => return self.confirm(head, asked).await,
            DeviceStep::Allowed { server } => page::ConnectedPage { server, to: None }.render(),
            _ => {
                let text = "The device got nothing. You can close this window.";
                ErrorPage { title: "Denied", text, request_id: None }.render()
            }
        };
        page.into_response::<String>(StatusCode::OK).map(body)
    }

    async fn problem(&self, head: &Parts, problem: &Problem) -> Response<Body> {
        let request_id = McpContext::of(&head.extensions).map(|cx| cx.request_id().to_string());
        let page = ErrorPage { title: "Not connected", text: problem.text(), request_id: request_id.as_deref() };
        page.render().into_response::<String>(problem.status()).map(body)
    }
}

impl Browser {
    /// May this device act for you?
    async fn confirm(&self, head: &Parts, asked: &DeviceConfirm) -> Response<Body> {
        let user = match self.name(&asked.subject).await {
            Ok(user) => user,
            Err(error) => {
                tracing::warn!(%error, "a person cannot be read");
                return self.problem(head, &Problem::Unavailable).await;
            }
        };
        let choices = if asked.server.is_none() { self.choices(&asked.subject) } else { Vec::new() };
        let choices: Vec<_> = choices.iter().map(|(id, name)| page::Choice { id, name }).collect();
        let scopes: Vec<&str> = asked.scopes.iter().map(|scope| meaning(scope)).collect();
        page::DeviceConsentPage {
            action: &asked.action,
            csrf: &asked.csrf,
            request: &asked.request,
            user: &user,
            user_code: &asked.user_code,
            client_name: asked.client_name.as_deref().unwrap_or(&asked.client_id),
            from: asked.from.as_deref(),
            server: asked.server.as_ref().map(|(_, name)| &**name),
            choices: &choices,
            scopes: &scopes,
        }
        .render()
        .into_response::<String>(StatusCode::OK)
        .map(body)
    }

    /// What a person is called.
    async fn name(&self, subject: &Subject) -> Result<String, BoxError> {
        let user = self.logins.users.get(&subject.id).await?;
        Ok(user.map_or_else(|| subject.id.to_string(), |user| user.value.name))
    }

    /// Ids and names of the servers that a person may reach, by name.
    fn choices(&self, subject: &Subject) -> Vec<(String, String)> {
        let snapshot = self.snapshots.load();
        let person = Principal::new(Arc::clone(&subject.issuer), Arc::clone(&subject.id));
        let may = |id: &str| {
            let server = Target { server: id, name: None };
            self.access.explain(&person, Action::Connect, server, None).allow
        };
        let routes = snapshot.routes.values().filter(|route| may(&route.id));
        let mut all: Vec<_> = routes.map(|route| (route.id.to_string(), route.name.to_string())).collect();
        all.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
        all.truncate(CHOICES);
        all
    }
}

/// What a scope permits, for people.
fn meaning(scope: &str) -> &str {
    if scope == Scope::Mcp.as_str() {
        "see and call the server's tools, prompts and resources in your name"
    } else {
        scope
    }
}

fn body(html: String) -> Body {
    Body::from(bytes::Bytes::from(html))
}
