//! Who calls with an access token.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuthError, Authenticator, Clock, Effort, KeyRing, Resource};
use mcp_gateway_core::record::{Principal, Watch};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::foreign::{ForeignClaims, Introspection, TrustedIssuer};
use super::jws::{self, Jws};
use super::verified::{Remembered, SignedBy, TokenHash, Verified, hash};
use super::watch::OpaqueWatch;
use super::{ACCESS_TOKEN, AccessClaims, Standing, TokenLimits};
use crate::api_key::KeyText;
use crate::bearer::{authorization, bearer};

/// Authenticates calls that carry an access token, as `Authorization: Bearer …`: our own, those of trusted issuers, and
/// opaque ones that their issuer is asked about.
///
/// A good token is remembered by its hash. What is remembered are its claims: each call checks the end of the token, its
/// audience and server, that its key is still in the ring, and everything that may have been revoked. One that is signed
/// well and revoked is remembered apart, a forged one never: neither pushes out a good one. Tokens of issuers that are not named here are somebody else's: the next in the chain is asked.
///
/// Before a signature is checked, everything else is: form, type, issuer, audience, server, times, the key's id and
/// algorithm. At most [`TokenOptions::concurrency`] signatures are checked at the same time, and at most
/// [`TokenOptions::questions`] opaque tokens asked about: an issuer that does not answer keeps nobody else's token waiting.
#[derive(Clone)]
pub struct TokenAuthenticator(Arc<Inner>);

/// The bounds of a [`TokenAuthenticator`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenOptions {
    /// Tokens that are remembered: 65,536.
    pub remembered: usize,
    /// Signatures that are checked at the same time: 8.
    pub concurrency: usize,
    /// Opaque tokens that are asked about at the same time: 8.
    pub questions: usize,
    /// How long a token waits for its turn before the answer is 503: 2 s.
    pub patience: Duration,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self { remembered: 65_536, concurrency: 8, questions: 8, patience: Duration::from_secs(2) }
    }
}

pub(super) struct Inner {
    issuers: HashMap<Arc<str>, Issuer>,
    /// Servers' own issuers, whose name is the server's URL.
    of_servers: Option<Issuer>,
    introspection: Option<Introspection>,
    standing: Arc<dyn Standing>,
    clock: Arc<dyn Clock>,
    remembered: Remembered<Arc<Verified>>,
    /// Tokens that were well signed and not good any more: apart from the good ones, so that they push out none.
    ended: Remembered<Arc<Verified>>,
    turns: Semaphore,
    /// Apart from those of signatures: an issuer may take long to answer.
    questions: Semaphore,
    options: TokenOptions,
}

#[derive(Clone)]
enum Issuer {
    Own(Arc<dyn KeyRing>),
    Foreign(TrustedIssuer),
}

/// Accepts tokens; see [`TokenAuthenticator::builder`].
pub struct TokenAuthenticatorBuilder {
    issuers: HashMap<Arc<str>, Issuer>,
    of_servers: Option<Issuer>,
    introspection: Option<Introspection>,
    standing: Arc<dyn Standing>,
    clock: Arc<dyn Clock>,
    options: TokenOptions,
}

impl TokenAuthenticator {
    /// Accepts nothing yet.
    pub fn builder(standing: Arc<dyn Standing>, clock: Arc<dyn Clock>) -> TokenAuthenticatorBuilder {
        let options = TokenOptions::default();
        TokenAuthenticatorBuilder {
            issuers: HashMap::new(),
            of_servers: None,
            introspection: None,
            standing,
            clock,
            options,
        }
    }
}

impl TokenAuthenticatorBuilder {
    /// Accepts the gateway's own tokens of this issuer.
    #[must_use]
    pub fn own(mut self, issuer: impl Into<Arc<str>>, keys: Arc<dyn KeyRing>) -> Self {
        self.issuers.insert(issuer.into(), Issuer::Own(keys));
        self
    }

