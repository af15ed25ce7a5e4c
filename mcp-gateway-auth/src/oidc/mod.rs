//! Login with a company's identity providers: `OpenID` Connect, and GitHub.
//!
//! A browser is sent to the provider with `state`, `nonce` and a PKCE challenge that belong to that browser alone, and
//! comes back to an address that belongs to that provider alone. Who it was is an [identity](crate::user::IdentityKey),
//! a pair of issuer and subject: an address never says who somebody is, and never joins two.
//!
//! Tokens are checked by the same code as access tokens ([`crate::token`]): the algorithms of a public key, never `none`
//! or a symmetric one, never a key that the token itself brings.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use mcp_gateway_auth::oidc::{OidcError, ProviderOptions, Providers};
//! # use mcp_gateway_auth::user::Users;
//! # use mcp_gateway_core::contract::{Clock, ResourceStore};
//! # use mcp_gateway_core::egress::{FetchOptions, Fetcher};
//! # use mcp_gateway_core::record::{FieldSealer, Secret, TenantId};
//! # async fn login(
//! #     store: Arc<dyn ResourceStore>, sealer: Arc<dyn FieldSealer>, clock: Arc<dyn Clock>, users: Users,
//! #     browser: &str, query: &str,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let mut company = ProviderOptions::keycloak("company", "https://sso.example.com/realms/staff", "gateway");
//! company.client_secret = Some(Secret::new("…"));
//! company.email_domains = vec!["example.com".into()];
//! let fetch = Arc::new(Fetcher::new(FetchOptions::default()));
//! let origin = "https://gateway.example.com";
//! let providers = Providers::new(vec![company], origin, store, sealer, TenantId::default(), fetch, clock)?;
//!
//! // The browser has a cookie of its own, and goes there.
//! let url = providers.begin("company", browser, "/", None).await?;
//! // It comes back to /login/callback/company with a query.
//! let proven = providers.finish("company", browser, query).await?;
//! let user = users.sign_in(&proven.asserted).await?;
//! # Ok(()) }
//! ```

pub(crate) mod callback;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod check;
mod client;
mod discovery;
mod error;
mod github;
mod id_token;
mod link;
mod logout;
mod logout_token;
mod person;
mod provider;
mod record;
mod refresh;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use mcp_gateway_core::contract::{Clock, ResourceStore, StoreErrorKind, When, Write};
use mcp_gateway_core::egress::Fetch;
use mcp_gateway_core::record::{FieldSealer, Resources, Revocation, Secret, TenantId};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

pub use self::error::OidcError;
pub use self::link::HeldLink;
pub use self::logout::EndedLogins;
pub use self::provider::{OidcLimits, ProviderError, ProviderKind, ProviderOptions};
pub use self::record::{LoginTransaction, ProviderLogin, UsedLogoutToken};
pub use self::refresh::{LoginChange, OnLoginChange};

use self::callback::Callback;
use self::client::Exchange;
use self::discovery::Discovery;
use self::github::Endpoints;
use self::id_token::{Expected, IdToken};
use crate::login::sha256_hex;
use crate::server::Grant;
use crate::token::TokenLimits;
use crate::user::Asserted;

/// When somebody proved who they are of whom no provider says when: too long ago for whatever needs a fresh login.
const NEVER: Timestamp = Timestamp::UNIX_EPOCH;

/// The providers that people may choose from.
#[derive(Clone)]
pub struct Providers(Arc<Inner>);

struct Inner {
    all: Vec<Provider>,
    origin: String,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    transactions: Resources<LoginTransaction>,
    links: Resources<HeldLink>,
    logins: Resources<ProviderLogin>,
    used: Resources<UsedLogoutToken>,
    sessions: Resources<crate::login::Session>,
    grants: Resources<Grant>,
    revocations: Resources<Revocation>,
}

struct Provider {
    options: ProviderOptions,
    way: Way,
}

/// How a provider is talked to.
enum Way {
    Discovered(Discovery),
    GitHub(Endpoints),
}

