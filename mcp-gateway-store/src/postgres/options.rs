//! Where a database is, and how it is talked to.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use url::Url;

use super::PostgresError;

/// What may stand behind the `?` of a URL. Others are refused: a misspelt one might hold a password, or be `sslmode`.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// A connection that nobody used for so long is asked for a sign of life before it is used again.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// How long that may take.
const PING: Duration = Duration::from_millis(500);
/// What every connection begins with. The server lets go of clients whose machine or network is gone, with their locks;
/// and whatever the database's own default is, a statement sees what was committed before it.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; SET tcp_keepalives_idle = 30; \
                       SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 60000";
/// How much longer than the server itself its clients wait for it to end a statement.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Where a database is, and how it is talked to.
///
/// Its `Debug` names host and database, never user or password.
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresOptions {
    connect: PgConnectOptions,
    /// Connections at once, for each store; 10 by default. A resource store has one more, which listens for changes.
    pub connections: u32,
    /// How long an operation may wait for a connection, connecting included; 5 s by default.
    pub acquire_timeout: Duration,
    /// How long the server may work on a statement; 30 s by default. Removing a day of the audit trail may take 10 min.
    pub statement_timeout: Duration,
    /// Commits that the change log remembers; 1,000,000 by default.
    pub log_commits: u64,
    /// How long the change log remembers a commit; one hour by default. Whatever either bound excludes is forgotten.
    pub log_age: Duration,
    /// Whether a resource store removes by itself what has expired; true by default. Not doing so costs only space.
    pub sweeps: bool,
}

impl PostgresOptions {
    /// Reads `postgres://user:password@host:port/database?sslmode=…`, as libpq writes it.
    ///
    /// What it leaves out comes from `PGUSER`, `PGPASSWORD`, `.pgpass` and the like. Without `sslmode`, a server on
    /// another machine must have a certificate for its name (`verify-full`), from an authority in `sslrootcert` or one
    /// that browsers trust.
    ///
    /// # Errors
    /// [`PostgresError::Url`], which does not repeat the URL.
    pub fn parse(text: &str) -> Result<Self, PostgresError> {
        let wrong = |problem: &str| PostgresError::Url { problem: problem.to_owned() };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(wrong("must begin with postgres://"));
        }
        // A password with such a character would be taken for a host, a database or a parameter.
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !authority.contains('@') && rest.contains('@') {
            return Err(wrong("has an @ behind the host; in user and password, write / ? # @ as %2F %3F %23 %40"));
        }
        let known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
        if url.query_pairs().any(|(name, _)| !known(&name)) {
            // Its name may be the rest of a password with an & in it.
            let problem = format!("has a parameter that is none of {} (in a value, & is %26)", PARAMETERS.join(", "));
            return Err(PostgresError::Url { problem });
        }
        let mut connect = PgConnectOptions::from_str(text).map_err(|_| wrong("cannot be understood"))?;
        let named = |parameter: &str| url.query_pairs().any(|(name, _)| name == parameter);
        let chosen = named("sslmode") || std::env::var_os("PGSSLMODE").is_some();
        let authority = named("sslrootcert") && !is_socket(&connect);
        if !chosen && (authority || !is_local(&connect)) {
            connect = connect.ssl_mode(PgSslMode::VerifyFull);
        }
        match connect.get_ssl_mode() {
            PgSslMode::VerifyFull => {}
            PgSslMode::VerifyCa => {
                return Err(wrong(
                    "or PGSSLMODE has sslmode=verify-ca, which would accept any public certificate: use verify-full",
                ));
            }
            _ if authority => {
                return Err(wrong("has sslrootcert, which only sslmode=verify-full checks: use that, or leave it out"));
            }
            _ => {}
        }
        if connect.get_application_name().is_none() {
            connect = connect.application_name("mcp-gateway");
        }
        Ok(Self {
            connect: connect.disable_statement_logging(),
            connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            log_commits: 1_000_000,
            log_age: Duration::from_secs(3_600),
            sweeps: true,
        })
    }

    /// The same with so many connections.
    #[must_use]
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// The same with these times.
    #[must_use]
    pub fn with_timeouts(mut self, acquire: Duration, statement: Duration) -> Self {
        (self.acquire_timeout, self.statement_timeout) = (acquire, statement);
        self
    }

    /// The same, remembering at most about this many commits.
    #[must_use]
    pub fn with_log_commits(mut self, commits: u64) -> Self {
        self.log_commits = commits;
        self
    }

    /// The same, remembering a commit for about this long.
    #[must_use]
    pub fn with_log_age(mut self, age: Duration) -> Self {
        self.log_age = age;
        self
    }

    /// The same, removing what has expired only in [`PostgresStore::sweep`](super::PostgresStore::sweep).
    #[must_use]
    pub fn without_sweep(mut self) -> Self {
        self.sweeps = false;
        self
    }

    /// Where it is, for logs and errors: `postgres://host:port/database`, without user and password.
    #[must_use]
    pub fn place(&self) -> String {
        let host = match self.connect.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.connect.get_host().to_owned(),
        };
        let database = self.connect.get_database().unwrap_or_else(|| self.connect.get_username());
        format!("postgres://{host}:{}/{database}", self.connect.get_port())
    }

    /// Whether nobody between here and there could read along, or pretend to be the server.
    #[must_use]
    pub fn is_private(&self) -> bool {
        is_local(&self.connect) || matches!(self.connect.get_ssl_mode(), PgSslMode::VerifyFull)
    }

    /// One connection, for a command.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connected = async {
            let mut connection = self.connect.connect().await?;
            connection.execute(sqlx::raw_sql(SESSION)).await?;
            Ok(connection)
        };
        tokio::time::timeout(self.acquire_timeout, connected).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// A pool, not connected yet, whose connections begin with these settings.
    pub(super) fn pool(&self, connections: u32, settings: &'static str) -> PgPool {
        let limits = format!(
            "{SESSION}; SET statement_timeout = {}; SET idle_in_transaction_session_timeout = '60s'; {settings}",
            self.statement_timeout.as_millis().min(i32::MAX as u128)
        );
        PgPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(self.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > DOUBTFUL {
                        let alive = tokio::time::timeout(PING, connection.ping()).await;
                        alive.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                let limits = limits.clone();
                Box::pin(
                    async move { connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(limits))).await.map(|_| ()) },
                )
            })
            .connect_lazy_with(self.connect.clone())
    }
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("place", &self.place())
            .field("connections", &self.connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("log_commits", &self.log_commits)
            .field("log_age", &self.log_age)
            .field("sweeps", &self.sweeps)
            .finish()
    }
}

