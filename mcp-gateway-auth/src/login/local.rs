//! People with a password at this gateway.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{
    Budget, Clock, Kind, LimitKey, RateLimiter, Revision, StoreError, StoreErrorKind, When,
};
use mcp_gateway_core::layer::limit::network;
use mcp_gateway_core::record::{Principal, Resource, Resources, Secret, Subject, UserState};
use serde::{Deserialize, Serialize};

use super::{HashError, Passwords, SessionUser, sha256_hex};
use crate::user::{IdentityKey, NewUser, PASSWORD, UserError, Users};

/// A password as it is kept, by the id of the identity that it proves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordRecord {
    /// The id of the user.
    pub user: String,
    /// Its hash, a PHC string; sealed.
    pub hash: Secret,
    /// Whether the next login must change it: somebody else has chosen it.
    pub must_change: bool,
    /// When it was set.
    pub changed_at: Timestamp,
}

impl Resource for PasswordRecord {
    const KIND: Kind = PASSWORD;
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/hash"];
}

/// A browser that somebody has signed in with, by the SHA-256 of its cookie and the identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownDevice {}

impl KnownDevice {
    /// How long a browser is remembered after the last login.
    pub const LASTS: Duration = Duration::from_secs(180 * 24 * 3_600);
}

impl Resource for KnownDevice {
    const KIND: Kind = Kind::quiet("known-device");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// How many attempts there are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Throttle {
    /// `login.attempts_per_account`: for one login name in 15 minutes, from one address or one known browser; 10.
    pub account: u32,
    /// `login.attempts_from_strangers`: for one login name in 15 minutes, from all browsers together that nobody has
    /// signed in with before under it; 100. Who uses them up locks out no known browser.
    pub strangers: u32,
    /// `login.attempts_per_address`: from one address in 15 minutes, whatever the name; 50.
    pub address: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { account: 10, strangers: 100, address: 50 }
    }
}

impl Throttle {
    /// The time in which a used-up budget is whole again.
    pub const PERIOD: Duration = Duration::from_secs(15 * 60);

    /// So many attempts for one login name from one place, for it from strangers together, and from one address.
    #[must_use]
    pub fn per_period(account: u32, strangers: u32, address: u32) -> Self {
        Self { account, strangers, address }
    }
}

/// Where an attempt comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempt<'a> {
    /// The address.
    pub address: Option<IpAddr>,
    /// The value of the browser's cookie of a [known device](LocalLogins::remember), if it has one.
    pub device: Option<&'a str>,
}

/// A right password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalSignIn {
    /// A session may begin.
    Done(SessionUser),
    /// First, the person must choose a password that nobody else knows.
    MustChange,
}

/// Why there is no login. [`Refused`](Self::Refused) is the same for a wrong password, an unknown name and a disabled
/// user, and takes the same time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// Wrong name or password.
    #[error("the name or the password is wrong")]
    Refused,
    /// Too many attempts.
    #[error("there were too many attempts")]
    Throttled {
        /// When there is another one.
        retry_after: Duration,
    },
    /// The new password is not long enough, far too long, or the old one.
    #[error("the new password must be another one, of at least 12 characters and at most 1,024 bytes")]
    Unfit,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The password could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// People who sign in with a name and a password of this gateway.
#[derive(Clone)]
pub struct LocalLogins {
    users: Users,
    passwords: Resources<PasswordRecord>,
    devices: Resources<KnownDevice>,
    hashes: Passwords,
    limiter: Arc<dyn RateLimiter>,
    clock: Arc<dyn Clock>,
    throttle: Throttle,
}

impl LocalLogins {
    /// The logins of these users.
    pub fn new(
        users: Users,
        passwords: Resources<PasswordRecord>,
        hashes: Passwords,
        limiter: Arc<dyn RateLimiter>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let devices = passwords.of_kind();
        Self { users, passwords, devices, hashes, limiter, clock, throttle: Throttle::default() }
    }

    /// The same with these budgets.
    #[must_use]
    pub fn with_throttle(mut self, throttle: Throttle) -> Self {
        self.throttle = throttle;
        self
    }

