//! A gateway over memory alone, for measuring the request path apart from store and spool.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use clap::Parser;
use http::HeaderValue;
use mcp_gateway_benches::serve;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::context::SessionFacts;
use mcp_gateway_core::contract::{AuditFull, AuditSink, AuthError, Incarnation, Resolve, ResolveError, Resource, Seq};
use mcp_gateway_core::egress::EgressPolicy;
use mcp_gateway_core::gateway::{Gateway, GatewayOptions, Parts};
use mcp_gateway_core::layer::session::{SessionCodec, SessionError};
use mcp_gateway_core::record::{AuditEvent, Mount, Principal, Route, RouteTarget};
use mcp_gateway_core::shim::{ForwardOptions, Shim};

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9101")]
    listen: SocketAddr,
    /// The server to call.
    #[arg(long, default_value = "http://127.0.0.1:9100/mcp")]
    upstream: http::Uri,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mount = Mount::new(&format!("http://{}", options.listen), "/mcp-connect")?;
    let route = Arc::new(Route {
        id: "bench".into(),
        name: "Bench".into(),
        resource: mount.resource("bench"),
        target: RouteTarget::Remote {
            url: options.upstream,
            headers: [].into(),
            incarnation: Incarnation("bench~remote".into()),
        },
        sub_paths: [].into(),
        query_parameters: [].into(),
        response_headers: [].into(),
    });
    let known = route.resource.clone();
    let routes = Routes(HashMap::from([("bench".to_owned(), route)]));
    let principal = Arc::new(Principal::new("local", "bench"));
    let authenticate = move |parts: &http::request::Parts, _: &Resource| match parts.headers.get("authorization") {
        Some(value) if value == "Bearer bench" => Ok(Some(Arc::clone(&principal))),
        Some(_) => Err(AuthError::Invalid("not the key")),
        None => Ok(None),
    };
    let sink: Arc<dyn AuditSink> = Arc::new(Counted(AtomicU64::new(0)));
    let egress = EgressPolicy::new(["127.0.0.0/8".parse()?]);
    let shim = Shim::builder(Arc::clone(&sink)).forward(ForwardOptions { egress, ..ForwardOptions::default() }).build();
    let mut parts = Parts::new(Arc::new(routes), vec![Arc::new(authenticate)], Arc::new(Plain), sink);
    parts.shim = Some(Arc::new(shim));
    let built = Gateway::builder(parts)
        .options(GatewayOptions { loopback: true, ..GatewayOptions::default() })
        .known_resources(Arc::new(move |id| (id == "bench").then(|| known.clone())))
        .build(&mount);
    serve(options.listen, built.gateway).await
}

struct Routes(HashMap<String, Arc<Route>>);

impl Resolve for Routes {
    fn resolve(&self, id: &str, _: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        Ok(self.0.get(id).cloned()).into()
    }
}

/// Counts events: what recording costs is measured with the spool.
struct Counted(AtomicU64);

#[async_trait]
impl AuditSink for Counted {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        drop(event);
        Ok(Seq(self.0.fetch_add(1, Ordering::Relaxed) + 1)).into()
    }

    async fn flush(&self) {}
}

/// No sessions are opened in the benchmark.
struct Plain;

impl SessionCodec for Plain {
    fn seal(&self, _: &str, _: &Incarnation, _: &str, _: &Principal) -> Result<HeaderValue, SessionError> {
        Err(SessionError::NoKey)
    }

    fn open(&self, _: &HeaderValue, _: &str, _: &Principal) -> Option<SessionFacts> {
        None
    }
}
