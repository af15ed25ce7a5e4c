//! The feed of a Postgres store.
//!
//! A notification is a hint to look; what is read is the change log, after the position that the consumer has. So one
//! that is missed costs time, at most until the next look, and never a change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use mcp_gateway_core::contract::{Change, Feed, FeedStream, Key, Kind, Revision, StoreError, StoreErrorKind};
use mcp_gateway_core::record::TenantId;
use sqlx::Row as _;
use sqlx::postgres::{PgListener, PgRow};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::database::{ANSWER, Database};
use super::resource::{bytes, corrupt};
use super::resource_batch::revision;
use super::types::unescape;
use super::{PostgresError, PostgresOptions};

/// How often the store is asked how far it has come: bookmarks come at least every 250 ms.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between attempts to connect again.
const RETRY: Duration = Duration::from_millis(250);
/// How often expired records and old changes are removed. Of all processes on a database one does it at a time.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Rows that a sweep removes in one transaction.
const SWEEP_ROWS: i32 = 500;
/// Changes that are read from the log at a time, and the bytes in them.
const CHUNK: i32 = 512;
const CHUNK_BYTES: i64 = 4 * 1024 * 1024;

/// How far the store has come, as this process knows.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Everything up to here is in the change log, or of quiet kinds.
    revision: Revision,
    /// How often the store was asked.
    looks: u64,
    /// How often revisions were found to have gone back: the database was replaced by an older one.
    resets: u64,
    /// Why it cannot be asked now.
    failed: Option<Arc<str>>,
}

/// What all feeds of a process share: one connection that listens and asks; and the sweep.
pub(super) struct Hub {
    seen: watch::Receiver<Seen>,
    tasks: Vec<JoinHandle<()>>,
}

impl Hub {
    pub(super) async fn start(options: &PostgresOptions, database: &Database) -> Result<Self, PostgresError> {
        let (sender, seen) = watch::channel(Seen::default());
        let listener = listen(options, &sender).await.map_err(|error| match error {
            Lost::Filling => PostgresError::InUse { place: options.place() },
            Lost::HalfFilled => PostgresError::HalfFilled { place: options.place() },
            Lost::Failed(source) => PostgresError::Unreachable { place: options.place(), source },
        })?;
        let listening = tokio::spawn(follow(options.clone(), sender, database.clone(), listener));
        let mut tasks = vec![listening];
        if options.sweeps {
            let (database, log_age) = (database.clone(), options.log_age);
            tasks.push(tokio::spawn(async move { sweep(&database, log_age).await }));
        }
        Ok(Self { seen, tasks })
    }