    /// Accepts the gateway's own tokens of servers' own issuers too: each at the server whose URL the issuer is.
    #[must_use]
    pub fn own_of_servers(mut self, keys: Arc<dyn KeyRing>) -> Self {
        self.of_servers = Some(Issuer::Own(keys));
        self
    }

    /// Accepts tokens of another issuer, signed by its published keys.
    #[must_use]
    pub fn trust(mut self, issuer: TrustedIssuer) -> Self {
        self.issuers.insert(Arc::clone(&issuer.issuer), Issuer::Foreign(issuer));
        self
    }

    /// Accepts opaque tokens: every bearer that is neither an API key nor a JWT is asked about.
    #[must_use]
    pub fn introspect(mut self, introspection: Introspection) -> Self {
        self.introspection = Some(introspection);
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn options(mut self, options: TokenOptions) -> Self {
        self.options = options;
        self
    }

    /// The authenticator.
    #[must_use]
    pub fn build(self) -> TokenAuthenticator {
        let Self { issuers, of_servers, introspection, standing, clock, options } = self;
        TokenAuthenticator(Arc::new(Inner {
            issuers,
            of_servers,
            introspection,
            standing,
            clock,
            remembered: Remembered::new(options.remembered),
            ended: Remembered::new(options.remembered / 16),
            turns: Semaphore::new(options.concurrency.max(1)),
            questions: Semaphore::new(options.questions.max(1)),
            options,
        }))
    }
}

impl fmt::Debug for TokenAuthenticatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAuthenticatorBuilder").field("issuers", &self.issuers.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAuthenticator").field("issuers", &self.0.issuers.keys()).finish_non_exhaustive()
    }
}

type Verdict = Result<Option<Arc<Principal>>, AuthError>;

impl Authenticator for TokenAuthenticator {
    fn authenticate(&self, parts: &Parts, resource: &Resource) -> MaybeReady<Verdict> {
        let token = match authorization(parts) {
            Ok(field) => field.and_then(bearer).filter(|token| !KeyText::is_meant(token)),
            Err(error) => return Err(error).into(),
        };
        let Some(token) = token else { return Ok(None).into() };
        let inner = &self.0;
        let hash = hash(token, resource);
        if let Some(verified) = inner.known(&hash) {
            match verified.has_key() {
                MaybeReady::Ready(Ok(true)) => {
                    if let Some(verdict) = inner.judge_remembered(&hash, &verified, resource) {
                        return verdict.map(Some).into();
                    }
                }
                MaybeReady::Ready(Ok(false)) => inner.forget(&hash),
                // Below its key is asked for again, and waited for.
                MaybeReady::Ready(Err(_)) | MaybeReady::Wait(_) => {}
            }
        }
        let issuer = match inner.cheap_checks(token, resource) {
            Ok(Some(issuer)) => issuer,
            Ok(None) => return Ok(None).into(),
            Err(error) => return Err(error).into(),
        };
        let (inner, token, resource) = (Arc::clone(inner), Box::<[u8]>::from(token), resource.clone());
        MaybeReady::wait(async move { inner.verify(&token, hash, &resource, issuer).await.map(Some) })
    }

    fn effort(&self, parts: &Parts, resource: &Resource) -> Effort {
        let token = authorization(parts).ok().flatten().and_then(bearer).filter(|token| !KeyText::is_meant(token));
        let Some(token) = token else { return Effort::Nothing };
        if self.0.known(&hash(token, resource)).is_some() {
            return Effort::Recall;
        }
        match self.0.cheap_checks(token, resource) {
            Ok(None) => Effort::Nothing,
            // Over, for another resource, or made up: its claims say so.
            Err(_) => Effort::Recall,
            Ok(Some(Judge::Keys(keys, id))) if matches!(keys.key(&id), MaybeReady::Ready(Ok(None))) => Effort::Recall,
            Ok(Some(_)) => Effort::Work,
        }
    }
}

