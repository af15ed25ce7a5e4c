//! The person's side: entering a code, and answering what it asks for.

use std::time::Duration;

use http::header::SET_COOKIE;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use jiff::Timestamp;
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{When, Write};
use mcp_gateway_core::record::{Outcome, Stored};

use super::super::answer::{for_browser, method_not_allowed};
use super::super::audit::Act;
use super::super::authorize::unavailable;
use super::super::client::{hex_hash, same_hash};
use super::super::form::Form;
use super::super::state::won;
use super::super::{
    ClientLookup, DeviceConfirm, DeviceEntry, DeviceStep, Grant, Inner, Issuer, LoggedIn, OAuthClient, Problem,
    ServerLimits, paths, random,
};
use super::poll::SLOWEST;
use super::{Asked, DeviceOptions, DeviceRequest, DeviceState, UserCode, may_ask};

impl Inner {
    /// The pages on which a person enters a device's code, and answers what it asks for.
    pub(crate) async fn device_page(
        &self,
        head: &Parts,
        options: &DeviceOptions,
        path: &str,
        body: Body,
    ) -> Response<Body> {
        match (&head.method, path) {
            (&Method::GET, paths::DEVICE) => match self.limit_address(head, false).await {
                Err(limited) => self.page(head, Problem::TooMany, Some(limited)).await,
                Ok(()) => self.device_entry(head).await,
            },
            (&Method::POST, _) => match self.decision(head, body).await {
                Err(problem) => self.page(head, problem, None).await,
                Ok(form) if path == paths::DEVICE => self.device_code(head, options, &form).await,
                Ok(form) => self.device_decision(head, &form).await,
            },
            (_, paths::DEVICE) => method_not_allowed("GET, POST"),
            _ => method_not_allowed("POST"),
        }
    }

    /// `GET /device`: asks for the code. One that came with the link is shown to be compared (RFC 8628 §3.3.1).
    async fn device_entry(&self, head: &Parts) -> Response<Body> {
        match self.enter(head).await {
            Ok(response) => for_browser(response),
            Err(problem) => self.page(head, problem, None).await,
        }
    }

    async fn enter(&self, head: &Parts) -> Result<Response<Body>, Problem> {
        let query = head.uri.query().unwrap_or_default();
        if query.len() > ServerLimits::QUERY {
            return Err(Problem::Malformed);
        }
        let form = Form::parse(query.as_bytes()).map_err(|_| Problem::Malformed)?;
        let code = form.find("user_code").and_then(UserCode::parse);
        if self.interaction.who(head).await.map_err(unavailable)?.is_none() {
            let query = code.map_or_else(String::new, |code| format!("?user_code={code}"));
            return Ok(self.interaction.login(head, &format!("{}{query}", paths::DEVICE)).await);
        }
        Ok(self.entry_page(head, code.as_ref(), false).await)
    }

    async fn entry_page(&self, head: &Parts, code: Option<&UserCode>, wrong: bool) -> Response<Body> {
        let known = self.nonce(head);
        let nonce = known.clone().unwrap_or_else(random);
        let entry = DeviceEntry {
            action: paths::DEVICE.to_owned(),
            csrf: csrf(&nonce),
            user_code: code.map(ToString::to_string).unwrap_or_default(),
            wrong,
        };
        let mut page = self.interaction.device(head, &DeviceStep::Enter(entry)).await;
        if wrong {
            *page.status_mut() = StatusCode::BAD_REQUEST;
        }
        if known.is_none()
            && let Ok(cookie) = HeaderValue::from_str(&self.nonce_cookie(&nonce))
        {
            page.headers_mut().append(SET_COOKIE, cookie);
        }
        page
    }

    /// `POST /device`: the code. What it asks for is shown to this person in this browser.
    async fn device_code(&self, head: &Parts, options: &DeviceOptions, form: &Form) -> Response<Body> {
        match self.look_up(head, options, form).await {
            Ok(response) => for_browser(response),
            Err(problem) => self.page(head, problem, None).await,
        }
    }

