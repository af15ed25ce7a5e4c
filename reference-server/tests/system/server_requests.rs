//! What an entry denies its server to ask of clients.

use serde_json::{Value, json};

use crate::support::mcp;
use crate::support::upstream::{self, Arrived};
use crate::support::{Gateway, Upstream};

const ASKS: &str = r#"{"jsonrpc":"2.0","id":"s","method":"sampling/createMessage","params":{}}"#;

/// Asks for the client's model whatever the client can: in the way of 2026-07-28, or before its answer.
fn nosy(arrived: &Arrived) -> http::Response<axum::body::Body> {
    let message: Value = serde_json::from_slice(&arrived.body).unwrap();
    if arrived.headers.get("mcp-protocol-version").is_some_and(|version| *version == *mcp::MODERN) {
        let asks = json!({ "model": { "method": "sampling/createMessage", "params": {} } });
        let result = json!({ "resultType": "input_required", "inputRequests": asks });
        return upstream::json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string());
    }
    let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": {} });
    upstream::events(format!("data: {ASKS}\n\ndata: {answer}\n\n"))
}

#[tokio::test]
async fn a_server_asks_only_for_what_its_entry_lets_it() {
    let server = Upstream::start(nosy).await;
    let silent = format!("{}\nserverRequests: {{ sampling: deny }}\n", server.entry("silent").trim_end());
    let gateway = Gateway::start(&[silent, server.entry("free")]).await;
    let key = gateway.key().await;
    let capabilities = json!({ "sampling": {}, "roots": {} });
    let meta = json!({ "io.modelcontextprotocol/clientCapabilities": capabilities });
    let modern = mcp::modern_request(1, "tools/call", json!({ "name": "t", "arguments": {}, "_meta": meta }));
    let mut legacy = mcp::initialize();
    legacy["params"]["capabilities"] = capabilities;
    let mut answers = Vec::new();
    for id in ["free", "silent"] {
        let answer = mcp::modern(id, &key, &modern).send(gateway.address).await.expect(200).json();
        let text = mcp::post(id, &key, legacy.to_string()).send(gateway.address).await.expect(200).text();
        answers.push((answer, text));
    }
    let [(free, free_stream), (silent, silent_stream)] = &answers[..] else { unreachable!() };
    assert_eq!(free["result"]["resultType"], "input_required");
    assert!(free_stream.contains(ASKS));
    assert_eq!(silent["result"]["isError"], true, "{silent}");
    assert!(silent.to_string().contains("may not ask for"), "{silent}");
    assert!(!silent_stream.contains("sampling") && silent_stream.contains("\"result\":{}"), "{silent_stream}");

    let declared: Vec<Value> = server
        .arrived()
        .iter()
        .map(|arrived| {
            let params = serde_json::from_slice::<Value>(&arrived.body).unwrap()["params"].clone();
            let modern = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
            if modern.is_null() { params["capabilities"].clone() } else { modern.clone() }
        })
        .collect();
    let (all, left) = (json!({ "sampling": {}, "roots": {} }), json!({ "roots": {} }));
    assert_eq!(declared, [all.clone(), all, left.clone(), left]);
    let withheld = gateway.audit_of(1, |row| row["rule"] == "entry-server-requests").await;
    assert_eq!((&withheld[0]["kind"], &withheld[0]["outcome"]), (&json!("server_request"), &json!("denied")));
}
