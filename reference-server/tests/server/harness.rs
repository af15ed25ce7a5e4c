//! A server in a folder of its own, an upstream, and a client.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mcp_gateway_server::config::Config;
use mcp_gateway_server::wiring::{Server, StartError, StartOptions};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server that runs in this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) ops_address: Option<SocketAddr>,
    pub(crate) banner: String,
    pub(crate) key: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    cut: Option<oneshot::Sender<()>>,
    pub(crate) ended: JoinHandle<()>,
}

/// A configuration that keeps everything below this folder and runs nothing.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config { listen: ([127, 0, 0, 1], 0).into(), data_dir: dir.join("data"), ..Config::default() };
    config.catalog.paths = vec![dir.join("catalog")];
    config.egress.allow = vec!["127.0.0.0/8".to_owned()];
    config.runtime.process.enabled = false;
    std::fs::create_dir_all(dir.join("catalog")).unwrap();
    config
}

/// The same with one remote server, `slow`.
pub(crate) fn config_with(dir: &Path, upstream: SocketAddr) -> Config {
    let config = config(dir);
    let entry =
        format!("{{entryKey: slow, name: Slow, runtime: remote, remoteConfig: {{fixedURL: 'http://{upstream}/mcp'}}}}");
    std::fs::write(dir.join("catalog/slow.yaml"), entry).unwrap();
    config
}

pub(crate) async fn start(config: Config) -> Running {
    try_start(config).await.unwrap()
}

pub(crate) async fn try_start(config: Config) -> Result<Running, StartError> {
    let options = StartOptions { open_files: 1_024, ..StartOptions::default() };
    let server = Server::start(config, options).await?;
    let banner = server.banner().to_owned();
    let key = banner.lines().map(str::trim).find(|line| line.starts_with("mcpgw_")).map(str::to_owned);
    let (address, ops_address) = (server.address(), server.ops_address());
    let (stop, stopped) = oneshot::channel::<()>();
    let (cut, is_cut) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.run(
        async move {
            let _ = stopped.await;
        },
        async move {
            if is_cut.await.is_err() {
                std::future::pending::<()>().await;
            }
        },
    ));
    Ok(Running { address, ops_address, banner, key, stop: Some(stop), cut: Some(cut), ended })
}

impl Running {
    /// The first signal.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// The second.
    pub(crate) fn cut(&mut self) {
        let _ = self.cut.take().unwrap().send(());
    }

    pub(crate) async fn ended(mut self) {
        if self.stop.is_some() {
            self.stop();
        }
        tokio::time::timeout(Duration::from_secs(20), self.ended).await.expect("the server ends").unwrap();
    }

    pub(crate) fn call(&self, tool: &str) -> Request<Full<Bytes>> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
        self.request(Method::POST).header("content-type", "application/json").body(body.into()).unwrap()
    }

    pub(crate) fn get(&self) -> Request<Full<Bytes>> {
        self.request(Method::GET).body(Full::default()).unwrap()
    }

    pub(crate) fn request(&self, method: Method) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}/mcp-connect/slow", self.address))
            .header("accept", "application/json, text/event-stream")
            .header("authorization", format!("Bearer {}", self.key.as_deref().unwrap()))
    }
}

pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) async fn get(url: String, host: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::get(url);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let response = client().request(request.body(Full::default()).unwrap()).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// Answers `fast` at once, every other tool after so many milliseconds as its name says; GET with one event and then
/// silence.
pub(crate) async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service_fn(answer));
                // The gateway hangs up when it is done.
                let _ = connection.await;
            });
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    if request.method() == Method::GET {
        let event = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b": hello\n\n")))]);
        let body = BodyExt::boxed(StreamBody::new(event.chain(futures_util::stream::pending())));
        return Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap());
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let millis = message["params"]["name"].as_str().and_then(|name| name.parse().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    let result = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}});
    let body = Full::new(Bytes::from(result.to_string())).boxed();
    Ok(Response::builder().header("content-type", "application/json").body(body).unwrap())
}
