//! The authorization server in a service that has users of its own: it asks who is logged in, and shows the service's
//! pages.
//!
//! ```sh
//! cargo run -p mcp-gateway-examples --bin own_people
//! curl http://127.0.0.1:3000/.well-known/oauth-authorization-server
//! ```
//!
//! Here whoever comes through the company's proxy is who the proxy says: **on a port that others reach too, anybody could
//! say so**. A real service looks at its own session, shows on its page which client wants what on which server and where
//! it is sent back to, limits addresses, and keeps everything in a store that lasts: see `own_resource_store`.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{Response, StatusCode};
use mcp_gateway_auth::server::{AuthorizationServer, ConsentPage, Interaction, LoggedIn, Problem, ServerParts};
use mcp_gateway_auth::token::{SigningKeyOptions, SigningKeys};
use mcp_gateway_core::contract::{ResourceStore, SystemClock, When};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Entry, FieldSealer, Mount, Resources, Subject, TenantId};
use mcp_gateway_core::seal::Sealer;
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use mcp_gateway_core::{Body, BoxError, catalog};
use serde_json::json;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, service("http://127.0.0.1:3000").await?).await?)
}

// ANCHOR: people
/// Who is at the browser, and the pages of this service.
#[derive(Debug)]
struct People;

#[async_trait]
impl Interaction for People {
    async fn who(&self, head: &Parts) -> Result<Option<LoggedIn>, BoxError> {
        let user = head.headers.get("x-forwarded-user").and_then(|user| user.to_str().ok());
        Ok(user.map(|user| LoggedIn { subject: Subject::local(user), session: None }))
    }

    async fn login(&self, _: &Parts, return_to: &str) -> Response<Body> {
        let mut response = page("Log in first.");
        *response.status_mut() = StatusCode::SEE_OTHER;
        let login = format!("https://login.example.com/?next={}", return_to.replace('?', "%3F"));
        response.headers_mut().insert(LOCATION, login.parse().expect("an address of plain characters"));
        response
    }

    async fn consent(&self, _: &Parts, asked: &ConsentPage) -> Response<Body> {
        let (action, request, csrf) = (&asked.action, &asked.request, &asked.csrf);
        // What comes from elsewhere, such as the client's name, must be escaped: none of it is on this page.
        page(&format!(
            "<form method=post action={action}><input type=hidden name=request value={request}>\
             <input type=hidden name=csrf value={csrf}><button name=decision value=allow>Allow</button>\
             <button name=decision value=deny>Deny</button></form>"
        ))
    }

    async fn problem(&self, _: &Parts, problem: &Problem) -> Response<Body> {
        page(problem.text())
    }
}
// ANCHOR_END: people

fn page(html: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(html.to_owned())));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// The service: here nothing but the authorization server, which takes what no route of its own does.
pub(crate) async fn service(public_url: &str) -> anyhow::Result<Router> {
    let clock = Arc::new(SystemClock);
    let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(clock.clone()));
    let sealer: Arc<dyn FieldSealer> = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await?;
    let tenant = TenantId::default();
    let mount = Mount::new(public_url, "/mcp-connect")?;
    let entry: Entry = serde_json::from_value(json!({
        "entryKey": "tools", "name": "Tools", "runtime": "remote",
        "remoteConfig": { "fixedURL": "https://tools.example.com/mcp" },
    }))?;
    let entries = Resources::new(store.clone(), sealer.clone(), tenant.clone());
    let revision = entries.save("tools", &entry, When::Any).await?;
    let compiled = mount.clone();
    let compile = Arc::new(move |entry: &Entry| catalog::compile(entry, &compiled));
    let options = SnapshotOptions::new(sealer.clone(), compile);
    let (snapshots, driver) = Snapshots::follow(store.clone(), options).await?;
    tokio::spawn(driver);
    snapshots.wait_for(revision).await;
    let snapshots = Arc::new(snapshots);
    // ANCHOR: server
    let ring = Resources::new(store.clone(), sealer.clone(), tenant.clone());
    let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await?;
    let server = AuthorizationServer::new(ServerParts {
        mount,
        tenant,
        store,
        sealer,
        signer: keys.clone(),
        keys,
        resolve: snapshots.clone(),
        standing: snapshots,
        interaction: Arc::new(People),
        clock,
    });
    Ok(Router::new().fallback_service(server))
    // ANCHOR_END: server
}
