//! What settings mean together: checks, derived values, and how they are printed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, Uri};
use mcp_gateway_auth::server::RegistrationMode;
use mcp_gateway_core::egress::{AllowRule, EgressPolicy};
use mcp_gateway_core::pin::PinLimits;
use mcp_gateway_core::record::{Mount, Roles, Secret};
#[cfg(feature = "postgres")]
use mcp_gateway_store::postgres::PostgresOptions;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;

use super::{Config, ConfigError};

/// The path of the data plane.
const MOUNT_PATH: &str = "/mcp-connect";

/// Where records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// In this file.
    Sqlite(PathBuf),
    /// In the database of this URL, which may hold a password.
    Postgres(Secret),
    /// Nowhere: all is lost at the end.
    Memory,
}

impl Config {
    /// `roles.default`.
    ///
    /// # Errors
    /// Names the one that is no role, or that nobody gets by default.
    pub fn default_roles(&self) -> Result<Roles, ConfigError> {
        self.roles.default.iter().enumerate().try_fold(Roles::NONE, |roles, (n, name)| {
            let usual = [Roles::POWER_USER_PLUS, Roles::POWER_USER, Roles::BASIC];
            match Roles::named(name).filter(|role| usual.contains(role)) {
                Some(role) => Ok(roles.union(role)),
                None => Err(ConfigError::value(
                    format!("roles.default[{n}]"),
                    "must be power_user_plus, power_user or basic; higher roles are given to people one by one",
                )),
            }
        })
    }

