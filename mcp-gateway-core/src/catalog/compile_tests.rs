use super::*;
use crate::catalog::parse;
use crate::contract::Program;

fn mount() -> Mount {
    Mount::new("https://gateway.example", "/mcp-connect").unwrap()
}

fn entry(rest: &str) -> Entry {
    let text = format!("entryKey: a\nname: A\n{rest}\n");
    let mut entries = parse(text.as_bytes(), "a.yaml");
    let mut entry = entries.remove(0).unwrap_or_else(|error| panic!("{error}"));
    entry.origin = Some(EntryOrigin::File { source: "dir".into(), path: "a.yaml".into() });
    entry
}

fn route(rest: &str) -> Route {
    compile(&entry(rest), &mount()).unwrap_or_else(|error| panic!("{error}"))
}

fn hosted(rest: &str) -> (Placement, Arc<Workload>) {
    match route(rest).target {
        RouteTarget::Hosted { placement, template } => (placement, template),
        RouteTarget::Remote { .. } => panic!("not hosted"),
    }
}

#[track_caller]
fn refused(rest: &str, field: &str) -> String {
    match compile(&entry(rest), &mount()) {
        Ok(_) => panic!("accepted: {rest}"),
        Err(error) => {
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
            assert_eq!(error.place, "a.yaml");
            error.problem
        }
    }
}

#[test]
fn compiles_each_runtime() {
    let (placement, npx) = hosted("runtime: npx\nnpxConfig: {package: '@scope/name@1.2.3', args: [--flag, x]}");
    assert_eq!(placement, Placement::PerSubject);
    assert_eq!(
        npx.program,
        Program::Npx { package: "@scope/name@1.2.3".into(), args: vec!["--flag".into(), "x".into()] }
    );
    assert_eq!((&*npx.id.0, &*npx.server), ("a", "a"));
    assert_eq!(npx.startup_timeout, Duration::from_secs(60));
    assert_eq!(npx.idle_timeout, Some(Duration::from_secs(600)));

    let (placement, uvx) = hosted(
        "runtime: uvx\nserverUserType: multiUser\nuvxConfig: {package: 'name[http]==1.0', command: run}\nenv: [{key: A, value: b}, {key: UNSET}]",
    );
    assert_eq!(placement, Placement::Shared);
    assert_eq!(
        uvx.program,
        Program::Uvx { package: "name[http]==1.0".into(), command: Some("run".into()), args: vec![] }
    );
    assert_eq!(uvx.env.len(), 1);
    assert_eq!((uvx.env[0].0.as_str(), uvx.env[0].1.expose()), ("A", "b"));

    let (_, command) = hosted("runtime: command\ncommand: /usr/bin/server\nargs: [x]");
    assert_eq!(command.program, Program::Command { command: "/usr/bin/server".into(), args: vec!["x".into()] });

    let remote = route(
        "runtime: remote\nremoteConfig:\n  fixedURL: https://mcp.example:8443/mcp?x=1\n  headers: [{key: Authorization, value: Bearer abc, prefix: 'Bearer '}]\nsubPaths: [events, v1/files]\nqueryParameters: [tenant]\nresponseHeaders: [X-Request-Id]",
    );
    let RouteTarget::Remote { url, headers, .. } = &remote.target else { panic!() };
    assert_eq!(url, "https://mcp.example:8443/mcp?x=1");
    assert_eq!((headers[0].0.as_str(), headers[0].1.to_str().unwrap()), ("authorization", "Bearer abc"));
    assert!(headers[0].1.is_sensitive());
    assert_eq!(remote.sub_paths.iter().map(|path| &**path).collect::<Vec<_>>(), ["events", "v1/files"]);
    assert_eq!(&*remote.response_headers, ["x-request-id"]);
    assert_eq!(&*remote.resource.url, "https://gateway.example/mcp-connect/a");
}

#[test]
fn ids_are_labels() {
    for good in ["a", "0", "a-b", &"a".repeat(63)] {
        assert!(is_label(good), "{good}");
    }
    for bad in ["", "-", "a-", "-a", "A", "a_b", "a.b", "a/b", "ä", "a b", &"a".repeat(64)] {
        let mut entry = entry("runtime: npx\nnpxConfig: {package: x}");
        entry.entry_key = bad.to_owned();
        let error = compile(&entry, &mount()).unwrap_err();
        assert_eq!((error.field.as_deref(), error.id), (Some("entryKey"), None), "{bad}");
    }
}