fn is_local(connect: &PgConnectOptions) -> bool {
    let host = connect.get_host();
    is_socket(connect)
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A host that begins with `/`, as `PGHOST` may, is the folder of a socket.
fn is_socket(connect: &PgConnectOptions) -> bool {
    connect.get_socket().is_some() || connect.get_host().starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_errors_show_the_password() {
        let options = PostgresOptions::parse("postgres://ada:hunter2@db.example.com:5433/gateway").unwrap();
        assert_eq!(options.place(), "postgres://db.example.com:5433/gateway");
        let shown = format!("{options:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("ada"), "{shown}");
        for wrong in [
            "postgres://ada:hunter2@db:port/gateway",
            "postgres://ada@db/gateway?pasword=hunter2",
            "postgres://ada:hunter2@db/gateway?sslmode=hunter2",
            "mysql://ada:hunter2@db/gateway",
            // Characters that should have been encoded.
            "postgres://db/gateway?user=ada&password=x&hunter2",
            "postgres://ada:5432/hunter2@db/gateway",
            "postgres://ada:5432?hunter2@db/gateway",
            "postgres://ada:5432#hunter2@db/gateway",
            "postgres:///gateway?password=1@hunter2",
        ] {
            let error = PostgresOptions::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_server_elsewhere_must_show_who_it_is() {
        let mode = |url: &str| format!("{:?}", PostgresOptions::parse(url).unwrap().connect.get_ssl_mode());
        assert_eq!(mode("postgres://db.example.com/gateway"), "VerifyFull");
        assert_eq!(mode("postgres://10.0.0.7/gateway"), "VerifyFull");
        assert_eq!(mode("postgres://db.example.com/gateway?sslmode=require"), "Require");
        for local in ["postgres://127.0.0.1/a", "postgres://localhost/a", "postgres://%2Frun%2Fpostgresql/a"] {
            assert_eq!(mode(local), "Prefer", "{local}");
            assert!(PostgresOptions::parse(local).unwrap().is_private());
        }
        assert!(!PostgresOptions::parse("postgres://db.example.com/gateway?sslmode=require").unwrap().is_private());
        // As from PGHOST.
        assert!(is_local(&PgConnectOptions::new_without_pgpass().host("/run/postgresql")));
    }

    #[test]
    fn a_mode_that_checks_less_than_it_seems_is_refused() {
        for (parameters, hint) in [
            ("sslmode=verify-ca&sslrootcert=/a.pem", "verify-full"),
            ("sslmode=require&sslrootcert=/a.pem", "sslrootcert"),
            ("sslmode=prefer&sslrootcert=/a.pem", "sslrootcert"),
        ] {
            let error = PostgresOptions::parse(&format!("postgres://localhost/gateway?{parameters}")).unwrap_err();
            assert!(error.to_string().contains(hint), "{error}");
        }
        let local = PostgresOptions::parse("postgres://localhost/gateway?sslrootcert=/a.pem").unwrap();
        assert!(matches!(local.connect.get_ssl_mode(), PgSslMode::VerifyFull), "an authority is there to be asked");
    }
}
