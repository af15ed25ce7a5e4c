//! What runs follows the catalog: a server whose entry is gone or has changed does not go on.

use serde_json::json;

use crate::support::gateway::stdio_fixture;
use crate::support::mcp::Session;
use crate::support::{Gateway, Key, until};

/// The fixture under another id, and never stopped for being idle.
fn entry(id: &str, secret: &str) -> String {
    let entry = stdio_fixture().replace("entryKey: stdio\nname: stdio", &format!("entryKey: {id}\nname: {id}"));
    format!("{entry}idleTimeoutSeconds: 0\nenv:\n  - {{ key: FIXTURE_SECRET, value: {secret} }}\n")
}

/// Servers that have a folder.
fn folders(gateway: &Gateway) -> Vec<String> {
    let children = std::fs::read_dir(gateway.folder().join("data/process/children")).unwrap();
    let mut names: Vec<_> = children.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn secret_of(gateway: &Gateway, session: &Session) -> String {
    let answer = session.call(1, "env_dump", &json!({})).send(gateway.address).await.expect(200);
    let text = answer.text();
    let at = text.find("FIXTURE_SECRET").unwrap_or_else(|| panic!("it is not in {text}"));
    text[at..].chars().skip("FIXTURE_SECRET".len()).filter(char::is_ascii_alphanumeric).take(3).collect()
}

async fn is_gone(gateway: &Gateway, session: &Session) {
    until("the end of the session", async || {
        let answer = session.call(9, "test_simple_text", &json!({})).send(gateway.address).await;
        (answer.status == 404).then_some(())
    })
    .await;
}

fn children(gateway: &Gateway) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process.id())).unwrap();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let all: Vec<String> = tasks.filter_map(Result::ok).map(of).collect();
    all.iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect()
}

async fn open(gateway: &Gateway, server: &str, key: &Key) -> Session {
    Session::open(gateway, server, key).await
}

#[tokio::test]
async fn a_server_goes_with_its_entry() {
    let settings = [("RUNTIME__PROCESS__FORGET_AFTER_SECONDS", "0"), ("LIMITS__CHILDREN__TOTAL", "2")];
    let mut gateway = Gateway::start_with(&[entry("one", "aaa"), entry("two", "bbb")], &settings).await;
    let key = gateway.key().await;
    // It speaks both eras, so that a shared child runs beside the session's: there is room for no other.
    let session = open(&gateway, "one", &key).await;
    assert_eq!(children(&gateway).len(), 2);
    let refused = crate::support::mcp::post("two", &key, crate::support::mcp::initialize().to_string());
    refused.send(gateway.address).await.expect(503);
    assert_eq!(folders(&gateway), ["one", "two"]);

    gateway.remove_entry(0);
    is_gone(&gateway, &session).await;
    until("the end of the children", async || children(&gateway).is_empty().then_some(())).await;
    until("the folder to be removed", async || (folders(&gateway) == ["two"]).then_some(())).await;
    let second = open(&gateway, "two", &key).await;
    assert_eq!(secret_of(&gateway, &second).await, "bbb");

    // One whose entry went while no gateway was there to see it.
    gateway.kill();
    gateway.remove_entry(1);
    gateway.kill_and_restart().await;
    until("what is left to be removed", async || folders(&gateway).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_changed_entry_ends_the_old_server_and_a_bad_one_does_not() {
    let gateway = Gateway::start(&[entry("one", "aaa")]).await;
    let key = gateway.key().await;
    let session = open(&gateway, "one", &key).await;
    assert_eq!(secret_of(&gateway, &session).await, "aaa");
    let before = children(&gateway);

    gateway.write_entry(0, "entryKey: one\nruntime: [");
    until("the bad file to be seen", async || gateway.log().contains("0.yaml").then_some(())).await;
    assert_eq!(secret_of(&gateway, &session).await, "aaa");
    // After a further change everything has been looked at again.
    gateway.write_entry(1, &entry("two", "bbb"));
    until("the next entry to be read", async || {
        let log = gateway.log();
        log.lines().any(|line| line.contains("the catalog has changed") && line.contains("two")).then_some(())
    })
    .await;
    assert_eq!(secret_of(&gateway, &session).await, "aaa");
    assert_eq!(children(&gateway), before);

    gateway.write_entry(0, &entry("one", "ccc"));
    // Nobody opens a session meanwhile, which alone would end the old one.
    until("the end of the old children", async || children(&gateway).is_empty().then_some(())).await;
    is_gone(&gateway, &session).await;
    let session = open(&gateway, "one", &key).await;
    assert_eq!(secret_of(&gateway, &session).await, "ccc");
}
