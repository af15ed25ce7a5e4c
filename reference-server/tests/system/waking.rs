//! Who starts a server, and what keeps it running.

use serde_json::json;

use crate::support::gateway::stdio_fixture;
use crate::support::mcp::{self, Session};
use crate::support::{Call, Gateway, until};

async fn state(gateway: &Gateway) -> (String, u64) {
    let server = gateway.admin(Call::get("/api/v1/servers/stdio")).await.expect(200).json();
    (server["state"].as_str().unwrap().to_owned(), server["children"].as_u64().unwrap())
}

#[tokio::test]
async fn only_a_post_starts_a_server() {
    let gateway = Gateway::start(&[stdio_fixture()]).await;
    let key = gateway.key().await;
    let plain = |call: Call| call.header("accept", "text/event-stream").bearer(&key.secret);
    for call in [Call::get("/mcp-connect/stdio"), Call::delete("/mcp-connect/stdio")] {
        plain(call).send(gateway.address).await.expect(405);
    }
    assert_eq!(state(&gateway).await, ("idle".to_owned(), 0));

    let session = Session::open(&gateway, "stdio", &key).await;
    let mut stream = session.get().open(gateway.address).await;
    assert_eq!((stream.status.as_u16(), state(&gateway).await.0.as_str()), (200, "running"));
    let stop = gateway.admin(Call::post("/api/v1/servers/stdio/stop", "{}".to_owned())).await;
    assert!(stop.status.is_success(), "{}", stop.text());
    while stream.event().await.is_some() {}
    // A client reconnects its stream by itself, and ends its session politely. Neither wakes anybody.
    for call in [session.get(), session.delete(), session.call(1, "test_simple_text", &json!({}))] {
        call.send(gateway.address).await.expect(404);
    }
    assert_eq!(state(&gateway).await.0, "stopped");

    Session::open(&gateway, "stdio", &key)
        .await
        .call(1, "test_simple_text", &json!({}))
        .send(gateway.address)
        .await
        .expect(200);
    assert_eq!(state(&gateway).await.0, "running");
}

#[tokio::test]
async fn open_streams_keep_no_server_running() {
    // The shortest time that an entry may name.
    let gateway = Gateway::start(&[format!("{}idleTimeoutSeconds: 10\n", stdio_fixture())]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "stdio", &key).await;
    let mut get = session.get().open(gateway.address).await;
    let params = json!({ "notifications": { "toolsListChanged": true } });
    let listen = mcp::modern("stdio", &key, &mcp::modern_request(7, "subscriptions/listen", params));
    let mut listen = listen.open(gateway.address).await;
    assert_eq!((get.status.as_u16(), listen.status.as_u16()), (200, 200));
    while get.event().await.is_some() {}
    let mut last = None;
    while let Some(message) = listen.message().await {
        last = Some(message);
    }
    let last = last.unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(7), &json!("complete")), "{last}");
    // Its children have a moment to end by themselves.
    until("the end", async || (state(&gateway).await == ("stopped".to_owned(), 0)).then_some(())).await;
}
