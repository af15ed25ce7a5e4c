//! The bridge against a scripted server in memory.

mod client;
mod script;

use std::time::Duration;

use mcp_gateway_core::record::Principal;
use serde_json::{Value, json};

use self::client::{Client, next};
use self::script::{Script, Speaks};
use super::*;

#[tokio::test]
async fn one_session_has_one_child() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client::legacy(&bridge).await;
    for id in 1..5 {
        let events = client.call(json!(id), "echo", json!({"n": id})).await.unwrap().all().await;
        assert_eq!(
            events.last().unwrap().1,
            json!({"jsonrpc": "2.0", "id": id, "result": {"child": 0, "got": {"n": id}}})
        );
    }
    assert_eq!(script.starts(), 1);
    assert_eq!(client.send("DELETE", &[], None).await.unwrap().status, 204);
    assert_eq!(client.call(json!(9), "echo", json!({})).await.unwrap().status, 404);
}

#[tokio::test]
async fn sessions_never_see_each_others_messages() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let (ada, eve) = (Client::legacy(&bridge).await, Client::legacy(&bridge).await);
    assert_eq!(script.starts(), 2);
    let mut eves = eve.send("GET", &[], None).await.unwrap();
    let mut adas = ada.send("GET", &[], None).await.unwrap();
    // Equal ids and tokens in both.
    let (a, e) = tokio::join!(ada.call(json!(1), "progress", json!({})), eve.call(json!(1), "progress", json!({})));
    for (events, child) in [(a.unwrap().all().await, 0), (e.unwrap().all().await, 1)] {
        assert_eq!(events.len(), 5, "priming, three steps, the result");
        assert_eq!(events.last().unwrap().1["result"]["child"], child);
    }
    ada.call(json!(2), "changed", json!({})).await.unwrap().all().await;
    assert_eq!(next(&mut adas.body).await.unwrap().1["method"], "notifications/tools/list_changed");
    let silent = tokio::time::timeout(Duration::from_millis(100), next(&mut eves.body)).await;
    assert!(silent.is_err(), "a message of another session came");
}

#[tokio::test]
async fn a_missing_session_is_400_and_an_unknown_one_404() {
    let bridge = Script::new(Speaks::Legacy).bridge();
    let client = Client::modern(&bridge);
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(client.send("POST", &[], Some(&message)).await.unwrap().status, 400);
    assert_eq!(client.send("GET", &[], None).await.unwrap().status, 400);
    for id in ["0123456789abcdef0123456789abcdef", "x"] {
        let headers = [("mcp-session-id", id)];
        assert_eq!(client.send("POST", &headers, Some(&message)).await.unwrap().status, 404);
        assert_eq!(client.send("GET", &headers, None).await.unwrap().status, 404);
        assert_eq!(client.send("DELETE", &headers, None).await.unwrap().status, 404);
    }
    assert_eq!(client.send("PUT", &[], None).await.unwrap().status, 405);
}

#[tokio::test]
async fn a_crash_is_broken_and_the_next_call_works() {
    let script = Script::new(Speaks::Both);
    let bridge = script.bridge();
    // Legacy: the session is gone, a new one works.
    let client = Client::legacy(&bridge).await;
    let error = client.call(json!(1), "crash", json!({})).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Broken);
    assert_eq!(error.detail.as_deref(), Some("the last words"));
    assert!(!error.public.contains("words"));
    assert_eq!(client.call(json!(2), "echo", json!({})).await.unwrap().status, 404);
    let client = Client::legacy(&bridge).await;
    assert_eq!(client.call(json!(2), "echo", json!({})).await.unwrap().status, 200);
    // Modern: the next call has a new child.
    let client = Client::modern(&bridge);
    let error = client.call(json!(1), "crash", json!({})).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Broken);
    assert_eq!(client.call(json!(2), "echo", json!({})).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_crash_after_the_head_is_an_event() {
    let script = Script::new(Speaks::Both);
    let bridge = script.bridge();
    for client in [Client::legacy(&bridge).await, Client::modern(&bridge)] {
        let events = client.call(json!("c"), "progress-then-crash", json!({})).await.unwrap().all().await;
        let (_, last) = events.last().unwrap();
        assert_eq!(last["id"], "c");
        assert_eq!(last["error"]["code"], rpc::code::INTERNAL_ERROR);
    }
}

#[tokio::test]
async fn many_first_calls_share_one_start() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge();
    let calls = (0..100).map(|id| {
        let client = Client::modern(&bridge);
        async move { client.call(json!(id), "echo", json!({"n": id})).await.unwrap().all().await }
    });
    for (id, events) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(
            events,
            [(String::new(), json!({"jsonrpc": "2.0", "id": id, "result": {"child": 0, "got": {"n": id}}}))]
        );
    }
    assert_eq!(script.starts(), 1);
}

