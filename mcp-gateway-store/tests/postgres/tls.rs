//! Connections that nobody reads along.

use mcp_gateway_store::postgres::PostgresError;
use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::*;

#[tokio::test]
async fn the_servers_certificate_is_checked() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cluster = Cluster::start(&[]);
    cluster.file("server.crt", &cert.pem());
    cluster.file("server.key", &signing_key.serialize_pem());
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, cert.pem()).unwrap();
    let other = folder.path().join("other.pem");
    std::fs::write(&other, generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem()).unwrap();
    let url = |host: &str, mode: &str, authority: &std::path::Path| {
        let port = cluster.port();
        format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}&sslrootcert={}", authority.display())
    };
    let connect =
        async |url: String| migrate(&PostgresOptions::parse(&url).unwrap(), Duration::ZERO, Contract::Later).await;

    let error = connect(url("localhost", "verify-full", &authority)).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unreachable { .. }), "a server without TLS: {error}");
    cluster.sql("postgres", "ALTER SYSTEM SET ssl = on");
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    let begun = std::time::Instant::now();
    while connect(url("localhost", "verify-full", &authority)).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", connect(url("localhost", "verify-full", &authority)).await);
    }
    for (host, mode, authority) in [("localhost", "verify-full", &other), ("127.0.0.1", "verify-full", &authority)] {
        let error = connect(url(host, mode, authority)).await.unwrap_err();
        assert!(matches!(error, PostgresError::Unreachable { .. }), "{host} {mode}: {error}");
    }
    let encrypted =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL";
    let store = open(&PostgresOptions::parse(&url("localhost", "verify-full", &authority)).unwrap()).await;
    assert_eq!(cluster.sql("postgres", encrypted), "t");
    drop(store);
}