#[test]
fn exactly_the_block_of_its_runtime() {
    refused("runtime: npx", "npxConfig");
    refused("runtime: remote", "remoteConfig");
    refused("runtime: command", "command");
    refused("runtime: npx\nnpxConfig: {package: x}\nuvxConfig: {package: x}", "uvxConfig");
    refused("runtime: npx\nnpxConfig: {package: x}\nargs: [x]", "args");
    for (field, text) in [
        ("env", "env: [{key: A, value: b}]"),
        ("resources", "resources: {}"),
        ("startupTimeoutSeconds", "startupTimeoutSeconds: 5"),
        ("idleTimeoutSeconds", "idleTimeoutSeconds: 0"),
    ] {
        refused(&format!("runtime: remote\nremoteConfig: {{fixedURL: 'https://x.example'}}\n{text}"), field);
    }
}

#[test]
fn a_local_program_needs_the_operator() {
    let text = "runtime: command\ncommand: server";
    hosted(text);
    let origins =
        [None, Some(EntryOrigin::Api), Some(EntryOrigin::Source { source: "https://git.example/x.git".into() })];
    for origin in origins {
        let mut entry = entry(text);
        entry.origin = origin;
        assert_eq!(compile(&entry, &mount()).unwrap_err().field.as_deref(), Some("command"));
    }
    for bad in ["./server", "bin/server", "-c", "''", "\"/x\\0\"", "a b", "sh;x"] {
        refused(&format!("runtime: command\ncommand: {bad}"), "command");
    }
}

#[test]
fn packages_are_names_and_nothing_else() {
    for good in ["x", "@a/b", "x@1", "@a/b@^latest".trim_start_matches('^'), "a.b_c-d@1.0.0-rc.1+x"] {
        let good = good.replace('^', "");
        hosted(&format!("runtime: npx\nnpxConfig: {{package: '{good}'}}"));
    }
    for bad in [
        "",
        "-x",
        "--package=x",
        "x y",
        "x;y",
        "x|y",
        "$(x)",
        "`x`",
        "x&y",
        "../x",
        "/x",
        "./x",
        "a/b",
        "@/x",
        "@a/",
        "@a/-b",
        "github:a/b",
        "git+https://x/y",
        "https://x/y.tgz",
        "x@",
        "x@-1",
        "x@npm:y",
        "x@file:y",
        "x>y",
    ] {
        refused(&format!("runtime: npx\nnpxConfig: {{package: '{bad}'}}"), "npxConfig.package");
    }
    for good in ["x", "x==1.0", "x@latest", "x[a,b]==1!2.0+local", "a.b-c_d"] {
        hosted(&format!("runtime: uvx\nuvxConfig: {{package: '{good}'}}"));
    }
    for bad in ["", "-x", "x[", "x[]", "x[-a]", "x==", "x==-1", "x @ https://y", "git+https://x", "x; y", "x>=1"] {
        refused(&format!("runtime: uvx\nuvxConfig: {{package: '{bad}'}}"), "uvxConfig.package");
    }
    for bad in ["-x", "a/b", "a b", "''"] {
        refused(&format!("runtime: uvx\nuvxConfig: {{package: x, command: {bad}}}"), "uvxConfig.command");
    }
}

#[test]
fn variables_are_not_replaced_silently() {
    for (text, field) in [
        ("runtime: npx\nnpxConfig: {package: 'x@${V}'}", "npxConfig.package"),
        ("runtime: npx\nnpxConfig: {package: x, args: [a, '--key=${KEY}']}", "npxConfig.args[1]"),
        ("runtime: npx\nnpxConfig: {package: x}\nenv: [{key: A, value: 'x${B}'}]", "env[0].value"),
        ("runtime: remote\nremoteConfig: {fixedURL: 'https://${HOST}/mcp'}", "remoteConfig.fixedURL"),
        (
            "runtime: remote\nremoteConfig: {fixedURL: 'https://x.example', headers: [{key: A, value: '${T}'}]}",
            "remoteConfig.headers[0].value",
        ),
    ] {
        assert!(refused(text, field).ends_with("is not supported by this version"));
    }
}