#[tokio::test]
async fn a_modern_disconnect_cancels_in_the_child() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge();
    let client = Client::modern(&bridge);
    let answer = client.call(json!("mine"), "hang", json!({})).await.unwrap();
    let called = script.hears("tools/call").await;
    assert!(script.heard("notifications/cancelled").is_empty());
    drop(answer);
    let cancelled = script.hears("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], called["id"]);
    assert_eq!(bridge.usage().calls, 0);
    // Before the head, too.
    let message = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "hang"}});
    let call = client.modern_call(message, "hang");
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
    for _ in 0..200 {
        if script.heard("notifications/cancelled").len() == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the second call was not cancelled");
}

#[tokio::test]
async fn a_legacy_disconnect_cancels_nothing_and_is_resumed() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client::legacy(&bridge).await;
    let mut answer = client.call(json!(1), "late", json!({})).await.unwrap();
    let (cursor, priming) = next(&mut answer.body).await.unwrap();
    assert_eq!(priming, Value::Null);
    drop(answer);
    let resumed = client.send("GET", &[("last-event-id", &cursor)], None).await.unwrap().all().await;
    assert_eq!(resumed.len(), 1);
    assert_eq!(resumed[0].1["result"], json!({"late": true}));
    // Again, from the same place.
    let again = client.send("GET", &[("last-event-id", &cursor)], None).await.unwrap().all().await;
    assert_eq!(again, resumed);
    assert!(script.heard("notifications/cancelled").is_empty());
    let other = Client::legacy(&bridge).await;
    for (client, foreign) in
        [(&client, "7-0"), (&client, "1-9"), (&client, "x"), (&client, "01-0"), (&other, cursor.as_str())]
    {
        assert_eq!(client.send("GET", &[("last-event-id", foreign)], None).await.unwrap().status, 400, "{foreign}");
    }
}

#[tokio::test]
async fn equal_ids_of_two_modern_callers_do_not_meet() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge();
    let (ada, eve) = (Client::modern(&bridge), Client::modern(&bridge));
    let hanging = ada.call(json!(1), "hang", json!({})).await.unwrap();
    let events = eve.call(json!(1), "progress", json!({})).await.unwrap().all().await;
    assert_eq!(events.len(), 4);
    for (step, (_, event)) in events[..3].iter().enumerate() {
        assert_eq!(event["params"], json!({"progressToken": 1, "progress": step}));
    }
    assert_eq!(events[3].1["id"], 1);
    let called = script.heard("tools/call");
    assert_ne!(called[0]["id"], called[1]["id"]);
    for call in &called {
        assert_eq!(call["id"], call["params"]["_meta"]["progressToken"]);
    }
    drop(hanging);
}

#[tokio::test]
async fn only_its_own_caller_cancels_a_request() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge();
    let principal = |name: &str| Some(Principal::new("local", name));
    let ada = Client { principal: principal("ada"), ..Client::modern(&bridge) };
    let eve = Client { principal: principal("eve"), ..Client::modern(&bridge) };
    let hanging = ada.call(json!(1), "hang", json!({})).await.unwrap();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let headers = [("mcp-protocol-version", "2026-07-28")];
    assert_eq!(eve.send("POST", &headers, Some(&cancel)).await.unwrap().status, 202);
    assert_eq!(bridge.usage().dropped, 1);
    assert_eq!(ada.send("POST", &headers, Some(&cancel)).await.unwrap().status, 202);
    let heard = script.hears("notifications/cancelled").await;
    assert_eq!(heard["params"]["requestId"], script.heard("tools/call")[0]["id"]);
    drop(hanging);
}

