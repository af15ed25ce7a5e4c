//! What children, and other processes of the same user, can learn of the gateway's secrets.

use serde_json::{Value, json};

use crate::support::gateway::BOOTSTRAP;
use crate::support::mcp::Session;
use crate::support::{Call, Gateway};

/// An entry, `curious`, whose tools read files and the environment.
fn curious(secret: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../mcp-gateway-deploy/tests/support/server.py");
    format!(
        "entryKey: curious\nname: curious\nruntime: command\nserverUserType: multiUser\ncommand: python3\n\
         args: [{script}, legacy]\nenv: [{{key: API_KEY, value: {secret}}}]\n"
    )
}

#[tokio::test]
async fn the_environment_of_the_running_gateway_holds_no_settings() {
    let gateway = Gateway::start(&[]).await;
    let proc = std::path::PathBuf::from(format!("/proc/{}", gateway.process.id()));
    match std::fs::read(proc.join("environ")) {
        Ok(environ) => {
            let environ = String::from_utf8_lossy(&environ);
            let names: Vec<&str> = environ.split('\0').filter_map(|pair| pair.split('=').next()).collect();
            assert!(names.contains(&"PATH"), "the rest of the environment is there: {names:?}");
            assert!(!environ.contains(BOOTSTRAP), "{names:?}");
            let own: Vec<_> = names.iter().filter(|name| name.starts_with("MCP_GATEWAY_")).collect();
            assert_eq!(own, [&"MCP_GATEWAY_ENVIRONMENT"]);
            assert_eq!(std::fs::read_link(proc.join("fd/0")).unwrap(), std::path::Path::new("/dev/null"));
        }
        // Hidden as a whole from whoever is not root.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    // It knows them all the same.
    gateway.admin(Call::get("/api/v1")).await.expect(200);
}

#[tokio::test]
async fn a_child_reads_neither_catalog_nor_database() {
    if !mcp_gateway_deploy::process::launcher::is_enforced() {
        println!("SKIPPED: this kernel has no Landlock");
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", elsewhere.path().join("records.db").display());
    std::fs::write(elsewhere.path().join("open"), "hello").unwrap();
    let gateway = Gateway::start_with(&[curious("s3cret-value")], &[("DATABASE", &database)]).await;
    let session = Session::open(&gateway, "curious", &gateway.key().await).await;
    let read = async |path: &std::path::Path| -> Value {
        let call = session.call(1, "read", &json!({ "path": path }));
        call.send(gateway.address).await.expect(200).json()["result"].clone()
    };
    let found: Vec<_> = std::fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let named = |name: &str| found.iter().any(|path| path.ends_with(name));
    for name in ["records.db", "records.db-wal", "records.db-shm", "records-audit.db", "records-audit.db-wal"] {
        assert!(named(name), "{name} is not among {found:?}: the test looks at nothing");
    }
    for path in found.iter().filter(|path| path.to_string_lossy().contains(".db") && !path.ends_with("open")) {
        if path.extension().is_some_and(|extension| extension == "lock") {
            // Says which process has the database, and nothing else.
            continue;
        }
        let got = read(path).await;
        assert!(got["refused"].is_string(), "{}: {got}", path.display());
    }
    for path in [gateway.folder().join("catalog"), gateway.folder().join("catalog/0.yaml")] {
        let got = read(&path).await;
        assert!(got["refused"].is_string(), "{}: {got}", path.display());
    }
    assert_eq!(read(&elsewhere.path().join("open")).await["text"], "hello");
    // Its own environment is its own.
    let own = session.call(2, "environ", &json!({})).send(gateway.address).await.json();
    assert_eq!(own["result"]["API_KEY"], "s3cret-value");
    assert!(!own.to_string().contains(BOOTSTRAP));
}

#[tokio::test]
async fn children_that_would_be_root_are_warned_of() {
    let gateway = Gateway::start(&[]).await;
    let warned = |gateway: &Gateway| gateway.log().contains("children run as root");
    assert_eq!(warned(&gateway), rustix::process::geteuid().is_root(), "{}", gateway.log());
    let settings = [("RUNTIME__PROCESS__UID", "65534"), ("RUNTIME__PROCESS__GID", "65534")];
    assert!(!warned(&Gateway::start_with(&[], &settings).await));
}
