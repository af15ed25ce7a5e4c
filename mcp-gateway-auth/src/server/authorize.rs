//! The browser's way: from a client's request by login and consent to a code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};
use jiff::SignedDuration;
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{Limited, Revision, StoreError, When, Write};
use mcp_gateway_core::record::{Outcome, Principal, Route, Scope, Secret, Stored};

use super::answer::{for_browser, redirect, seconds};
use super::audit::Act;
use super::client::{hex_hash, matches, same_hash};
use super::form::{Form, append};
use super::state::won;
use super::{
    AuthorizationCode, ClientLookup, Connected, Consent, ConsentPage, DocumentClients, Grant, GrantType, Inner, Issuer,
    KnownBy, LoggedIn, NotConnected, OAuthClient, PendingRequest, Problem, RedirectKind, ServerLimits, client_key,
    consent, paths, random,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How a request of the browser ends when it does not go on.
enum End {
    /// A page: nobody can be sent back to.
    Page(Problem),
    /// The client is told, at a redirect URI that was found to be its own.
    Client(NotConnected),
}

impl End {
    /// Tells the client what is wrong (RFC 6749 §4.1.2.1, RFC 9207).
    fn client(issuer: &Issuer, redirect_uri: &str, state: Option<&str>, error: &str, why: &str) -> Self {
        let parameters =
            [("error", Some(error)), ("error_description", Some(why)), ("state", state), ("iss", Some(&*issuer.url))];
        Self::Client(NotConnected { to: append(redirect_uri, &parameters) })
    }
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Page(problem)
    }
}

/// A request's client as it is now, and where it may be sent back to.
struct Judged {
    client: OAuthClient,
    kept: Option<Revision>,
    redirect_uri: String,
    kind: RedirectKind,
}

/// Somebody of ours does not answer; the cause is for the log.
pub(crate) fn unavailable(cause: impl std::fmt::Display) -> Problem {
    tracing::warn!(%cause, "an authorization request cannot go on");
    Problem::Unavailable
}

impl Inner {
    /// `GET /authorize` (RFC 6749 §4.1.1): holds the request and binds it to the browser.
    pub(crate) async fn authorize(&self, head: &Parts, issuer: &Issuer) -> Response<Body> {
        match self.hold(head, issuer).await {
            Ok(response) => response,
            // A link of the client led here, and no form of ours.
            Err(End::Client(told)) => redirect(&told.to),
            Err(end) => self.end(head, end).await,
        }
    }

