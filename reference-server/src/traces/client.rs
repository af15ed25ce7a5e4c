//! Sends batches to the collector.

#![expect(clippy::disallowed_types, reason = "over core's connector; the operator alone says where the collector is")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioExecutor;
use mcp_gateway_core::egress::{EgressConnector, connector};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;

/// Longest answer of a collector that is read, in bytes.
const ANSWER: usize = 64 << 10;

/// A client that runs on this server's runtime, called from the exporter's own thread.
#[derive(Debug)]
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<EgressConnector, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
}

impl Client {
    /// To be made within the runtime.
    pub(super) fn new(timeout: Duration) -> Self {
        let connector = connector(None, timeout, Arc::default());
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Self { http, runtime: Handle::current(), timeout }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (http, timeout) = (self.http.clone(), self.timeout);
        let exchange = async move {
            let (head, body) = http.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        // Within the task: timers need the runtime, and this thread has none.
        self.runtime.spawn(async move { tokio::time::timeout(timeout, exchange).await }).await??
    }
}