/// A login that a provider has vouched for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Proven {
    /// Who it was.
    pub asserted: Asserted,
    /// What is to be [remembered](Providers::remember) with the session that begins.
    pub login: ProviderLogin,
    /// When the person proved it, by the provider's word; without one, 1970, unless the provider's
    /// [options](ProviderOptions::fresh_without_auth_time) take the moment of the answer.
    pub authenticated_at: Timestamp,
    /// Where it goes on: what was given to [`Providers::begin`].
    pub next: String,
    /// The session that it is to be [linked](Providers::begin_link) in: no login, then, but another way for whoever that
    /// session is of.
    pub link: Option<String>,
}

impl Providers {
    /// Logins at a gateway of this origin (`https://gateway.example`). `fetch` is the egress client of purpose
    /// `identity`.
    ///
    /// # Errors
    /// [`ProviderError`]; two providers must differ in name and issuer.
    pub fn new(
        providers: Vec<ProviderOptions>,
        origin: &str,
        store: Arc<dyn ResourceStore>,
        sealer: Arc<dyn FieldSealer>,
        tenant: TenantId,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ProviderError> {
        for (n, provider) in providers.iter().enumerate() {
            provider.check()?;
            let others = &providers[..n];
            if others.iter().any(|other| other.name == provider.name) {
                return Err(ProviderError { field: "name", problem: "is that of another provider" });
            }
            // Whoever one of them vouches for would be whoever the other does.
            if others.iter().any(|other| other.issuer == provider.issuer) {
                return Err(ProviderError { field: "issuer", problem: "is that of another provider" });
            }
        }
        let with_way = |options: ProviderOptions| {
            let way = match options.kind {
                ProviderKind::GitHub => Way::GitHub(Endpoints::of(&options.issuer)),
                _ => Way::Discovered(Discovery::new(options.issuer.clone(), Arc::clone(&fetch), Arc::clone(&clock))),
            };
            Provider { options, way }
        };
        let transactions: Resources<LoginTransaction> = Resources::new(store, sealer, tenant);
        Ok(Self(Arc::new(Inner {
            all: providers.into_iter().map(with_way).collect(),
            origin: origin.to_owned(),
            links: transactions.of_kind(),
            logins: transactions.of_kind(),
            used: transactions.of_kind(),
            sessions: transactions.of_kind(),
            grants: transactions.of_kind(),
            revocations: transactions.of_kind(),
            transactions,
            fetch,
            clock,
        })))
    }

    /// What there is to choose from.
    pub fn list(&self) -> impl Iterator<Item = &ProviderOptions> {
        self.0.all.iter().map(|provider| &provider.options)
    }

    /// Begins a login: the URL that the browser goes to. `browser` is the value of a cookie that this browser alone has,
    /// `next` comes back in the end. With `max_age` (seconds), the provider must have asked the person not longer ago;
    /// without, it is asked for [`ProviderOptions::max_age`], so that it says when it did.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn begin(
        &self,
        provider: &str,
        browser: &str,
        next: &str,
        max_age: Option<i64>,
    ) -> Result<String, OidcError> {
        self.start(provider, browser, next, max_age, None).await
    }