    async fn hold(&self, head: &Parts, issuer: &Issuer) -> Result<Response<Body>, End> {
        let query = head.uri.query().unwrap_or_default();
        if query.len() > ServerLimits::QUERY {
            return Err(Problem::Malformed.into());
        }
        let form = Form::parse(query.as_bytes()).map_err(|_| Problem::Malformed)?;
        let client_id = form.find("client_id").ok_or(Problem::Malformed)?;
        let redirect_uri = form.find("redirect_uri");
        let state = form.find("state");
        // A client that has a document is looked at after login: strangers make us fetch nothing.
        let checked = if DocumentClients::is_url(client_id) {
            // Anybody can make one up of which nothing is kept, and have the request for it kept.
            if matches!(self.find_client(client_id, issuer).await.map_err(unavailable)?, ClientLookup::Unknown) {
                self.limit_unknown("oauth-documents-all").await.map_err(|_| Problem::TooMany)?;
            }
            None
        } else {
            let client = known(self.find_client(client_id, issuer).await.map_err(unavailable)?)?.0;
            let (uri, kind) = checked_redirect(&client, redirect_uri)?;
            // Not even errors go to a place that nobody has approved: anybody can register one.
            if !self.approves(&client, &kind) {
                return Err(Problem::ClientNotApproved.into());
            }
            Some((uri, self.speaks_for(&client, &kind)))
        };
        let refuse = |error, why| match &checked {
            Some((uri, true)) => End::client(issuer, uri, state, error, why),
            Some((_, false)) | None => End::Page(Problem::Malformed),
        };
        if state.is_some_and(|state| state.len() > ServerLimits::STATE) {
            return Err(Problem::Malformed.into());
        }
        if form.find("response_type") != Some("code") {
            return Err(refuse("unsupported_response_type", "The only response_type is code."));
        }
        if form.find("response_mode").is_some_and(|mode| mode != "query") {
            return Err(refuse("invalid_request", "The only response_mode is query."));
        }
        if form.find("request").or(form.find("request_uri")).is_some() {
            return Err(refuse("request_not_supported", "Request objects are not supported."));
        }
        // Without a method it would be `plain` (RFC 7636 §4.3).
        if form.find("code_challenge_method") != Some("S256") {
            return Err(refuse("invalid_request", "PKCE with code_challenge_method S256 is required."));
        }
        let challenge = form.find("code_challenge").filter(|text| is_s256(text));
        let challenge = challenge.ok_or_else(|| refuse("invalid_request", "The code_challenge is not one of S256."))?;
        // Whoever is shown nothing cannot agree.
        if form.find("prompt") == Some("none") {
            return Err(refuse("interaction_required", "Somebody has to be asked."));
        }
        let server = issuer
            .target(&self.mount, form.all("resource"))
            .map_err(|_| refuse("invalid_target", "The resource is not one server of this gateway."))?;

        let (nonce, cookie) = match self.nonce(head) {
            Some(nonce) => (nonce, None),
            None => {
                let nonce = random();
                let cookie = self.nonce_cookie(&nonce);
                (nonce, Some(cookie))
            }
        };
        let pending = PendingRequest {
            browser_sha256: hex_hash(&nonce),
            client_id: client_id.to_owned(),
            redirect_uri: redirect_uri.map(str::to_owned),
            state: state.map(str::to_owned),
            challenge: challenge.to_owned(),
            server,
            issuer: issuer.server.clone(),
            // Scopes that we do not know are ignored; the data plane has one.
            scope: Scope::Mcp.as_str().to_owned(),
            ask_anew: form.find("prompt").is_some_and(|prompt| prompt.split(' ').any(|one| one == "consent")),
            shown: None,
            shown_to: None,
            csrf_sha256: None,
        };
        let id = random();
        let put = self.state.requests.put(&id, &pending, Some(ServerLimits::REQUEST), When::Absent);
        self.state.commit(vec![put.map_err(unavailable)?]).await.map_err(unavailable)?;
        let mut response = redirect(&format!("{}?request={id}", paths::CONTINUE));
        if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// `GET /authorize/continue`: login, then the consent page.
    pub(crate) async fn proceed(&self, head: &Parts) -> Response<Body> {
        match self.ask(head).await {
            Ok(response) => for_browser(response),
            Err(end) => self.end(head, end).await,
        }
    }

    async fn ask(&self, head: &Parts) -> Result<Response<Body>, End> {
        let query = head.uri.query().unwrap_or_default();
        let form = Form::parse(query.as_bytes()).map_err(|_| Problem::Malformed)?;
        let held = self.held(head, form.find("request").ok_or(Problem::Malformed)?).await?;
        let who = self.interaction.who(head).await.map_err(unavailable)?;
        let Some(who) = who else {
            let return_to = format!("{}?request={}", paths::CONTINUE, held.id);
            return Ok(self.interaction.login(head, &return_to).await);
        };
        self.limit_subject(&who.subject, &held.value.client_id).await.map_err(|_| Problem::TooMany)?;
        let judged = self.judge(&held.value, &who).await?;
        let server = match &held.value.server {
            None => None,
            Some(id) => {
                let route = self.visible(id, &who).await?;
                let route = route.ok_or_else(|| match self.speaks_for(&judged.client, &judged.kind) {
                    true => self.denied(&held.value, &judged.redirect_uri),
                    false => Problem::NoAccess.into(),
                })?;
                Some((id.clone(), route.name.to_string()))
            }
        };
        if let Some((id, _)) = &server
            && self.agreed_before(&held.value, &judged, id, &who).await?
        {
            let server = id.clone();
            return self.give(head, &held, judged, server, who, "oauth.consent-remembered").await;
        }
        let csrf = random();
        let shown = PendingRequest {
            shown: Some(consent::digest(&judged.client, &judged.redirect_uri)),
            shown_to: Some(who.subject.clone()),
            csrf_sha256: Some(hex_hash(&csrf)),
            ..held.value.clone()
        };
        let when = When::At(held.revision);
        let put = self.state.requests.put(&held.id, &shown, Some(ServerLimits::REQUEST), when).map_err(unavailable)?;
        if !won(self.state.commit(vec![put]).await).map_err(unavailable)? {
            return Err(Problem::RequestGone.into());
        }
        let page = ConsentPage {
            subject: who.subject,
            action: paths::DECIDE.to_owned(),
            request: held.id.to_string(),
            csrf,
            client_id: held.value.client_id.clone(),
            client_name: judged.client.name,
            known_by: judged.client.known_by,
            redirect: judged.kind,
            redirect_uri: judged.redirect_uri,
            server,
            scopes: vec![held.value.scope.clone()],
        };
        Ok(self.interaction.consent(head, &page).await)
    }

    /// `POST /authorize/decide`: what the person said.
    pub(crate) async fn decide(&self, head: &Parts, form: &Form) -> Response<Body> {
        match self.conclude(head, form).await {
            Ok(response) => response,
            Err(end) => self.end(head, end).await,
        }
    }

    async fn conclude(&self, head: &Parts, form: &Form) -> Result<Response<Body>, End> {
        if !self.is_ours(head) {
            return Err(Problem::RequestGone.into());
        }
        let held = self.held(head, form.find("request").ok_or(Problem::Malformed)?).await?;
        let pending = &held.value;
        let who = self.interaction.who(head).await.map_err(unavailable)?.ok_or(Problem::RequestGone)?;
        let token = form.find("csrf").ok_or(Problem::RequestGone)?;
        let asked = pending.csrf_sha256.as_deref().is_some_and(|hash| same_hash(token, hash));
        if !asked || pending.shown_to.as_ref() != Some(&who.subject) {
            return Err(Problem::RequestGone.into());
        }
        let judged = self.judge(pending, &who).await?;
        // What was agreed to is what was shown: a document may have changed meanwhile.
        if pending.shown.as_deref() != Some(&*consent::digest(&judged.client, &judged.redirect_uri)) {
            return Err(Problem::RequestGone.into());
        }
        let gone = Write::Delete { key: self.state.requests.key(&held.id), when: When::At(held.revision) };
        if form.find("decision") != Some("allow") {
            self.use_up(vec![gone]).await?;
            let act = consented("oauth.consent", &held, &who, pending.server.as_deref(), Outcome::Denied);
            // Nothing is given: the answer does not depend on the trail.
            let _ = self.record(head, act).await;
            return Err(self.denied(pending, &judged.redirect_uri));
        }
        let Some(server) = pending.server.clone().or_else(|| form.find("server").map(str::to_owned)) else {
            self.use_up(vec![gone]).await?;
            let (error, why) = ("invalid_target", "No server was chosen.");
            return Err(self.refuse(pending, &judged.redirect_uri, error, why));
        };
        if self.visible(&server, &who).await?.is_none() {
            self.use_up(vec![gone]).await?;
            return Err(self.denied(pending, &judged.redirect_uri));
        }
        self.give(head, &held, judged, server, who, "oauth.consent").await
    }

    /// Whether this person has agreed to the very same before, and need not be asked again.
    async fn agreed_before(
        &self,
        pending: &PendingRequest,
        judged: &Judged,
        server: &str,
        who: &LoggedIn,
    ) -> Result<bool, Problem> {
        let Judged { client, redirect_uri, kind, .. } = judged;
        if pending.ask_anew || !consent::may_be_remembered(&pending.client_id, client, kind) {
            return Ok(false);
        }
        let id = consent::id(&who.subject, &pending.client_id, server, &pending.scope);
        let epoch = self.standing.person(&who.subject).map(|person| person.epoch);
        let kept = self.state.consents.get(&id).await.map_err(unavailable)?.map(|kept| kept.value);
        let now = self.clock.now();
        Ok(kept.is_some_and(|kept| {
            kept.shown == consent::digest(client, redirect_uri)
                && epoch == Some(kept.person_epoch)
                && now < kept.ends_at(self.options.consent_life)
        }))
    }

    /// The code, and the way back to the client.
    async fn give(
        &self,
        head: &Parts,
        held: &Stored<PendingRequest>,
        judged: Judged,
        server: String,
        who: LoggedIn,
        act: &'static str,
    ) -> Result<Response<Body>, End> {
        let pending = &held.value;
        let Judged { client, kept, redirect_uri, kind } = judged;
        self.record(head, consented(act, held, &who, Some(&server), Outcome::Ok)).await.map_err(unavailable)?;
        let name = self.visible(&server, &who).await?.map_or_else(|| server.clone(), |route| route.name.to_string());
        let gone = Write::Delete { key: self.state.requests.key(&held.id), when: When::At(held.revision) };
        let (code, record) = self.new_code(&client, pending, server, &redirect_uri, who);
        let put = self.state.codes.put(&hex_hash(&code), &record, Some(ServerLimits::CODE), When::Absent);
        let mut writes = vec![gone, put.map_err(unavailable)?];
        // Counted from when the person was asked: going by it makes it no younger.
        let remembered = act == "oauth.consent" && consent::may_be_remembered(&pending.client_id, &client, &kind);
        if remembered && !self.options.consent_life.is_zero() {
            let Grant { subject, server, person_epoch, created_at, .. } = &record.grant;
            let id = consent::id(subject, &pending.client_id, server, &pending.scope);
            let agreed = Consent {
                subject: subject.clone(),
                client_id: pending.client_id.clone(),
                server: server.clone(),
                scope: pending.scope.clone(),
                redirect_uri: redirect_uri.clone(),
                shown: consent::digest(&client, &redirect_uri),
                person_epoch: *person_epoch,
                agreed_at: *created_at,
            };
            let put = self.state.consents.put(&id, &agreed, Some(self.options.consent_life), When::Any);
            writes.push(put.map_err(unavailable)?);
        }
        writes.extend(self.touch(&pending.client_id, client, kept).map_err(unavailable)?);
        self.use_up(writes).await?;
        let issuer = Issuer::remembered(&self.mount, pending.issuer.as_deref());
        let parameters = [("code", Some(&*code)), ("state", pending.state.as_deref()), ("iss", Some(&*issuer.url))];
        let to = append(&redirect_uri, &parameters);
        Ok(for_browser(self.interaction.connected(head, &Connected { to, server: name }).await))
    }

    fn new_code(
        &self,
        client: &OAuthClient,
        pending: &PendingRequest,
        server: String,
        redirect_uri: &str,
        who: LoggedIn,
    ) -> (String, AuthorizationCode) {
        let now = self.clock.now();
        // Who may do nothing any more was refused a moment ago.
        let person_epoch = self.standing.person(&who.subject).unwrap_or_default().epoch;
        let after = |life| now.saturating_add(life).unwrap_or(now);
        let grant = Grant {
            subject: who.subject,
            client_id: pending.client_id.clone(),
            server,
            issuer: pending.issuer.clone(),
            scope: pending.scope.clone(),
            person_epoch,
            session: who.session,
            created_at: now,
            ends_at: after(self.options.grant_life),
            refresh_key: client.may(GrantType::RefreshToken).then(|| Secret::new(random())),
            generation: 0,
            rotated_at: now,
        };
        let record = AuthorizationCode {
            grant_id: random(),
            grant,
            redirect_uri: redirect_uri.to_owned(),
            challenge: pending.challenge.clone(),
            ends_at: after(ServerLimits::CODE),
            used: false,
        };
        (random(), record)
    }

    /// A client that somebody agrees to lives on, and what a document says is kept for the token endpoint. Not over an
    /// administrator's block that came meanwhile.
    fn touch(&self, id: &str, client: OAuthClient, kept: Option<Revision>) -> Result<Option<Write>, StoreError> {
        let now = self.clock.now();
        let fresh = client.used_at.is_some_and(|at| now.duration_since(at) < SignedDuration::from_hours(24));
        if client.known_by == KnownBy::Operator || (fresh && client.known_by == KnownBy::Registration) {
            return Ok(None);
        }
        let used = OAuthClient { used_at: Some(now), ..client }.named(id);
        let when = kept.map_or(When::Absent, When::At);
        self.state.clients.put(&client_key(id), &used, used.life(), when).map(Some)
    }

    /// A request is answered once: of two answers the second finds it gone.
    async fn use_up(&self, writes: Vec<Write>) -> Result<(), End> {
        let first = won(self.state.commit(writes).await).map_err(unavailable)?;
        if first { Ok(()) } else { Err(Problem::RequestGone.into()) }
    }

    /// The request of this id, if this browser brought it.
    async fn held(&self, head: &Parts, id: &str) -> Result<Stored<PendingRequest>, Problem> {
        let held = self.state.request(id).await.map_err(unavailable)?.ok_or(Problem::RequestGone)?;
        let nonce = self.nonce(head).ok_or(Problem::RequestGone)?;
        if same_hash(&nonce, &held.value.browser_sha256) { Ok(held) } else { Err(Problem::RequestGone) }
    }

    /// The client as it is now, and where it may be sent back to.
    async fn judge(&self, pending: &PendingRequest, who: &LoggedIn) -> Result<Judged, Problem> {
        let issuer = Issuer::remembered(&self.mount, pending.issuer.as_deref());
        let (client, kept) = known(self.fetch_client(&pending.client_id, &issuer, who).await?)?;
        let (redirect_uri, kind) = checked_redirect(&client, pending.redirect_uri.as_deref())?;
        if self.approves(&client, &kind) {
            return Ok(Judged { client, kept, redirect_uri, kind });
        }
        if kept.is_none() {
            // So that an administrator sees it, and can approve it.
            let key = client_key(&pending.client_id);
            let client = client.named(&pending.client_id);
            let put = self.state.clients.put(&key, &client, client.life(), When::Absent).map_err(unavailable)?;
            won(self.state.commit(vec![put]).await).map_err(unavailable)?;
        }
        Err(Problem::ClientNotApproved)
    }

    pub(crate) fn approves(&self, client: &OAuthClient, kind: &RedirectKind) -> bool {
        client.known_by == KnownBy::Operator || client.approved || self.policy.allows(kind)
    }

    /// Whether somebody here speaks for this place: an operator, or a person who has agreed to the client before. To any
    /// other place a browser goes only after consent, or anybody could register one to have it sent there.
    fn speaks_for(&self, client: &OAuthClient, kind: &RedirectKind) -> bool {
        let known = client.known_by == KnownBy::Operator || client.approved || client.used_at.is_some();
        known || self.policy.lists(kind)
    }

    pub(crate) async fn visible(&self, id: &str, who: &LoggedIn) -> Result<Option<std::sync::Arc<Route>>, Problem> {
        let Some(person) = self.standing.person(&who.subject) else { return Ok(None) };
        let subject = &who.subject;
        let principal = Principal::new(subject.issuer.clone(), subject.id.clone())
            .with_tenant(subject.tenant.clone())
            .with_roles(person.roles);
        self.resolve.resolve(id, &principal).await.map_err(unavailable)
    }

    async fn end(&self, head: &Parts, end: End) -> Response<Body> {
        match end {
            End::Page(problem) => self.page(head, problem, None).await,
            End::Client(told) => for_browser(self.interaction.not_connected(head, &told).await),
        }
    }

    /// A page that says what went wrong.
    pub(crate) async fn page(&self, head: &Parts, problem: Problem, limited: Option<Limited>) -> Response<Body> {
        let mut page = self.interaction.problem(head, &problem).await;
        *page.status_mut() = problem.status();
        if let Some(limited) = limited {
            page.headers_mut().insert(RETRY_AFTER, seconds(&limited).into());
        }
        for_browser(page)
    }

    fn refuse(&self, pending: &PendingRequest, redirect_uri: &str, error: &'static str, why: &'static str) -> End {
        let issuer = Issuer::remembered(&self.mount, pending.issuer.as_deref());
        End::client(&issuer, redirect_uri, pending.state.as_deref(), error, why)
    }

    /// No access, no such server, or the person said no: the client cannot tell which.
    fn denied(&self, pending: &PendingRequest, redirect_uri: &str) -> End {
        self.refuse(pending, redirect_uri, "access_denied", "Access was not given.")
    }

    /// Whether a form was sent by a page of ours. The browser knows; only older ones say no more than the origin, which
    /// is `null` for a page without referrers.
    pub(crate) fn is_ours(&self, head: &Parts) -> bool {
        match head.headers.get(SEC_FETCH_SITE) {
            Some(site) => site == "same-origin",
            None => head.headers.get(ORIGIN).is_none_or(|origin| origin == "null" || origin == self.mount.origin()),
        }
    }

    pub(crate) fn nonce(&self, head: &Parts) -> Option<String> {
        let name = self.nonce_name();
        let mut found = None;
        for field in head.headers.get_all(COOKIE) {
            for pair in field.to_str().ok()?.split(';') {
                let Some((key, value)) = pair.trim().split_once('=') else { continue };
                // Two of one name: somebody has planted one.
                if key == name && found.replace(value.to_owned()).is_some() {
                    return None;
                }
            }
        }
        found.filter(|nonce| nonce.len() == 43)
    }

    /// On plain http, which only a loopback address may have, browsers know no `__Host-` cookies.
    fn nonce_name(&self) -> &'static str {
        if self.mount.is_https() { "__Host-mcp-gateway-request" } else { "mcp-gateway-request" }
    }

