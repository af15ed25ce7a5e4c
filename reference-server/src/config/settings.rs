//! Every setting, with its default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use mcp_gateway_auth::server::{Issuers, RegistrationMode, RegistrationPolicy};
use mcp_gateway_core::layer::audit::OnFull;
use mcp_gateway_core::layer::cors::KNOWN_WEB_CLIENTS;
use mcp_gateway_core::layer::limit::Rate;
use mcp_gateway_core::layer::peek::UnknownMethods;
use mcp_gateway_core::pin::PinOptions;
use mcp_gateway_core::record::{FirstUse, OnToolChange, Secret};
use serde::{Deserialize, Serialize};

use super::issuers::{IdentityProviderSettings, IssuerSettings};
use super::process::ProcessRole;
use super::providers::ProviderSettings;
use super::section::section;

section! {
    /// The whole configuration.
    pub struct Config {
        /// Address and port of the public listener. Anything but loopback needs an https `public_url`.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        /// TLS of the public listener.
        tls: Tls = Tls::default(),
        /// Scheme, host and port under which clients reach the server; all URLs that it hands out begin with it. Not
        /// set: made from `listen` and `tls`.
        public_url: Option<String> = None,
        /// Permits a listener beyond loopback whose `public_url` is http: keys then cross the network in the clear.
        insecure_http: bool = false,
        /// A second address for `/livez`, `/readyz` and `/metrics`, without a check of `Host`. Not set: they are on the
        /// public listener.
        ops_listen: Option<SocketAddr> = None,
        /// What this process does, where several share a database.
        process: Process = Process::default(),
        /// Where databases, keys, the audit spool and the children's folders are. One process at a time.
        data_dir: PathBuf = PathBuf::from("./data"),
        /// The store: `sqlite:PATH`, `postgres://user:password@host/database`, or `memory` to forget everything at the
        /// end. Not set: `gateway.db` in `data_dir`.
        database: Option<Secret> = None,
        /// A database in Postgres.
        postgres: PostgresSettings = PostgresSettings::default(),
        /// Which servers there are.
        catalog: Catalog = Catalog::default(),
        /// Networks of proxies whose `Forwarded` and `X-Forwarded-For` are believed.
        trusted_proxies: Vec<IpNet> = Vec::new(),
        /// Names accepted as `Host` beside that of `public_url`, each with or without a port.
        allowed_hosts: Vec<String> = Vec::new(),
        /// Origins of web pages that may call, beside `public_url`.
        allowed_origins: Vec<String> = KNOWN_WEB_CLIENTS.iter().map(|&origin| origin.to_owned()).collect(),
        /// Whether web pages of this machine may call, on any port.
        allow_loopback_origins: bool = true,
        /// Where outbound calls may go.
        egress: Egress = Egress::default(),
        /// Where servers run.
        runtime: RuntimeSettings = RuntimeSettings::default(),
        /// The audit trail.
        audit: Audit = Audit::default(),
        /// Sizes, times and rates.
        limits: Limits = Limits::default(),
        /// What may be called.
        policy: Policy = Policy::default(),
        /// What becomes of tools that are not as they were.
        tools: ToolSettings = ToolSettings::default(),
        /// Sessions of clients before 2026-07-28.
        sessions: Sessions = Sessions::default(),
        /// Who may call.
        auth: Auth = Auth::default(),
        /// How people sign in.
        login: Login = Login::default(),
        /// How MCP clients get access in the name of people.
        oauth: OAuthSettings = OAuthSettings::default(),
        /// What people may do.
        roles: RoleSettings = RoleSettings::default(),
        /// The log, on standard error.
        log: Log = Log::default(),
        /// What is told to whom beside log and metrics.
        telemetry: Telemetry = Telemetry::default(),
        /// How long calls may go on after SIGTERM. A second signal ends them at once.
        drain_seconds: u64 = 30,
    }
}

section! {
    /// `tls`.
    pub struct Tls {
        /// PEM file with the certificate and its chain. Read again when it changes.
        cert: Option<PathBuf> = None,
        /// PEM file with the private key. Read again when it changes.
        key: Option<PathBuf> = None,
        /// PEM file with the authorities of client certificates. When set, clients must have one.
        client_ca: Option<PathBuf> = None,
    }
}