#[test]
fn environments_are_checked() {
    let with = |env: &str| format!("runtime: npx\nnpxConfig: {{package: x}}\nenv: [{env}]");
    for reserved in
        ["PATH", "NODE_OPTIONS", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PYTHONPATH", "PYTHON", "MCP_GATEWAY_X"]
    {
        refused(&with(&format!("{{key: {reserved}, value: x}}")), "env[0].key");
    }
    for bad in ["''", "1A", "A-B", "A=B", "Ä", "'A B'"] {
        refused(&with(&format!("{{key: {bad}, value: x}}")), "env[0].key");
    }
    refused(&with("{key: A, value: x}, {key: A, value: y}"), "env[1].key");
    refused(&with("{key: A, required: true}"), "env[0].value");
    refused(&with("{key: A, value: x, file: true}"), "env[0].file");
    refused(&with("{key: A, value: x, prefix: y}"), "env[0].value");
    refused(&with("{key: A, value: \"x\\0\"}"), "env[0].value");
    hosted(&with(&format!("{{key: A, value: {}}}", "x".repeat(Limits::VALUE))));
    refused(&with(&format!("{{key: A, value: {}}}", "x".repeat(Limits::VALUE + 1))), "env[0].value");
    let many =
        |count: usize| with(&(0..count).map(|n| format!("{{key: A{n}, value: x}}")).collect::<Vec<_>>().join(","));
    hosted(&many(Limits::ITEMS));
    refused(&many(Limits::ITEMS + 1), "env");
}

#[test]
fn urls_are_checked() {
    let with = |url: &str| format!("runtime: remote\nremoteConfig: {{fixedURL: '{url}'}}");
    for good in ["http://127.0.0.1:9000/mcp", "https://x.example", "HTTPS://X.example/a?b=c", "http://[::1]:80/"] {
        route(&with(good));
    }
    for bad in [
        "",
        "x.example/mcp",
        "/mcp",
        "ftp://x.example",
        "https://",
        "https://u:p@x.example",
        "https://u@x.example",
        "https://x.example/#f",
        "https://x.example:99999/",
        "https://x.example/a/../b",
        "https://x.example/a/%2E%2e/b",
        "https://x.example/ b",
        "javascript:alert(1)",
    ] {
        refused(&with(bad), "remoteConfig.fixedURL");
    }
    for own in ["https://gateway.example/mcp-connect/b", "https://GATEWAY.example:443/", "http://gateway.example"] {
        assert!(refused(&with(own), "remoteConfig.fixedURL").contains("this gateway itself"));
    }
    let long = format!("https://x.example/{}", "a".repeat(Limits::URL - 18));
    route(&with(&long));
    refused(&with(&format!("{long}a")), "remoteConfig.fixedURL");
    for (field, bad) in [("icon", "javascript:alert(1)"), ("icon", "data:image/png;base64,"), ("repoURL", "x")] {
        refused(&format!("{field}: '{bad}'\nruntime: npx\nnpxConfig: {{package: x}}"), field);
    }
}

#[test]
fn headers_are_checked() {
    let with =
        |header: &str| format!("runtime: remote\nremoteConfig: {{fixedURL: 'https://x.example', headers: [{header}]}}");
    for good in ["Authorization", "X-API-Key", "Cookie", "User-Agent"] {
        route(&with(&format!("{{key: {good}, value: x}}")));
    }
    for bad in [
        "Connection",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "Keep-Alive",
        "Proxy-Authorization",
        "Host",
        "Content-Length",
        "Content-Type",
        "content-x",
        "Mcp-Session-Id",
        "MCP-Protocol-Version",
        "Accept",
        "Accept-Encoding",
        "Last-Event-ID",
        "Expect",
        "''",
        "'a b'",
        "'a:'",
    ] {
        refused(&with(&format!("{{key: {bad}, value: x}}")), "remoteConfig.headers[0].key");
    }
    let problem = refused(&with("{key: A, value: \"sec\\nret\"}"), "remoteConfig.headers[0].value");
    assert!(!problem.contains("ret"), "a secret is in {problem:?}");
    refused(&with("{key: A}"), "remoteConfig.headers[0].value");
    refused(&with("{key: A, value: x}, {key: a, value: y}"), "remoteConfig.headers[1].key");
    refused(
        "runtime: remote\nremoteConfig: {fixedURL: 'https://x.example', staticOAuthRequired: true}",
        "remoteConfig.staticOAuthRequired",
    );

    let reply = |name: &str| {
        format!("runtime: remote\nremoteConfig: {{fixedURL: 'https://x.example'}}\nresponseHeaders: ['{name}']")
    };
    for bad in [
        "Set-Cookie",
        "Location",
        "WWW-Authenticate",
        "Access-Control-Allow-Origin",
        "Link",
        "Refresh",
        "Alt-Svc",
        "Strict-Transport-Security",
        "Clear-Site-Data",
        "Content-Security-Policy",
        "Connection",
        "Vary",
        "a b",
    ] {
        refused(&reply(bad), "responseHeaders[0]");
    }
}

#[test]
fn paths_and_parameters_are_plain() {
    let with = |rest: &str| format!("runtime: npx\nnpxConfig: {{package: x}}\n{rest}");
    for bad in ["", "/a", "a/", "a//b", "..", "a/./b", "a%2fb", "a b", "a\\b", "ä"] {
        refused(&with(&format!("subPaths: ['{bad}']")), "subPaths[0]");
    }
    for bad in ["", "a b", "access_token", "Api_Key", "a=b", &"a".repeat(129)] {
        refused(&with(&format!("queryParameters: ['{bad}']")), "queryParameters[0]");
    }
}

#[test]
fn timeouts_hold_at_their_edges() {
    let with = |rest: &str| format!("runtime: npx\nnpxConfig: {{package: x}}\n{rest}");
    for seconds in [1, 600] {
        let (_, workload) = hosted(&with(&format!("startupTimeoutSeconds: {seconds}")));
        assert_eq!(workload.startup_timeout, Duration::from_secs(seconds));
    }
    for bad in [0, 601] {
        refused(&with(&format!("startupTimeoutSeconds: {bad}")), "startupTimeoutSeconds");
    }
    for seconds in [10, 604_800] {
        let (_, workload) = hosted(&with(&format!("idleTimeoutSeconds: {seconds}")));
        assert_eq!(workload.idle_timeout, Some(Duration::from_secs(seconds)));
    }
    assert_eq!(hosted(&with("idleTimeoutSeconds: 0")).1.idle_timeout, None);
    for bad in [9, 604_801] {
        refused(&with(&format!("idleTimeoutSeconds: {bad}")), "idleTimeoutSeconds");
    }
    let nested = "runtime: npx\nnpxConfig: {package: x, startupTimeoutSeconds: 7}";
    assert_eq!(hosted(nested).1.startup_timeout, Duration::from_secs(7));
    refused(&format!("{nested}\nstartupTimeoutSeconds: 7"), "npxConfig.startupTimeoutSeconds");
}

#[test]
fn limits_are_read() {
    let with = |rest: &str| format!("runtime: npx\nnpxConfig: {{package: x}}\nresources: {rest}");
    let (_, workload) = hosted(&with("{requests: {cpu: 100m}, limits: {cpu: 500m, memory: 256Mi}}"));
    assert_eq!(workload.limits, ResourceLimits { memory: Some(256 << 20), cpu_millis: Some(500) });
    assert_eq!(hosted(&with("{requests: {memory: 1Gi}}")).1.limits, ResourceLimits::default());
    refused(&with("{limits: {gpu: 1}}"), "resources.limits.gpu");
    refused(&with("{requests: {cpu: x}}"), "resources.requests.cpu");
}

#[test]
fn the_digest_changes_with_everything_that_matters_and_nothing_else() {
    let base = "runtime: npx\nnpxConfig: {package: x, args: [ab, c]}\nenv: [{key: A, value: b}]";
    let digest = |text: &str| hosted(text).1.digest.clone();
    let first = digest(base);
    assert_eq!(first.len(), 64);
    assert_eq!(first, digest(&format!("{base}\ndescription: other\nicon: https://x.example/i.png")));
    let different = [
        base.replace("package: x", "package: y"),
        base.replace("[ab, c]", "[a, bc]"),
        base.replace("[ab, c]", "[abc]"),
        base.replace("value: b", "value: c"),
        base.replace("key: A", "key: B"),
        base.replace("npx", "uvx"),
        format!("{base}\nstartupTimeoutSeconds: 61"),
        format!("{base}\nidleTimeoutSeconds: 0"),
        format!("{base}\nresources: {{limits: {{cpu: 1}}}}"),
        format!("{base}\nresources: {{limits: {{memory: 1Gi}}}}"),
    ];
    let mut all: Vec<_> = different.iter().map(|text| digest(text)).collect();
    all.push(first);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), different.len() + 1);
}