    pub(crate) fn nonce_cookie(&self, nonce: &str) -> String {
        let secure = if self.mount.is_https() { "; Secure" } else { "" };
        format!("{}={nonce}; Path=/; HttpOnly; SameSite=Lax{secure}", self.nonce_name())
    }
}

/// The redirect URI of a request: one of the client's, or the only one it has.
fn checked_redirect(client: &OAuthClient, given: Option<&str>) -> Result<(String, RedirectKind), Problem> {
    let uri = match (given, &*client.redirect_uris) {
        (Some(given), registered) if registered.iter().any(|one| matches(one, given)) => given,
        (None, [only]) => only,
        _ => return Err(Problem::Redirect),
    };
    Ok((uri.to_owned(), RedirectKind::of(uri).map_err(|_| Problem::Redirect)?))
}

/// A client that may ask for codes.
fn known(found: ClientLookup) -> Result<(OAuthClient, Option<Revision>), Problem> {
    match found {
        ClientLookup::Found(client, kept) if client.may(GrantType::AuthorizationCode) => Ok((*client, kept)),
        ClientLookup::Found(..) | ClientLookup::Unknown => Err(Problem::UnknownClient),
        ClientLookup::Blocked => Err(Problem::ClientNotApproved),
    }
}

fn consented<'a>(
    name: &'static str,
    held: &'a Stored<PendingRequest>,
    who: &'a LoggedIn,
    server: Option<&'a str>,
    outcome: Outcome,
) -> Act<'a> {
    let (subject, client, target) = (Some(&who.subject), &*held.value.client_id, &*held.id);
    Act { name, subject, client, server, target, outcome, why: None }
}

/// The form of an S256 challenge (RFC 7636 §4.2): a SHA-256, base64url.
fn is_s256(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|hash| hash.len() == 32)
}