    async fn look_up(&self, head: &Parts, options: &DeviceOptions, form: &Form) -> Result<Response<Body>, Problem> {
        let nonce = self.nonce(head).filter(|_| self.is_ours(head)).ok_or(Problem::RequestGone)?;
        if !form.find("csrf").is_some_and(|token| same_hash(token, &hex_hash(&csrf(&nonce)))) {
            return Err(Problem::RequestGone);
        }
        let who = self.interaction.who(head).await.map_err(unavailable)?.ok_or(Problem::RequestGone)?;
        let Some(code) = form.find("user_code").and_then(UserCode::parse) else {
            return Ok(self.entry_page(head, None, true).await);
        };
        // Before it is looked up, and for good codes too: of many guesses at once none slips through.
        self.limit_tries(head, &who.subject, options).await.map_err(|_| Problem::TooMany)?;
        let Some((stored, client)) = self.waiting(&code).await? else {
            let (subject, outcome) = (Some(&who.subject), Outcome::Denied);
            let act =
                Act { name: "oauth.device-code", subject, client: "", server: None, target: "", outcome, why: None };
            // Nothing is given: the answer does not depend on the trail.
            let _ = self.record(head, act).await;
            return Ok(self.entry_page(head, Some(&code), true).await);
        };
        let request = &stored.value;
        let server = match &request.server {
            None => None,
            Some(id) => {
                let route = self.visible(id, &who).await?.ok_or(Problem::NoAccess)?;
                Some((id.clone(), route.name.to_string()))
            }
        };
        let token = random();
        let asked =
            Asked { subject: who.subject.clone(), browser_sha256: hex_hash(&nonce), csrf_sha256: hex_hash(&token) };
        let shown = DeviceRequest { asked: Some(asked), ..request.clone() };
        if !self.change(&stored, &shown, Vec::new()).await? {
            return Err(Problem::RequestGone);
        }
        let confirm = DeviceConfirm {
            subject: who.subject,
            action: paths::DEVICE_DECIDE.to_owned(),
            request: stored.id.to_string(),
            csrf: token,
            user_code: code.to_string(),
            client_id: request.client_id.clone(),
            client_name: client.name,
            from: request.from.clone(),
            server,
            scopes: vec![request.scope.clone()],
        };
        Ok(self.interaction.device(head, &DeviceStep::Confirm(Box::new(confirm))).await)
    }

    /// The request that waits under this code, and its client; `None` looks the same whatever is missing.
    async fn waiting(&self, code: &UserCode) -> Result<Option<(Stored<DeviceRequest>, OAuthClient)>, Problem> {
        let id = self.state.user_code_id(code).await.map_err(unavailable)?;
        let Some(found) = self.state.user_codes.get(&id).await.map_err(unavailable)? else { return Ok(None) };
        let Some(stored) = self.state.devices.get(&found.value.device).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let waits = stored.value.state == DeviceState::Waiting && self.clock.now() < stored.value.ends_at;
        let client = self.device_client(&stored.value).await?.filter(|_| waits);
        Ok(client.map(|client| (stored, client)))
    }

    async fn device_client(&self, request: &DeviceRequest) -> Result<Option<OAuthClient>, Problem> {
        let issuer = Issuer::remembered(&self.mount, request.issuer.as_deref());
        Ok(match self.find_client(&request.client_id, &issuer).await.map_err(unavailable)? {
            ClientLookup::Found(client, _) if may_ask(&client) => Some(*client),
            ClientLookup::Found(..) | ClientLookup::Blocked | ClientLookup::Unknown => None,
        })
    }

    /// `POST /device/decide`: what the person said.
    async fn device_decision(&self, head: &Parts, form: &Form) -> Response<Body> {
        match self.conclude_device(head, form).await {
            Ok(response) => for_browser(response),
            Err(problem) => self.page(head, problem, None).await,
        }
    }

