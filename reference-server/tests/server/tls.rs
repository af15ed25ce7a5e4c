//! TLS: protocols, reload, client certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mcp_gateway_server::config::Config;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Running, config, start, try_start};

struct Identity {
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Writes a new certificate for localhost and its key.
fn certify(dir: &Path, name: &str) -> Identity {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    Identity { cert: cert.der().clone(), key }
}

fn with_tls(dir: &Path) -> Config {
    let mut config = config(dir);
    config.tls.cert = Some(dir.join("server.pem"));
    config.tls.key = Some(dir.join("server.key"));
    config
}

async fn connect(
    server: &Running,
    trusted: &Identity,
    own: Option<&Identity>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        Some(own) => builder.with_client_auth_cert(vec![own.cert.clone()], own.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let socket = TcpStream::connect(server.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

async fn livez(stream: TlsStream<TcpStream>, server: &Running) -> Result<StatusCode, hyper::Error> {
    let uri = format!("https://localhost:{}/livez", server.address.port());
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(sender.send_request(request).await?.status());
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = request;
    let host = format!("localhost:{}", server.address.port());
    request.headers_mut().insert("host", host.parse().unwrap());
    *request.uri_mut() = "/livez".parse().unwrap();
    Ok(sender.send_request(request).await?.status())
}

#[tokio::test]
async fn both_protocols_are_negotiated() {
    let dir = tempfile::tempdir().unwrap();
    let identity = certify(dir.path(), "server");
    let server = start(with_tls(dir.path())).await;
    assert!(server.banner.contains("https://127.0.0.1:"), "{}", server.banner);
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let stream = connect(&server, &identity, None, alpn).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        assert_eq!(livez(stream, &server).await.unwrap(), StatusCode::OK);
    }
    server.ended().await;
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let old = certify(dir.path(), "server");
    let server = start(with_tls(dir.path())).await;
    std::fs::write(dir.path().join("server.pem"), "not a certificate").unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    connect(&server, &old, None, b"http/1.1").await.expect("the old certificate stays in use");
    let new = certify(dir.path(), "server");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while connect(&server, &new, None, b"http/1.1").await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is never served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(connect(&server, &old, None, b"http/1.1").await.is_err());
    server.ended().await;
}

#[tokio::test]
async fn client_certificates_are_demanded_when_their_authority_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, client) = (certify(dir.path(), "server"), certify(dir.path(), "client"));
    let stranger = certify(dir.path(), "stranger");
    let mut config = with_tls(dir.path());
    config.tls.client_ca = Some(dir.path().join("client.pem"));
    let server = start(config).await;
    for (own, admitted) in [(Some(&client), true), (Some(&stranger), false), (None, false)] {
        // In TLS 1.3 the client learns of the refusal only when it reads.
        let outcome = match connect(&server, &identity, own, b"http/1.1").await {
            Ok(stream) => livez(stream, &server).await.ok(),
            Err(_) => None,
        };
        assert_eq!(outcome.is_some(), admitted);
    }
    server.ended().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "server");
    certify(dir.path(), "other");
    let mut config = with_tls(dir.path());
    config.tls.key = Some(dir.path().join("other.key"));
    let error = try_start(config.clone()).await.err().unwrap().to_string();
    assert!(error.starts_with("tls.cert") && error.contains("do not belong together"), "{error}");
    config.tls.key = Some(dir.path().join("absent.key"));
    let error = try_start(config).await.err().unwrap().to_string();
    assert!(error.starts_with("tls.key") && error.contains("absent.key"), "{error}");
}
