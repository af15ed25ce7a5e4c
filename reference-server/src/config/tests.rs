//! What operators may write, and what they are told when it is wrong.

use std::io::Write as _;

use mcp_gateway_core::record::Secret;

use super::*;

fn read(yaml: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let mut file = tempfile::Builder::new().prefix("gateway").suffix(".yaml").tempfile().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(file.path()), variables).map_err(|error| error.to_string())
}

#[test]
fn nothing_written_means_the_defaults() {
    assert_eq!(load(None, []).unwrap(), Config::default());
    assert_eq!(read("", &[]).unwrap(), Config::default());
    assert_eq!(read("# nothing\nlimits:\n", &[]).unwrap(), Config::default());
    assert_eq!(read("{listen: , limits: {rate: {tool: }}}", &[]).unwrap(), Config::default());
}

#[test]
fn an_unknown_key_names_its_path_and_the_nearest() {
    for (yaml, path, nearest) in [
        ("lisen: 127.0.0.1:1", "lisen", "listen"),
        ("limits: {body_byte: 1}", "limits.body_byte", "limits.body_bytes"),
        ("limits: {rate: {tools: {limit: 1}}}", "limits.rate.tools", "limits.rate.tool"),
        ("body_bytes: 1", "body_bytes", "limits.body_bytes"),
    ] {
        let error = read(yaml, &[]).unwrap_err();
        assert!(error.contains(&format!(": {path}:")) && error.contains(&format!("did you mean {nearest}")), "{error}");
    }
    assert!(!read("zzzzzzzzzzz: 1", &[]).unwrap_err().contains("did you mean"));
    let error = load(None, [("MCP_GATEWAY__LISTN".to_owned(), "x".to_owned())]).unwrap_err().to_string();
    assert!(error.starts_with("MCP_GATEWAY__LISTN") && error.contains("MCP_GATEWAY__LISTEN?"), "{error}");
}

