use std::collections::HashSet;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
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
    changes: watch::Sender<Revision>,
}

impl World {
    fn new() -> Self {
        Self { revoked: Arc::default(), changes: watch::channel(Revision(1)).0 }
    }

    fn layer(&self) -> RevokeLayer {
        let revoked = Arc::clone(&self.revoked);
        let stands = move |cx: &McpContext| !revoked.lock().unwrap().contains(&*cx.principal().unwrap().subject.id);
        RevokeLayer::new(Arc::new(stands), self.changes.subscribe(), Arc::new(SystemClock))
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