    /// How far the store has come by now.
    pub(super) async fn now(&self, database: &Database, op: &'static str) -> Result<Revision, StoreError> {
        let rows = database.read(op, sqlx::query("SELECT mcp_gateway.revision_now()")).await?;
        let number = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get(0));
        number.map(revision).map_err(|error| corrupt(op, error))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Why there is no connection to listen on.
enum Lost {
    /// The database is being filled by `store copy`.
    Filling,
    /// That has ended before everything was there.
    HalfFilled,
    Failed(mcp_gateway_core::BoxError),
}

impl From<sqlx::Error> for Lost {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filling => f.write_str("the database is being filled"),
            Self::HalfFilled => f.write_str("a copy into the database was not completed"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Connects, says that a server is here, listens, and looks for the first time.
async fn listen(options: &PostgresOptions, sender: &watch::Sender<Seen>) -> Result<PgListener, Lost> {
    // Connecting has a limit of its own.
    let all = timeout(options.acquire_timeout + ANSWER, listen_at_last(options, sender)).await;
    all.unwrap_or_else(|_| Err(Lost::Failed("no answer in time".into())))
}

async fn listen_at_last(options: &PostgresOptions, sender: &watch::Sender<Seen>) -> Result<PgListener, Lost> {
    let pool = options.pool(1, "");
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen("mcp_gateway").await?;
    let free: bool = sqlx::query("SELECT pg_try_advisory_lock_shared(1835233383, -4)")
        .fetch_one(&mut listener)
        .await
        .and_then(|row| row.try_get(0))?;
    if !free {
        return Err(Lost::Filling);
    }
    let filling: bool = sqlx::query("SELECT filling FROM mcp_gateway.state")
        .fetch_one(&mut listener)
        .await
        .and_then(|row| row.try_get(0))?;
    if filling {
        return Err(Lost::HalfFilled);
    }
    look(&mut listener, sender).await?;
    Ok(listener)
}

async fn look(listener: &mut PgListener, sender: &watch::Sender<Seen>) -> Result<(), Lost> {
    let asked = sqlx::query("SELECT mcp_gateway.revision_now(), last_value FROM mcp_gateway.revision");
    let asked = timeout(ANSWER, asked.fetch_one(listener)).await;
    let row = asked.map_err(|_| Lost::Failed("no answer in time".into()))??;
    let (now, newest) = (revision(row.try_get(0)?), revision(row.try_get(1)?));
    sender.send_modify(|seen| {
        if newest < seen.revision {
            tracing::warn!(%newest, seen = %seen.revision, "the database's revisions have gone back; feeds begin anew");
            seen.revision = now;
            seen.resets += 1;
        }
        seen.revision = seen.revision.max(now);
        seen.looks += 1;
        seen.failed = None;
    });
    Ok(())
}

/// Listens for ever, connecting again whenever the connection is lost.
async fn follow(options: PostgresOptions, sender: watch::Sender<Seen>, database: Database, mut listener: PgListener) {
    let away = database.away();
    loop {
        let mut lost = hear(listener, &sender).await;
        // At once: a single connection may have been cut.
        listener = loop {
            // One that takes no more connections answers on those that there are: these have nothing to give up.
            let (listening, answers) = tokio::join!(listen(&options, &sender), database.answers());
            match listening {
                Ok(connected) => break connected,
                Err(next) => {
                    let gone = !answers || !matches!(next, Lost::Failed(_));
                    let place = options.place();
                    match (away.send_replace(gone), gone) {
                        (false, true) => {
                            tracing::warn!(database = place, first = %lost, error = %next, "the database is away");
                        }
                        (true, false) => tracing::info!(database = place, error = %next, "the database answers again"),
                        (false, false) => {
                            tracing::warn!(database = place, error = %next, "the database cannot be listened to");
                        }
                        (true, true) => {}
                    }
                    lost = next;
                }
            }
            let text = lost.to_string().into();
            sender.send_modify(|seen| seen.failed = Some(text));
            sleep(RETRY).await;
        };
        if away.send_replace(false) {
            tracing::info!(database = options.place(), "the database is back");
        }
    }
}

/// Passes on what a connection says, until it is lost.
async fn hear(mut listener: PgListener, sender: &watch::Sender<Seen>) -> Lost {
    let mut next_look = Instant::now() + LOOK_EVERY;
    loop {
        tokio::select! {
            heard = listener.try_recv() => match heard {
                // Anybody may notify: what it says is not relied on. Several that come together are one reason to look.
                Ok(Some(_)) => next_look = Instant::now(),
                Ok(None) => return Lost::Failed("the connection was closed".into()),
                Err(error) => return error.into(),
            },
            () = sleep_until(next_look) => {
                if let Err(lost) = look(&mut listener, sender).await {
                    return lost;
                }
                next_look = Instant::now() + LOOK_EVERY;
            }
        }
    }
}

pub(super) async fn sweep(database: &Database, log_age: Duration) {
    let log_age = i64::try_from(log_age.as_micros()).unwrap_or(i64::MAX);
    loop {
        sleep(SWEEP_EVERY.mul_f64(rand::random_range(0.8..=1.2))).await;
        loop {
            let statement = sqlx::query("SELECT mcp_gateway.sweep($1, $2)").bind(SWEEP_ROWS).bind(log_age);
            match database.read("sweep", statement).await {
                Ok(rows) if rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "expired records and old changes were not removed; the next sweep tries again");
                    break;
                }
            }
        }
    }
}

/// One consumer of the feed; dropping it ends the watch.
pub(super) struct Watcher {
    database: Database,
    seen: watch::Receiver<Seen>,
    kinds: Arc<[Kind]>,
    /// Everything up to here is in `ready` or was handed out.
    position: Revision,
    ready: VecDeque<Feed>,
    /// The look that the last bookmark is of.
    looks: u64,
    /// Those that were before it began.
    resets: u64,
}

impl Watcher {
    /// Reads the first chunk, which finds out whether the log reaches back that far.
    pub(super) async fn start(
        database: Database,
        hub: &Hub,
        kinds: &[Kind],
        after: Revision,
    ) -> Result<FeedStream, StoreError> {
        let seen = hub.seen.clone();
        let resets = seen.borrow().resets;
        let now = hub.now(&database, "watch").await?;
        let mut watcher =
            Self { database, seen, kinds: kinds.into(), position: after, ready: VecDeque::new(), looks: 0, resets };
        if watcher.fill(now).await? {
            watcher.ready.push_back(Feed::Bookmark(watcher.position));
        }
        watcher.looks = watcher.seen.borrow().looks;
        Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(feed) => Some((Ok(feed), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn next(&mut self) -> Result<Feed, StoreError> {
        let gone = |why: &str| StoreError::new(StoreErrorKind::Unavailable, "watch").because(why.to_owned());
        loop {
            if let Some(feed) = self.ready.pop_front() {
                return Ok(feed);
            }
            let seen = self.seen.borrow_and_update().clone();
            if let Some(why) = &seen.failed {
                return Err(gone(why));
            }
            if seen.resets > self.resets {
                return Err(StoreError::new(StoreErrorKind::Compacted, "watch"));
            }
            if seen.revision > self.position && !self.fill(seen.revision).await? {
                continue;
            }
            if seen.looks > self.looks {
                self.looks = seen.looks;
                self.ready.push_back(Feed::Bookmark(self.position));
                continue;
            }
            if self.ready.is_empty() {
                self.seen.changed().await.map_err(|_| gone("the store was closed"))?;
            }
        }
    }

    /// Reads what the log has after the position, and says whether that was all. Everything up to `now` is in the log.
    async fn fill(&mut self, now: Revision) -> Result<bool, StoreError> {
        let names: Vec<&str> = self.kinds.iter().map(|kind| kind.name).collect();
        let after = i64::try_from(self.position.0).unwrap_or(i64::MAX);
        let statement = sqlx::query("SELECT * FROM mcp_gateway.read_changes($1, $2, $3, $4)")
            .bind(names)
            .bind(after)
            .bind(CHUNK)
            .bind(CHUNK_BYTES);
        let rows = self.database.read("watch", statement).await?;
        let whole = self.take(&rows, now).map_err(|error| corrupt("watch", error))?;
        whole.ok_or_else(|| StoreError::new(StoreErrorKind::Compacted, "watch"))
    }

    /// `None` when the log does not reach back that far, or the position is one that the store never had.
    fn take(&mut self, rows: &[PgRow], now: Revision) -> Result<Option<bool>, sqlx::Error> {
        let (last, rows) = rows.split_last().ok_or(sqlx::Error::RowNotFound)?;
        let (compacted, newest) = (revision(last.try_get(5)?), revision(last.try_get(6)?));
        if self.position < compacted || self.position > newest {
            return Ok(None);
        }
        for row in rows {
            let name: &str = row.try_get(1)?;
            let Some(kind) = self.kinds.iter().find(|kind| kind.name == name) else { continue };
            let at = revision(row.try_get(0)?);
            let value = row.try_get::<Option<&[u8]>, _>(4)?.map(|_| bytes(row, 4)).transpose()?;
            let tenant = TenantId::new(&*unescape(row.try_get(2)?));
            let change = Change { key: Key::new(tenant, *kind, &*unescape(row.try_get(3)?)), value };
            match self.ready.back_mut() {
                Some(Feed::Commit { revision, changes }) if *revision == at => changes.push(change),
                _ => self.ready.push_back(Feed::Commit { revision: at, changes: vec![change] }),
            }
            self.position = at;
        }
        let whole = !last.try_get::<bool, _>(7)?;
        if whole {
            self.position = self.position.max(now);
        }
        Ok(Some(whole))
    }
}
