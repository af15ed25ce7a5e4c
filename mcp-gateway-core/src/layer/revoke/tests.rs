use std::collections::HashSet;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::BodyExt;
use jiff::Timestamp;
use tower::ServiceExt;

use super::*;
use crate::context::{MessageFacts, MessageKind};
use crate::contract::SystemClock;
use crate::record::Principal;

/// One frame, then silence.
struct Quiet(bool);

impl http_body::Body for Quiet {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.0, false) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": hi\n\n")))));
        }
        Poll::Pending
    }
}

struct World {
    revoked: Arc<Mutex<HashSet<String>>>,
    unknown: Arc<AtomicBool>,
    /// What is said of whoever is not revoked.
    says: Arc<Mutex<Option<Standing>>>,
    changes: watch::Sender<Revision>,
}

impl World {
    fn new() -> Self {
        Self {
            revoked: Arc::default(),
            unknown: Arc::default(),
            says: Arc::default(),
            changes: watch::channel(Revision(1)).0,
        }
    }

    fn layer(&self) -> RevokeLayer {
        let (revoked, unknown) = (Arc::clone(&self.revoked), Arc::clone(&self.unknown));
        let says = Arc::clone(&self.says);
        let stands = move |cx: &McpContext| match () {
            () if revoked.lock().unwrap().contains(&*cx.principal().unwrap().subject.id) => Standing::Revoked,
            () if unknown.load(Ordering::SeqCst) => Standing::Unknown,
            () => says.lock().unwrap().clone().unwrap_or(Standing::Stands),
        };
        RevokeLayer::new(Arc::new(stands), self.changes.subscribe(), Arc::new(SystemClock))
    }

    fn lose_the_store(&self) {
        self.unknown.store(true, Ordering::SeqCst);
        self.changes.send_modify(|_| {});
    }

    fn say(&self, standing: Standing) {
        *self.says.lock().unwrap() = Some(standing);
        self.changes.send_modify(|revision| revision.0 += 1);
    }

    fn revoke(&self, id: &str) {
        self.revoked.lock().unwrap().insert(id.to_owned());
        self.changes.send_modify(|revision| revision.0 += 1);
    }
}

fn request(method: Method, principal: Principal) -> Request<()> {
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(principal)).unwrap();
    Request::builder().method(method).extension(cx).body(()).unwrap()
}

async fn stream(world: &World, method: Method, principal: Principal) -> Body {
    let inner =
        tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Body::new(Quiet(true)))) });
    let response = world.layer().layer(inner).oneshot(request(method, principal)).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    body
}

#[tokio::test]
async fn streams_of_the_revoked_break_off_and_others_go_on() {
    let world = World::new();
    let mut ada = stream(&world, Method::GET, Principal::new("local", "ada")).await;
    let mut eve = stream(&world, Method::GET, Principal::new("local", "eve")).await;
    assert!(futures_util::poll!(eve.frame()).is_pending());
    world.revoke("eve");
    assert!(eve.frame().await.unwrap().is_err());
    assert!(eve.frame().await.is_none());
    assert!(futures_util::poll!(ada.frame()).is_pending());
}

struct Told(watch::Receiver<bool>);

impl crate::record::CredentialWatch for Told {
    fn over(&self) -> BoxFuture<()> {
        let mut told = self.0.clone();
        Box::pin(async move { drop(told.wait_for(|over| *over).await) })
    }
}

/// A credential of whose end nobody here hears is looked after while something is open.
#[tokio::test]
async fn what_a_watched_credential_has_open_ends_with_it() {
    let world = World::new();
    let (tell, told) = watch::channel(false);
    let watched = Principal::new("local", "eve").with_watch(Watch::new(Told(told)));
    let mut eve = stream(&world, Method::GET, watched).await;
    assert!(futures_util::poll!(eve.frame()).is_pending());
    tell.send_replace(true);
    assert!(eve.frame().await.unwrap().is_err());
}

