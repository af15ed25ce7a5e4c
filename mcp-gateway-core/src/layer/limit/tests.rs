use http::Method;

use super::*;
use crate::context::MessageFacts;
use crate::contract::SystemClock;
use crate::memory::MemoryRateLimiter;
use crate::record::{Actor, ActorKind};

fn layer(calls: usize, streams: usize) -> CallerLimitLayer {
    CallerLimitLayer::new(MemoryRateLimiter::new(SystemClock, 10), None, AtOnce { calls, streams })
}

/// The head of a request that was let in, which keeps its place, or the refusal.
fn enter(layer: &CallerLimitLayer, method: Method, principal: Principal) -> Result<Parts, Refusal> {
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(principal)).unwrap();
    let (mut parts, ()) = http::Request::builder().method(method).extension(cx).body(()).unwrap().into_parts();
    match layer.judge(&mut parts) {
        MaybeReady::Ready(judgement) => judgement.map(|()| parts),
        MaybeReady::Wait(_) => panic!("nothing to wait for"),
    }
}

#[test]
fn a_caller_has_so_many_calls_and_so_many_streams_at_once() {
    let layer = layer(2, 1);
    let ada = || Principal::new("local", "ada");
    let first = enter(&layer, Method::POST, ada()).unwrap();
    let _second = enter(&layer, Method::DELETE, ada()).unwrap();
    let refused = enter(&layer, Method::POST, ada()).unwrap_err();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let response: http::Response<bytes::Bytes> = refused.into_mcp(None);
    assert_eq!(response.headers()["retry-after"], "1");
    // Another key of the same person has no room of its own; another person has, and so have streams.
    let key = Actor { kind: ActorKind::ApiKey, id: "second".into(), name: None };
    assert!(enter(&layer, Method::POST, ada().with_actor(key)).is_err());
    assert!(enter(&layer, Method::POST, Principal::new("local", "bob")).is_ok());
    let _stream = enter(&layer, Method::GET, ada()).unwrap();
    assert!(enter(&layer, Method::GET, ada()).is_err());
    drop(first);
    let _third = enter(&layer, Method::POST, ada()).unwrap();
    assert!(enter(&layer, Method::POST, ada()).is_err());
}

#[test]
fn callers_without_anything_under_way_are_forgotten() {
    let layer = layer(1, 0);
    for id in 0..100 {
        drop(enter(&layer, Method::POST, Principal::new("local", id.to_string())).unwrap());
        assert!(enter(&layer, Method::GET, Principal::new("local", id.to_string())).is_err());
    }
    assert_eq!((layer.0.calls.callers(), layer.0.streams.callers()), (0, 0));
}

#[test]
fn only_requests_use_up_what_a_server_has() {
    let rate = Some(Rate { limit: 1, seconds: 60 });
    let layer = TargetLimitLayer::new(MemoryRateLimiter::new(SystemClock, 10), rate, None);
    let judge = |kind| {
        let cx = McpContext::new(&SystemClock);
        cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
        cx.set_route(Arc::new(crate::record::Route::remote("a"))).unwrap();
        cx.set_message(MessageFacts { kind, ..MessageFacts::none() }).unwrap();
        let (mut parts, ()) = http::Request::builder().extension(cx).body(()).unwrap().into_parts();
        match layer.judge(&mut parts) {
            MaybeReady::Ready(judgement) => judgement.is_ok(),
            MaybeReady::Wait(_) => panic!("nothing to wait for"),
        }
    };
    let uncounted = [MessageKind::Notification, MessageKind::Response, MessageKind::None];
    assert_eq!(uncounted.map(judge), [true; 3]);
    assert_eq!([MessageKind::Request; 2].map(judge), [true, false]);
    assert_eq!(uncounted.map(judge), [true; 3]);
}

#[test]
fn a_key_has_a_rate_of_its_own_beside_that_of_all_keys() {
    let limiter = MemoryRateLimiter::new(SystemClock, 10);
    let all = Some(Rate { limit: 2, seconds: 60 });
    let layer = CallerLimitLayer::new(limiter, None, AtOnce { calls: 10, streams: 10 }).with_keys(all);
    let with_key = |id: &str, rate| {
        let actor = Actor { kind: ActorKind::ApiKey, id: id.into(), name: None };
        enter(&layer, Method::POST, Principal::new("local", "ada").with_actor(actor).with_rate(rate)).is_ok()
    };
    let slow = Some(Rate { limit: 1, seconds: 60 });
    assert!(with_key("usual", None) && with_key("usual", None) && !with_key("usual", None));
    assert!(with_key("slow", slow) && !with_key("slow", slow), "its own, below that of all");
    let fast = Some(Rate { limit: 3, seconds: 60 });
    assert!((0..2).all(|_| with_key("fast", fast)) && !with_key("fast", fast), "its own lifts nothing");
    // Whoever calls with something else has no key's rate.
    assert!((0..3).all(|_| enter(&layer, Method::POST, Principal::new("local", "ada")).is_ok()));
    let actor = Actor { kind: ActorKind::ApiKey, id: "slow".into(), name: None };
    let slow = Principal::new("local", "ada").with_actor(actor).with_rate(slow);
    let response: http::Response<bytes::Bytes> = enter(&layer, Method::POST, slow).unwrap_err().into_mcp(None);
    assert!(response.headers().contains_key("retry-after"));
}

#[test]
fn an_address_counts_as_its_network() {
    for (address, counts) in
        [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::")]
    {
        assert_eq!(network(address.parse().unwrap()).to_string(), counts);
    }
}
