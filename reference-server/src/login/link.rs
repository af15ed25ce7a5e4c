//! Several ways to sign in as one person: added and removed by whoever is signed in.
//!
//! Both sides are proved: the session's person has signed in a short while ago, is asked anew by the provider that is
//! added, in the same browser, and says that the account there is theirs. No address says that two are one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use mcp_gateway_auth::login::{csrf_token, is_csrf_token, read_cookie};
use mcp_gateway_auth::oidc::Proven;
use mcp_gateway_auth::page::{ConfirmLinkPage, LinkPage, SignedInPage, Way};
use mcp_gateway_auth::user::UserError;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::Revision;
use mcp_gateway_core::record::{Principal, Revoked, Subject, TenantId, User};

use super::form::{Fields, Form};
use super::{
    APPLY, Cx, HERE, SignedInAs, company, forged, is_foreign, notice, see, set, signed_in, trail, unavailable,
};
use crate::app::App;

/// The action of adding a way, in the trail.
const LINK: &str = "identity.link";
/// The action of removing one.
const UNLINK: &str = "identity.unlink";

/// The page of whoever is signed in.
pub(super) async fn page(
    app: &App,
    who: &SignedInAs,
    again: &str,
    problem: Option<&str>,
    status: StatusCode,
) -> Response {
    let identities = match app.logins.users.identities(&who.session.user).await {
        Ok(identities) => identities,
        Err(error) => {
            tracing::warn!(%error, "the ways to sign in cannot be read");
            let text = "The gateway cannot reach its store. Try again soon.";
            return *notice(StatusCode::SERVICE_UNAVAILABLE, "Not now", text, None);
        }
    };
    let title = |issuer: &str| match app.logins.providers.list().find(|one| one.issuer == issuer) {
        Some(provider) => provider.title.clone(),
        None if issuer == Subject::LOCAL => "Password".to_owned(),
        None => issuer.to_owned(),
    };
    let shown: Vec<_> = identities
        .iter()
        .map(|one| (title(&one.value.key.issuer), one.value.linked_at.strftime("%Y-%m-%d").to_string()))
        .collect();
    let ways: Vec<_> = identities
        .iter()
        .zip(&shown)
        .map(|(one, (title, since))| Way { id: &one.id, title, who: &one.value.key.subject, since })
        .collect();
    let is_linked = |issuer: &str| identities.iter().any(|one| one.value.key.issuer == issuer);
    let more: Vec<_> = app
        .logins
        .providers
        .list()
        .filter(|provider| provider.proves_anew() && !is_linked(&provider.issuer))
        .map(|provider| (&*provider.name, &*provider.title))
        .collect();
    let csrf = csrf_token(&who.cookie);
    let page = SignedInPage { csrf: &csrf, name: &who.name, again, ways: &ways, more: &more, problem };
    page.render().into_response(status)
}

