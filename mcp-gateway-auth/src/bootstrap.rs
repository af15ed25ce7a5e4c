//! The first way in: a token and a key for a gateway that knows nobody yet.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::request::Parts;
use jiff::Timestamp;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{
    AuthError, Authenticator, Clock, Effort, Kind, Resource as Audience, StoreError, StoreErrorKind, When,
};
use mcp_gateway_core::record::{
    Actor, ActorKind, Principal, Resource, Resources, Roles, Scope, Secret, Subject, TenantId,
};
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::api_key::{ApiKeyError, ApiKeys, CreatedKey, NewKey};
use crate::user::UserDirectory;
use crate::{bearer, secret_file};

const ID: &str = "state";
/// Not the prefix of a key: the authenticator of keys must not take it for a broken one.
const PREFIX: &str = "mcpgw-bootstrap-";

/// What a gateway remembers of its first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapState {
    /// When it was started first.
    pub first_start: Timestamp,
    /// When a real owner took over: the token is void from then on.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Whether the starter key was made, or somebody is making it.
    #[serde(default)]
    pub starter_key: bool,
}

impl Resource for BootstrapState {
    const KIND: Kind = Kind::quiet("bootstrap");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// How a gateway is bootstrapped.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BootstrapOptions {
    /// The token that the operator supplied, at least 32 characters.
    pub supplied: Option<Secret>,
    /// Where a generated token is kept when none was supplied.
    pub token_file: Option<PathBuf>,
    /// Whether the operator asked for bootstrapping again: the time runs anew from this start.
    pub reopen: bool,
}

impl BootstrapOptions {
    /// With the token that the operator supplied.
    #[must_use]
    pub fn supplied(token: Secret) -> Self {
        Self { supplied: Some(token), ..Self::default() }
    }

    /// With a generated token in this file.
    #[must_use]
    pub fn generated(token_file: impl Into<PathBuf>) -> Self {
        Self { token_file: Some(token_file.into()), ..Self::default() }
    }

    /// The same, with the time running anew from this start.
    #[must_use]
    pub fn reopened(mut self, reopen: bool) -> Self {
        self.reopen = reopen;
        self
    }
}

/// Why a gateway cannot be bootstrapped. The message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The supplied token is too short, too long, or has characters that no header may hold.
    #[error("the bootstrap token must be 32 to 1,024 visible ASCII characters; `openssl rand -hex 32` makes one")]
    Token,
    /// The token's file cannot be read or made.
    #[error("the bootstrap token's file {path} cannot be used: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The state of a gateway's first days.
///
/// The owner's token is good for the admin API alone, for 24 hours after the first start. Until users exist there is
/// one subject for it, `owner` of issuer `local`; so is the starter key's.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_auth::bootstrap::{Bootstrap, BootstrapOptions};
/// use mcp_gateway_core::contract::{Authenticator as _, Resource, SystemClock};
/// use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
/// use mcp_gateway_core::record::{Resources, Roles, Secret, TenantId};
/// use mcp_gateway_core::seal::Sealer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let clock = Arc::new(SystemClock);
/// let store = Arc::new(MemoryStore::new(clock.clone()));
/// let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
/// let state = Resources::new(store, sealer, TenantId::default());
///
/// let token = Secret::new("0123456789abcdef0123456789abcdef");
/// let bootstrap = Bootstrap::open(state, clock, BootstrapOptions::supplied(token)).await.unwrap();
/// let authenticator = bootstrap.authenticator().unwrap();
///
/// let api = Resource { url: "https://gateway.example/api/v1".into(), metadata: None, server: None };
/// let request = http::Request::get("/").header("authorization", "Bearer 0123456789abcdef0123456789abcdef");
/// let (parts, ()) = request.body(()).unwrap().into_parts();
/// let principal = authenticator.authenticate(&parts, &api).await.unwrap().unwrap();
/// assert!(principal.roles.contains(Roles::OWNER));
/// # });
/// ```
pub struct Bootstrap {
    state: Resources<BootstrapState>,
    clock: Arc<dyn Clock>,
    first: bool,
    ended: bool,
    generated: Option<(PathBuf, Secret)>,
    token_file: Option<PathBuf>,
    authenticator: Option<BootstrapAuthenticator>,
}

impl Bootstrap {
    /// How long the token is good for.
    pub const WINDOW: Duration = Duration::from_secs(24 * 3_600);
    /// Characters of a supplied token, at least.
    pub const SHORTEST: usize = 32;
    /// Characters of a token, at most.
    pub const LONGEST: usize = 1_024;
    /// How long the starter key is good for.
    pub const STARTER_KEY: Duration = Duration::from_secs(30 * 24 * 3_600);
    /// The id of the subject that the token and the starter key speak for; its issuer is `local`.
    pub const OWNER: &'static str = "owner";

