//! An upstream inside the test, which answers whatever the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) headers: HeaderMap,
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

/// Listens on a port of its own until dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Arrived) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::<Mutex<Vec<Arrived>>>::default();
        let record = Arc::clone(&arrived);
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (answer, record) = (answer.clone(), Arc::clone(&record));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
                let arrived = Arrived { headers: head.headers, path, body };
                record.lock().unwrap().push(arrived.clone());
                answer(&arrived)
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, arrived, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// A catalog entry of this id that leads here.
    pub(crate) fn entry(&self, id: &str) -> String {
        super::gateway::remote(id, &self.url())
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer of JSON.
pub(crate) fn json(body: impl Into<Body>) -> Response<Body> {
    Response::builder().header("content-type", "application/json").body(body.into()).unwrap()
}

/// An answer of events.
pub(crate) fn events(body: impl Into<Body>) -> Response<Body> {
    Response::builder().header("content-type", "text/event-stream").body(body.into()).unwrap()
}
