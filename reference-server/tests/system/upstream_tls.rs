//! Servers behind TLS, with certificates of an authority that no browser knows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Version};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::gateway::remote;
use crate::support::upstream::json as answer;
use crate::support::{Gateway, mcp};

/// An authority and a server on localhost that it certifies.
struct Secure {
    authority: String,
    address: SocketAddr,
    versions: Arc<Mutex<Vec<Version>>>,
}

/// Speaks the protocols of `alpn`, and remembers which came.
async fn secure(alpn: &[&str]) -> Secure {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, versions) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Version>>>::default());
    let seen = Arc::clone(&versions);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                // A client that does not trust the certificate hangs up.
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let seen = Arc::clone(&seen);
                    async move {
                        seen.lock().unwrap().push(request.version());
                        let body = request.into_body().collect().await?.to_bytes();
                        let message: Value = serde_json::from_slice(&body).unwrap();
                        let result = json!({ "content": [], "resultType": "complete" });
                        let message = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
                        Ok::<_, hyper::Error>(answer(message.to_string()))
                    }
                });
                let io = TokioIo::new(stream);
                let ended = if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                };
                drop(ended);
            });
        }
    });
    Secure { authority: authority.pem(), address, versions }
}

impl Secure {
    fn entry(&self) -> String {
        remote("secure", &format!("https://localhost:{}/mcp", self.address.port()))
    }
}

#[tokio::test]
async fn servers_of_an_own_authority_are_trusted_when_its_bundle_is_set_by_either_protocol() {
    for (alpn, version) in [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11)] {
        let server = secure(alpn).await;
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("ca.pem");
        // Beside another, as bundles are.
        std::fs::write(&bundle, format!("{}{}", secure(alpn).await.authority, server.authority)).unwrap();
        let settings = [("EGRESS__ALLOW", "localhost"), ("EGRESS__CA_BUNDLE", bundle.to_str().unwrap())];
        let gateway = Gateway::start_with(&[server.entry()], &settings).await;
        let key = gateway.key().await;
        mcp::modern_tool("secure", &key, 1, "work", &json!({})).send(gateway.address).await.expect(200);
        assert_eq!(*server.versions.lock().unwrap(), [version]);

        let gateway = Gateway::start_with(&[server.entry()], &settings[..1]).await;
        let key = gateway.key().await;
        let refused = mcp::modern_tool("secure", &key, 1, "work", &json!({})).send(gateway.address).await;
        assert!(refused.status.is_server_error(), "{} {}", refused.status, refused.text());
        assert_eq!(server.versions.lock().unwrap().len(), 1, "a call went to a server that nobody vouches for");
    }
}
