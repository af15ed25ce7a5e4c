use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tower::ServiceExt;

use super::*;
use crate::contract::{Address, Endpoint, SystemClock};
use crate::memory::{MemoryKeys, MemoryStore};
use crate::record::{Mount, Route, RouteTarget};
use crate::seal::{RingOptions, SessionKeyRing, SessionSealer};

const STREAM: &str = concat!(
    ": note\r\n\r\nid: 0/0\ndata:\n\nid:0/1\rretry: 5\rdata: {\"jsonrpc\":\"2.0\"}\r\r",
    "id\n\nevent: e\ndata: id: 5\nid:  9 \ndata: x\n\n",
);

/// Gateways that share nothing but the store that the keys are in, before a server that has one place for all events.
struct World {
    store: Arc<MemoryStore>,
    keys: Arc<MemoryKeys>,
    /// The event ids that arrived at the server.
    arrived: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        Self { store, keys: Arc::new(MemoryKeys::new()), arrived: Arc::default() }
    }

    /// Another replica each time.
    async fn replica(&self) -> SessionLayer {
        let (store, keys) = (self.store.clone(), self.keys.clone());
        let ring = SessionKeyRing::open(store, keys, Arc::new(SystemClock), RingOptions::default()).await.unwrap();
        SessionLayer::new(Arc::new(SessionSealer::new(ring)))
    }

    async fn send(&self, principal: &str, headers: &[(HeaderName, &str)]) -> (u16, HeaderMap, String) {
        let arrived = Arc::clone(&self.arrived);
        let server = tower::service_fn(move |request: Request<()>| {
            let own = |name: HeaderName| {
                request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned())
            };
            arrived.lock().unwrap().extend(own(LAST_EVENT_ID));
            let mut response = Response::new(Body::from(Bytes::from(STREAM)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            if own(MCP_SESSION_ID).is_none() && !request.headers().contains_key("x-no-session") {
                response.headers_mut().insert(MCP_SESSION_ID, HeaderValue::from_static("upstream"));
            }
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let incarnation = Incarnation("a~1".into());
        let cx = McpContext::new(&SystemClock);
        cx.set_principal(Arc::new(Principal::new("local", principal))).unwrap();
        cx.set_route(Arc::new(Route {
            id: "a".into(),
            name: "A".into(),
            resource: Mount::new("https://gw.example", "/m").unwrap().resource("a"),
            target: RouteTarget::Remote {
                url: http::Uri::from_static("http://up.example"),
                headers: [].into(),
                auth: None,
                incarnation: incarnation.clone(),
            },
            sub_paths: [].into(),
            query_parameters: [].into(),
            response_headers: [].into(),
            server_requests: crate::record::ServerRequests::default(),
        }))
        .unwrap();
        let address = Address::Http(http::Uri::from_static("http://up.example"));
        cx.set_endpoint(Endpoint { incarnation, address, ready: true, load: 0 }).unwrap();
        let mut request = Request::get("/").extension(cx).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let response = self.replica().await.layer(server).oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Opens a session; its id, and the ids of the events in the answer.
    async fn open(&self, principal: &str) -> (String, Vec<String>) {
        let (status, headers, body) = self.send(principal, &[]).await;
        assert_eq!(status, 200);
        let ids = body.split(['\r', '\n']).filter_map(|line| line.strip_prefix("id:"));
        let ids = ids.map(str::trim).map(ToOwned::to_owned).collect();
        (headers[MCP_SESSION_ID].to_str().unwrap().to_owned(), ids)
    }

    async fn resume(&self, principal: &str, session: &str, id: &str) -> u16 {
        self.send(principal, &[(MCP_SESSION_ID, session), (LAST_EVENT_ID, id)]).await.0
    }
}

#[tokio::test]
async fn a_stream_is_resumed_on_any_replica_with_the_servers_own_id() {
    let world = World::new();
    let (session, ids) = world.open("ada").await;
    let own: Vec<_> = ids.iter().map(|id| &id[..id.len() - EventIds::TAG]).collect();
    assert_eq!(own, ["0/0", "0/1", "9 "]);
    for id in &ids {
        assert_eq!(world.resume("ada", &session, id).await, 200);
    }
    assert_eq!(*world.arrived.lock().unwrap(), own);
    // The stream of a later answer has the same ids.
    let (_, _, body) = world.send("ada", &[(MCP_SESSION_ID, &session)]).await;
    let untagged = ids.iter().zip(own).fold(body, |body, (id, own)| body.replace(id, own));
    assert_eq!(untagged, STREAM, "nothing but the ids has changed");
}

#[tokio::test]
async fn an_id_that_was_not_issued_in_the_session_is_refused() {
    let world = World::new();
    let (ada, ids) = world.open("ada").await;
    let (bob, _) = world.open("bob").await;
    // Sessions of one second and one upstream id are one; ids say when a session began.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let (second, second_ids) = world.open("ada").await;
    assert_ne!(ada, second);
    let flipped = ids[0].replace("0/0", "0/1");
    for (principal, session, id) in [
        ("bob", &bob, &ids[0]),
        ("ada", &second, &ids[0]),
        ("ada", &ada, &second_ids[0]),
        ("ada", &ada, &flipped),
        ("ada", &ada, &"0/0".to_owned()),
        ("ada", &ada, &ids[0][3..].to_owned()),
    ] {
        assert_eq!(world.resume(principal, session, id).await, 400, "{id}");
    }
    let twice = [(MCP_SESSION_ID, &*ada), (LAST_EVENT_ID, &*ids[0]), (LAST_EVENT_ID, &*ids[0])];
    assert_eq!(world.send("ada", &twice).await.0, 400);
    assert_eq!(world.resume("bob", &ada, &ids[0]).await, 404, "the session itself is not his");
    // No place is none: the stream begins where it is.
    assert_eq!(world.resume("ada", &ada, "").await, 200);
    assert!(world.arrived.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_session_nothing_is_tagged_and_no_id_travels() {
    let world = World::new();
    let no_session = HeaderName::from_static("x-no-session");
    let (status, _, body) = world.send("ada", &[(no_session, "1"), (LAST_EVENT_ID, "0/0")]).await;
    assert_eq!((status, &*body), (200, STREAM));
    assert!(world.arrived.lock().unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn streams_keep_their_events(pieces in vec(select(vec![
        "\r", "\n", "\r\n", "id", "id:", "id: ", "id:\t", "id: 7", "data: x", "retry: 1", ":", " ", "\0", "\u{feff}", "~",
        "ï»", "\u{2028}", "é", "di:",
    ]), 0..24)) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn bytes_keep_their_events(bytes: Vec<u8>) {
        check(&bytes);
    }
}