#[tokio::test]
async fn subscriptions_get_their_own_and_nobody_gets_the_rest() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge();
    let client = Client::modern(&bridge);
    let listen = json!({"jsonrpc": "2.0", "id": "sub", "method": "subscriptions/listen", "params": {}});
    let mut listening = client.modern_call(listen, "").await.unwrap();
    let (_, acknowledged) = next(&mut listening.body).await.unwrap();
    assert_eq!(acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    let events = client.call(json!(2), "changed", json!({})).await.unwrap().all().await;
    assert_eq!(events.len(), 1, "only the result");
    let (_, changed) = next(&mut listening.body).await.unwrap();
    assert_eq!(changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    assert_eq!(bridge.usage().dropped, 1, "the one that named no subscription");
}

#[tokio::test]
async fn server_requests_go_to_the_call_in_flight_and_come_back() {
    let bridge = Script::new(Speaks::Legacy).bridge();
    let client = Client::legacy(&bridge).await;
    let mut answer = client.call(json!(1), "ask", json!({})).await.unwrap();
    next(&mut answer.body).await.unwrap();
    let (_, asked) = next(&mut answer.body).await.unwrap();
    assert_eq!(asked, json!({"jsonrpc": "2.0", "id": "s-1", "method": "roots/list"}));
    let reply = json!({"jsonrpc": "2.0", "id": "s-1", "result": {"roots": []}});
    assert_eq!(client.send("POST", &[], Some(&reply)).await.unwrap().status, 202);
    let (_, last) = next(&mut answer.body).await.unwrap();
    assert_eq!(last["result"]["answered"], json!({"roots": []}));
}

#[tokio::test]
async fn a_cancelled_legacy_request_ends_its_stream() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client::legacy(&bridge).await;
    let answer = client.call(json!("x"), "hang", json!({})).await.unwrap();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}});
    assert_eq!(client.send("POST", &[], Some(&cancel)).await.unwrap().status, 202);
    let events = answer.all().await;
    assert_eq!(events.last().unwrap().1["id"], "x");
    assert!(events.last().unwrap().1["error"].is_object());
    script.hears("notifications/cancelled").await;
    assert_eq!(bridge.usage().calls, 0);
}

#[tokio::test]
async fn what_is_no_message_goes_to_the_log() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client::legacy(&bridge).await;
    let events = client.call(json!(1), "noise", json!({})).await.unwrap().all().await;
    let messages: Vec<_> = events.iter().map(|event| &event.1).filter(|message| !message.is_null()).collect();
    assert_eq!(messages.len(), 2);
    assert_eq!(*script.stray.lock().unwrap(), ["[INFO] not a message", "{broken", "plain"]);
}

#[tokio::test]
async fn eras_shine_through() {
    // A server with handshake, asked without one: the answer that makes clients fall back.
    let script = Script::new(Speaks::Legacy);
    let answer = Client::modern(&script.bridge()).call(json!(1), "echo", json!({})).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json().await["error"]["code"], -32000);
    // A server without, asked for one: its own answer.
    let bridge = Script::new(Speaks::Modern).bridge();
    let client = Client::modern(&bridge);
    let message =
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}});
    let answer = client.send("POST", &[], Some(&message)).await.unwrap();
    assert_eq!((answer.status, answer.session.clone()), (404, None));
    assert_eq!(answer.json().await["error"]["code"], -32601);
    // Statuses of the modern era.
    let unknown = json!({"jsonrpc": "2.0", "id": 1, "method": "x/unknown", "params": {}});
    let answer = client.modern_call(unknown, "").await.unwrap();
    assert_eq!(answer.status, 404);
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let bare = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
    let answer = client.send("POST", &headers, Some(&bare)).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json().await["error"]["code"], -32602);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}});
    let answer = client.modern_call(call, "other").await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json().await["error"]["code"], -32020);
    let get = client.send("GET", &[("mcp-protocol-version", "2026-07-28")], None).await.unwrap();
    assert_eq!(get.status, 405);
}

#[tokio::test]
async fn a_plain_modern_answer_is_json_with_the_bytes_of_the_server() {
    let bridge = Script::new(Speaks::Modern).bridge();
    let client = Client::modern(&bridge);
    let message = json!({"jsonrpc": "2.0", "id": "a\u{e9}", "method": "tools/call", "params": {"name": "echo", "arguments": {"n": 1e30}}});
    let answer = client.modern_call(message, "echo").await.unwrap();
    assert!(!answer.events);
    assert_eq!(answer.json().await, json!({"jsonrpc": "2.0", "id": "aé", "result": {"child": 0, "got": {"n": 1e30}}}));
}