section! {
    /// `process`.
    pub struct Process {
        /// Which parts of the gateway's work this process does: `gateway` calls, `auth` logins, OAuth and SCIM, `api` the
        /// admin API, `worker` what is done now and then. On the command line `--roles`. Where one is left out, the
        /// database must be in Postgres and another process do that work.
        roles: Vec<ProcessRole> = ProcessRole::ALL.to_vec(),
    }
}

section! {
    /// `postgres`.
    pub struct PostgresSettings {
        /// Connections at once for records, and as many for the audit trail; two more listen and keep house.
        connections: u32 = 10,
        /// How long an operation may wait for a connection, connecting included.
        acquire_timeout_seconds: u64 = 5,
        /// How long the database may work on a statement; removing old events has no such limit.
        statement_timeout_seconds: u64 = 30,
        /// URL of a copy that follows the database: queries of the audit trail go there. Not set: they go to the
        /// database.
        audit_replica: Option<Secret> = None,
    }
}

section! {
    /// `catalog`.
    pub struct Catalog {
        /// Directories with catalog entries. None: `./catalog` if there is one, else the built-in starter catalog.
        paths: Vec<PathBuf> = Vec::new(),
        /// How often they are looked at for changes.
        poll_seconds: u64 = 2,
    }
}

section! {
    /// `egress`.
    pub struct Egress {
        /// Private addresses (`10.1.0.0/16`) and names (`mcp.internal`, `mcp.internal:8443`) that remote servers may be
        /// at. The same list as `egress.upstream.allow`; both hold.
        allow: Vec<String> = Vec::new(),
        /// PEM file with certificates of authorities that remote servers, and the documents of clients, may have theirs
        /// from, beside those that browsers trust. Read at the start.
        ca_bundle: Option<PathBuf> = None,
        /// Proxy that opens tunnels (`CONNECT`) to remote servers: `http://proxy.corp:3128`, with `user:password@` before
        /// the host if it asks for them. Names and addresses in `egress.allow` are reached directly. Not set: everything
        /// is.
        proxy: Option<String> = None,
        /// Calls to remote servers.
        upstream: EgressPurpose = EgressPurpose::default(),
        /// Calls to identity providers.
        identity: EgressPurpose = EgressPurpose::default(),
        /// Calls to authorization servers that remote servers name, and to those of clients in entries. What the list names
        /// may be called by plain http, too.
        oauth: EgressPurpose = EgressPurpose::default(),
        /// Calls to services that filters ask. What the list names may be called by plain http, too.
        filter: EgressPurpose = EgressPurpose::default(),
    }
}

section! {
    /// `egress.{purpose}`.
    pub struct EgressPurpose of each {
        /// Private addresses and names that they may go to.
        allow: Vec<String> = Vec::new(),
    }
}

section! {
    /// `runtime`.
    pub struct RuntimeSettings {
        /// Servers as child processes.
        process: ProcessSettings = ProcessSettings::default(),
    }
}

section! {
    /// `runtime.process`.
    pub struct ProcessSettings {
        /// Whether this server runs MCP servers as child processes.
        enabled: bool = true,
        /// Permits child processes although callers of several people share them. Their servers run as this process's
        /// user: whoever may add one could reach what others keep.
        i_trust_all_servers: bool = false,
        /// Whether children may run as root, when this server does and `uid` is not set. Not set: only while it listens on
        /// loopback and `public_url`, if there is one, names loopback too.
        allow_root: Option<bool> = None,
        /// How long the files of a server whose entry is gone are kept, and those of a server of a person's own after the
        /// person was deleted; it is stopped at once. The time begins anew with each start of this server.
        forget_after_seconds: u64 = 604_800,
        /// Whether children start in the sandbox (Landlock, `no_new_privs`).
        sandbox: bool = true,
        /// Files and folders that children may write, beside their own folder and the package caches.
        writable: Vec<PathBuf> = Vec::new(),
        /// Further environment variables of this process that children get.
        pass_env: Vec<String> = Vec::new(),
        /// Whether packages may run code when they are installed: scripts of npm, builds of source distributions of PyPI.
        install_scripts: bool = false,
        /// Whether packages must name an exact version. Not set: unless this server listens on loopback.
        require_versions: Option<bool> = None,
        /// Where children get control groups: `auto` for below this process's own group if that is possible, `off`, or a
        /// folder of a cgroup2 file system that is for nothing else. Without them memory is limited for each process,
        /// processor time and the number of processes are not.
        cgroup: String = "auto".to_owned(),
        /// Processes and threads of a child, with all that it starts; needs control groups.
        pids: u64 = 512,
        /// User id that children run as, not 0; needs root. With `gid`.
        uid: Option<u32> = None,
        /// Group id that children run as; needs root. With `uid`.
        gid: Option<u32> = None,
        /// Memory of a child whose entry sets no limit, in bytes. Not set: no limit.
        memory_bytes: Option<u64> = None,
        /// Open files of a child.
        open_files: u64 = 4_096,
        /// Lines of standard error kept for each server.
        log_lines: usize = 1_000,
    }
}