    /// Makes a user who signs in with this name, and must change this password then. Returns the user's id.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn create(
        &self,
        by: &Principal,
        new: NewUser,
        login: &str,
        password: &Secret,
    ) -> Result<(String, Revision), UserError> {
        let key = self.identity(login)?;
        let (user, mut writes) = self.users.prepare(by, new, key.clone()).await?;
        let record = self.record(&user, password, true).await?;
        writes.push(self.passwords.put(&key.id(), &record, None, When::Any)?);
        let made = self.passwords.store().commit(writes).await;
        let revision = made.map_err(|error| {
            if error.kind() == StoreErrorKind::Conflict { UserError::Exists("id or login") } else { error.into() }
        })?;
        Ok((user, revision))
    }

    /// Sets another password for somebody, who must change it at the next login. Their sessions end.
    ///
    /// # Errors
    /// [`UserError`]; [`UserError::Missing`] for somebody who has no login of this gateway.
    pub async fn reset(&self, by: &Principal, user: &str, password: &Secret) -> Result<Revision, UserError> {
        let stored = self.users.to_change(by, user).await?;
        let identities = self.users.identities_of(user).await?;
        let local = identities.iter().find(|one| one.key.issuer == Subject::LOCAL).ok_or(UserError::Missing)?;
        let record = self.record(user, password, true).await?;
        let when = When::At(stored.revision);
        let mut writes = vec![self.passwords.put(&local.key.id(), &record, None, When::Any)?];
        writes.extend(self.users.ending(&stored.id, stored.value, when, "the password was reset")?);
        Ok(self.passwords.store().commit(writes).await?)
    }

    /// Checks a name and a password.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn sign_in(&self, login: &str, password: &Secret, from: Attempt<'_>) -> Result<LocalSignIn, LoginError> {
        let (_, record, user) = self.check(login, password, from).await?;
        Ok(if record.must_change { LocalSignIn::MustChange } else { LocalSignIn::Done(user) })
    }

    /// Replaces a person's password by one that they have chosen. Their sessions end; one may begin for whom this
    /// returns, once the directory has applied the revision.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn change(
        &self,
        login: &str,
        old: &Secret,
        new: &Secret,
        from: Attempt<'_>,
    ) -> Result<(SessionUser, Revision), LoginError> {
        let (id, record, user) = self.check(login, old, from).await?;
        if !Passwords::is_long_enough(new) || new == old {
            return Err(LoginError::Unfit);
        }
        let changed = PasswordRecord {
            hash: self.hashes.hash(new).await?,
            must_change: false,
            changed_at: self.clock.now(),
            ..record.value
        };
        let stored = self.users.get(&user.id).await.map_err(store_error)?.ok_or(LoginError::Refused)?;
        let session = SessionUser { id: stored.id.clone(), epoch: stored.value.epoch + 1 };
        let when = When::At(stored.revision);
        let mut writes = vec![self.passwords.put(&id, &changed, None, When::At(record.revision))?];
        writes.extend(self.users.ending(&stored.id, stored.value, when, "the password was changed")?);
        let revision = self.passwords.store().commit(writes).await?;
        Ok((session, revision))
    }

    async fn check(
        &self,
        login: &str,
        password: &Secret,
        from: Attempt<'_>,
    ) -> Result<(String, Checked, SessionUser), LoginError> {
        // A name that cannot be one is looked for like every other.
        let name = login_name(login).unwrap_or_default();
        let id = IdentityKey::new(Subject::LOCAL, name).id();
        self.take(&id, from).await?;
        let stored = self.passwords.get(&id).await?;
        let too_long = password.expose().len() > super::PasswordLimits::LONGEST;
        let hash = stored.as_ref().map(|stored| stored.value.hash.clone()).filter(|_| !too_long);
        let right = if too_long {
            self.hashes.verify(&Secret::default(), None).await?
        } else {
            self.hashes.verify(password, hash).await?
        };
        // Read in any case, so that the time says nothing about who is disabled.
        let user = stored.as_ref().map_or("nobody", |stored| &stored.value.user).to_owned();
        let user = self.users.get(&user).await.map_err(store_error)?;
        match (right, stored, user) {
            (true, Some(stored), Some(user)) if user.value.state == UserState::Active => {
                // No provider has said anything by this.
                self.users.lapse(&user.id).await.map_err(store_error)?;
                let session = SessionUser { id: user.id, epoch: user.value.epoch };
                let must_change = stored.value.must_change;
                Ok((id, Checked { revision: stored.revision, value: stored.value, must_change }, session))
            }
            _ => Err(LoginError::Refused),
        }
    }

    /// Hashed names are of one length, so a stranger cannot fill the limiter with long ones.
    async fn take(&self, id: &str, from: Attempt<'_>) -> Result<(), LoginError> {
        let known = match from.device {
            Some(device) => self.devices.get(&device_id(device, id)).await?,
            None => None,
        };
        let address = from.address.map(|address| network(address).to_string());
        let budget = |scope, id: String, limit| Budget {
            key: LimitKey { scope, id: id.into() },
            cost: 1,
            limit,
            period: Throttle::PERIOD,
        };
        let mut budgets = Vec::new();
        match &known {
            Some(device) => budgets.push(budget("login-device", device.id.to_string(), self.throttle.account)),
            None => {
                let place = format!("{id} {}", address.as_deref().unwrap_or_default());
                budgets.push(budget("login-place", place, self.throttle.account));
                budgets.push(budget("login-account", id.to_owned(), self.throttle.strangers));
            }
        }
        if let Some(address) = address {
            budgets.push(budget("login-address", address, self.throttle.address));
        }
        let taken = match self.limiter.check(&budgets) {
            MaybeReady::Ready(taken) => taken,
            MaybeReady::Wait(wait) => wait.await,
        };
        taken.map(drop).map_err(|limited| LoginError::Throttled { retry_after: limited.retry_after })
    }

    /// Remembers a browser in which somebody has signed in with this name: strangers who try passwords do not lock it
    /// out. `device` is a cookie of the browser alone, random, kept for [`KnownDevice::LASTS`].
    ///
    /// # Errors
    /// As the store's.
    pub async fn remember(&self, login: &str, device: &str) -> Result<(), StoreError> {
        let id = IdentityKey::new(Subject::LOCAL, login_name(login).unwrap_or_default()).id();
        let put = self.devices.put(&device_id(device, &id), &KnownDevice {}, Some(KnownDevice::LASTS), When::Any)?;
        self.devices.store().commit(vec![put]).await.map(drop)
    }

    async fn record(&self, user: &str, password: &Secret, must_change: bool) -> Result<PasswordRecord, UserError> {
        if !Passwords::is_long_enough(password) {
            return Err(UserError::Invalid {
                field: "password",
                problem: "must be of at least 12 characters and at most 1,024 bytes",
            });
        }
        let failed = |error: HashError| StoreError::new(StoreErrorKind::Unavailable, "hash").because(error);
        let hash = self.hashes.hash(password).await.map_err(failed)?;
        Ok(PasswordRecord { user: user.to_owned(), hash, must_change, changed_at: self.clock.now() })
    }

    fn identity(&self, login: &str) -> Result<IdentityKey, UserError> {
        let problem = "must be 1 to 254 bytes without spaces, such as ada or ada@example.com";
        let name = login_name(login).ok_or(UserError::Invalid { field: "login", problem })?;
        Ok(IdentityKey::new(Subject::LOCAL, name))
    }
}

/// A password that was right.
struct Checked {
    revision: Revision,
    value: PasswordRecord,
    must_change: bool,
}

impl fmt::Debug for LocalLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLogins").field("throttle", &self.throttle).finish_non_exhaustive()
    }
}

/// A login name as it is compared: in lowercase, without the spaces that a phone adds.
#[must_use]
pub fn login_name(text: &str) -> Option<String> {
    let name = text.trim().to_lowercase();
    let odd = |c: char| c.is_whitespace() || c.is_control();
    ((1..=254).contains(&name.len()) && !name.contains(odd)).then_some(name)
}

fn store_error(error: UserError) -> LoginError {
    match error {
        UserError::Store(error) => LoginError::Store(error),
        _ => LoginError::Refused,
    }
}

fn device_id(device: &str, identity: &str) -> String {
    sha256_hex(&format!("{identity} {device}"))
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