    async fn conclude_device(&self, head: &Parts, form: &Form) -> Result<Response<Body>, Problem> {
        let nonce = self.nonce(head).filter(|_| self.is_ours(head)).ok_or(Problem::RequestGone)?;
        let id = form.find("request").filter(|id| id.len() <= 64).ok_or(Problem::RequestGone)?;
        let stored = self.state.devices.get(id).await.map_err(unavailable)?.ok_or(Problem::RequestGone)?;
        let request = &stored.value;
        let asked = request.asked.as_ref().ok_or(Problem::RequestGone)?;
        let token = form.find("csrf").ok_or(Problem::RequestGone)?;
        let who = self.interaction.who(head).await.map_err(unavailable)?.ok_or(Problem::RequestGone)?;
        let same_page = same_hash(&nonce, &asked.browser_sha256) && same_hash(token, &asked.csrf_sha256);
        let waits = request.state == DeviceState::Waiting && self.clock.now() < request.ends_at;
        if !same_page || asked.subject != who.subject || !waits {
            return Err(Problem::RequestGone);
        }
        self.device_client(request).await?.ok_or(Problem::RequestGone)?;
        // One answer: the code is good for no second page.
        let gone = Write::Delete { key: self.state.user_codes.key(&request.user_code), when: When::Any };
        if form.find("decision") != Some("allow") {
            let denied = DeviceRequest { state: DeviceState::Denied, ..request.clone() };
            if !self.change(&stored, &denied, vec![gone]).await? {
                return Err(Problem::RequestGone);
            }
            let act = consented(&stored, &who, request.server.as_deref(), Outcome::Denied);
            // Nothing is given: the answer does not depend on the trail.
            let _ = self.record(head, act).await;
            return Ok(self.interaction.device(head, &DeviceStep::Denied).await);
        }
        let server = request.server.clone().or_else(|| form.find("server").map(str::to_owned));
        let server = server.ok_or(Problem::NoServer)?;
        let route = self.visible(&server, &who).await?.ok_or(Problem::NoAccess)?;
        self.limit_subject(&who.subject, &request.client_id).await.map_err(|_| Problem::TooMany)?;
        let act = consented(&stored, &who, Some(&server), Outcome::Ok);
        self.record(head, act).await.map_err(unavailable)?;
        let grant = self.allowed(request, server, who);
        // The device hears of it with its next question, however near the end the person was.
        let interval = self.devices.as_ref().map_or(Duration::ZERO, |options| options.interval);
        let heard =
            grant.created_at.saturating_add(interval.max(Duration::from_secs(SLOWEST))).unwrap_or(Timestamp::MAX);
        let (ends_at, state) = (request.ends_at.max(heard), DeviceState::Allowed(Box::new(grant)));
        let allowed = DeviceRequest { ends_at, state, ..request.clone() };
        if !self.change(&stored, &allowed, vec![gone]).await? {
            return Err(Problem::RequestGone);
        }
        Ok(self.interaction.device(head, &DeviceStep::Allowed { server: route.name.to_string() }).await)
    }

    /// What the person agreed to. It counts from now: what ends the person, the login or the client before the device
    /// has its tokens ends it.
    fn allowed(&self, request: &DeviceRequest, server: String, who: LoggedIn) -> Grant {
        let now = self.clock.now();
        Grant {
            // Who may do nothing any more was refused a moment ago.
            person_epoch: self.standing.person(&who.subject).unwrap_or_default().epoch,
            subject: who.subject,
            client_id: request.client_id.clone(),
            server,
            issuer: request.issuer.clone(),
            scope: request.scope.clone(),
            session: who.session,
            created_at: now,
            ends_at: now.saturating_add(self.options.grant_life).unwrap_or(now),
            refresh_key: None,
            generation: 0,
            rotated_at: now,
        }
    }

    /// `false`: somebody else was faster.
    async fn change(
        &self,
        stored: &Stored<DeviceRequest>,
        to: &DeviceRequest,
        mut writes: Vec<Write>,
    ) -> Result<bool, Problem> {
        let (life, when) = (self.kept_device(to), When::At(stored.revision));
        writes.push(self.state.devices.put(&stored.id, to, Some(life), when).map_err(unavailable)?);
        won(self.state.commit(writes).await).map_err(unavailable)
    }
}

/// The token of the first page: whoever cannot read the browser's cookie cannot make it.
fn csrf(nonce: &str) -> String {
    hex_hash(&format!("device {nonce}"))
}

fn consented<'a>(
    stored: &'a Stored<DeviceRequest>,
    who: &'a LoggedIn,
    server: Option<&'a str>,
    outcome: Outcome,
) -> Act<'a> {
    let (subject, client, target) = (Some(&who.subject), &*stored.value.client_id, &*stored.id);
    Act { name: "oauth.device-consent", subject, client, server, target, outcome, why: None }
}