impl Inner {
    /// How long until what is remembered of a token ends; `None` when nothing is.
    pub(super) fn remembered_for(&self, hash: &TokenHash) -> Option<Duration> {
        let until = self.known(hash)?.good_until;
        Some(Duration::try_from(until.duration_since(self.clock.now())).unwrap_or_default())
    }

    /// Whether an opaque token is still good; its issuer is asked when nothing is remembered.
    pub(super) async fn still(self: &Arc<Self>, token: &[u8], hash: TokenHash, of: &Resource) -> Result<(), AuthError> {
        self.verify(token, hash, of, Judge::Asking).await.map(drop)
    }
}

/// Who can tell whether a token that has passed the cheap checks is good.
enum Judge {
    Keys(Arc<dyn KeyRing>, Box<str>),
    Asking,
}

impl Inner {
    /// What a token said that has been verified, whether it was good then or not.
    fn known(&self, hash: &TokenHash) -> Option<Arc<Verified>> {
        self.remembered.find(hash).or_else(|| self.ended.find(hash))
    }

    fn forget(&self, hash: &TokenHash) {
        self.remembered.remove(hash);
        self.ended.remove(hash);
    }

    /// `None`: it has to be checked anew. That its key is still there was looked at before.
    fn judge_remembered(
        &self,
        hash: &TokenHash,
        verified: &Arc<Verified>,
        resource: &Resource,
    ) -> Option<Result<Arc<Principal>, AuthError>> {
        if verified.good_until <= self.clock.now() {
            self.forget(hash);
            return None;
        }
        let verdict = verified.judge(resource, &*self.standing);
        if let Ok(principal) = &verdict
            && !Arc::ptr_eq(principal, &verified.principal)
        {
            // With the roles of now, so that the next call finds them.
            let principal = Arc::clone(principal);
            self.remembered.insert(*hash, Arc::new(Verified { principal, ..Verified::clone(verified) }));
        }
        Some(verdict)
    }

    /// Everything that can be said without a signature. `Ok(None)`: the token is somebody else's.
    fn cheap_checks(&self, token: &[u8], resource: &Resource) -> Result<Option<Judge>, AuthError> {
        if token.len() > TokenLimits::BYTES {
            return Err(AuthError::Invalid("the token is longer than 8 KiB"));
        }
        if !jws::is_compact(token) {
            return match self.introspection.as_ref().filter(|_| !token.is_empty()) {
                None => Ok(None),
                Some(introspection) if introspection.withholds(token) => {
                    Err(AuthError::Invalid("the credential is one of this gateway's own for something else"))
                }
                Some(_) => Ok(Some(Judge::Asking)),
            };
        }
        let jws = Jws::parse(token).map_err(AuthError::Invalid)?;
        #[derive(Deserialize)]
        struct Who {
            iss: String,
        }
        let Who { iss } = read(&jws)?;
        let Some(issuer) = self.issuer(&iss, resource) else { return Ok(None) };
        let now = self.clock.now();
        let (typed, keys) = match issuer {
            Issuer::Own(keys) => {
                read::<AccessClaims>(&jws)?.check(&iss, resource, now).map_err(AuthError::Invalid)?;
                (jws.header.is(ACCESS_TOKEN), Some(keys))
            }
            Issuer::Foreign(issuer) => {
                let claims = read::<ForeignClaims>(&jws)?;
                claims.check(issuer, resource, now).map_err(AuthError::Invalid)?;
                (issuer.is_access_token(&jws.header, &claims), issuer.keys.as_ref())
            }
        };
        if !typed {
            return Err(AuthError::Invalid("the token is not of the type of an access token"));
        }
        let keys = keys.ok_or(AuthError::Invalid("the issuer has no keys, and its tokens should be opaque"))?;
        let id = jws.header.kid.as_deref().ok_or(AuthError::Invalid("the token does not name its key"))?;
        Ok(Some(Judge::Keys(Arc::clone(keys), id.into())))
    }