/// `POST /login/link`: off to another provider.
pub(super) async fn begin(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, Form(sent): Form) -> Response {
    let who = match fresh(&app, &headers, &sent).await {
        Ok(who) => who,
        Err(response) => return *response,
    };
    if let Err(error) = company::start_allowed(&app, &cx.0).await {
        return company::told(&app, &cx.0, &error);
    }
    let cookies = app.logins.cookies;
    let known = read_cookie(&headers, cookies.browser()).ok().flatten().map(str::to_owned);
    let new = known.is_none().then(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let browser = known.or_else(|| new.clone()).unwrap_or_default();
    let provider = sent.text("provider");
    match app.logins.providers.begin_link(provider, &browser, HERE, &who.id).await {
        Ok(href) => {
            let title = app.logins.providers.list().find(|one| one.name == provider).map_or("", |one| &one.title);
            let mut response = LinkPage { provider: title, href: &href }.render().into_response(StatusCode::OK);
            if let Some(new) = new {
                set(&mut response, cookies.set(cookies.browser(), &new));
            }
            response
        }
        Err(error) => company::told(&app, &cx.0, &error),
    }
}

/// Back from it: shows what it was, for the person to say that it is theirs. Another one's may have been brought into
/// their browser at the provider.
pub(super) async fn finish(app: &App, cx: &McpContext, headers: &HeaderMap, proven: Proven, session: &str) -> Response {
    let who = match signed_in(app, headers).await {
        // The very session that wanted it, signed in to a short while ago: whoever else is at the browser did not.
        Ok(Some(who)) if *who.id == *session && is_fresh(app, &who) => who,
        Ok(_) => {
            let text =
                "You are not signed in any more as whoever began this, or too long ago. Sign in, and begin again.";
            return *notice(StatusCode::FORBIDDEN, "Start again", text, None);
        }
        Err(response) => return *response,
    };
    let held = match app.logins.providers.hold_link(session, &proven).await {
        Ok(held) => held,
        Err(error) => return *unavailable(cx, &error),
    };
    let identities = match app.logins.users.identities(&who.session.user).await {
        Ok(identities) => identities,
        Err(error) => return *unavailable(cx, &error),
    };
    let title = app.logins.providers.list().find(|one| one.name == held.provider).map_or("", |one| &one.title);
    let page = ConfirmLinkPage {
        csrf: &csrf_token(&who.cookie),
        identity: &held.identity.id(),
        person: &who.name,
        provider: title,
        issuer: &held.identity.issuer,
        name: &held.name,
        email: held.email.as_deref(),
        subject: &held.identity.subject,
        ends_keys: identities.iter().any(|one| one.value.key.issuer == Subject::LOCAL),
    };
    page.render().into_response(StatusCode::OK)
}

/// `POST /login/link/confirm`: it is theirs.
pub(super) async fn confirm(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, Form(sent): Form) -> Response {
    let who = match fresh(&app, &headers, &sent).await {
        Ok(who) => who,
        Err(response) => return *response,
    };
    let held = match app.logins.providers.take_link(&who.id, sent.text("identity")).await {
        Ok(Some(held)) => held,
        Ok(None) => return *forged(),
        Err(error) => return *unavailable(&cx.0, &error),
    };
    let user = &*who.session.user;
    match app.logins.users.link(user, &held.identity).await {
        Ok(revision) => {
            trail::done(&app, &cx.0, LINK, user).await;
            ended(&app, user, revision).await
        }
        Err(UserError::Store(error)) => *unavailable(&cx.0, &error),
        Err(error) => {
            trail::not_let_in(&app, &cx.0, LINK, &held.provider, &error).await;
            let text = match error {
                UserError::Exists(_) => {
                    "Whoever signs in there like this has an account of their own here. If it is yours, an administrator \
                     deletes it first."
                }
                UserError::SameIssuer => "You sign in with another account of this provider. Remove that one first.",
                _ => "This way to sign in cannot be added. Ask an administrator.",
            };
            *notice(StatusCode::CONFLICT, "Not added", text, Some(&cx.0.request_id().to_string()))
        }
    }
}

/// Everything of the person has ended with this revision, this session, too.
async fn ended(app: &App, user: &str, revision: Revision) -> Response {
    let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await;
    let subject = User::subject(TenantId::default(), user);
    let ended = match app.logins.sessions.end_all(user).await {
        Ok(()) => app.end_grants(Revoked::Subject(&subject)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        // Its epoch has ended all of it; what is left is good for nothing.
        tracing::warn!(%error, user, "sessions and grants that have ended are not removed");
    }
    let mut response = see(HERE);
    set(&mut response, app.logins.cookies.remove(app.logins.cookies.session()));
    response
}

/// `POST /login/unlink`: one way less.
pub(super) async fn remove(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, Form(sent): Form) -> Response {
    let who = match fresh(&app, &headers, &sent).await {
        Ok(who) => who,
        Err(response) => return *response,
    };
    let user = &*who.session.user;
    let themself = Principal::new(Subject::LOCAL, user.to_owned());
    let removed = app.logins.users.unlink(&themself, user, sent.text("identity"), |key| app.can_sign_in(key)).await;
    let revision = match removed {
        Ok(revision) => revision,
        Err(UserError::Store(error)) => return *unavailable(&cx.0, &error),
        Err(error) => {
            trail::not_let_in(&app, &cx.0, UNLINK, user, &error).await;
            let problem = match error {
                UserError::LastIdentity => "It is the only way in which you can sign in. Add another one first.",
                UserError::Provisioned => "Your company answers for it. Ask an administrator.",
                UserError::LastOwner => "Its groups make you the last owner. Make another owner first.",
                _ => "It is not one of yours any more.",
            };
            return page(&app, &who, HERE, Some(problem), StatusCode::CONFLICT).await;
        }
    };
    trail::done(&app, &cx.0, UNLINK, user).await;
    ended(&app, user, revision).await
}

/// Whoever is signed in, if the form came from their page, and they have signed in a short while ago.
async fn fresh(app: &App, headers: &HeaderMap, sent: &Fields) -> Result<SignedInAs, Box<Response>> {
    let who = signed_in(app, headers).await?.ok_or_else(forged)?;
    if is_foreign(app, headers) || !is_csrf_token(&who.cookie, sent.text("csrf")) {
        return Err(forged());
    }
    if !is_fresh(app, &who) {
        let text = "Sign in again for this: your last login is too long ago. The login page has a button for it.";
        return Err(notice(StatusCode::FORBIDDEN, "Sign in again", text, None));
    }
    Ok(who)
}

fn is_fresh(app: &App, who: &SignedInAs) -> bool {
    let age = app.clock.now().duration_since(who.session.authenticated_at);
    // One of a moment that is yet to come is no older.
    Duration::try_from(age).map_or(true, |age| age <= Duration::from_secs(app.config.login.fresh_seconds))
}