section! {
    /// `audit`.
    pub struct Audit {
        /// What an answered call's event survives: `process` the end of the process, `fsync` the loss of power,
        /// `store` the loss of the disk that the spool is on.
        durability: AuditDurability = AuditDurability::Process,
        /// What happens when an event cannot be recorded: `refuse` calls, or go on and `count`.
        on_full: OnFull = OnFull::Refuse,
        /// Whether bodies and headers of calls are captured, sealed.
        bodies: bool = false,
        /// Whether reads of the admin API are recorded that change nothing and show what is other people's: users,
        /// groups, keys, grants, clients, servers, rules. Looks at logs, events and bodies always are.
        admin_reads: bool = false,
        /// Bytes captured of each body.
        body_limit: usize = 64 << 10,
        /// Headers whose values are never captured, beside those that carry credentials.
        redact_headers: Vec<String> = Vec::new(),
        /// Bytes that the spool may take on disk while the store is away.
        spool_bytes: u64 = 1 << 30,
        /// Bytes of one file of the spool.
        segment_bytes: u64 = 8 << 20,
        /// How long a call waits for a stalled disk, in milliseconds.
        stall_timeout_ms: u64 = 2_000,
        /// Events of a stream after which a checkpoint of its chain is signed, at most.
        checkpoint_rows: u64 = 1_000,
        /// How long after an event the checkpoint that covers it is signed, at most, in seconds.
        checkpoint_seconds: u64 = 10,
        /// Days that events are kept; 0 for ever.
        retention_days: u64 = 90,
    }
}

section! {
    /// `limits`.
    pub struct Limits {
        /// Bytes of a request's body.
        body_bytes: u64 = 4 << 20,
        /// Header fields of a request.
        header_count: usize = 100,
        /// Bytes of a request's header fields.
        header_bytes: usize = 32 << 10,
        /// Calls under way at once.
        calls: usize = 1_000,
        /// Calls under way at once for one caller. Not set: a quarter of `limits.calls`.
        calls_per_principal: Option<usize> = None,
        /// Open streams at once. Not set: what the limit of open files leaves room for.
        streams: Option<usize> = None,
        /// Open streams at once for one caller.
        streams_per_principal: usize = 50,
        /// Connections of clients at once. Not set: what the limit of open files leaves room for.
        connections: Option<usize> = None,
        /// How long a server may work until its answer to a call begins and be silent in the middle of it, and how long a
        /// call may outlive its key.
        call_max_duration_seconds: u64 = 900,
        /// After how long without anything from the server a stream ends that waits for events (GET, or
        /// `subscriptions/listen`); its client opens it anew.
        stream_idle_seconds: u64 = 600,
        /// How long connecting to a remote server may take.
        connect_timeout_seconds: u64 = 10,
        /// How long a TLS handshake, and the head of a connection's first request, may take.
        head_timeout_seconds: u64 = 10,
        /// How long a connection may be idle between requests, and the head of a further request may take.
        keep_alive_seconds: u64 = 75,
        /// How long a client may take nothing of what is on its way to it, before its connection is cut.
        write_timeout_seconds: u64 = 120,
        /// Requests at once on one HTTP/2 connection.
        streams_per_connection: u32 = 250,
        /// How long the first byte of a body may take.
        body_first_byte_seconds: u64 = 10,
        /// How long each further chunk of a body may take.
        body_chunk_seconds: u64 = 30,
        /// How long a whole body may take, however steadily it comes.
        body_total_seconds: u64 = 120,
        /// Bytes of one event of a stream that is read for the audit trail, access rules and filters.
        event_bytes: usize = 16 << 20,
        /// Bytes of an answer that access rules or filters are about and that is no stream: a list, of 2026-07-28 also a resource, on a server whose rules tell callers apart; whatever a filter selects. Also of what a service that a filter asks may answer.
        filter_body_bytes: usize = 8 << 20,
        /// Bytes of a message's id; at most 8192.
        id_bytes: usize = 1 << 10,
        /// Nesting of a message; at most 127.
        message_depth: u16 = 64,
        /// Wrong guesses of one address, of IPv6 of one /64 network, in a minute, before they are 429; and as many tokens whose
        /// signature is checked in vain, before those that were not seen before are not looked at. Good keys and tokens go on.
        auth_failures_per_minute: u32 = 100,
        /// Addresses whose refusals are counted one by one.
        refusal_addresses: usize = 10_000,
        /// Idle connections kept to one remote server.
        pool_idle_per_host: usize = 128,
        /// How long they are kept.
        pool_idle_seconds: u64 = 60,
        /// Calls in a time.
        rate: Rates = Rates::default(),
        /// Child processes.
        children: Children = Children::default(),
        /// What passes between a child and its callers.
        bridge: BridgeLimits = BridgeLimits::default(),
    }
}