    async fn verify(
        self: &Arc<Self>,
        token: &[u8],
        hash: TokenHash,
        resource: &Resource,
        judge: Judge,
    ) -> Result<Arc<Principal>, AuthError> {
        let key = match judge {
            Judge::Asking => None,
            Judge::Keys(keys, id) => {
                let key = keys.key(&id).await.map_err(|error| AuthError::Unavailable(error.into()))?;
                let key = key.ok_or(AuthError::Invalid("no key of the issuer has this id"))?;
                Some((key, SignedBy { keys, id }))
            }
        };
        // It was remembered, and only its key had to be waited for.
        if let Some(verdict) = self.recall(&hash, resource) {
            return verdict;
        }
        let turns = if key.is_some() { &self.turns } else { &self.questions };
        let turn = tokio::time::timeout(self.options.patience, turns.acquire()).await;
        let _turn = turn.map_err(|_| AuthError::Unavailable("too many new tokens at the same time".into()))?;
        // Somebody else may have brought the same token meanwhile.
        if let Some(verdict) = self.recall(&hash, resource) {
            return verdict;
        }
        let verified = match (key, &self.introspection) {
            (Some((key, signed_by)), _) => {
                let jws = Jws::parse(token).map_err(AuthError::Invalid)?;
                jws.verify(&*key).map_err(AuthError::Invalid)?;
                Verified { signed_by: Some(signed_by), ..self.believe(&jws, resource).await? }
            }
            (None, Some(introspection)) => {
                let mut verified = introspection.ask(token, resource, self.clock.now()).await?;
                let watch = Watch::new(OpaqueWatch::new(self, token, hash, resource));
                verified.principal = Arc::new(Principal::clone(&verified.principal).with_watch(watch));
                verified
            }
            (None, None) => return Err(AuthError::Invalid("nobody can read opaque tokens")),
        };
        let judged = verified.judge(resource, &*self.standing);
        match &judged {
            Ok(principal) => {
                let principal = Arc::clone(principal);
                self.remembered.insert(hash, Arc::new(Verified { principal, ..verified }));
            }
            // Who goes on with what was ended must not cost a signature each time.
            Err(AuthError::Invalid(_)) => self.ended.insert(hash, Arc::new(verified)),
            Err(_) => {}
        }
        judged
    }

    /// The verdict on a remembered token whose key is known to be there.
    fn recall(&self, hash: &TokenHash, resource: &Resource) -> Option<Result<Arc<Principal>, AuthError>> {
        self.judge_remembered(hash, &self.known(hash)?, resource)
    }

    /// Reads what is now known to be signed.
    async fn believe(&self, jws: &Jws<'_>, resource: &Resource) -> Result<Verified, AuthError> {
        #[derive(Deserialize)]
        struct Who {
            iss: String,
        }
        let Who { iss } = read(jws)?;
        match self.issuer(&iss, resource) {
            Some(Issuer::Own(_)) => read::<AccessClaims>(jws)?.into_verified().map_err(AuthError::Invalid),
            Some(Issuer::Foreign(issuer)) => {
                let verified = read::<ForeignClaims>(jws)?.into_verified(issuer, resource);
                let verified = verified.map_err(AuthError::Invalid)?;
                let Some(people) = &issuer.people else { return Ok(verified) };
                let mapped = verified.of_people(&**people, self.clock.now()).await.map_err(AuthError::Unavailable)?;
                mapped.ok_or(AuthError::Invalid("the subject of the token is nobody here"))
            }
            None => Err(AuthError::Invalid("the issuer is not trusted")),
        }
    }

    /// Who issues tokens in this name for this resource.
    fn issuer(&self, iss: &str, resource: &Resource) -> Option<&Issuer> {
        self.issuers.get(iss).or_else(|| self.of_servers.as_ref().filter(|_| *resource.url == *iss))
    }
}

fn read<T: serde::de::DeserializeOwned>(jws: &Jws<'_>) -> Result<T, AuthError> {
    serde_json::from_slice(&jws.claims).map_err(|_| AuthError::Invalid("the claims of the token are not complete"))
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