#[tokio::test]
async fn a_slow_reader_loses_its_stream_and_nobody_else() {
    let script = Script::new(Speaks::Both);
    let bridge = script.bridge_with(|options| {
        options.buffer_events = 50;
        options.buffer_bytes = 20 << 10;
    });
    for client in [Client::legacy(&bridge).await, Client::modern(&bridge)] {
        let slow = client.call(json!(1), "flood", json!({})).await.unwrap();
        let quick = client.call(json!(2), "echo", json!({})).await.unwrap().all().await;
        assert_eq!(quick.last().unwrap().1["id"], 2);
        let got = slow.all().await;
        assert!(got.len() < 100, "{} events were kept", got.len());
        assert!(got.iter().all(|(_, event)| event.get("result").is_none()), "the stream went on after a gap");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_an_open_get_is_not_use() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client::legacy(&bridge).await;
    let get = client.send("GET", &[], None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(bridge.usage().sessions, 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bridge.usage().sessions, 0);
    assert!(get.all().await.is_empty());
    assert_eq!(script.stopped.load(Ordering::SeqCst), 1);
    assert_eq!(client.call(json!(1), "echo", json!({})).await.unwrap().status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_call_holds_the_child_while_its_client_waits_and_no_longer() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client::legacy(&bridge).await;
    let hanging = client.call(json!(1), "hang", json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    assert_eq!((bridge.usage().sessions, bridge.usage().calls), (1, 1));
    // From here on it has as long to come back as any other session.
    drop(hanging);
    assert_eq!(bridge.usage().calls, 0);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(bridge.usage().sessions, 1);
    tokio::time::sleep(Duration::from_secs(620)).await;
    assert_eq!((bridge.usage().sessions, script.stopped.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_open_subscription_is_not_use_and_ends_with_its_result() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge();
    let message = json!({"jsonrpc": "2.0", "id": "a", "method": "subscriptions/listen", "params": {"_meta": {}}});
    let mut open = Client::modern(&bridge).modern_call(message, "").await.unwrap();
    next(&mut open.body).await.unwrap();
    assert_eq!(bridge.usage().calls, 0);
    let since = bridge.usage().last_use;
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    assert_eq!(bridge.usage().last_use, since);
    bridge.shutdown();
    let (_, end) = open.all().await.pop().unwrap();
    let result = json!({"resultType": "complete", "_meta": {"io.modelcontextprotocol/subscriptionId": "a"}});
    assert_eq!(end, json!({"jsonrpc": "2.0", "id": "a", "result": result}));
}

#[tokio::test(start_paused = true)]
async fn a_client_of_one_object_that_left_holds_no_child() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let client = Client { json: true, ..Client::legacy(&bridge).await };
    let asked = client.call(json!(1), "hang", json!({}));
    assert!(tokio::time::timeout(Duration::from_secs(3_000), asked).await.is_err());
    assert_eq!(bridge.usage().calls, 0);
    tokio::time::sleep(Duration::from_secs(1_210)).await;
    assert_eq!(bridge.usage().sessions, 0);
}

#[tokio::test]
async fn calls_whose_clients_left_make_room() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge_with(|options| options.max_calls = 2);
    let client = Client::legacy(&bridge).await;
    let mut first = client.call(json!("a"), "hang", json!({})).await.unwrap();
    let (cursor, _) = next(&mut first.body).await.unwrap();
    let second = client.call(json!("b"), "hang", json!({})).await.unwrap();
    drop(first);
    drop(second);
    let third = client.call(json!("c"), "hang", json!({})).await.unwrap();
    assert_eq!(script.hears("notifications/cancelled").await["params"]["requestId"], "a");
    // Whoever comes back for its answer learns of it.
    let resumed = client.send("GET", &[("last-event-id", &cursor)], None).await.unwrap().all().await;
    assert_eq!(resumed.last().unwrap().1["error"]["code"], 49900);
    let _fourth = client.call(json!("d"), "hang", json!({})).await.unwrap();
    let full = client.call(json!("e"), "hang", json!({})).await.err().unwrap();
    assert_eq!(full.kind, UpstreamErrorKind::Exhausted);
    drop(third);
}

#[tokio::test]
async fn limits_have_edges() {
    let script = Script::new(Speaks::Both);
    let bridge = script.bridge_with(|options| {
        options.max_sessions = 1;
        options.max_calls = 1;
        options.max_body = 300;
        options.head_delay = Duration::ZERO;
    });
    let client = Client::legacy(&bridge).await;
    let params = json!({"protocolVersion": "2025-11-25"});
    let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let full = Client::modern(&bridge).send("POST", &[], Some(&message)).await.err().unwrap();
    assert_eq!(full.kind, UpstreamErrorKind::Exhausted);
    for client in [client, Client::modern(&bridge)] {
        let hanging = client.call(json!(1), "hang", json!({})).await.unwrap();
        let full = client.call(json!(2), "echo", json!({})).await.err().unwrap();
        assert_eq!(full.kind, UpstreamErrorKind::Exhausted);
        drop(hanging);
        let large = client.call(json!(3), "echo", json!({"x": "y".repeat(300)})).await.unwrap();
        assert_eq!(large.status, 413);
    }
}

#[tokio::test]
async fn a_line_over_the_cap_ends_the_child() {
    let script = Script::new(Speaks::Modern);
    let bridge = script.bridge_with(|options| options.max_line = 600);
    let client = Client::modern(&bridge);
    let fits = client.call(json!(1), "echo", json!({"x": "y".repeat(400)})).await.unwrap();
    assert_eq!(fits.status, 200);
    let error = client.call(json!(1), "echo", json!({"x": "y".repeat(700)})).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Broken);
}

#[tokio::test]
async fn nothing_starts_after_the_stop() {
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}}});
    for speaks in [Speaks::Legacy, Speaks::Modern] {
        let script = Script::new(speaks);
        let bridge = script.bridge();
        bridge.start().await.unwrap();
        bridge.shutdown();
        let client = Client::modern(&bridge);
        let starts = script.starts();
        // As of a client whose body was slow: its request found the bridge before the stop.
        for refused in [
            client.send("POST", &[], Some(&initialize)).await.err().unwrap(),
            client.call(json!(1), "echo", json!({})).await.err().unwrap(),
        ] {
            assert_eq!(refused.kind, UpstreamErrorKind::Unavailable, "{refused:?}");
        }
        assert_eq!(script.starts(), starts);
    }
    // In the middle of the start of a session's child.
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let opens = async { Client::modern(&bridge).send("POST", &[], Some(&initialize)).await };
    let stops = async {
        while script.starts() == 0 {
            tokio::task::yield_now().await;
        }
        bridge.shutdown();
    };
    let (opened, ()) = tokio::join!(opens, stops);
    assert_eq!(opened.err().unwrap().kind, UpstreamErrorKind::Unavailable);
    assert_eq!((script.starts(), bridge.usage().sessions), (1, 0));
    for _ in 0..1000 {
        if script.stopped.load(Ordering::SeqCst) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the child that started meanwhile runs on");
}

