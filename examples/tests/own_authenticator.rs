//! The example of the same name, run in this process.

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/own_authenticator.rs"]
mod example;
#[cfg(test)]
mod support;

use std::time::Duration;

use http::StatusCode;

/// `printf %s "open sesame" | sha256sum`.
const HASH: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

async fn whoami(address: std::net::SocketAddr, token: &str) -> (StatusCode, String) {
    support::send(address, "/whoami", Some(("authorization", &format!("Bearer {token}"))), None).await
}

#[tokio::test]
async fn the_file_decides_and_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    std::fs::write(&file, format!("ada {HASH}\n")).unwrap();
    let fresh = Duration::from_millis(50);
    let (listener, _) = support::listener().await;
    let address = support::serve(listener, example::service(example::TokenFile::new(&file, fresh)));

    // The first is read from the file, the second answered from memory.
    for _ in 0..2 {
        assert_eq!(whoami(address, "open sesame").await, (StatusCode::OK, "ada\n".to_owned()));
    }
    assert_eq!(whoami(address, "open barley").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(support::send(address, "/whoami", None, None).await.0, StatusCode::UNAUTHORIZED);

    std::fs::write(&file, "").unwrap();
    tokio::time::sleep(fresh).await;
    assert_eq!(whoami(address, "open sesame").await.0, StatusCode::UNAUTHORIZED);

    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(fresh).await;
    assert_eq!(whoami(address, "open sesame").await.0, StatusCode::SERVICE_UNAVAILABLE);
}
