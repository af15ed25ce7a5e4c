//! From a page of the gateway to the issuer and back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{Revision, StoreError, StoreErrorKind, When};
use mcp_gateway_core::record::{OAuthClientSource, Route, RouteAuth, RouteTarget, Secret, Subject};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

use super::discovery::{Issuer, Protected, canonical};
use super::error::unfit;
use super::record::hashed;
use super::{
    AccountError, AccountLimits, Accounts, ClientAtIssuer, ConnectAttempt, Connection, ConnectionState, Registration,
    client, discovery,
};
use crate::oidc::OidcError;
use crate::oidc::callback::Callback;

/// What the gateway calls itself.
const NAME: &str = "mcp-gateway";
/// The scope that makes an issuer give refresh tokens.
const OFFLINE: &str = "offline_access";

/// Whoever is at a browser.
#[derive(Debug, Clone, Copy)]
pub struct AtBrowser<'a> {
    /// Who is signed in.
    pub subject: &'a Subject,
    /// The id of the session's record.
    pub session: &'a str,
}

/// What a person is asked to agree to.
#[derive(Debug)]
#[non_exhaustive]
pub struct Prepared {
    /// What the form brings back.
    pub request: String,
    /// The origin of the server.
    pub server: String,
    /// Who gives the tokens.
    pub issuer: String,
    /// What is asked for.
    pub scopes: Vec<String>,
}

/// Where a browser goes on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Going {
    /// The server's id.
    pub server: String,
    /// Who gives the tokens.
    pub issuer: String,
    /// Where: an http or https URL of the issuer.
    pub href: String,
}

/// An account that was connected.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished {
    /// The server's id.
    pub server: String,
    /// The account's id.
    pub id: String,
    /// When it counts.
    pub revision: Revision,
}

impl Accounts {
    /// Finds out who gives tokens for a server. Calls the server and whomever it names: only for somebody who is known, and
    /// not any number of times.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn prepare(&self, who: AtBrowser<'_>, route: &Route) -> Result<Prepared, AccountError> {
        let (RouteTarget::Remote { url, .. }, Some(RouteAuth::Account { scopes, client })) =
            (&route.target, route.auth().map(|auth| &**auth))
        else {
            return Err(AccountError::NoAccounts);
        };
        let Ok(server) = Url::parse(&url.to_string()) else { return Err(AccountError::NoAccounts) };
        let fetchers = &self.0.fetchers;
        let protected = match client {
            // The server does not choose who sees the client's secret.
            OAuthClientSource::Static(client) => {
                Protected { issuer: client.issuer.to_string(), resource: canonical(&server), scopes: Vec::new() }
            }
            _ => discovery::of_server(fetchers, &server).await?,
        };
        let issuer = discovery::of_issuer(fetchers, &protected.issuer, &server).await?;
        if issuer.endpoints.authorization.is_empty() {
            return unfit("the authorization server does not say that it supports PKCE with S256");
        }
        let redirect_uri = match client {
            OAuthClientSource::Static(_) => format!("{}/oauth/callback", self.0.origin),
            _ => format!("{}/oauth/callback/{}", self.0.origin, hashed(&issuer.issuer)),
        };
        let client = self.client_of(client, &issuer, &redirect_uri, &server).await?;
        let mut scopes: Vec<String> = match scopes.is_empty() {
            true => protected.scopes,
            false => scopes.iter().map(ToString::to_string).collect(),
        };
        let before = self.0.connections.get(&Connection::id_of(&route.id, who.subject)).await?;
        // What was agreed to with somebody else says nothing here.
        let before = before.map(|before| before.value).filter(|before| {
            before.issuer == issuer.issuer
                && before.origin == server.origin().ascii_serialization()
                && before.client.id == client.id
        });
        let wanted = before.map(|before| [before.scopes, before.wanted].concat()).unwrap_or_default();
        let offline = issuer.offline.then(|| OFFLINE.to_owned());
        for scope in wanted.into_iter().chain(offline) {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let request = random();
        let prepared = Prepared {
            request: request.clone(),
            server: server.origin().ascii_serialization(),
            issuer: issuer.issuer.clone(),
            scopes: scopes.clone(),
        };
        let attempt = ConnectAttempt {
            confirmed: false,
            server: route.id.to_string(),
            subject: who.subject.clone(),
            session: who.session.to_owned(),
            origin: prepared.server.clone(),
            resource: protected.resource,
            issuer: issuer.issuer,
            endpoints: issuer.endpoints,
            client,
            redirect_uri,
            scopes,
            verifier: Secret::new(random()),
        };
        self.keep(&request, &attempt).await?;
        Ok(prepared)
    }