#[tokio::test]
async fn the_stop_ends_a_handshake_under_way() {
    let script = Script::new(Speaks::Legacy);
    let bridge = script.bridge();
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "hangs": true}});
    let opens = async { Client::modern(&bridge).send("POST", &[], Some(&initialize)).await };
    let stops = async {
        script.hears("initialize").await;
        bridge.shutdown();
    };
    let both = async { tokio::join!(opens, stops) };
    let (opened, ()) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("it ends with the stop");
    assert_eq!(opened.err().unwrap().kind, UpstreamErrorKind::Unavailable);
    while script.stopped.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_id_may_be_as_long_as_the_options_say() {
    const LONGEST: usize = 3_000;
    let script = Script::new(Speaks::Both);
    let bridge = script.bridge_with(|options| options.max_id = LONGEST);
    for client in [Client::legacy(&bridge).await, Client::modern(&bridge)] {
        let id = "x".repeat(LONGEST - 2);
        let events = client.call(json!(id), "echo", json!({})).await.unwrap().all().await;
        assert_eq!(events.last().unwrap().1["id"], id.as_str(), "with its quotes it is as long as it may be");
        let longer = client.call(json!(format!("{id}x")), "echo", json!({})).await.unwrap();
        assert_eq!(longer.status, 400);
    }
}
