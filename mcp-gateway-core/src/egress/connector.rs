//! Connects to the address that was checked.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use super::proxy::{EgressProxy, Way};
use super::{Connections, Counting, EgressPolicy};
use crate::BoxError;

/// A connector for HTTP/1.1 and HTTP/2, plain and TLS, that obeys an [`EgressPolicy`].
pub type EgressConnector = Counting<HttpsConnector<Checked>>;

/// Makes a connector that counts its connections. No policy for endpoints of our own runtimes, which no list concerns.
#[must_use]
pub fn connector(
    policy: Option<EgressPolicy>,
    connect_timeout: Duration,
    connections: Arc<Connections>,
) -> EgressConnector {
    connector_by(policy, connect_timeout, connections, Arc::new(System))
}

/// The same, with names looked up so.
pub(super) fn connector_by(
    policy: Option<EgressPolicy>,
    connect_timeout: Duration,
    connections: Arc<Connections>,
    names: Arc<dyn Names>,
) -> EgressConnector {
    let policy = policy.map(Arc::new);
    let http = plain(Resolver, connect_timeout);
    let to_proxy = plain(GaiResolver::new(), connect_timeout);
    let own = policy.as_ref().map_or(&[][..], |policy| policy.trusted());
    let roots = webpki_roots::TLS_SERVER_ROOTS.iter().chain(own).cloned().collect();
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        // The provider has all of rustls' default versions and suites.
        .expect("aws-lc-rs supports TLS 1.2 and 1.3")
        .with_root_certificates(RootCertStore { roots })
        .with_no_client_auth();
    let inner = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(Checked { http, to_proxy, connect_timeout, policy, names });
    Counting { inner, connections }
}

/// Looks names up: asked once for each connection, whose address is one of the answers.
///
/// Another one than the [`System`]'s is for networks that have names of their own, and for tests.
#[async_trait]
pub trait Names: std::fmt::Debug + Send + Sync + 'static {
    /// The addresses of a name, in the order in which they are tried.
    ///
    /// # Errors
    /// It has none, or nobody can be asked.
    async fn addresses(&self, name: &str, port: u16) -> std::io::Result<Vec<IpAddr>>;
}

/// Asks the operating system.
#[derive(Debug, Clone, Copy)]
pub struct System;

#[async_trait]
impl Names for System {
    async fn addresses(&self, name: &str, port: u16) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, port)).await?.map(|address| address.ip()).collect())
    }
}

fn plain<R>(resolver: R, connect_timeout: Duration) -> HttpConnector<R> {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_timeout));
    http.set_keepalive(Some(Duration::from_secs(60)));
    http
}

/// Resolves a name, checks every address, and connects to those that are permitted.
#[derive(Clone)]
pub struct Checked {
    http: HttpConnector<Resolver>,
    to_proxy: HttpConnector<GaiResolver>,
    connect_timeout: Duration,
    policy: Option<Arc<EgressPolicy>>,
    names: Arc<dyn Names>,
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checked").field("policy", &self.policy).finish_non_exhaustive()
    }
}

const PLAIN: &str = "plain http is only for what the operator has opened a hole for; use https";

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

impl Service<Uri> for Checked {
    type Response = <HttpConnector<Resolver> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let to_proxy = self.to_proxy.clone();
        let connect_timeout = self.connect_timeout;
        let policy = self.policy.clone();
        let names = Arc::clone(&self.names);
        Box::pin(async move {
            let host = uri.host().ok_or("the URL has no host")?.to_owned();
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            let plain = host.trim_matches(['[', ']']);
            let readable = |address| {
                uri.scheme_str() == Some("http")
                    && policy.as_ref().is_some_and(|policy| !policy.permits_plain(address, plain, port))
            };
            if let Some(policy) = &policy
                && let Way::Proxy(proxy) = policy.way(plain, port)?
            {
                if readable(None) {
                    return Err(PLAIN.into());
                }
                return tunnel(to_proxy, proxy, &host, port, connect_timeout).await;
            }
            let addresses: Vec<IpAddr> = match plain.parse() {
                Ok(address) => vec![address],
                Err(_) => names.addresses(plain, port).await?,
            };
            let mut refused: Option<BoxError> = None;
            for address in addresses {
                if let Some(Err(blocked)) = policy.as_ref().map(|policy| policy.permits(address, plain, port)) {
                    refused = Some(blocked.into());
                    continue;
                }
                if readable(Some(address)) {
                    refused = Some(PLAIN.into());
                    continue;
                }
                // The address stands in the URI now, so that nobody resolves the name a second time.
                let mut parts = uri.clone().into_parts();
                parts.authority = Some(SocketAddr::new(address, port).to_string().parse()?);
                match http.call(Uri::from_parts(parts)?).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => refused = Some(error.into()),
                }
            }
            Err(refused.unwrap_or_else(|| "the name has no address".into()))
        })
    }
}

/// A tunnel through the proxy.
async fn tunnel(
    to_proxy: HttpConnector<GaiResolver>,
    proxy: &EgressProxy,
    host: &str,
    port: u16,
    connect_timeout: Duration,
) -> Result<<HttpConnector<GaiResolver> as Service<Uri>>::Response, BoxError> {
    let mut tunnel = Tunnel::new(proxy.url.clone(), to_proxy);
    if let Some(authorization) = &proxy.authorization {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    // Names the port also where it is the scheme's own, as `CONNECT` has to.
    let to = Uri::builder().scheme("https").authority(format!("{host}:{port}")).path_and_query("/").build()?;
    let connecting = async {
        poll_fn(|cx| tunnel.poll_ready(cx)).await?;
        tunnel.call(to).await
    };
    match tokio::time::timeout(connect_timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| format!("the proxy {}: {error}", proxy.url).into()),
        Err(_) => Err(format!("the proxy {} did not open a tunnel in time", proxy.url).into()),
    }
}

/// Never asked: [`Checked`] hands addresses on, not names.
#[derive(Debug, Clone, Copy)]
pub struct Resolver;

impl Service<Name> for Resolver {
    type Response = std::iter::Empty<SocketAddr>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        std::future::ready(Err(std::io::Error::other("names are resolved before")))
    }
}