    /// The person agrees.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn confirm(&self, who: AtBrowser<'_>, request: &str) -> Result<Going, AccountError> {
        let mut attempt = self.take(who, request, false).await?;
        attempt.confirmed = true;
        let state = random();
        let url = authorization_url(&attempt, &state)?;
        self.keep(&state, &attempt).await?;
        Ok(Going { server: attempt.server, issuer: attempt.issuer, href: url.into() })
    }

    /// The browser comes back to `/oauth/callback`, or `/oauth/callback/{issuer}`.
    ///
    /// # Errors
    /// [`AccountError`]; of [`NotYours`](AccountError::NotYours) nothing that the browser brought is shown.
    pub async fn finish(
        &self,
        who: AtBrowser<'_>,
        issuer: Option<&str>,
        query: &str,
    ) -> Result<Finished, AccountError> {
        let callback = Callback::read(query).map_err(brought)?;
        let attempt = self.take(who, &callback.state, true).await?;
        // Another issuer's answer under this one's state (RFC 9700 §4.4).
        let came_to = match issuer {
            None => format!("{}/oauth/callback", self.0.origin),
            Some(issuer) => format!("{}/oauth/callback/{issuer}", self.0.origin),
        };
        if came_to != attempt.redirect_uri {
            return Err(AccountError::NotYours);
        }
        let code = callback.code(&attempt.issuer, attempt.endpoints.names_itself).map_err(brought)?;
        let this = self.clone();
        // To its end, when nobody waits for it any more: a code is used once.
        let done = tokio::spawn(async move { this.exchange(attempt, &code).await }).await;
        done.unwrap_or_else(|error| Err(AccountError::Foreign(error.into())))
    }

    async fn exchange(&self, attempt: ConnectAttempt, code: &str) -> Result<Finished, AccountError> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &*attempt.redirect_uri),
            ("code_verifier", attempt.verifier.expose()),
            ("resource", &*attempt.resource),
        ];
        let now = self.0.clock.now();
        let endpoint = &attempt.endpoints.token;
        let (Ok(url), Ok(server)) = (Url::parse(endpoint), Url::parse(&attempt.origin)) else {
            return unfit("the token endpoint is no URL");
        };
        let fetch = self.0.fetchers.of(&url, &server);
        let tokens = match client::tokens(fetch, endpoint, &attempt.client, &fields, now).await {
            Err(AccountError::Refused(word)) => {
                if word == "invalid_client" {
                    self.unregister(&attempt.issuer, &attempt.client).await;
                }
                return Err(AccountError::Refused(word));
            }
            tokens => tokens?,
        };
        let id = Connection::id_of(&attempt.server, &attempt.subject);
        let mut connection = Connection {
            server: attempt.server.clone(),
            subject: attempt.subject.clone(),
            origin: attempt.origin,
            resource: attempt.resource,
            issuer: attempt.issuer,
            token_endpoint: attempt.endpoints.token,
            revocation_endpoint: attempt.endpoints.revocation,
            client: attempt.client,
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_at: tokens.expires_at,
            scopes: tokens.scopes.unwrap_or(attempt.scopes),
            wanted: Vec::new(),
            step_ups: 0,
            state: ConnectionState::Connected,
            connected_at: now,
            refreshed_at: now,
        };
        // The entry holds the secret of a client that an administrator has registered.
        let route = self.0.known.route(&connection.server);
        if route.is_some_and(|route| connection.client_of(&route).is_some()) {
            connection.client.secret = None;
        }
        let kept = self.keep_connected(&id, &mut connection).await;
        let revision = match kept {
            Ok(revision) => revision,
            Err(error) => {
                // Those of a commit that may have been done are not anybody's to end.
                if error.kind() != StoreErrorKind::Unknown {
                    self.give_back(&connection).await;
                }
                return Err(error.into());
            }
        };
        // Asked after it is kept: who removes a person then sees the account, or it is seen here that they are removed.
        if !self.0.known.may_have(&attempt.subject).await? {
            self.disconnect(&id).await?;
            return Err(AccountError::NotYours);
        }
        Ok(Finished { server: attempt.server, id, revision })
    }

    /// Keeps a new account in the place of the one before.
    async fn keep_connected(&self, id: &str, connection: &mut Connection) -> Result<Revision, StoreError> {
        loop {
            let before = self.0.connections.get(id).await?;
            let when = before.as_ref().map_or(When::Absent, |before| When::At(before.revision));
            let before = before.map(|before| before.value);
            // Rights that were granted may be asked for again another time; those that were not, not without end.
            connection.step_ups = match &before {
                Some(before) if before.wanted.iter().any(|scope| !connection.scopes.contains(scope)) => before.step_ups,
                _ => 0,
            };
            let revision = match self.0.connections.save(id, connection, when).await {
                // Its tokens were renewed in between, or a call has noted what it needs.
                Err(error) if error.kind() == StoreErrorKind::Conflict => continue,
                revision => revision?,
            };
            // Of the same client, an issuer may end the new tokens with the old ones (RFC 7009 §2.1).
            let other =
                |before: &Connection| before.issuer != connection.issuer || before.client.id != connection.client.id;
            if let Some(before) = before.filter(other) {
                let this = self.clone();
                tokio::spawn(async move { this.give_back(&before).await });
            }
            return Ok(revision);
        }
    }

    /// As which client of an issuer.
    async fn client_of(
        &self,
        source: &OAuthClientSource,
        issuer: &Issuer,
        redirect_uri: &str,
        server: &Url,
    ) -> Result<ClientAtIssuer, AccountError> {
        let https = self.0.origin.starts_with("https://");
        match source {
            OAuthClientSource::Static(client) => Ok(ClientAtIssuer {
                id: client.client_id.to_string(),
                secret: client.client_secret.clone(),
                basic: issuer.basic,
            }),
            OAuthClientSource::Document if !issuer.documents => {
                unfit("the authorization server reads no documents of clients")
            }
            OAuthClientSource::Document if !https => unfit("a document of a client needs a public_url with https"),
            OAuthClientSource::Document => Ok(self.document_client(&issuer.issuer)),
            OAuthClientSource::Auto if issuer.documents && https => Ok(self.document_client(&issuer.issuer)),
            _ => self.registered(issuer, redirect_uri, server).await,
        }
    }

    fn document_client(&self, issuer: &str) -> ClientAtIssuer {
        ClientAtIssuer { id: self.document_url(&hashed(issuer)), secret: None, basic: false }
    }

    fn document_url(&self, issuer: &str) -> String {
        format!("{}/oauth/clients/{issuer}.json", self.0.origin)
    }

    /// The document of the gateway as a client of one issuer, which its URL names by a hash; `None` when that is none.
    #[must_use]
    pub fn client_document(&self, issuer: &str) -> Option<serde_json::Value> {
        let is_hash = issuer.len() == 43
            && issuer.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        is_hash.then(|| {
            serde_json::json!({
                "client_id": self.document_url(issuer),
                "client_name": NAME,
                "client_uri": self.0.origin,
                "redirect_uris": [format!("{}/oauth/callback/{issuer}", self.0.origin)],
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
                "application_type": "web",
                "token_endpoint_auth_method": "none",
            })
        })
    }

    async fn registered(
        &self,
        issuer: &Issuer,
        redirect_uri: &str,
        server: &Url,
    ) -> Result<ClientAtIssuer, AccountError> {
        let (id, now) = (hashed(&issuer.issuer), self.0.clock.now());
        let kept = self.0.registrations.get(&id).await?;
        let good = |kept: &Registration| {
            let lasts = |at: Timestamp| at.duration_since(now) > SignedDuration::from_mins(30);
            kept.redirect_uri == redirect_uri && kept.issuer == issuer.issuer && kept.ends_at.is_none_or(lasts)
        };
        if let Some(kept) = kept.as_ref().filter(|kept| good(&kept.value)) {
            return Ok(kept.value.client.clone());
        }
        let Some(endpoint) = &issuer.registration else {
            return unfit(
                "the authorization server registers no clients; the entry must name one (client.type: static)",
            );
        };
        if !issuer.basic && !issuer.post && !issuer.public {
            return unfit("the authorization server has no way to authenticate a client that the gateway knows");
        }
        let Ok(url) = Url::parse(endpoint) else { return unfit("the registration endpoint is no URL") };
        let fetch = self.0.fetchers.of(&url, server);
        let (client, ends_at) = client::register(fetch, issuer, endpoint, NAME, redirect_uri).await?;
        let made = Registration {
            issuer: issuer.issuer.clone(),
            redirect_uri: redirect_uri.to_owned(),
            client: client.clone(),
            ends_at,
        };
        let when = kept.map_or(When::Absent, |kept| When::At(kept.revision));
        match self.0.registrations.save(&id, &made, when).await {
            Ok(_) => Ok(client),
            // Another replica was first: its client is as good, and known to all.
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                let kept = self.0.registrations.get(&id).await?;
                Ok(kept.map_or(client, |kept| kept.value.client))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets a registration that its issuer does not know any more.
    pub(super) async fn unregister(&self, issuer: &str, client: &ClientAtIssuer) {
        let id = hashed(issuer);
        let forgotten = async {
            match self.0.registrations.get(&id).await? {
                Some(kept) if kept.value.client == *client => {
                    self.0.registrations.delete(&id, When::At(kept.revision)).await.map(drop)
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(issuer, %error, "a registration that is good for nothing is not forgotten");
        }
    }

    async fn keep(&self, secret: &str, attempt: &ConnectAttempt) -> Result<(), AccountError> {
        let put = self.0.attempts.put(&hashed(secret), attempt, Some(AccountLimits::ATTEMPT), When::Absent)?;
        self.0.attempts.store().commit(vec![put]).await?;
        Ok(())
    }

    /// Uses up an attempt: whatever comes of it, it is not used again.
    async fn take(&self, who: AtBrowser<'_>, secret: &str, confirmed: bool) -> Result<ConnectAttempt, AccountError> {
        if secret.is_empty() || secret.len() > 64 {
            return Err(AccountError::NotYours);
        }
        let id = hashed(secret);
        let Some(found) = self.0.attempts.get(&id).await? else { return Err(AccountError::NotYours) };
        match self.0.attempts.delete(&id, When::At(found.revision)).await {
            // One whose outcome is unknown may have been used.
            Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Unknown) => {
                return Err(AccountError::NotYours);
            }
            done => done?,
        };
        let attempt = found.value;
        let same_session: bool = attempt.session.as_bytes().ct_eq(who.session.as_bytes()).into();
        match same_session && attempt.subject == *who.subject && attempt.confirmed == confirmed {
            true => Ok(attempt),
            false => Err(AccountError::NotYours),
        }
    }
}

/// Where the browser goes: an http or https URL, as the issuer's metadata were read.
fn authorization_url(attempt: &ConnectAttempt, state: &str) -> Result<Url, AccountError> {
    let Ok(mut url) = Url::parse(&attempt.endpoints.authorization) else {
        return unfit("the authorization endpoint is no URL");
    };
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(attempt.verifier.expose()));
    let mut query = url.query_pairs_mut();
    query.extend_pairs([
        ("response_type", "code"),
        ("client_id", &*attempt.client.id),
        ("redirect_uri", &*attempt.redirect_uri),
        ("state", state),
        ("code_challenge", &*challenge),
        ("code_challenge_method", "S256"),
        ("resource", &*attempt.resource),
    ]);
    if !attempt.scopes.is_empty() {
        query.append_pair("scope", &attempt.scopes.join(" "));
    }
    if attempt.scopes.iter().any(|scope| scope == OFFLINE) {
        // Core §11: without it the scope is ignored.
        query.append_pair("prompt", "consent");
    }
    drop(query);
    Ok(url)
}

fn brought(error: OidcError) -> AccountError {
    match error {
        OidcError::State => AccountError::NotYours,
        OidcError::Denied(word) => AccountError::Refused(word),
        // Of an answer that may come from somebody else nothing is shown.
        error => AccountError::Foreign(error.into()),
    }
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