section! {
    /// `limits.rate`.
    pub struct Rates {
        /// Requests of one caller, whatever they carry.
        principal: RateSetting = RateSetting::default(),
        /// Calls with one API key, whatever rate it was made with.
        key: RateSetting = RateSetting::default(),
        /// Requests of one address, before anybody knows who calls; of IPv6, of one /64 network.
        address: RateSetting = RateSetting::default(),
        /// Calls of one server, all callers together. Notifications and answers of clients are no calls, here and below.
        server: RateSetting = RateSetting::default(),
        /// Calls of one tool, each caller alone.
        tool: RateSetting = RateSetting::default(),
    }
}

section! {
    /// A rate.
    pub struct RateSetting of each {
        /// At most so many; 0 for no limit.
        limit: u32 = 0,
        /// In so many seconds.
        seconds: u32 = 60,
    }
}

impl RateSetting {
    /// The rate; `None` for no limit.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        (self.limit > 0).then_some(Rate { limit: self.limit, seconds: self.seconds })
    }
}

section! {
    /// `limits.children`.
    pub struct Children {
        /// Child processes of one caller.
        per_principal: usize = 5,
        /// Child processes of one server.
        per_server: usize = 50,
        /// Child processes in all.
        total: usize = 200,
        /// Starts of one caller in a minute.
        starts_per_minute: usize = 60,
    }
}

section! {
    /// `limits.bridge`. Bodies have `limits.body_bytes` here too, and legacy sessions `limits.children.per_server`.
    pub struct BridgeLimits {
        /// Bytes of one line that a child writes. A child that writes a longer one is ended.
        line_bytes: usize = 16 << 20,
        /// Requests under way at once of one session, or of the child that callers of 2026-07-28 share.
        calls: usize = 256,
        /// Messages that wait until a child reads them; then callers wait.
        queued_lines: usize = 64,
        /// Events of a stream that are kept until they are read, and for resumption.
        kept_events: usize = 1_024,
        /// Bytes of such events.
        kept_bytes: usize = 4 << 20,
    }
}

section! {
    /// `policy`.
    pub struct Policy {
        /// Whether methods that no revision of MCP of the message's era has are forwarded: `allow` or `deny`.
        unknown_methods: UnknownMethods = UnknownMethods::Allow,
    }
}

