use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{
    Address, CredentialAsk, CredentialError, Endpoint, Head, Incarnation, Needs, UpstreamCredential,
    UpstreamCredentials, UpstreamRefusal, Verdict, View,
};
use crate::egress::EgressPolicy;
use crate::memory::MemoryAuditSink;
use crate::record::{Mount, Principal, Route, RouteAuth, RouteTarget};

/// Blanks a word of requests.
struct Blank;

impl Filter for Blank {
    fn name(&self) -> &'static str {
        "blank"
    }

    fn needs(&self, _: &Head<'_>) -> Needs {
        Needs { request: true, ..Needs::NONE }
    }

    fn request(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let text = String::from_utf8_lossy(&view.body).replace("secret", "[gone]");
        Verdict::Replace(text.into()).into()
    }
}

/// Sends every first request elsewhere on the same origin, and keeps the path and body of each.
async fn redirecting() -> (http::Uri, tokio::sync::mpsc::UnboundedReceiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/mcp", listener.local_addr().unwrap()).parse().unwrap();
    let (seen, arrived) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                loop {
                    let (mut path, mut length) = (String::new(), 0);
                    loop {
                        let mut line = String::new();
                        if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        match line.trim_end().split_once(' ') {
                            None => break,
                            Some((name, value)) if name.eq_ignore_ascii_case("content-length:") => {
                                length = value.parse().unwrap();
                            }
                            Some(("POST", rest)) => path = rest.split(' ').next().unwrap().to_owned(),
                            Some(_) => {}
                        }
                    }
                    let mut body = vec![0; length];
                    socket.read_exact(&mut body).await.unwrap();
                    let answer = if path == "/mcp" {
                        "HTTP/1.1 307 Temporary Redirect\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n"
                    } else {
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
                    };
                    seen.send((path, String::from_utf8(body).unwrap())).unwrap();
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (base, arrived)
}

fn calling(base: http::Uri, auth: Option<RouteAuth>) -> McpContext {
    let incarnation = Incarnation("a~1".into());
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
    cx.set_endpoint(Endpoint {
        incarnation: incarnation.clone(),
        address: Address::Http(base.clone()),
        ready: true,
        load: 0,
    })
    .unwrap();
    cx.set_route(Arc::new(Route {
        id: "a".into(),
        name: "A".into(),
        resource: Mount::new("https://gw.example", "/m").unwrap().resource("a"),
        target: RouteTarget::Remote { url: base, headers: [].into(), auth: auth.map(Arc::new), incarnation },
        sub_paths: [].into(),
        query_parameters: [].into(),
        response_headers: [].into(),
        server_requests: crate::record::ServerRequests::default(),
    }))
    .unwrap();
    cx
}

/// Has one credential for everything.
struct Always;

impl UpstreamCredentials for Always {
    fn credential(&self, _: &CredentialAsk) -> MaybeReady<Result<UpstreamCredential, CredentialError>> {
        let value = http::HeaderValue::from_static("Bearer secret");
        Ok(UpstreamCredential { value, id: "always".into() }).into()
    }

    fn refused(
        &self,
        _: &CredentialAsk,
        _: &UpstreamCredential,
        _: &UpstreamRefusal,
    ) -> crate::BoxFuture<Result<UpstreamCredential, CredentialError>> {
        Box::pin(async { Err(CredentialError::Denied("no")) })
    }
}

#[tokio::test]
async fn credentials_are_readable_for_nobody_on_the_way() {
    // Whoever is on the way: everything goes through a proxy.
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = format!("http://{}", proxy.local_addr().unwrap()).parse().unwrap();
    let forward = Forward::new(ForwardOptions {
        egress: EgressPolicy::default().through(through),
        credentials: Some(Arc::new(Always)),
        ..ForwardOptions::default()
    });
    let call = |auth| {
        let cx = calling("http://up.example/mcp".parse().unwrap(), auth);
        let request = Request::post("/").extension(cx).body(Body::empty()).unwrap();
        tower_service::Service::call(&mut forward.clone(), request)
    };
    let minted = RouteAuth::Minted { audience: "http://up.example/mcp".into() };
    assert_eq!(call(Some(minted)).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    // Without a credential it gets there: nothing was there before.
    let (_, arrived) = tokio::join!(
        async { tokio::time::timeout(std::time::Duration::from_millis(500), call(None)).await },
        proxy.accept()
    );
    assert!(arrived.is_ok());
    let more = tokio::time::timeout(std::time::Duration::from_millis(50), proxy.accept()).await;
    assert!(more.is_err(), "one connection alone");
}

#[tokio::test]
async fn a_redirect_is_followed_with_the_message_that_the_filters_left() {
    let (base, mut arrived) = redirecting().await;
    let egress = EgressPolicy::new(["127.0.0.0/8".parse().unwrap()]);
    let shim = Shim::builder(Arc::new(MemoryAuditSink::new(100)))
        .authorizer(Arc::new(|_: &crate::contract::Ask<'_>| crate::contract::Decision::allow("yes")))
        .filters(vec![Arc::new(Blank)], FilterOptions::default())
        .forward(ForwardOptions { egress, ..ForwardOptions::default() })
        .build();
    let cx = calling(base, None);
    let message = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":{"x":"secret"}}}"#;
    let request = Request::post("/")
        .header(CONTENT_TYPE, "application/json")
        .extension(cx)
        .body(Body::from(Bytes::from_static(message.as_bytes())))
        .unwrap();
    let answer = Upstream::call(&shim, request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "{}");
    let left = message.replace("secret", "[gone]");
    for path in ["/mcp", "/other"] {
        assert_eq!(arrived.recv().await.unwrap(), (path.to_owned(), left.clone()));
    }
}