    /// The same for somebody who is signed in, in a session of this record's id, and wants to sign in with this provider,
    /// too. The provider is to ask the person anew, and must say that it has, or be believed without
    /// ([`ProviderOptions::fresh_without_auth_time`]); Google and GitHub let the person choose an account.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn begin_link(
        &self,
        provider: &str,
        browser: &str,
        next: &str,
        session: &str,
    ) -> Result<String, OidcError> {
        self.start(provider, browser, next, Some(0), Some(session)).await
    }

    async fn start(
        &self,
        provider: &str,
        browser: &str,
        next: &str,
        max_age: Option<i64>,
        link: Option<&str>,
    ) -> Result<String, OidcError> {
        let inner = &*self.0;
        let Provider { options, way } = self.find(provider)?;
        let endpoint = match way {
            Way::Discovered(discovery) => discovery.get().await?.metadata.authorization_endpoint.clone(),
            Way::GitHub(endpoints) => endpoints.authorize.clone(),
        };
        let (state, nonce, verifier) = (random(), random(), random());
        let transaction = LoginTransaction {
            provider: options.name.clone(),
            browser: sha256_hex(browser),
            nonce,
            verifier: Secret::new(verifier),
            next: next.to_owned(),
            // Neither of the two would say whether it has asked again.
            max_age: max_age.filter(|_| options.knows_max_age()),
            link: link.map(str::to_owned),
            began_at: inner.clock.now(),
        };
        let put =
            inner.transactions.put(&sha256_hex(&state), &transaction, Some(OidcLimits::TRANSACTION), When::Absent)?;
        inner.transactions.store().commit(vec![put]).await?;
        self.authorization_url(options, &endpoint, &state, &transaction)
    }

    fn authorization_url(
        &self,
        options: &ProviderOptions,
        endpoint: &str,
        state: &str,
        transaction: &LoginTransaction,
    ) -> Result<String, OidcError> {
        let mut url = Url::parse(endpoint).map_err(|error| OidcError::Provider(error.into()))?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(transaction.verifier.expose()));
        let openid = options.kind != ProviderKind::GitHub;
        let links = transaction.link.is_some();
        let offline = !options.refresh.is_zero() && !links;
        let mut scopes: Vec<&str> = options.scopes.iter().map(String::as_str).collect();
        // Google has parameters for it.
        if offline && options.kind != ProviderKind::Google && !scopes.contains(&"offline_access") {
            scopes.push("offline_access");
        }
        if openid && !scopes.contains(&"openid") {
            scopes.insert(0, "openid");
        }
        let mut query = url.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &options.client_id)
            .append_pair("redirect_uri", &self.redirect_uri(options))
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if openid {
            query.append_pair("nonce", &transaction.nonce);
        }
        if options.knows_max_age() {
            let max_age = transaction.max_age.unwrap_or(options.max_age);
            query.append_pair("max_age", &max_age.to_string());
        }
        if offline && options.kind == ProviderKind::Google {
            query.append_pair("access_type", "offline");
        }
        if offline && options.consent_for_refresh {
            query.append_pair("prompt", "consent");
        }
        if links && !options.knows_max_age() {
            query.append_pair("prompt", "select_account");
        }
        if let (ProviderKind::Google, [domain]) = (options.kind, &*options.email_domains) {
            query.append_pair("hd", domain);
        }
        drop(query);
        Ok(url.into())
    }

    /// Ends a login with what the browser brings back: the query of its request to `/login/callback/{provider}`.
    ///
    /// # Errors
    /// [`OidcError`]. Whatever it is, the login has to begin again. Until one is found that this browser began, it is
    /// [`OidcError::NoProvider`], [`OidcError::State`] or [`OidcError::Store`], and afterwards none of them.
    pub async fn finish(&self, provider: &str, browser: &str, query: &str) -> Result<Proven, OidcError> {
        let Provider { options, way } = self.find(provider)?;
        // Anybody can bring a query to this address; until a login is found that it ends, it is nobody's.
        let callback = Callback::read(query).map_err(|error| {
            tracing::debug!(%error, "a callback is not as it must be");
            OidcError::State
        })?;
        let transaction = self.take(&callback.state, browser, options).await?;
        let redirect_uri = self.redirect_uri(options);
        let fetch = &*self.0.fetch;
        let exchange = |endpoint, basic, code| Exchange {
            endpoint,
            basic,
            code,
            redirect_uri: &redirect_uri,
            verifier: &transaction.verifier,
        };
        let mut login = ProviderLogin {
            provider: options.name.clone(),
            issuer: options.issuer.clone(),
            subject: String::new(),
            session: None,
            id_token: None,
            refresh_token: None,
            nonce: None,
            asked_at: Some(self.0.clock.now()),
            ends_at: None,
        };
        let now = self.0.clock.now();
        let mut authenticated_at = if options.fresh_without_auth_time { now } else { NEVER };
        let asserted = match way {
            Way::GitHub(endpoints) => {
                // A GitHub Enterprise Server of before says no issuer.
                let code = callback.code(&endpoints.issuer, false)?;
                let tokens = exchange(&endpoints.token, false, &code).send(fetch, options).await?;
                let person = endpoints.person(fetch, options, &tokens.access_token).await?;
                login.subject.clone_from(&person.identity.subject);
                person
            }
            Way::Discovered(discovery) => {
                let known = discovery.get().await?;
                let metadata = &known.metadata;
                let must_name = metadata.authorization_response_iss_parameter_supported;
                let code = callback.code(&options.issuer, must_name)?;
                let basic = metadata.takes_basic();
                let tokens = exchange(&metadata.token_endpoint, basic, &code).send(fetch, options).await?;
                let id_token = tokens.id_token.ok_or(OidcError::Invalid("the answer has no ID token"))?;
                let expected = Expected {
                    issuer: &options.issuer,
                    client_id: &options.client_id,
                    nonce: &transaction.nonce,
                    access_token: tokens.access_token.expose(),
                    after: transaction.authenticated_after(),
                    may_omit_auth_time: options.fresh_without_auth_time,
                    now,
                };
                let mut token = IdToken::verify(id_token.expose(), &known.keys, &expected).await?;
                let absent = |claim: &str| person::at(&token.claims, claim).is_none();
                let lacks = absent("email") || absent("name") || options.groups_claim.as_deref().is_some_and(absent);
                if let Some(url) = metadata.userinfo_endpoint.as_deref().filter(|_| lacks) {
                    let access = &tokens.access_token;
                    client::add_userinfo(fetch, url, access, &token.subject, &mut token.claims).await?;
                }
                authenticated_at = token.authenticated_at.map_or(authenticated_at, |at| at.min(now));
                let person = person::person(options, &token.subject, &token.claims)?;
                login.subject = token.subject;
                login.session = token.session;
                login.id_token = Some(id_token);
                login.nonce = Some(transaction.nonce.clone());
                login.refresh_token = tokens.refresh_token.filter(|_| !options.refresh.is_zero());
                if login.refresh_token.is_none() && !options.refresh.is_zero() && transaction.link.is_none() {
                    tracing::warn!(
                        provider = options.name,
                        "the provider gives no refresh token and is not asked anew about this login: let the client have \
                         offline_access there, and set consent_for_refresh if it wants prompt=consent"
                    );
                }
                person
            }
        };
        // Whoever found the browser open at the provider, or brought an account of their own into it, has proved nothing.
        let since = transaction.began_at.checked_sub(TokenLimits::CLOCK_SKEW).unwrap_or(Timestamp::MIN);
        if transaction.link.is_some() && authenticated_at < since {
            return Err(OidcError::Invalid("the provider does not say that it has asked the person again"));
        }
        Ok(Proven { asserted, login, authenticated_at, next: transaction.next, link: transaction.link })
    }

    /// The login of this state, if this browser began it with this provider; there is no second time.
    async fn take(
        &self,
        state: &str,
        browser: &str,
        provider: &ProviderOptions,
    ) -> Result<LoginTransaction, OidcError> {
        let inner = &*self.0;
        let id = sha256_hex(state);
        let stored = inner.transactions.get(&id).await?.ok_or(OidcError::State)?;
        let same = bool::from(stored.value.browser.as_bytes().ct_eq(sha256_hex(browser).as_bytes()));
        // Somebody else's is left to them.
        if !same {
            return Err(OidcError::State);
        }
        let gone = Write::Delete { key: inner.transactions.key(&id), when: When::At(stored.revision) };
        match inner.transactions.store().commit(vec![gone]).await {
            Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Unknown) => {
                return Err(OidcError::State);
            }
            done => drop(done?),
        }
        // The address that a browser comes back to says which provider sent it (RFC 9700 §4.4.2).
        if stored.value.provider != provider.name { Err(OidcError::State) } else { Ok(stored.value) }
    }

    fn find(&self, name: &str) -> Result<&Provider, OidcError> {
        self.0.all.iter().find(|provider| provider.options.name == name).ok_or(OidcError::NoProvider)
    }

    fn redirect_uri(&self, provider: &ProviderOptions) -> String {
        format!("{}/login/callback/{}", self.0.origin, provider.name)
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

/// 256 bits, as text.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
