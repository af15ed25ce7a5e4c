//! How a server starts, or does not.

use std::process::{Command, Stdio};

use crate::harness::{client, config, config_with, start, try_start, upstream};

fn binary(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    command.current_dir(dir).env("MCP_GATEWAY__LISTEN", "127.0.0.1:0").stdin(Stdio::null());
    command
}

#[tokio::test]
async fn the_starter_key_is_shown_once_and_works() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let first = start(config_with(dir.path(), upstream)).await;
    let key = first.key.clone().expect("a key on the first start");
    let configuration = &first.banner[first.banner.find('{').unwrap()..];
    let configuration: serde_json::Value = serde_json::from_str(configuration).unwrap();
    let server = &configuration["mcpServers"]["slow"];
    assert_eq!(server["url"], format!("http://{}/mcp-connect/slow", first.address));
    assert_eq!(server["headers"]["Authorization"], format!("Bearer {key}"));
    assert_eq!(client().request(first.call("fast")).await.unwrap().status(), 200);
    first.ended().await;

    let mut second = start(config_with(dir.path(), upstream)).await;
    assert_eq!(second.key, None);
    assert!(!second.banner.contains(&key));
    second.key = Some(key);
    assert_eq!(client().request(second.call("fast")).await.unwrap().status(), 200, "it is good on later starts");
    second.ended().await;
}

#[tokio::test]
async fn no_starter_key_is_made_where_others_could_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.listen = ([0, 0, 0, 0], 0).into();
    config.insecure_http = true;
    let server = start(config).await;
    assert_eq!(server.key, None);
    server.ended().await;
}

#[tokio::test]
async fn the_bootstrap_token_is_in_a_file_and_not_in_the_banner() {
    use std::os::unix::fs::MetadataExt as _;

    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    let file = dir.path().join("data/bootstrap-token");
    let token = std::fs::read_to_string(&file).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(token.trim().len() >= 32 && !server.banner.contains(token.trim()));
    assert_eq!(dir.path().join("data").metadata().unwrap().mode() & 0o777, 0o700);
    server.ended().await;
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(config(dir.path())).await;
    let output = binary(dir.path()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is in use by process"), "{said}");
    assert!(output.stdout.is_empty());
    first.ended().await;
    start(config(dir.path())).await.ended().await;
}

#[tokio::test]
async fn an_address_in_use_names_its_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.listen = taken.local_addr().unwrap();
    let error = format!("{:#}", try_start(config).await.err().unwrap());
    assert!(error.starts_with("listen: 127.0.0.1:"), "{error}");
}

#[test]
fn a_wrong_configuration_is_one_line_on_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    for (variable, value, said) in [
        ("MCP_GATEWAY__LISTEN", "0.0.0.0:0", "insecure_http: true"),
        ("MCP_GATEWAY__LIMITS__CALL", "1", "MCP_GATEWAY__LIMITS__CALLS?"),
        ("MCP_GATEWAY__TLS__CERT", "x", "needs both cert and key"),
    ] {
        let output = binary(dir.path()).env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(said) && error.lines().count() == 1, "{error}");
        assert!(!dir.path().join("data").exists(), "nothing is made before the configuration is known to be good");
    }
}

#[test]
fn the_effective_configuration_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gateway.yaml"), "limits: {calls: 7}\n").unwrap();
    let output = binary(dir.path())
        .args(["serve", "--config", "gateway.yaml", "--print-config"])
        .env("MCP_GATEWAY__ALLOWED_HOSTS", "a,b")
        .env("MCP_GATEWAY_BOOTSTRAP_TOKEN", "0123456789abcdef0123456789abcdef")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(printed.contains("calls: 7") && printed.contains("- a\n- b"), "{printed}");
    assert!(!printed.contains("0123456789abcdef"));
    assert!(!dir.path().join("data").exists());
}

#[test]
fn a_catalog_is_validated() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = dir.path().join("catalog");
    std::fs::create_dir(&catalog).unwrap();
    std::fs::write(catalog.join("good.yaml"), "{entryKey: a, name: A, runtime: npx, npxConfig: {package: a}}").unwrap();
    let validate = || binary(dir.path()).args(["catalog", "validate", "catalog"]).output().unwrap();
    let output = validate();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"1 good, 0 bad\n");
    std::fs::write(catalog.join("bad.yaml"), "{entryKey: b, name: B, runtime: npx, npxConfig: {pakage: a}}").unwrap();
    let output = validate();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"1 good, 1 bad\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bad.yaml") && said.contains("npxConfig"), "{said}");
}

#[test]
fn migrating_makes_the_databases() {
    let dir = tempfile::tempdir().unwrap();
    let output = binary(dir.path()).arg("migrate").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path().join("data/gateway.db").exists() && dir.path().join("data/gateway-audit.db").exists());
    assert!(output.stdout.is_empty());
}

#[cfg(feature = "process")]
#[tokio::test]
async fn children_are_not_shared_by_several_people_without_a_word() {
    use mcp_gateway_auth::api_key::NewKey;
    use mcp_gateway_core::record::{Principal, Roles, Subject};
    use mcp_gateway_server::wiring::{Server, StartOptions};

    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(config(dir.path()), StartOptions::default()).await.unwrap();
    let owner = Principal::new("local", "owner").with_roles(Roles::OWNER);
    let mut key = NewKey::named("somebody else's");
    key.subject = Some(Subject::local("somebody-else"));
    server.app().keys.create(&owner, key).await.unwrap();
    server.run(std::future::ready(()), std::future::pending()).await;

    let output = binary(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("i_trust_all_servers: true"), "{said}");

    let mut trusting = config(dir.path());
    trusting.runtime.process.enabled = true;
    trusting.runtime.process.i_trust_all_servers = true;
    start(trusting).await.ended().await;
}
