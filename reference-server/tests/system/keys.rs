//! Who may call what, and from when not any more.

use serde_json::json;

use crate::support::gateway::stdio_fixture;
use crate::support::mcp::{self, Session};
use crate::support::{Call, Fixture, Gateway, Key, until};

fn call(key: &Key) -> Call {
    mcp::modern_tool("fixture", key, 1, "test_simple_text", &json!({}))
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let (revoked, kept) = (gateway.key().await, gateway.key().await);
    let session = Session::open(&gateway, "fixture", &revoked).await;
    for _ in 0..20 {
        call(&revoked).send(gateway.address).await.expect(200);
    }
    gateway.revoke(&revoked).await;
    // The answer above is the last moment at which it was good.
    let refused = call(&revoked).send(gateway.address).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").contains("error=\"invalid_token\""), "{:?}", refused.headers);
    session.call(1, "test_simple_text", &json!({})).send(gateway.address).await.expect(401);
    call(&kept).send(gateway.address).await.expect(200);
}

#[tokio::test]
async fn a_key_ends_when_it_says() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let soon = jiff::Timestamp::now() + std::time::Duration::from_secs(3);
    let key = gateway.key_for(&json!({ "name": "short", "servers": ["*"], "expires_at": soon })).await;
    call(&key).send(gateway.address).await.expect(200);
    until("the key's end", async || (call(&key).send(gateway.address).await.status == 401).then_some(())).await;
    assert!(jiff::Timestamp::now() >= soon);
}

#[tokio::test]
async fn a_request_without_a_good_credential_is_told_where_to_get_one() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let mut wrong = key.secret.clone();
    wrong.pop();
    let metadata = "/.well-known/oauth-protected-resource/mcp-connect/fixture";
    for base in
        [call(&key).without("authorization"), Call::get(&mcp::path("fixture")), Call::delete(&mcp::path("fixture"))]
    {
        let answer = base.clone().send(gateway.address).await;
        assert_eq!(answer.status, 401);
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer ") && challenge.contains(metadata), "{challenge}");
        assert!(!challenge.contains("error="), "{challenge}");
        for bad in [&*wrong, "x", "system-tests-bootstrap-token-0123456789"] {
            let answer = base.clone().bearer(bad).send(gateway.address).await;
            assert_eq!(answer.status, 401, "{bad}");
            assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""), "{bad}");
        }
        let cookie = base.header("cookie", &format!("key={}", key.secret));
        cookie.send(gateway.address).await.expect(401);
    }
    assert_eq!(fixture.seen().await.len(), 0);
    // Whether a server exists is nobody's business who has no key.
    let absent = Call::get(&mcp::path("absent")).send(gateway.address).await;
    assert_eq!(absent.status, 401);
}

#[tokio::test]
async fn a_key_is_good_for_the_servers_it_lists() {
    let fixture = Fixture::start();
    let other = fixture.entry().replace("entryKey: fixture", "entryKey: other");
    let trusted = [("RUNTIME__PROCESS__I_TRUST_ALL_SERVERS", "true")];
    let gateway = Gateway::start_with(&[fixture.entry(), other], &trusted).await;
    let owners = gateway.key_for(&json!({ "name": "one", "servers": ["other"] })).await;
    let persons = gateway.key_for(&json!({ "name": "two", "servers": ["other"], "subject": "alice" })).await;
    // The owner could use another key; to Alice the server does not exist, just as one that really does not.
    call(&owners).send(gateway.address).await.expect(403);
    let hidden = call(&persons).send(gateway.address).await.expect(404);
    let absent = mcp::modern_tool("absent", &persons, 1, "test_simple_text", &json!({}));
    let absent = absent.send(gateway.address).await.expect(404);
    assert_eq!(hidden.body, absent.body);
    assert_eq!(fixture.seen().await.len(), 0);
    for key in [&owners, &persons] {
        let call = mcp::modern_tool("other", key, 1, "test_simple_text", &json!({}));
        call.send(gateway.address).await.expect(200);
    }
}

#[tokio::test]
async fn a_key_of_the_data_plane_is_none_of_the_admin_api() {
    let gateway = Gateway::start(&[]).await;
    let key = gateway.key().await;
    for path in ["/api/v1/api-keys", "/api/v1/servers", "/api/v1/audit-events"] {
        for call in [Call::get(path), Call::get(path).bearer(&key.secret)] {
            let answer = call.send(gateway.address).await;
            assert!(matches!(answer.status.as_u16(), 401 | 403), "{path}: {}", answer.status);
        }
    }
    let body = json!({ "name": "more", "servers": ["*"] }).to_string();
    let mint = Call::post("/api/v1/api-keys", body).header("content-type", "application/json").bearer(&key.secret);
    let answer = mint.send(gateway.address).await;
    assert!(matches!(answer.status.as_u16(), 401 | 403), "{}", answer.status);
}

#[tokio::test]
async fn two_people_have_two_instances_of_a_single_user_server() {
    let entry = stdio_fixture().replace("multiUser", "singleUser");
    let gateway = Gateway::start_with(&[entry], &[("RUNTIME__PROCESS__I_TRUST_ALL_SERVERS", "true")]).await;
    let alice = gateway.key_for(&json!({ "name": "a", "servers": ["*"], "subject": "alice" })).await;
    let other = gateway.key_for(&json!({ "name": "a2", "servers": ["*"], "subject": "alice" })).await;
    let bob = gateway.key_for(&json!({ "name": "b", "servers": ["*"], "subject": "bob" })).await;
    let count = async |key: &Key| {
        let call = mcp::modern_tool("stdio", key, 1, "cancelled_count", &json!({}));
        call.send(gateway.address).await.expect(200).tool_text()
    };
    assert_eq!((count(&alice).await, count(&bob).await), ("0".into(), "0".into()));
    let address = gateway.address;
    let sleep = mcp::modern_tool("stdio", &alice, 2, "sleep_ms", &json!({ "ms": 120_000 }));
    let waiting = tokio::spawn(async move { sleep.open(address).await.finish().await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    waiting.abort();
    // An instance belongs to the person, whichever of their keys calls.
    until("alice's count", async || (count(&other).await == "1").then_some(())).await;
    assert_eq!(count(&bob).await, "0");
}

#[tokio::test]
async fn a_second_person_gets_no_child_unless_the_operator_says_so() {
    let gateway = Gateway::start(&[stdio_fixture()]).await;
    let owner = gateway.key().await;
    let first = mcp::modern_tool("stdio", &owner, 1, "test_simple_text", &json!({}));
    first.send(gateway.address).await.expect(200);
    let body = json!({ "name": "b", "servers": ["*"], "subject": "bob" }).to_string();
    let made = gateway.admin(Call::post("/api/v1/api-keys", body.clone())).await.expect(409);
    assert!(made.text().contains("i_trust_all_servers"), "{}", made.text());
    // With the operator's word it is made, and works.
    let trusting = [("RUNTIME__PROCESS__I_TRUST_ALL_SERVERS", "true")];
    let gateway = Gateway::start_with(&[stdio_fixture()], &trusting).await;
    gateway.key().await;
    let bob = gateway.key_for(&serde_json::from_str(&body).unwrap()).await;
    let second = mcp::modern_tool("stdio", &bob, 1, "test_simple_text", &json!({}));
    second.send(gateway.address).await.expect(200);
}