    /// What needs more than one setting, or more than a type, to be judged.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mount = self.mount()?;
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(ConfigError::value("tls", "needs both cert and key"));
        }
        if self.tls.client_ca.is_some() && self.tls.cert.is_none() {
            return Err(ConfigError::value("tls.client_ca", "needs tls.cert and tls.key"));
        }
        if !self.is_loopback() && !mount.is_https() && !self.insecure_http {
            let problem = format!(
                "{} is reachable from other machines, but {} is http: keys would cross the network in the clear. Set \
                 public_url to an https URL (with tls.cert and tls.key, or behind a proxy with TLS), or \
                 insecure_http: true",
                self.listen,
                mount.origin()
            );
            return Err(ConfigError::value("public_url", problem));
        }
        self.check_databases()?;
        self.check_process()?;
        self.egress_policy()?;
        self.redacted_headers()?;
        self.default_roles()?;
        self.identity_policy()?;
        self.filter_policy()?;
        self.role_presets()?;
        self.group_presets()?;
        for (name, number) in [
            ("postgres.connections", self.postgres.connections.into()),
            ("postgres.acquire_timeout_seconds", self.postgres.acquire_timeout_seconds),
            ("postgres.statement_timeout_seconds", self.postgres.statement_timeout_seconds),
            ("catalog.poll_seconds", self.catalog.poll_seconds),
            ("limits.body_bytes", self.limits.body_bytes),
            ("limits.header_count", self.limits.header_count as u64),
            ("limits.header_bytes", self.limits.header_bytes as u64),
            ("limits.calls", self.limits.calls as u64),
            ("limits.calls_per_principal", self.calls_per_principal() as u64),
            ("limits.call_max_duration_seconds", self.limits.call_max_duration_seconds),
            ("limits.stream_idle_seconds", self.limits.stream_idle_seconds),
            ("limits.connect_timeout_seconds", self.limits.connect_timeout_seconds),
            ("limits.head_timeout_seconds", self.limits.head_timeout_seconds),
            ("limits.keep_alive_seconds", self.limits.keep_alive_seconds),
            ("limits.write_timeout_seconds", self.limits.write_timeout_seconds),
            ("limits.bridge.line_bytes", self.limits.bridge.line_bytes as u64),
            ("limits.bridge.calls", self.limits.bridge.calls as u64),
            ("limits.bridge.queued_lines", self.limits.bridge.queued_lines as u64),
            ("limits.bridge.kept_events", self.limits.bridge.kept_events as u64),
            ("limits.bridge.kept_bytes", self.limits.bridge.kept_bytes as u64),
            ("limits.streams_per_connection", self.limits.streams_per_connection.into()),
            ("limits.body_first_byte_seconds", self.limits.body_first_byte_seconds),
            ("limits.body_chunk_seconds", self.limits.body_chunk_seconds),
            ("limits.body_total_seconds", self.limits.body_total_seconds),
            ("limits.event_bytes", self.limits.event_bytes as u64),
            ("limits.filter_body_bytes", self.limits.filter_body_bytes as u64),
            ("limits.id_bytes", self.limits.id_bytes as u64),
            ("limits.message_depth", self.limits.message_depth.into()),
            ("tools.max_tools", self.tools.max_tools as u64),
            ("tools.text_bytes", self.tools.text_bytes as u64),
            ("sessions.max_age_days", self.sessions.max_age_days),
            ("auth.max_staleness_seconds", self.auth.max_staleness_seconds),
            ("login.session_idle_seconds", self.login.session_idle_seconds),
            ("login.session_seconds", self.login.session_seconds),
            ("login.fresh_seconds", self.login.fresh_seconds),
            ("login.attempts_per_account", self.login.attempts_per_account.into()),
            ("login.attempts_per_address", self.login.attempts_per_address.into()),
            ("login.attempts_from_strangers", self.login.attempts_from_strangers.into()),
            ("login.hash_wait_ms", self.login.hash_wait_ms),
            ("login.hashes_at_once", self.login.hashes_at_once as u64),
            ("login.starts_per_address", self.login.starts_per_address.into()),
            ("oauth.grant_idle_seconds", self.oauth.grant_idle_seconds),
            ("oauth.grant_seconds", self.oauth.grant_seconds),
            ("oauth.requests_per_minute", self.oauth.requests_per_minute.into()),
            ("oauth.registrations_per_minute", self.oauth.registrations_per_minute.into()),
            ("oauth.registrations_total_per_minute", self.oauth.registrations_total_per_minute.into()),
            ("oauth.documents_per_minute", self.oauth.documents_per_minute.into()),
            ("oauth.device.requests_per_minute", self.oauth.device.requests_per_minute.into()),
            ("oauth.device.requests_total_per_minute", self.oauth.device.requests_total_per_minute.into()),
            ("oauth.device.tries_per_account", self.oauth.device.tries_per_account.into()),
            ("oauth.device.tries_per_address", self.oauth.device.tries_per_address.into()),
            ("audit.stall_timeout_ms", self.audit.stall_timeout_ms),
        ] {
            if number == 0 {
                return Err(ConfigError::value(name, "must be at least 1"));
            }
        }
        self.check_traces()?;
        self.check_oauth()?;
        self.check_issuers()?;
        // hyper keeps an index of header fields in 16 bits.
        if self.limits.header_count > 1_000 {
            return Err(ConfigError::value("limits.header_count", "must be at most 1000"));
        }
        if self.limits.message_depth > mcp_gateway_core::wire::Limits::DEEPEST {
            return Err(ConfigError::value("limits.message_depth", "must be at most 127"));
        }
        if self.limits.id_bytes > mcp_gateway_core::wire::Limits::default().max_string {
            return Err(ConfigError::value("limits.id_bytes", "must be at most 8192"));
        }
        if self.tools.max_tools > PinLimits::TOOLS {
            return Err(ConfigError::value("tools.max_tools", "must be at most 500"));
        }
        if self.tools.text_bytes > PinLimits::TEXT {
            return Err(ConfigError::value("tools.text_bytes", "must be at most 98304"));
        }
        let process = &self.runtime.process;
        if !self.login.providers.is_empty() && process.enabled && !process.i_trust_all_servers {
            let problem = "let several people in, and child processes share one user with each other. Set \
                           runtime.process.enabled: false, or runtime.process.i_trust_all_servers: true if every \
                           server is trusted";
            return Err(ConfigError::value("login.providers", problem));
        }
        if !matches!(process.cgroup.as_str(), "auto" | "off") && !process.cgroup.starts_with('/') {
            return Err(ConfigError::value("runtime.process.cgroup", "must be auto, off or an absolute path"));
        }
        if process.pids == 0 {
            return Err(ConfigError::value("runtime.process.pids", "must be at least 1"));
        }
        if process.uid.is_some() != process.gid.is_some() {
            return Err(ConfigError::value("runtime.process", "needs both uid and gid, or neither"));
        }
        if process.uid == Some(0) {
            let problem = "must be a user without rights, not root; if children are to be root, leave out uid and gid, \
                           and set runtime.process.allow_root: true";
            return Err(ConfigError::value("runtime.process.uid", problem));
        }
        Ok(())
    }

    fn check_oauth(&self) -> Result<(), ConfigError> {
        let oauth = &self.oauth;
        if !(300..=86_400).contains(&oauth.access_token_seconds) {
            return Err(ConfigError::value("oauth.access_token_seconds", "must be 300 to 86400"));
        }
        if oauth.refresh_grace_seconds > 600 {
            return Err(ConfigError::value("oauth.refresh_grace_seconds", "must be at most 600"));
        }
        if !(60..=1_800).contains(&oauth.device.code_seconds) {
            return Err(ConfigError::value("oauth.device.code_seconds", "must be 60 to 1800"));
        }
        if !(1..=60).contains(&oauth.device.interval_seconds) {
            return Err(ConfigError::value("oauth.device.interval_seconds", "must be 1 to 60"));
        }
        if oauth.device.interval_seconds >= oauth.device.code_seconds / 2 {
            let problem = "must be less than half of code_seconds: else a code can end between two questions";
            return Err(ConfigError::value("oauth.device.interval_seconds", problem));
        }
        let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
        // What no redirect URI has as its host would be a rule that never holds.
        let is_host = |host: &String| url::Host::parse(host).is_ok_and(|parsed| parsed.to_string() == *host);
        if let Some(n) = oauth.redirect_hosts.iter().position(|host| !is_host(host)) {
            let problem = "must be a host such as claude.ai, in lowercase, without scheme, port and path";
            return Err(ConfigError::value(format!("oauth.redirect_hosts[{n}]"), problem));
        }
        if let Some(n) = oauth.registration_tokens_sha256.iter().position(|text| !is_hash(text)) {
            let place = format!("oauth.registration_tokens_sha256[{n}]");
            return Err(ConfigError::value(place, "must be a SHA-256 in lowercase hexadecimal: sha256sum makes one"));
        }
        if oauth.registration == RegistrationMode::Token && oauth.registration_tokens_sha256.is_empty() {
            return Err(ConfigError::value(
                "oauth.registration_tokens_sha256",
                "must have an entry: nobody could register",
            ));
        }
        Ok(())
    }

    fn check_traces(&self) -> Result<(), ConfigError> {
        let traces = &self.telemetry.traces;
        if !(0.0..=1.0).contains(&traces.sample_ratio) {
            return Err(ConfigError::value("telemetry.traces.sample_ratio", "must be a number from 0 to 1"));
        }
        if traces.queue_spans == 0 {
            return Err(ConfigError::value("telemetry.traces.queue_spans", "must be at least 1"));
        }
        let Some(endpoint) = &traces.endpoint else { return Ok(()) };
        let wrong = |problem: &str| Err(ConfigError::value("telemetry.traces.endpoint", problem));
        if cfg!(not(feature = "otel")) {
            return wrong("needs a build with the feature otel");
        }
        match endpoint.parse::<Uri>() {
            Ok(url) if matches!(url.scheme_str(), Some("http" | "https")) && url.path().len() > 1 => Ok(()),
            _ => wrong("must be a whole http or https URL: http://127.0.0.1:4318/v1/traces"),
        }
    }

    /// Whether only this machine reaches the public listener.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// Whether children may run as root where this server does. A listener on loopback may be behind a proxy, whose name
    /// is the public one.
    #[must_use]
    pub fn children_may_be_root(&self) -> bool {
        let only_here = || self.is_loopback() && self.mount().is_ok_and(|mount| mount.is_on_loopback());
        self.runtime.process.allow_root.unwrap_or_else(only_here)
    }

    /// Where clients reach the data plane.
    ///
    /// # Errors
    /// When `public_url` is not an origin.
    pub fn mount(&self) -> Result<Mount, ConfigError> {
        let url = self.public_url.clone().unwrap_or_else(|| self.url_of_listener(self.listen));
        Mount::new(&url, MOUNT_PATH).map_err(|error| ConfigError::value("public_url", error))
    }

    /// The same for the addresses that the listeners really got: with port 0 the system chooses one.
    #[must_use]
    pub fn listening_on(mut self, listen: SocketAddr, ops_listen: Option<SocketAddr>) -> Self {
        (self.listen, self.ops_listen) = (listen, ops_listen);
        self
    }

    fn url_of_listener(&self, listen: SocketAddr) -> String {
        let scheme = if self.tls.cert.is_some() { "https" } else { "http" };
        // "Every address" is none that a client could call.
        match listen {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => format!("{scheme}://127.0.0.1:{}", v4.port()),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => format!("{scheme}://[::1]:{}", v6.port()),
            listen => format!("{scheme}://{listen}"),
        }
    }

    /// Where records are kept.
    ///
    /// # Errors
    /// When `database` is not of a kind that this build has.
    pub fn database(&self) -> Result<Database, ConfigError> {
        let wrong = |problem: &str| Err(ConfigError::value("database", problem));
        let text = match &self.database {
            Some(text) => text.expose(),
            None if cfg!(feature = "sqlite") => return Ok(Database::Sqlite(self.data_dir.join("gateway.db"))),
            None => return Ok(Database::Memory),
        };
        match text.split_once(':') {
            _ if text == "memory" => Ok(Database::Memory),
            Some(("sqlite", "")) => wrong("needs a path: sqlite:./data/gateway.db"),
            Some(("sqlite", _)) if cfg!(not(feature = "sqlite")) => wrong("needs a build with the feature sqlite"),
            Some(("sqlite", path)) => Ok(Database::Sqlite(path.strip_prefix("//").unwrap_or(path).into())),
            Some(("postgres" | "postgresql", _)) if cfg!(not(feature = "postgres")) => {
                wrong("needs a build with the feature postgres")
            }
            Some(("postgres" | "postgresql", _)) => Ok(Database::Postgres(Secret::new(text))),
            _ => wrong("must be sqlite:PATH, postgres://HOST/DATABASE or memory"),
        }
    }

    /// How the database of this URL is talked to.
    ///
    /// # Errors
    /// When the URL cannot be used; the error does not repeat it.
    #[cfg(feature = "postgres")]
    pub fn postgres(&self, setting: &str, url: &Secret) -> Result<PostgresOptions, ConfigError> {
        let options = PostgresOptions::parse(url.expose()).map_err(|error| ConfigError::value(setting, error))?;
        let (acquire, statement) = (self.postgres.acquire_timeout_seconds, self.postgres.statement_timeout_seconds);
        Ok(options
            .with_connections(self.postgres.connections)
            .with_timeouts(Duration::from_secs(acquire), Duration::from_secs(statement)))
    }

    /// The URLs of databases, checked.
    fn check_databases(&self) -> Result<(), ConfigError> {
        let database = self.database()?;
        #[cfg(feature = "postgres")]
        for (setting, url) in self.postgres_urls(&database) {
            self.postgres(setting, url)?;
        }
        if self.postgres.audit_replica.is_some() && !matches!(database, Database::Postgres(_)) {
            return Err(ConfigError::value("postgres.audit_replica", "needs a database in Postgres"));
        }
        Ok(())
    }

    #[cfg(feature = "postgres")]
    fn postgres_urls<'a>(&'a self, database: &'a Database) -> impl Iterator<Item = (&'static str, &'a Secret)> {
        let primary = match database {
            Database::Postgres(url) => Some(("database", url)),
            _ => None,
        };
        primary.into_iter().chain(self.postgres.audit_replica.iter().map(|url| ("postgres.audit_replica", url)))
    }

    /// Where calls to remote servers may go.
    ///
    /// # Errors
    /// When an entry of the lists is neither address, network nor name, `egress.proxy` is no proxy's URL, or
    /// `egress.ca_bundle` cannot be used.
    pub fn egress_policy(&self) -> Result<EgressPolicy, ConfigError> {
        self.policy_of(&[("egress.allow", &self.egress.allow), ("egress.upstream.allow", &self.egress.upstream.allow)])
    }

    /// What these lists allow together.
    pub(super) fn policy_of(&self, lists: &[(&str, &Vec<String>)]) -> Result<EgressPolicy, ConfigError> {
        let mut rules: Vec<AllowRule> = Vec::new();
        for (name, list) in lists {
            for (index, text) in list.iter().enumerate() {
                rules.push(text.parse().map_err(|error| ConfigError::value(format!("{name}[{index}]"), error))?);
            }
        }
        let policy = EgressPolicy::new(rules).without_loops_to([self.listen].into_iter().chain(self.ops_listen));
        self.going_out(policy)
    }

    /// Where documents may be fetched from whose addresses strangers name: no hole, whatever is allowed elsewhere.
    ///
    /// # Errors
    /// When `egress.proxy` or `egress.ca_bundle` cannot be used.
    pub fn document_policy(&self) -> Result<EgressPolicy, ConfigError> {
        self.going_out(EgressPolicy::default())
    }

    /// The same through `egress.proxy`, with the authorities of `egress.ca_bundle`.
    fn going_out(&self, mut policy: EgressPolicy) -> Result<EgressPolicy, ConfigError> {
        if let Some(proxy) = &self.egress.proxy {
            policy = policy.through(proxy.parse().map_err(|error| ConfigError::value("egress.proxy", error))?);
        }
        let Some(path) = &self.egress.ca_bundle else { return Ok(policy) };
        let wrong = |problem: &dyn std::fmt::Display| {
            ConfigError::value("egress.ca_bundle", format!("{}: {problem}", path.display()))
        };
        let authorities = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let authorities = authorities.map_err(|error| wrong(&error))?;
        if authorities.is_empty() {
            return Err(wrong(&"holds no certificate; it must be PEM"));
        }
        policy.trusting(authorities).map_err(|error| wrong(&error))
    }

    /// `audit.redact_headers`, as names.
    ///
    /// # Errors
    /// When one is not the name of a header.
    pub fn redacted_headers(&self) -> Result<Vec<HeaderName>, ConfigError> {
        let name = |(index, text): (usize, &String)| {
            text.parse().map_err(|_| {
                ConfigError::value(format!("audit.redact_headers[{index}]"), "must be the name of a header")
            })
        };
        self.audit.redact_headers.iter().enumerate().map(name).collect()
    }

    /// The directories that the catalog is read from; none means the built-in starter catalog.
    #[must_use]
    pub fn catalog_paths(&self) -> Vec<PathBuf> {
        let usual = Path::new("./catalog");
        if self.catalog.paths.is_empty() && usual.is_dir() {
            return vec![usual.to_owned()];
        }
        self.catalog.paths.clone()
    }

    /// `limits.streams` and `limits.connections`, from the limit of open files where they are not set.
    ///
    /// A stream holds two descriptors, the client's and the server's; calls, pools, databases and children need some
    /// too: 1,000, or a quarter where that is less.
    #[must_use]
    pub fn capacity(&self, open_files: u64) -> Capacity {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let reserve = (open_files / 4).min(1_000);
        let streams = self.limits.streams.unwrap_or(((open_files - reserve) / 2).clamp(16, 100_000));
        // Every stream on a connection of its own, and half of the reserve for calls.
        let connections = self.limits.connections.unwrap_or(streams.saturating_add(reserve / 2).max(64));
        Capacity { streams, connections }
    }

    /// `limits.calls_per_principal`, from `limits.calls` where it is not set.
    #[must_use]
    pub fn calls_per_principal(&self) -> usize {
        self.limits.calls_per_principal.unwrap_or(self.limits.calls.div_ceil(4))
    }

    /// `drain_seconds`.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// The configuration in YAML, derived values filled in, passwords in URLs hidden.
    #[must_use]
    pub fn printed(&self, open_files: u64) -> String {
        let mut effective = self.clone();
        let capacity = self.capacity(open_files);
        effective.limits.streams = Some(capacity.streams);
        effective.limits.connections = Some(capacity.connections);
        effective.limits.calls_per_principal = Some(self.calls_per_principal());
        effective.catalog.paths = self.catalog_paths();
        effective.public_url = self.mount().ok().map(|mount| mount.origin().to_owned()).or(effective.public_url);
        if let Ok(Database::Sqlite(path)) = self.database() {
            effective.database = Some(Secret::new(format!("sqlite:{}", path.display())));
        }
        // Not only what stands before the `@` may be secret.
        #[cfg(feature = "postgres")]
        for (setting, url) in self.database().iter().flat_map(|database| self.postgres_urls(database)) {
            let place = self.postgres(setting, url).ok().map(|options| options.place());
            let shown = place.map(|place| Secret::new(place.replacen("://", "://(..)@", 1)));
            match setting {
                "database" => effective.database = shown,
                _ => effective.postgres.audit_replica = shown,
            }
        }
        let mut tree = serde_json::to_value(&effective).unwrap_or_default();
        hide(&mut tree);
        // By its text, which is YAML too: the tree's numbers have another form inside when a feature says so.
        let tree: Option<serde_yaml_ng::Value> = serde_yaml_ng::from_str(&tree.to_string()).ok();
        tree.and_then(|tree| serde_yaml_ng::to_string(&tree).ok()).unwrap_or_default()
    }
}

/// How much there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Streams at once.
    pub streams: usize,
    /// Connections of clients at once.
    pub connections: usize,
}

/// Hides user and password of every URL.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((_, after)) = rest.split('/').next().unwrap_or(rest).rsplit_once('@')
            {
                let path = &rest[rest.find('/').unwrap_or(rest.len())..];
                *text = format!("{scheme}://(..)@{after}{path}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(members) => members.values_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
