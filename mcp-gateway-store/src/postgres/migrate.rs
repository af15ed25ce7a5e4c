//! Forward-only migrations under a lock.
//!
//! A migration expands first: it adds what the new version needs and leaves what the version before it uses. So replicas
//! can be replaced one by one. When the last old one is gone, the contraction takes away what nobody uses any more.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::Instant;

use super::database::{greet, in_time};
use super::{PostgresError, PostgresOptions};

/// The versions of the tables. One that was released is never changed.
pub(super) const SCHEMA: Schema = Schema {
    migrations: &[
        Migration { expand: include_str!("migrations/1.sql"), contract: "" },
        Migration { expand: include_str!("migrations/2.sql"), contract: "" },
    ],
};

/// Between attempts to reach the server, at first and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// One version of the tables.
#[derive(Debug)]
pub(super) struct Migration {
    /// Makes this version of the one before, which goes on working.
    pub(super) expand: &'static str,
    /// Takes away what only the version before it used.
    pub(super) contract: &'static str,
}

/// Every version, from 1.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) migrations: &'static [Migration],
}

/// Whether a migration ends what a rolling upgrade began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Contract {
    /// Programs of the version before go on working.
    #[default]
    Later,
    /// No program of the version before runs any more.
    Now,
}

/// Makes the tables, or brings them to this program's version, and says which one they have. Tables of the next version,
/// with which this program works until they are contracted, stay as they are.
///
/// Waits for the server up to `wait`, and for another process that migrates for as long as that takes. Safe to run
/// again, and by several processes at once.
///
/// # Errors
/// [`PostgresError`]. What was migrated before the error stays.
pub async fn migrate(options: &PostgresOptions, wait: Duration, contract: Contract) -> Result<u32, PostgresError> {
    SCHEMA.migrate(options, wait, contract).await
}

impl Schema {
    fn known(&self) -> u32 {
        u32::try_from(self.migrations.len()).unwrap_or(u32::MAX)
    }

    pub(super) async fn migrate(
        &self,
        options: &PostgresOptions,
        wait: Duration,
        contract: Contract,
    ) -> Result<u32, PostgresError> {
        let database = |error: sqlx::Error| PostgresError::Database { place: options.place(), source: error.into() };
        let mut connection = reach(options, wait).await?;
        // Ends with the connection.
        sqlx::query("SELECT pg_advisory_lock(1835233383, -1)").execute(&mut connection).await.map_err(database)?;
        sqlx::raw_sql(
            "SET client_min_messages = warning;
             DO $$ BEGIN
                 -- IF NOT EXISTS asks for the right to make one even if it is there.
                 IF to_regnamespace('mcp_gateway') IS NULL THEN
                     CREATE SCHEMA mcp_gateway;
                 END IF;
             END $$;
             CREATE TABLE IF NOT EXISTS mcp_gateway.schema_version (
                 version integer PRIMARY KEY,
                 applied_at timestamptz NOT NULL DEFAULT now(),
                 -- When programs of the version before were shut out.
                 contracted_at timestamptz
             )",
        )
        .execute(&mut connection)
        .await
        .map_err(database)?;
        let (found, mut contracted) = version(&mut connection).await.map_err(database)?;
        let known = self.known();
        self.check_newer(found, contracted, options)?;
        if found > known {
            // A rolling upgrade is under way, and this is a program of the version before: what it needs is there.
            connection.close().await.map_err(database)?;
            return Ok(found);
        }
        for (number, migration) in (1..).zip(self.migrations) {
            if number > found {
                run(&mut connection, migration.expand, "INSERT INTO mcp_gateway.schema_version VALUES ($1)", number)
                    .await
                    .map_err(database)?;
                contracted = false;
                tracing::info!(database = options.place(), version = number, "schema migrated");
            }
            // The next version does not know what this one's predecessor needed.
            if number >= found && !contracted && (number < known || contract == Contract::Now) {
                let done = "UPDATE mcp_gateway.schema_version SET contracted_at = now() WHERE version = $1";
                run(&mut connection, migration.contract, done, number).await.map_err(database)?;
                contracted = true;
                tracing::info!(database = options.place(), version = number, "schema contracted");
            }
        }
        connection.close().await.map_err(database)?;
        Ok(known)
    }

    /// Refuses a database that this program does not know how to use.
    pub(super) async fn check(
        &self,
        connection: &mut PgConnection,
        options: &PostgresOptions,
    ) -> Result<(), PostgresError> {
        let database = |error: sqlx::Error| PostgresError::Database { place: options.place(), source: error.into() };
        let asked = async {
            let made: bool = sqlx::query("SELECT to_regclass('mcp_gateway.schema_version') IS NOT NULL")
                .fetch_one(&mut *connection)
                .await?
                .try_get(0)?;
            if made { version(connection).await } else { Ok((0, false)) }
        };
        let (found, contracted) = in_time(asked).await.map_err(database)?;
        let known = self.known();
        if found < known {
            return Err(PostgresError::OlderSchema { place: options.place(), found, known });
        }
        self.check_newer(found, contracted, options)
    }

    /// One version on is fine, until it is contracted: a rolling upgrade is under way.
    fn check_newer(&self, found: u32, contracted: bool, options: &PostgresOptions) -> Result<(), PostgresError> {
        let known = self.known();
        if found > known + 1 || (found > known && contracted) {
            return Err(PostgresError::NewerSchema { place: options.place(), found, known });
        }
        Ok(())
    }
}

/// The newest version, and whether programs of the one before are shut out; 0 for none.
async fn version(connection: &mut PgConnection) -> Result<(u32, bool), sqlx::Error> {
    let newest = sqlx::query(
        "SELECT version, contracted_at IS NOT NULL FROM mcp_gateway.schema_version ORDER BY version DESC LIMIT 1",
    );
    let Some(row) = newest.fetch_optional(connection).await? else { return Ok((0, false)) };
    Ok((u32::try_from(row.try_get::<i32, _>(0)?).unwrap_or(0), row.try_get(1)?))
}

/// One transaction for a script and its row.
async fn run(
    connection: &mut PgConnection,
    script: &'static str,
    record: &'static str,
    number: u32,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(script).execute(&mut *transaction).await?;
    sqlx::query(record).bind(i32::try_from(number).unwrap_or(i32::MAX)).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Connects, again and again while the server is not there or still starting.
async fn reach(options: &PostgresOptions, wait: Duration) -> Result<PgConnection, PostgresError> {
    let until = Instant::now() + wait;
    let mut pause = PAUSE[0];
    loop {
        match greet(options).await {
            Err(PostgresError::Unreachable { source, .. }) if Instant::now() < until && may_come(&source) => {
                tracing::info!(database = options.place(), error = %source, "waiting for the database");
                tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
                pause = (pause * 2).min(PAUSE[1]);
            }
            done => return done,
        }
    }
}

/// Whether time may help: not against a wrong password.
fn may_come(error: &mcp_gateway_core::BoxError) -> bool {
    match error.downcast_ref() {
        // Starting up, shutting down, too many connections; the database is made by somebody else at the same time.
        Some(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P03" | "53300" | "3D000"))
        }
        Some(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => false,
        _ => true,
    }
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