section! {
    /// `tools`.
    pub struct ToolSettings {
        /// What becomes of a tool that is new or not as it was, where its catalog entry does not say otherwise: `off`,
        /// nobody looks; `allow`, it is recorded; `flag`, calls of it are marked in the audit trail, too; `block`, it is
        /// not served until an administrator approves it.
        on_change: OnToolChange = PinOptions::default().on_change,
        /// What becomes of the first tools that a server shows, where its catalog entry does not say otherwise: `trust`,
        /// they are what later ones are compared with; `approve`, they are not served until an administrator approves
        /// them.
        first_use: FirstUse = PinOptions::default().first_use,
        /// Tools of one server; at most 500. Lists with more are not compared: where anything is held back they are
        /// refused, else they are marked in the audit trail.
        max_tools: usize = PinOptions::default().tools,
        /// Bytes of a tool's definition that are kept to be shown; at most 98304. It is compared by all of it.
        text_bytes: usize = PinOptions::default().text_bytes,
    }
}

impl ToolSettings {
    /// How tools are pinned.
    #[must_use]
    pub fn options(&self) -> PinOptions {
        PinOptions {
            on_change: self.on_change,
            first_use: self.first_use,
            tools: self.max_tools,
            text_bytes: self.text_bytes,
        }
    }
}

section! {
    /// `sessions`.
    pub struct Sessions {
        /// Days after which a session ends, whatever its use.
        max_age_days: u64 = 30,
    }
}

section! {
    /// `auth`.
    pub struct Auth {
        /// How long keys are believed while the store cannot be reached; then calls are refused with 503, and streams
        /// end.
        max_staleness_seconds: u64 = 900,
        /// Days that an API key is good for at most; one that is made without an end ends then. 0: no limit.
        key_max_days: u64 = 0,
        /// Issuers whose access tokens are accepted beside this gateway's own; see the page on MCP clients. In the
        /// environment as YAML or JSON.
        issuers: Vec<IssuerSettings> = Vec::new(),
    }
}

section! {
    /// `login`.
    pub struct Login {
        /// How long a session may be without a request.
        session_idle_seconds: u64 = 12 * 3_600,
        /// How long after the login a session ends in any case.
        session_seconds: u64 = 7 * 24 * 3_600,
        /// How long after the login a session may change rights, passwords and keys.
        fresh_seconds: u64 = 900,
        /// Attempts for one name in 15 minutes, from one address or from one browser that has signed in under it before.
        attempts_per_account: u32 = 10,
        /// Attempts for one name in 15 minutes from all browsers together that have not signed in under it before.
        attempts_from_strangers: u32 = 100,
        /// Attempts from one address, of IPv6 from one /64 network, in 15 minutes.
        attempts_per_address: u32 = 50,
        /// Passwords that are hashed at once; each takes 19 MiB.
        hashes_at_once: usize = 2,
        /// How long a login waits for its turn to be hashed, in milliseconds, before it is refused with 503.
        hash_wait_ms: u64 = 5_000,
        /// Whether people may sign in with a password of this gateway.
        passwords: bool = true,
        /// Identity providers that people may sign in with; see the page on login. In the environment as YAML or JSON.
        providers: Vec<ProviderSettings> = Vec::new(),
        /// Logins with a provider that are begun from one address in 15 minutes.
        starts_per_address: u32 = 300,
    }
}