    /// Notes the first start, and reads or makes the token while it is good.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn open(
        state: Resources<BootstrapState>,
        clock: Arc<dyn Clock>,
        options: BootstrapOptions,
    ) -> Result<Self, BootstrapError> {
        if options.supplied.as_ref().is_some_and(|token| !is_token(token.expose())) {
            return Err(BootstrapError::Token);
        }
        let now = clock.now();
        let fresh = BootstrapState { first_start: now, ended_at: None, starter_key: false };
        let (mut known, first) = match state.save(ID, &fresh, When::Absent).await {
            Ok(_) => (fresh, true),
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                // Never deleted, so a conflict means that it is there.
                (state.get(ID).await?.map_or(fresh, |stored| stored.value), false)
            }
            Err(error) => return Err(error.into()),
        };
        if options.reopen && known.ended_at.is_some() {
            // Whether there is an owner all the same, the authenticator asks on every use.
            known = reopened(&state).await?.unwrap_or(known);
        }
        let begin = if options.reopen { now } else { known.first_start };
        let until = begin.saturating_add(Self::WINDOW).unwrap_or(begin);
        let mut generated = None;
        let token = match (options.supplied, &options.token_file) {
            _ if known.ended_at.is_some() || now >= until => None,
            (Some(token), _) => Some(token),
            (None, Some(path)) => {
                let token = generated_token(path)?;
                generated = Some((path.clone(), token.clone()));
                Some(token)
            }
            (None, None) => None,
        };
        let authenticator =
            token.map(|token| BootstrapAuthenticator::new(&token, state.key(ID).tenant, until, Arc::clone(&clock)));
        let ended = known.ended_at.is_some();
        Ok(Self { state, clock, first, ended, generated, token_file: options.token_file, authenticator })
    }

    /// Whether an owner had taken over before this start, which did not [reopen](BootstrapOptions::reopen) it.
    #[must_use]
    pub fn had_ended(&self) -> bool {
        self.ended
    }

    /// Whether this is the gateway's first start.
    #[must_use]
    pub fn is_first_start(&self) -> bool {
        self.first
    }

    /// The generated token and its file. To be shown on a terminal only, never in a log.
    #[must_use]
    pub fn generated(&self) -> Option<(&Path, &Secret)> {
        self.generated.as_ref().map(|(path, token)| (path.as_path(), token))
    }

    /// Authenticates by the token; `None` when its time is over.
    #[must_use]
    pub fn authenticator(&self) -> Option<BootstrapAuthenticator> {
        self.authenticator.clone()
    }

    /// Makes the starter key, on the first start of a gateway that listens on loopback alone: all servers, scope
    /// `mcp`, 30 days. To be shown once.
    ///
    /// # Errors
    /// As [`ApiKeys::create`]; no other is made then.
    pub async fn starter_key(&self, keys: &ApiKeys, loopback: bool) -> Result<Option<CreatedKey>, ApiKeyError> {
        if !self.first || !loopback {
            return Ok(None);
        }
        let Some(stored) = self.state.get(ID).await? else { return Ok(None) };
        if stored.value.starter_key {
            return Ok(None);
        }
        // Claimed before it is made: two calls must not make two.
        let claimed = BootstrapState { starter_key: true, ..stored.value };
        match self.state.save(ID, &claimed, When::At(stored.revision)).await {
            Ok(_) => {}
            Err(error) if error.kind() == StoreErrorKind::Conflict => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut key = NewKey::named("starter");
        key.expires_at = self.clock.now().saturating_add(Self::STARTER_KEY).ok();
        keys.create(&owner(self.state.key(ID).tenant), key).await.map(Some)
    }

    /// Ends it: a real owner exists. Nothing but [`BootstrapOptions::reopen`] begins it again, should there be no owner
    /// later. The generated token's file is removed.
    ///
    /// This process's authenticators refuse at once, those of other replicas after their next start or the window's end.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn end(&self) -> Result<(), BootstrapError> {
        if let Some(authenticator) = &self.authenticator {
            authenticator.token.ended.store(true, Ordering::Release);
        }
        loop {
            let Some(stored) = self.state.get(ID).await?.filter(|stored| stored.value.ended_at.is_none()) else {
                break;
            };
            let ended = BootstrapState { ended_at: Some(self.clock.now()), ..stored.value };
            match self.state.save(ID, &ended, When::At(stored.revision)).await {
                // Another replica has heard of the owner, too.
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                done => {
                    done?;
                    break;
                }
            }
        }
        if let Some(path) = &self.token_file {
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(BootstrapError::File { path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap").field("first", &self.first).field("authenticator", &self.authenticator).finish()
    }
}

/// Authenticates the owner by the bootstrap token, for the admin API alone.
///
/// Every other bearer is somebody else's. The token on the data plane, or after its time, ends the chain with 401.
#[derive(Clone)]
pub struct BootstrapAuthenticator {
    token: Arc<Token>,
    clock: Arc<dyn Clock>,
    users: Option<Arc<dyn UserDirectory>>,
}

struct Token {
    sha256: [u8; 32],
    until: Timestamp,
    principal: Arc<Principal>,
    ended: AtomicBool,
}

impl BootstrapAuthenticator {
    fn new(token: &Secret, tenant: TenantId, until: Timestamp, clock: Arc<dyn Clock>) -> Self {
        let principal = Arc::new(owner(tenant).with_expiry(Some(until)));
        let sha256 = Sha256::digest(token.expose()).into();
        Self { token: Arc::new(Token { sha256, until, principal, ended: false.into() }), clock, users: None }
    }

    /// The same, refusing as soon as a person is an owner, and from then on: at every replica that has heard of it.
    #[must_use]
    pub fn until_owned(mut self, users: Arc<dyn UserDirectory>) -> Self {
        self.users = Some(users);
        self
    }

    /// When the token's time is over.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.token.until
    }

    /// Whether this is the token, good still or not.
    #[must_use]
    pub fn is_token(&self, text: &[u8]) -> bool {
        // Hashes are compared, so that neither length nor content of the token shows in the time.
        Sha256::digest(text).as_slice().ct_eq(&self.token.sha256).into()
    }

    fn check(&self, parts: &Parts, resource: &Audience) -> Result<Option<Arc<Principal>>, AuthError> {
        let Some(sent) = bearer::authorization(parts)?.and_then(bearer::bearer) else { return Ok(None) };
        if !self.is_token(sent) {
            return Ok(None);
        }
        if resource.server.is_some() {
            return Err(AuthError::Invalid("the bootstrap token is good for the admin API alone"));
        }
        let ended = self.token.ended.load(Ordering::Acquire);
        if ended || self.clock.now() >= self.token.until {
            return Err(AuthError::Invalid("the bootstrap token's time is over"));
        }
        if self.users.as_ref().is_some_and(|users| users.is_owned()) {
            return Err(AuthError::Invalid("the bootstrap token is void: there is an owner, or was one"));
        }
        Ok(Some(Arc::clone(&self.token.principal)))
    }
}

impl Authenticator for BootstrapAuthenticator {
    fn authenticate(
        &self,
        parts: &Parts,
        resource: &Audience,
    ) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        self.check(parts, resource).into()
    }

    fn effort(&self, parts: &Parts, resource: &Audience) -> Effort {
        match self.check(parts, resource) {
            Ok(None) => Effort::Nothing,
            _ => Effort::Comparison,
        }
    }
}