/// Its issuer says the same of a token that has expired as of one that was revoked.
#[tokio::test]
async fn a_call_goes_on_when_a_watched_credential_expires() {
    let world = World::new();
    for expired in [true, false] {
        let (tell, told) = watch::channel(false);
        let until = Timestamp::now() + Duration::from_millis(if expired { 50 } else { 3_600_000 });
        let watched = Principal::new("local", "ada").with_watch(Watch::new(Told(told))).with_expiry(Some(until));
        let mut call = stream(&world, Method::POST, watched).await;
        assert!(futures_util::poll!(call.frame()).is_pending());
        if expired {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        tell.send_replace(true);
        if expired {
            assert!(futures_util::poll!(call.frame()).is_pending());
            world.revoke("ada");
        }
        assert!(call.frame().await.unwrap().is_err(), "revoked is revoked");
        world.revoked.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_call_that_waits_for_its_server_is_cut() {
    let world = World::new();
    let inner = tower::service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
    let call = world.layer().layer(inner).oneshot(request(Method::POST, Principal::new("local", "eve")));
    let mut call = Box::pin(call);
    assert!(futures_util::poll!(&mut call).is_pending());
    world.revoke("ada");
    assert!(futures_util::poll!(&mut call).is_pending());
    world.revoke("eve");
    assert_eq!(call.await.unwrap().status().as_u16(), 401);
}

#[tokio::test]
async fn a_stream_ends_when_its_credential_does_and_a_call_does_not() {
    let world = World::new();
    let soon = Principal::new("local", "ada").with_expiry(Some(Timestamp::now() + Duration::from_millis(50)));
    let mut get = stream(&world, Method::GET, soon.clone()).await;
    assert!(get.frame().await.is_none());
    let mut post = stream(&world, Method::POST, soon).await;
    assert!(futures_util::poll!(post.frame()).is_pending());
}

#[tokio::test]
async fn a_call_outlives_its_credential_for_so_long_and_no_longer() {
    let world = World::new();
    let max = Duration::from_millis(100);
    let ending = Principal::new("local", "ada").with_expiry(Some(Timestamp::now() + Duration::from_millis(50)));
    let begun = std::time::Instant::now();
    let quiet =
        || tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Body::new(Quiet(true)))) });
    let silent = || tower::service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
    let layer = world.layer().call_max(max);
    let mut body = layer.layer(quiet()).oneshot(request(Method::POST, ending.clone())).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    let (end, refused) =
        tokio::join!(body.frame(), layer.layer(silent()).oneshot(request(Method::POST, ending.clone())));
    assert!(begun.elapsed() >= max, "not with its credential");
    assert!(end.unwrap().is_err(), "broken off, so that nobody takes it for whole");
    assert_eq!(refused.unwrap().status().as_u16(), 401);
    // One without an end may take its time.
    let endless = layer.layer(silent()).oneshot(request(Method::POST, Principal::new("local", "ada")));
    assert!(tokio::time::timeout(max * 2, endless).await.is_err());
}

#[tokio::test]
async fn streams_end_when_nobody_can_tell_any_more_and_calls_go_on() {
    let world = World::new();
    let ada = || Principal::new("local", "ada");
    let mut get = stream(&world, Method::GET, ada()).await;
    let mut post = stream(&world, Method::POST, ada()).await;
    let silent = || tower::service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
    let mut waiting = Box::pin(world.layer().layer(silent()).oneshot(request(Method::GET, ada())));
    let mut calling = Box::pin(world.layer().layer(silent()).oneshot(request(Method::POST, ada())));
    assert!(futures_util::poll!(get.frame()).is_pending());
    assert!(futures_util::poll!(post.frame()).is_pending());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert!(futures_util::poll!(&mut calling).is_pending());

    world.lose_the_store();
    assert!(get.frame().await.is_none(), "not broken off: the caller may come back");
    let refused = waiting.await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    assert!(futures_util::poll!(post.frame()).is_pending());
    assert!(futures_util::poll!(&mut calling).is_pending());

    // A revocation that comes after all is the same as ever.
    world.revoke("ada");
    assert!(post.frame().await.unwrap().is_err());
    assert_eq!(calling.await.unwrap().status().as_u16(), 401);
}

#[tokio::test]
async fn a_call_that_a_rule_forbids_is_answered_as_one_of_an_unknown_tool() {
    let world = World::new();
    let silent = || tower::service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
    let open = || {
        let request = request(Method::POST, Principal::new("local", "ada"));
        let cx = McpContext::of(request.extensions()).unwrap().clone();
        let (method, id) = (Some("tools/call".into()), Some("7".into()));
        let facts =
            MessageFacts { kind: MessageKind::Request, method, id, target: Some("x".into()), ..MessageFacts::none() };
        cx.set_message(facts).unwrap();
        (Box::pin(world.layer().layer(silent()).oneshot(request)), cx)
    };
    for (standing, status, code) in
        [(Standing::Forbidden(Decision::deny("r")), 200, -32602), (Standing::Hidden("r".into()), 404, 40400)]
    {
        world.say(Standing::Stands);
        let (mut call, cx) = open();
        assert!(futures_util::poll!(&mut call).is_pending());
        // Streams that have to be opened anew do not concern it.
        world.say(Standing::Outdated);
        assert!(futures_util::poll!(&mut call).is_pending());
        world.say(standing);
        let answer = call.await.unwrap();
        assert_eq!((answer.status().as_u16(), cx.cut().map(|rule| &**rule)), (status, Some("r")));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
        if status == 200 {
            assert_eq!(body["id"], 7, "{body}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_rules_look_further_into_ends_so_that_it_is_opened_again() {
    let world = World::new();
    let ada = || Principal::new("local", "ada");
    let mut get = stream(&world, Method::GET, ada()).await;
    let mut post = stream(&world, Method::POST, ada()).await;
    assert!(futures_util::poll!(get.frame()).is_pending());
    assert!(futures_util::poll!(post.frame()).is_pending());
    world.say(Standing::Outdated);
    assert!(get.frame().await.is_none());
    assert!(futures_util::poll!(post.frame()).is_pending());
    let silent = tower::service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
    let waiting = world.layer().layer(silent).oneshot(request(Method::GET, ada())).await.unwrap();
    assert_eq!((waiting.status().as_u16(), &waiting.headers()["retry-after"]), (503, &"1".parse().unwrap()));
}