section! {
    /// `oauth`.
    pub struct OAuthSettings {
        /// Whether this gateway gives tokens to MCP clients. Without it, clients need an API key.
        enabled: bool = true,
        /// Who issues them: `shared`, the gateway itself for all servers, or `per_server`, each server's own URL.
        issuer: Issuers = Issuers::Shared,
        /// Who may register: `policy`, anybody whose redirect URIs are on loopback or on the two lists below, while others
        /// wait for an administrator; `open`, anybody; `token`, whoever has an initial access token; `off`, nobody.
        registration: RegistrationMode = RegistrationMode::Policy,
        /// SHA-256 of the initial access tokens, in hexadecimal.
        registration_tokens_sha256: Vec<String> = Vec::new(),
        /// Hosts of web clients that may be used without an administrator's act.
        redirect_hosts: Vec<String> = RegistrationPolicy::default().hosts.into_iter().collect(),
        /// Schemes by which programs on people's machines may be called back.
        redirect_schemes: Vec<String> = RegistrationPolicy::default().schemes.into_iter().collect(),
        /// Whether clients may be known by a document at the URL that is their id.
        client_documents: bool = true,
        /// How long an access token is good; at most 86400. What is revoked ends at once, whatever this says.
        access_token_seconds: u64 = 3_600,
        /// How long a refresh token that was just used gets the same answer again; 0: never.
        refresh_grace_seconds: u64 = 60,
        /// After how long without use a client has to ask again.
        grant_idle_seconds: u64 = 30 * 24 * 3_600,
        /// After how long a client has to ask again in any case.
        grant_seconds: u64 = 180 * 24 * 3_600,
        /// How long a person is not asked again about the very same, where that may be remembered; 0: each is asked about.
        consent_seconds: u64 = 180 * 24 * 3_600,
        /// Requests of one address in a minute to the endpoints of OAuth, and tokens and consents of one client for one
        /// person.
        requests_per_minute: u32 = 300,
        /// Registrations from one address in a minute.
        registrations_per_minute: u32 = 10,
        /// Registrations from all addresses in a minute, and as many requests of clients by document that are new here.
        registrations_total_per_minute: u32 = 100,
        /// Clients' documents that are fetched in a minute for one person; ten times as many from one host.
        documents_per_minute: u32 = 20,
        /// Programs without a browser.
        device: DeviceSettings = DeviceSettings::default(),
        /// Identity providers whose decisions for their people are done without asking them (ID-JAG); see the page on MCP
        /// clients. In the environment as YAML or JSON.
        identity_providers: Vec<IdentityProviderSettings> = Vec::new(),
    }
}

section! {
    /// `oauth.device`.
    pub struct DeviceSettings {
        /// Whether programs without a browser may ask for a code that a person enters in one (RFC 8628): those whose
        /// clients an administrator has made for it.
        enabled: bool = true,
        /// How long such a code is good; 60 to 1800.
        code_seconds: u64 = 600,
        /// How long a program waits between two questions whether somebody has entered it; 1 to 60, and less than half
        /// of `code_seconds`.
        interval_seconds: u64 = 5,
        /// Codes that one address may ask for in a minute.
        requests_per_minute: u32 = 10,
        /// Codes that all addresses together may ask for in a minute.
        requests_total_per_minute: u32 = 100,
        /// Codes that one person may enter in the time that one is good, right and wrong ones.
        tries_per_account: u32 = 5,
        /// Codes that may be entered from one address in that time.
        tries_per_address: u32 = 20,
    }
}

section! {
    /// `roles`.
    pub struct RoleSettings {
        /// Roles of a new user: of `power_user_plus`, `power_user`, `basic`.
        default: Vec<String> = vec!["basic".to_owned()],
        /// Verified addresses of people who are owners; see the page on login about what makes one verified.
        owners: Vec<String> = Vec::new(),
        /// Verified addresses of people who are admins.
        admins: Vec<String> = Vec::new(),
        /// Verified addresses of people who are auditors.
        auditors: Vec<String> = Vec::new(),
    }
}

section! {
    /// `log`.
    pub struct Log {
        /// `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
        format: LogFormat = LogFormat::Auto,
        /// What is logged: a level, or levels by target (`info,mcp_gateway_core=debug`).
        filter: String = "info".to_owned(),
    }
}

section! {
    /// `telemetry`.
    pub struct Telemetry {
        /// Traces for an OpenTelemetry collector.
        traces: Traces = Traces::default(),
    }
}

section! {
    /// `telemetry.traces`.
    pub struct Traces {
        /// The whole URL that traces are sent to, OTLP over HTTP: `http://127.0.0.1:4318/v1/traces`. Not set: no traces.
        endpoint: Option<String> = None,
        /// The part of the traces that begin here which is recorded, from 0 to 1. Traces that a caller began are recorded
        /// as its `traceparent` says.
        sample_ratio: f64 = 1.0,
        /// The name of this server in traces.
        service_name: String = "mcp-gateway".to_owned(),
        /// Spans that wait for the collector; those beyond are dropped.
        queue_spans: usize = 2_048,
    }
}

/// `audit.durability`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditDurability {
    /// Survives `kill -9`.
    #[default]
    Process,
    /// Survives the loss of power.
    Fsync,
    /// Survives the loss of the spool's disk.
    Store,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// By what standard error is.
    #[default]
    Auto,
    /// One object a line.
    Json,
    /// For people.
    Text,
}