impl fmt::Debug for BootstrapAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootstrapAuthenticator").field("until", &self.token.until).finish_non_exhaustive()
    }
}

/// Forgets that there was an owner.
async fn reopened(state: &Resources<BootstrapState>) -> Result<Option<BootstrapState>, StoreError> {
    let Some(stored) = state.get(ID).await? else { return Ok(None) };
    let open = BootstrapState { ended_at: None, ..stored.value };
    state.save(ID, &open, When::At(stored.revision)).await?;
    Ok(Some(open))
}

/// The one subject of a gateway that has no users yet.
fn owner(tenant: TenantId) -> Principal {
    let actor = Actor { kind: ActorKind::Bootstrap, id: "bootstrap".into(), name: None };
    Principal::new(Subject::LOCAL, Bootstrap::OWNER)
        .with_tenant(tenant)
        .with_actor(actor)
        .with_scopes([Scope::ApiRead, Scope::ApiWrite])
        .with_roles(Roles::OWNER.with_included())
}

fn is_token(text: &str) -> bool {
    (Bootstrap::SHORTEST..=Bootstrap::LONGEST).contains(&text.len())
        && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
}

fn generated_token(path: &Path) -> Result<Secret, BootstrapError> {
    let file = |source| BootstrapError::File { path: path.to_owned(), source };
    let longest = Bootstrap::LONGEST as u64 + 2;
    let mut text = secret_file::read(path, longest).map_err(file)?;
    if text.is_none() {
        // 43 characters of 62 are over 256 bits.
        let random = rand::rng().sample_iter(Alphanumeric).take(43).map(char::from);
        let token: String = PREFIX.chars().chain(random).collect();
        secret_file::create(path, &token).map_err(file)?;
        // Another process may have been first; its token is as good.
        text = secret_file::read(path, longest).map_err(file)?;
    }
    let token = Secret::new(text.unwrap_or_default());
    if is_token(token.expose()) {
        return Ok(token);
    }
    Err(file(io::Error::new(io::ErrorKind::InvalidData, "it holds no token; remove it and a new one is made")))
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
