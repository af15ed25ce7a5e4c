//! Sessions of browsers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{Clock, IndexTerm, Kind, StoreError, StoreErrorKind, StoreLimits, When, Write};
use mcp_gateway_core::record::{Resource, Resources, Secret, Stored};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A browser's session as it is kept, by the SHA-256 of its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The id of the user.
    pub user: String,
    /// The user's epoch when the session began: with another one, it has ended.
    pub epoch: u64,
    /// What the person signed in with: `local`, or the name of an identity provider.
    pub via: String,
    /// When the person last proved who they are: at an identity provider, that may be before the session began.
    pub authenticated_at: Timestamp,
    /// When it began; absent in sessions that began when the person proved who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// When it was used last, up to a minute behind.
    pub seen_at: Timestamp,
}

impl Resource for Session {
    const KIND: Kind = Kind::quiet("session");
    const INDEXES: &'static [&'static str] = &["user"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        vec![IndexTerm { name: "user", value: self.user.as_str().into() }]
    }
}

/// How long sessions last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// `login.session_idle_seconds`: without a request for so long, it ends; 12 hours.
    pub idle: Duration,
    /// `login.session_seconds`: so long after the login it ends in any case; 7 days.
    pub longest: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { idle: Duration::from_secs(12 * 3_600), longest: Duration::from_secs(7 * 24 * 3_600) }
    }
}

impl SessionOptions {
    /// Sessions that end after these times.
    #[must_use]
    pub fn lasting(idle: Duration, longest: Duration) -> Self {
        Self { idle, longest }
    }
}

/// For whom a session begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionUser {
    /// The user's id.
    pub id: Box<str>,
    /// The user's epoch, as it was when the login was checked.
    pub epoch: u64,
}

/// A session that has just begun.
#[derive(Debug)]
pub struct BegunSession {
    /// The value of the cookie; kept nowhere.
    pub token: Secret,
    /// The id of the record, which is no secret.
    pub id: String,
}

/// The sessions of one tenant.
///
/// The token is random and kept as a hash alone; every request reads the record, so a session that is ended is ended at
/// every replica with the next request. The store forgets sessions by itself when their time is over.
#[derive(Clone)]
pub struct Sessions {
    sessions: Resources<Session>,
    clock: Arc<dyn Clock>,
    options: SessionOptions,
}

/// How much later than the last noted use a use is noted.
const NOTED_EVERY: SignedDuration = SignedDuration::from_secs(60);

impl Sessions {
    /// The sessions that are kept here.
    pub fn new(sessions: Resources<Session>, clock: Arc<dyn Clock>, options: SessionOptions) -> Self {
        Self { sessions, clock, options }
    }

    /// Begins one. A login always begins a new one, so that nobody can foist a session on somebody else.
    ///
    /// # Errors
    /// As the store's.
    pub async fn begin(&self, user: &SessionUser, via: &str) -> Result<BegunSession, StoreError> {
        self.begin_for(user, via, self.clock.now()).await
    }

    /// The same for somebody who proved then, not later than now, who they are.
    ///
    /// # Errors
    /// As the store's.
    pub async fn begin_for(
        &self,
        user: &SessionUser,
        via: &str,
        authenticated_at: Timestamp,
    ) -> Result<BegunSession, StoreError> {
        let token = Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let id = sha256_hex(token.expose());
        let now = self.clock.now();
        let session = Session {
            user: user.id.to_string(),
            epoch: user.epoch,
            via: via.to_owned(),
            authenticated_at: authenticated_at.min(now),
            began_at: Some(now),
            seen_at: now,
        };
        let left = self.left(&session, now).unwrap_or_default();
        let put = self.sessions.put(&id, &session, Some(left), When::Absent)?;
        self.sessions.store().commit(vec![put]).await?;
        Ok(BegunSession { token, id })
    }

    /// The session of a token, and notes its use. Whether its user may do anything is for the caller to ask.
    ///
    /// # Errors
    /// As the store's.
    pub async fn find(&self, token: &str) -> Result<Option<Stored<Session>>, StoreError> {
        let Some(stored) = self.sessions.get(&sha256_hex(token)).await? else { return Ok(None) };
        let now = self.clock.now();
        // On this process's clock, too: the store's may be another's.
        let Some(left) = self.left(&stored.value, now) else { return Ok(None) };
        if now.duration_since(stored.value.seen_at) < NOTED_EVERY {
            return Ok(Some(stored));
        }
        let seen = Session { seen_at: now, ..stored.value.clone() };
        let put = self.sessions.put(&stored.id, &seen, Some(left.min(self.options.idle)), When::At(stored.revision))?;
        match self.sessions.store().commit(vec![put]).await {
            // Another request of the browser noted it, or the session was ended meanwhile: that stands.
            Err(error) if error.kind() == StoreErrorKind::Conflict => self.sessions.get(&stored.id).await,
            done => done.map(|revision| Some(Stored { revision, value: seen, ..stored })),
        }
    }

    /// How long a session may last.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.options.longest
    }

    /// When a session ends in any case.
    #[must_use]
    pub fn end_of(&self, session: &Session) -> Timestamp {
        after(session.began_at.unwrap_or(session.authenticated_at), self.options.longest)
    }

    /// Ends the session of a token.
    ///
    /// # Errors
    /// As the store's.
    pub async fn end(&self, token: &str) -> Result<(), StoreError> {
        self.sessions.delete(&sha256_hex(token), When::Any).await.map(drop)
    }

    /// Ends every session of a user. Those that are just beginning, only a new [epoch](Session::epoch) ends.
    ///
    /// # Errors
    /// As the store's.
    pub async fn end_all(&self, user: &str) -> Result<(), StoreError> {
        let of_user = IndexTerm { name: "user", value: user.into() };
        loop {
            let (found, more) = self.sessions.list(Some(of_user.clone()), None, StoreLimits::WRITES).await?;
            let gone = |id: &str| Write::Delete { key: self.sessions.key(id), when: When::Any };
            let writes: Vec<_> = found.iter().map(|one| gone(&one.id)).collect();
            if !writes.is_empty() {
                self.sessions.store().commit(writes).await?;
            }
            if more.is_none() {
                return Ok(());
            }
        }
    }

    /// How long it still lasts, if at all.
    fn left(&self, session: &Session, now: Timestamp) -> Option<Duration> {
        let end = after(session.seen_at, self.options.idle).min(self.end_of(session));
        Duration::try_from(end.duration_since(now)).ok().filter(|left| !left.is_zero())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("options", &self.options).finish_non_exhaustive()
    }
}

fn after(begin: Timestamp, time: Duration) -> Timestamp {
    begin.saturating_add(time).unwrap_or(Timestamp::MAX)
}

/// In lowercase hexadecimal: the id of what only a secret finds.
pub(crate) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