#[test]
fn a_list_in_a_variable_has_commas_or_brackets_and_never_half_of_each() {
    let hosts = |text: &str| {
        read("", &[("MCP_GATEWAY__OAUTH__REDIRECT_HOSTS", text)]).map(|config| config.oauth.redirect_hosts)
    };
    let wanted = Ok(vec!["a.example".to_owned(), "b.example".to_owned()]);
    for text in
        ["a.example,b.example", "a.example, b.example,", r#"["a.example", "b.example"]"#, " [a.example, b.example]"]
    {
        assert_eq!(hosts(text), wanted, "{text}");
    }
    assert_eq!(hosts("[]"), Ok(Vec::new()));
    for text in [r#"["a.example""#, "[1]", "[[a.example]]", "[a.example], b.example"] {
        assert!(hosts(text).unwrap_err().contains("MCP_GATEWAY__OAUTH__REDIRECT_HOSTS"), "{text}");
    }
    for yaml in ["oauth: {redirect_hosts: ['[\"a.example\"]']}", "oauth: {redirect_hosts: ['https://a.example']}"] {
        assert!(read(yaml, &[]).unwrap_err().contains("oauth.redirect_hosts[0]"), "{yaml}");
    }
}

#[test]
fn a_wrong_value_names_its_path() {
    for (yaml, place) in [
        ("limits: {body_bytes: many}", "limits.body_bytes"),
        ("limits: {body_bytes: 0}", "limits.body_bytes"),
        ("limits: {body_bytes: -1}", "limits.body_bytes"),
        ("limits: {message_depth: 128}", "limits.message_depth"),
        ("limits: {id_bytes: 8193}", "limits.id_bytes"),
        ("tools: {max_tools: 501}", "tools.max_tools"),
        ("tools: {max_tools: 0}", "tools.max_tools"),
        ("tools: {text_bytes: 98305}", "tools.text_bytes"),
        ("limits: 3", "limits"),
        ("listen: here", "listen"),
        ("trusted_proxies: [10.0.0.0/33]", "trusted_proxies[0]"),
        ("egress: {allow: [10.0.0.0/8, a b]}", "egress.allow[1]"),
        ("egress: {proxy: 'https://proxy:3128'}", "egress.proxy"),
        ("egress: {upstream: {allow: ['-']}}", "egress.upstream.allow[0]"),
        ("audit: {durability: never}", "audit.durability"),
        ("audit: {redact_headers: ['a b']}", "audit.redact_headers[0]"),
        ("tls: {cert: x}", "tls"),
        ("tls: {client_ca: x}", "tls.client_ca"),
        ("public_url: https://gateway.example/path", "public_url"),
        ("database: mysql://x", "database"),
        ("database: 'postgres://h/d?sslmod=require'", "database"),
        ("{database: 'postgres://h/d', postgres: {audit_replica: 'sqlite:x'}}", "postgres.audit_replica"),
        ("postgres: {audit_replica: 'postgres://h/d'}", "postgres.audit_replica"),
        ("postgres: {connections: 0}", "postgres.connections"),
        ("postgres: {acquire_timeout_seconds: 0}", "postgres.acquire_timeout_seconds"),
        ("postgres: {statement_timeout_seconds: 0}", "postgres.statement_timeout_seconds"),
        ("process: {roles: []}", "process.roles: must name gateway, auth, api or worker"),
        ("process: {roles: [gateway, admin]}", "process.roles[1]"),
        ("process: {roles: [gateway, auth, api]}", "process.roles: must be gateway, auth, api and worker"),
        ("{process: {roles: [gateway, api, worker]}, database: memory}", "process.roles: must be"),
        ("runtime: {process: {uid: 1}}", "runtime.process"),
        ("runtime: {process: {cgroup: group}}", "runtime.process.cgroup"),
        ("runtime: {process: {pids: 0}}", "runtime.process.pids"),
        ("telemetry: {traces: {sample_ratio: 1.1}}", "telemetry.traces.sample_ratio"),
        ("telemetry: {traces: {sample_ratio: -0.1}}", "telemetry.traces.sample_ratio"),
        ("telemetry: {traces: {queue_spans: 0}}", "telemetry.traces.queue_spans"),
        ("telemetry: {traces: {endpoint: 'localhost:4318'}}", "telemetry.traces.endpoint"),
        ("telemetry: {traces: {endpoint: 'http://127.0.0.1:4318'}}", "telemetry.traces.endpoint"),
        ("roles: {default: [basic, owner]}", "roles.default[1]"),
        ("roles: {owners: [ada@a.example]}", "roles.owners[0]"),
        ("login: {providers: [{name: a, client_id: x}]}", "login.providers[0].issuer"),
        ("login: {providers: [{name: a}]}", "login.providers[0]"),
        (
            "login: {providers: [{name: a, client_id: x, preset: google, anybody: true, issuer: 'https://a.example'}]}",
            "login.providers[0].issuer",
        ),
        ("login: {providers: [{name: a, client_id: x, preset: entra, tenant: common}]}", "login.providers[0].tenant"),
        (
            "login: {providers: [{name: a, client_id: x, preset: google, anybody: true, tenant: x}]}",
            "login.providers[0].tenant",
        ),
        (
            "login: {providers: [{name: a, client_id: x, preset: google, anybody: true, group_roles: {ops: [root]}}]}",
            "login.providers[0].group_roles.ops",
        ),
        (
            "login: {providers: [{name: a, client_id: x, preset: google, anybody: true}, {name: b, client_id: x, preset: google, anybody: true}]}",
            "login.providers[1]",
        ),
        ("login: {providers: [{name: a, client_id: x, preset: google, anybody: true}]}", "login.providers"),
        ("login: {passwords: false}", "login.passwords"),
        ("egress: {identity: {allow: ['-']}}", "egress.identity.allow[0]"),
        ("egress: {filter: {allow: ['-']}}", "egress.filter.allow[0]"),
        ("login: {fresh_seconds: 0}", "login.fresh_seconds"),
        ("oauth: {issuer: mine}", "oauth.issuer"),
        ("oauth: {registration: some}", "oauth.registration"),
        ("oauth: {registration: token}", "oauth.registration_tokens_sha256"),
        ("oauth: {registration_tokens_sha256: [secret]}", "oauth.registration_tokens_sha256[0]"),
        ("oauth: {access_token_seconds: 299}", "oauth.access_token_seconds"),
        ("oauth: {access_token_seconds: 86401}", "oauth.access_token_seconds"),
        ("oauth: {refresh_grace_seconds: 601}", "oauth.refresh_grace_seconds"),
        ("oauth: {documents_per_minute: 0}", "oauth.documents_per_minute"),
        ("oauth: {device: {code_seconds: 59}}", "oauth.device.code_seconds"),
        ("oauth: {device: {code_seconds: 1801}}", "oauth.device.code_seconds"),
        ("oauth: {device: {interval_seconds: 0}}", "oauth.device.interval_seconds"),
        ("oauth: {device: {interval_seconds: 61}}", "oauth.device.interval_seconds"),
        ("oauth: {device: {code_seconds: 60, interval_seconds: 30}}", "oauth.device.interval_seconds"),
        ("oauth: {device: {requests_per_minute: 0}}", "oauth.device.requests_per_minute"),
        ("oauth: {device: {requests_total_per_minute: 0}}", "oauth.device.requests_total_per_minute"),
        ("oauth: {device: {tries_per_account: 0}}", "oauth.device.tries_per_account"),
        ("oauth: {device: {tries_per_address: 0}}", "oauth.device.tries_per_address"),
    ] {
        let error = read(yaml, &[]).unwrap_err();
        assert!(error.contains(place), "{yaml}: {error}");
    }
    for yaml in [
        "oauth: {access_token_seconds: 300, refresh_grace_seconds: 600}",
        "oauth: {access_token_seconds: 86400, refresh_grace_seconds: 0, issuer: per_server}",
        "oauth: {device: {code_seconds: 60, interval_seconds: 29}}",
        "oauth: {device: {code_seconds: 122, interval_seconds: 60}}",
        "oauth: {device: {code_seconds: 1800, interval_seconds: 1}}",
        "process: {roles: [worker, api, auth, gateway]}",
        "{process: {roles: [worker]}, database: 'postgres://h/d'}",
        "{process: {roles: [gateway]}, database: 'postgres://h/d'}",
    ] {
        assert!(read(yaml, &[]).is_ok(), "{yaml}");
    }
    assert!(read("- a", &[]).unwrap_err().contains("mapping"));
    assert!(read("a: [", &[]).unwrap_err().contains("line"));
    let error = read("", &[("MCP_GATEWAY__LIMITS__CALLS", "x")]).unwrap_err();
    assert!(error.starts_with("MCP_GATEWAY__LIMITS__CALLS"), "{error}");
}

#[test]
fn variables_win_over_the_file() {
    let config = read(
        "listen: 127.0.0.1:1\nlimits: {calls: 5, streams: 7}\nallowed_hosts: [a]",
        &[
            ("MCP_GATEWAY__LISTEN", "127.0.0.1:2"),
            ("MCP_GATEWAY__LIMITS__CALLS", "6"),
            ("MCP_GATEWAY__LIMITS__RATE__TOOL__LIMIT", "9"),
            ("MCP_GATEWAY__ALLOWED_HOSTS", "b, c,"),
            ("MCP_GATEWAY__RUNTIME__PROCESS__SANDBOX", "false"),
            ("MCP_GATEWAY__AUDIT__ON_FULL", "count"),
            ("MCP_GATEWAY__PUBLIC_URL", ""),
            ("MCP_GATEWAY_BOOTSTRAP_TOKEN", "not a setting"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!((config.limits.calls, config.limits.streams), (6, Some(7)));
    assert_eq!(config.limits.rate.tool.rate().unwrap().limit, 9);
    assert_eq!(config.allowed_hosts, ["b", "c"]);
    assert!(!config.runtime.process.sandbox);
    assert_eq!(config.audit.on_full, mcp_gateway_core::layer::audit::OnFull::Count);
    assert_eq!(config.public_url, None);
}

#[test]
fn providers_are_read_from_file_and_variable_alike() {
    let text = "[{name: a, client_id: x, preset: google, email_domains: [a.example], group_roles: {ops: [admin, auditor]}}, \
                {name: b, client_id: y, preset: keycloak, issuer: 'https://b.example/realms/r', groups_claim: ''}]";
    let off = "runtime: {process: {enabled: false}}";
    let of_file =
        read(&format!("{off}\nroles: {{owners: [Ada@a.example]}}\nlogin: {{providers: {text}}}"), &[]).unwrap();
    let of_variable =
        read(off, &[("MCP_GATEWAY__LOGIN__PROVIDERS", text), ("MCP_GATEWAY__ROLES__OWNERS", "Ada@a.example")]);
    assert_eq!(of_file, of_variable.unwrap());
    let all = of_file.providers().unwrap();
    assert_eq!((&*all[0].issuer, all[1].groups_claim.as_deref()), ("https://accounts.google.com", None));
    let roles =
        of_file.group_presets().unwrap()[&*mcp_gateway_auth::user::group_id("https://accounts.google.com", "ops")];
    assert_eq!(roles.names().collect::<Vec<_>>(), ["admin", "auditor"]);
    assert!(of_file.role_presets().unwrap()["ada@a.example"].contains(mcp_gateway_core::record::Roles::OWNER));
    assert_eq!(of_file.login.providers[0].secret_variable(), "MCP_GATEWAY_LOGIN_SECRET_A");
    let open = "[{name: a, client_id: x, preset: github}]";
    let of_anybody = "[{name: a, client_id: x, preset: github, anybody: true, fresh_without_auth_time: true}]";
    let refused = read(&format!("{off}\nlogin: {{providers: {open}}}"), &[]).unwrap_err();
    assert!(refused.contains("login.providers[0].email_domains"), "{refused}");
    let config = read(&format!("{off}\nlogin: {{session_seconds: 3600, providers: {of_anybody}}}"), &[]).unwrap();
    let all = config.providers().unwrap();
    assert_eq!((all[0].anybody, all[0].fresh_without_auth_time, all[0].max_age), (true, true, 3600));
    let wrong = read("", &[("MCP_GATEWAY__LOGIN__PROVIDERS", "a: [")]).unwrap_err();
    assert!(wrong.starts_with("MCP_GATEWAY__LOGIN__PROVIDERS"), "{wrong}");
}

#[test]
fn issuers_that_cannot_be_trusted_name_their_field() {
    let config = |key: &str, member: &str, people: &str| {
        let provider = "{name: a, client_id: x, issuer: 'https://a.example'}";
        let settings = format!("{{{member}{people}}}");
        let (section, key) = key.split_once('.').unwrap();
        read(
            &format!(
                "public_url: 'https://gw.example'\nruntime: {{process: {{enabled: false}}}}\n\
                 login: {{providers: [{provider}]}}\n{section}: {{{key}: [{settings}]}}"
            ),
            &[],
        )
    };
    let a = "issuer: 'https://a.example', ";
    let keys = "jwks_uri: 'https://a.example/keys'";
    let asks = "introspection: {endpoint: 'https://a.example/ask', client_id: gateway";
    for good in [
        a.to_owned(),
        format!("{a}{keys}"),
        format!("{a}{keys}, audiences: {{tools: ['*']}}, typ: JWT"),
        format!("{a}{asks}, remember_seconds: 3600}}"),
        "issuer: 'http://127.0.0.1:9/x', jwks_uri: 'http://localhost:9/keys', people: false".to_owned(),
    ] {
        let config = config("auth.issuers", &good, "").unwrap_or_else(|error| panic!("{good}: {error}"));
        assert_eq!(config.auth.issuers.len(), 1);
    }
    for (wrong, place) in [
        (format!("{a}jwks_uri: 'http://a.example/keys'"), "jwks_uri"),
        (format!("{a}jwks_uri: 'https://user@a.example/keys'"), "jwks_uri"),
        (format!("issuer: a.example, {keys}"), "issuer"),
        (format!("issuer: 'https://gw.example', {keys}"), "issuer: is this gateway itself"),
        (format!("issuer: 'https://gw.example/mcp-connect/a', {keys}"), "issuer: is this gateway itself"),
        (format!("issuer: 'https://b.example', {keys}"), "people"),
        (format!("{a}{keys}, typ: ''"), "typ"),
        (format!("{a}{keys}, audiences: {{tools: []}}"), "audiences.tools"),
        (format!("{a}{keys}, audiences: {{'https://gw.example/mcp-connect/a': [b]}}"), "audiences.https://gw"),
        (format!("{a}{asks}, remember_seconds: 3601}}"), "introspection.remember_seconds"),
        (format!("{a}introspection: {{endpoint: x, client_id: gateway}}"), "introspection.endpoint"),
        (format!("{a}introspection: {{endpoint: 'https://a.example/ask', client_id: ''}}"), "introspection.client_id"),
        (format!("{a}{keys}, unknown: 1"), ""),
    ] {
        let error = config("auth.issuers", &wrong, "").unwrap_err();
        assert!(error.contains(format!("auth.issuers[0].{place}").trim_end_matches('.')), "{wrong}: {error}");
    }
    for (wrong, place) in [
        (format!("{a}{keys}, clients: []"), "clients"),
        (format!("{a}jwks_uri: x, clients: [c]"), "jwks_uri"),
        (format!("issuer: 'https://b.example', {keys}, clients: [c]"), "people"),
    ] {
        let error = config("oauth.identity_providers", &wrong, "").unwrap_err();
        assert!(error.contains(&format!("oauth.identity_providers[0].{place}")), "{wrong}: {error}");
    }
    assert!(config("oauth.identity_providers", &format!("{a}{keys}, clients: [c]"), "").is_ok());
    let twice = |more: &str| config("auth.issuers", &format!("{a}{asks}}}"), more).unwrap_err();
    assert!(twice(&format!("}}, {{{a}{keys}")).contains("auth.issuers[1].issuer"));
    let more = format!("}}, {{issuer: 'https://b.example', people: false, {asks}}}");
    assert!(twice(&more).contains("auth.issuers[1].introspection"));
    for (preset, issuer) in [
        (
            "entra, tenant: 8eaef023-2b34-4da1-9baa-8bc8c9d6a490",
            "https://login.microsoftonline.com/8eaef023-2b34-4da1-9baa-8bc8c9d6a490/v2.0",
        ),
        ("github, anybody: true", "https://github.com"),
    ] {
        let with = |people: bool| {
            let login = format!("login: {{providers: [{{name: a, client_id: x, preset: {preset}}}]}}");
            let issuer = format!("{{issuer: '{issuer}', {keys}, people: {people}}}");
            read(&format!("runtime: {{process: {{enabled: false}}}}\n{login}\nauth: {{issuers: [{issuer}]}}"), &[])
        };
        let refused = with(true).unwrap_err();
        assert!(refused.contains("auth.issuers[0].people: cannot be true"), "{refused}");
        assert!(with(false).is_ok(), "{preset}");
    }
    let alone = format!("auth: {{issuers: [{{issuer: 'https://b.example', {keys}, people: false}}]}}");
    assert!(read(&alone, &[]).unwrap_err().contains("runtime.process.enabled"));
}

#[test]
fn every_key_has_a_variable_that_sets_it() {
    for key in reference() {
        assert!(!key.doc.is_empty(), "{} has no documentation", key.path);
        let text = match (&key.default, key.shape) {
            (serde_json::Value::Null, Shape::Number) => "7".to_owned(),
            (serde_json::Value::Null, _) => continue,
            (serde_json::Value::String(text), _) => text.clone(),
            (serde_json::Value::Array(items), _) => {
                items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(",")
            }
            (value, _) => value.to_string(),
        };
        let other = if key.path.ends_with("uid") { "GID" } else { "UID" };
        let mut variables = vec![(key.variable(), text)];
        if key.path.ends_with("id") {
            variables.push((format!("MCP_GATEWAY__RUNTIME__PROCESS__{other}"), "7".to_owned()));
        }
        let loaded = load(None, variables).unwrap_or_else(|error| panic!("{}: {error}", key.path));
        if !key.default.is_null() {
            assert_eq!(loaded, Config::default(), "{}", key.path);
        }
    }
}

#[test]
fn keys_do_not_cross_a_network_in_the_clear_by_mistake() {
    for (yaml, fine) in [
        ("listen: 0.0.0.0:8080", false),
        ("listen: '[::]:8080'", false),
        ("listen: 10.0.0.1:8080", false),
        ("{listen: 0.0.0.0:8080, public_url: http://gateway.example}", false),
        ("{listen: 0.0.0.0:8080, public_url: https://gateway.example}", true),
        ("{listen: 0.0.0.0:8080, insecure_http: true}", true),
        ("{listen: 0.0.0.0:8443, tls: {cert: c, key: k}}", true),
        ("listen: 127.0.0.2:8080", true),
        ("listen: '[::1]:8080'", true),
        ("listen: '[::ffff:127.0.0.1]:8080'", true),
    ] {
        let outcome = read(yaml, &[]);
        assert_eq!(outcome.is_ok(), fine, "{yaml}: {outcome:?}");
        if let Err(error) = outcome {
            assert!(error.contains("insecure_http: true"), "{error}");
        }
    }
}

#[test]
fn printing_hides_secrets_and_shows_what_is_derived() {
    let database = Some(Secret::new("postgres://ada:hunter2@db.example:5432/gateway"));
    let mut config = Config { database, ..Config::default() };
    config.postgres.audit_replica = Some(Secret::new("postgres://copy.example/gateway?user=ada&password=hunter2"));
    let printed = config.printed(20_000);
    assert!(!printed.contains("hunter2") && !printed.contains("ada"), "{printed}");
    assert!(printed.contains("postgres://(..)@db.example:5432/gateway"), "{printed}");
    assert!(printed.contains("postgres://(..)@copy.example:5432/gateway"), "{printed}");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    assert!(printed.contains("public_url: http://127.0.0.1:8080"), "{printed}");
    assert!(printed.contains("streams: 9500"), "{printed}");
    let again = read(&Config::default().printed(20_000), &[]);
    assert!(again.is_ok(), "what is printed can be read: {again:?}");
}

#[test]
fn streams_follow_the_limit_of_open_files() {
    let config = Config::default();
    for (open_files, streams) in [(20_000, 9_500), (1_024, 384), (0, 16), (u64::MAX, 100_000)] {
        assert_eq!(config.capacity(open_files).streams, streams);
        assert!(config.capacity(open_files).connections > streams);
    }
}

#[test]
fn the_url_names_an_address_that_clients_can_call() {
    let url = |yaml: &str| read(yaml, &[]).unwrap().mount().unwrap().origin().to_owned();
    assert_eq!(url(""), "http://127.0.0.1:8080");
    assert_eq!(url("{listen: 0.0.0.0:1, insecure_http: true}"), "http://127.0.0.1:1");
    assert_eq!(url("{listen: 0.0.0.0:1, tls: {cert: c, key: k}}"), "https://127.0.0.1:1");
    assert_eq!(url("public_url: https://Gateway.example:443/"), "https://gateway.example");
}

#[test]
fn children_may_be_root_where_only_this_machine_calls_or_the_operator_says_so() {
    let may = |yaml: &str| read(yaml, &[]).unwrap().children_may_be_root();
    assert!(may("{}"));
    assert!(!may("{listen: 0.0.0.0:1, insecure_http: true}"));
    assert!(may("{listen: 0.0.0.0:1, insecure_http: true, runtime: {process: {allow_root: true}}}"));
    assert!(!may("{runtime: {process: {allow_root: false}}}"));
    // Behind a proxy on the same machine everybody calls.
    assert!(!may("{public_url: https://gateway.example}"));
    assert!(may("{public_url: https://gateway.example, runtime: {process: {allow_root: true}}}"));
    for url in ["http://localhost:8080", "http://127.0.0.1:1", "https://[::1]"] {
        assert!(may(&format!("{{public_url: '{url}'}}")), "{url}");
    }
}

#[test]
fn the_user_of_children_is_not_root() {
    assert!(read("{runtime: {process: {uid: 1, gid: 0}}}", &[]).is_ok());
    let error = read("{runtime: {process: {uid: 0, gid: 0}}}", &[]).unwrap_err();
    assert!(error.contains("runtime.process.uid") && error.contains("allow_root"), "{error}");
}

/// `docs/reference/configuration.md` lists exactly these keys and defaults. `UPDATE_REFERENCE=1` writes it.
#[test]
fn the_reference_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/configuration.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let (begin, end) = ("<!-- keys: made from the code -->\n\n", "\n<!-- end of keys -->");
    let (head, rest) = written.split_once(begin).expect("the mark where the table begins");
    let (table, tail) = rest.split_once(end).expect("the mark where the table ends");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, format!("{head}{begin}{}{end}{tail}", reference_table())).unwrap();
        return;
    }
    assert_eq!(table, reference_table(), "run this test once with UPDATE_REFERENCE=1");
}
