//! Captured bodies, from the call to the admin API.

use serde_json::{Value, json};

use crate::support::mcp::Session;
use crate::support::upstream::json as answer;
use crate::support::{Call, Gateway, Upstream};

const LIMIT: usize = 300;

/// A JSON-RPC answer of exactly so many bytes.
fn answer_of(id: &Value, bytes: usize) -> String {
    let with = |text: &str| json!({ "jsonrpc": "2.0", "id": id, "result": { "content": text } }).to_string();
    let whole = with(&"y".repeat(bytes - with("").len()));
    assert_eq!(whole.len(), bytes);
    whole
}

#[tokio::test]
async fn bodies_are_captured_up_to_their_limit_sealed_and_without_credentials() {
    let upstream = Upstream::start(|request| {
        let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match message["params"]["arguments"]["bytes"].as_u64() {
            Some(bytes) => answer(answer_of(&message["id"], usize::try_from(bytes).unwrap())),
            None => {
                let result = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": { "name": "s", "version": "1" } });
                let mut response = answer(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string());
                response.headers_mut().insert("mcp-session-id", "session-of-the-server".parse().unwrap());
                if message["id"].is_null() {
                    *response.status_mut() = http::StatusCode::ACCEPTED;
                }
                response
            }
        }
    })
    .await;
    let settings = [("AUDIT__BODIES", "true"), ("AUDIT__BODY_LIMIT", "300"), ("AUDIT__REDACT_HEADERS", "x-internal")];
    let gateway = Gateway::start_with(&[upstream.entry("heard")], &settings).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "heard", &key).await;
    let ask = |id: &str, arguments: &Value| {
        session.call(id, "work", arguments).header("x-internal", "internal-value").header("x-open", "open-value")
    };
    let long = json!({ "bytes": LIMIT + 1, "said": "remember-me", "filling": "z".repeat(2 * LIMIT) });
    ask("whole", &json!({ "bytes": LIMIT })).send(gateway.address).await.expect(200);
    ask("cut", &long).send(gateway.address).await.expect(200);

    let captured = async |id: &str| -> Value {
        let row = gateway.audit_of(1, |row| row["rpc_id"] == json!(format!("{id:?}"))).await.remove(0);
        assert_eq!(row["captured"], true, "{row}");
        let path = format!("/api/v1/audit-events/{}/bodies", row["id"].as_str().unwrap());
        gateway.admin(Call::get(&path)).await.expect(200).json()
    };
    let whole = captured("whole").await;
    assert_eq!(whole["response"]["text"], answer_of(&json!("whole"), LIMIT));
    assert_eq!(whole["response"]["bytes"], LIMIT);
    let message: Value = serde_json::from_str(whole["request"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(message["params"]["arguments"], json!({ "bytes": LIMIT }));

    let cut = captured("cut").await;
    let sent = upstream.arrived().into_iter().find(|one| one.body.windows(5).any(|part| part == b"\"cut\"")).unwrap();
    for (side, all) in [("request", &sent.body[..]), ("response", answer_of(&json!("cut"), LIMIT + 1).as_bytes())] {
        assert_eq!(cut[side]["text"].as_str().unwrap().as_bytes(), &all[..LIMIT], "{side}");
        assert_eq!(cut[side]["bytes"], all.len(), "{side}");
    }

    let headers = cut["request"]["headers"].as_array().unwrap();
    let value = |name: &str| headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap());
    assert_eq!(value("x-open"), Some("open-value"), "{headers:?}");
    assert_eq!(value("x-internal"), Some("[redacted]"));
    assert_eq!(value("mcp-session-id"), Some("[redacted]"));
    let text = format!("{whole}{cut}");
    for secret in ["internal-value", "session-of-the-server", &key.secret, &session.id] {
        assert!(!text.contains(secret), "{secret} was captured");
    }

    // On disk they are sealed.
    let data = gateway.folder().join("data");
    let files = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let databases: Vec<_> = files.filter(|path| path.to_string_lossy().contains(".db")).collect();
    assert!(databases.iter().any(|path| path.ends_with("gateway-audit.db")), "{databases:?}");
    for path in databases {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(11).any(|part| part == b"remember-me"), "{} holds a body in the clear", path.display());
    }
    // Whoever looked is in the trail.
    let looks = gateway.audit_of(2, |row| row["method"] == "audit-event.bodies").await;
    assert!(looks.iter().all(|row| row["outcome"] == "ok" && row["actor"]["kind"] == "bootstrap"), "{looks:?}");
}
