//! One operation on a pool: bounded in time, its errors told as a store's.

use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::contract::{StoreError, StoreErrorKind};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::{PgConnection, Postgres, Row as _};
use tokio::sync::watch;

use super::error::{is_serialization, store_error};
use super::options::GRACE;
use super::{PostgresError, PostgresOptions};

/// Attempts at an operation that the server ended in favour of another one.
const ATTEMPTS: u32 = 8;

/// How long an answer to a small question may take, before the connection counts as lost.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long housekeeping may take for one statement; the same is in its connections' settings.
const HOUSEKEEPING: Duration = Duration::from_secs(600);

/// A statement with its values.
pub(super) type Statement<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// A pool of connections with the same settings.
#[derive(Clone)]
pub(super) struct Database {
    pool: PgPool,
    /// After so long an answer is not waited for any more: the server would have given up before.
    limit: Duration,
    /// Whether the server is known not to answer: nobody has to find that out by waiting, and nobody goes on waiting.
    away: Arc<watch::Sender<bool>>,
}

impl Database {
    pub(super) fn new(options: &PostgresOptions, connections: u32, settings: &'static str) -> Self {
        let limit = options.statement_timeout + GRACE;
        Self { pool: options.pool(connections, settings), limit, away: Arc::default() }
    }

    /// Whoever follows the server says here whether it answers.
    pub(super) fn away(&self) -> Arc<watch::Sender<bool>> {
        Arc::clone(&self.away)
    }

    /// Whether the server answers on a connection of the pool, whatever is known of it.
    pub(super) async fn answers(&self) -> bool {
        let asked = async {
            let mut connection = Busy(Some(self.pool.acquire().await?));
            sqlx::query("SELECT 1").execute(connection.get()).await?;
            connection.put_back();
            Ok(())
        };
        in_time(asked).await.is_ok()
    }

    /// Reads; nothing is lost when the connection is.
    pub(super) async fn read(&self, op: &'static str, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        self.run(op, statement, StoreErrorKind::Unavailable, self.limit).await.map_err(|failed| failed.0)
    }

    /// The same, for housekeeping.
    pub(super) async fn work(&self, op: &'static str, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        self.run(op, statement, StoreErrorKind::Unavailable, HOUSEKEEPING + GRACE).await.map_err(|failed| failed.0)
    }

    /// Writes, in the one transaction that a statement is. A connection that is lost meanwhile means `lost`.
    pub(super) async fn write<'q>(
        &self,
        op: &'static str,
        lost: StoreErrorKind,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut attempt = 1;
        loop {
            match self.run(op, statement(), lost, self.limit).await {
                Err((_, true)) if attempt < ATTEMPTS => {
                    let pause = Duration::from_millis(1 << attempt).mul_f64(rand::random_range(0.5..=1.0));
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                done => return done.map_err(|failed| failed.0),
            }
        }
    }

    /// The error comes with whether a second attempt may succeed at once.
    async fn run(
        &self,
        op: &'static str,
        statement: Statement<'_>,
        lost: StoreErrorKind,
        limit: Duration,
    ) -> Result<Vec<PgRow>, (StoreError, bool)> {
        let mut away = self.away.subscribe();
        let unavailable = || StoreError::new(StoreErrorKind::Unavailable, op);
        // Nothing is sent yet.
        let acquired = tokio::select! {
            biased;
            _ = away.wait_for(|away| *away) => return Err((unavailable().because("the database is away"), false)),
            acquired = self.pool.acquire() => acquired.map_err(|error| (unavailable().because(error), false))?,
        };
        let mut connection = Busy(Some(acquired));
        let answered = async {
            tokio::select! {
                biased;
                answered = statement.fetch_all(connection.get()) => Some(answered),
                _ = away.wait_for(|away| *away) => None,
            }
        };
        match tokio::time::timeout(limit, answered).await.unwrap_or_default() {
            Some(Ok(rows)) => {
                connection.put_back();
                Ok(rows)
            }
            Some(Err(error)) => {
                let again = is_serialization(&error);
                if matches!(error, sqlx::Error::Database(_)) {
                    connection.put_back();
                }
                Err((store_error(op, error, lost), again))
            }
            // Whatever it answers later is for nobody.
            None => Err((StoreError::new(lost, op).because("the database does not answer"), false)),
        }
    }
}

/// A connection that an answer is expected on. Dropped meanwhile, because its caller gave up or it failed, it is closed and
/// its place in the pool is free at once: nobody waits for an answer that may never come.
struct Busy(Option<PoolConnection<Postgres>>);

impl Busy {
    fn get(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it is there until it is put back")
    }

    fn put_back(mut self) {
        if let Some(mut connection) = self.0.take() {
            // The pool asks it for a sign of life.
            tokio::spawn(tokio::time::timeout(ANSWER, connection.return_to_pool()));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// An answer that must come soon.
pub(super) async fn in_time<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = || sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
    tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Checks once, at the start, that the server answers and can hold every text.
pub(super) async fn greet(options: &PostgresOptions) -> Result<PgConnection, PostgresError> {
    let place = || options.place();
    let mut connection =
        options.connect().await.map_err(|error| PostgresError::Unreachable { place: place(), source: error.into() })?;
    let asked = sqlx::query("SHOW server_encoding").fetch_one(&mut connection);
    let found: String = in_time(asked)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| PostgresError::Database { place: place(), source: error.into() })?;
    if found != "UTF8" {
        return Err(PostgresError::Encoding { place: place(), found });
    }
    if !options.is_private() {
        tracing::warn!(
            database = place(),
            "the database's certificate is not checked: sslmode=verify-full in its URL keeps others from reading along"
        );
    }
    Ok(connection)
}
