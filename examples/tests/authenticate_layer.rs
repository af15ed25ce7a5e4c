//! The example of the same name, run in this process.

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/authenticate_layer.rs"]
mod example;
#[cfg(test)]
mod support;

use http::StatusCode;

#[tokio::test]
async fn only_the_right_password_reaches_the_handler() {
    let (listener, _) = support::listener().await;
    let address = support::serve(listener, example::service());

    let right = Some(("authorization", "Bearer correct horse"));
    assert_eq!(support::send(address, "/whoami", right, None).await, (StatusCode::OK, "ada\n".to_owned()));
    for wrong in [None, Some(("authorization", "Bearer wrong"))] {
        let (status, body) = support::send(address, "/whoami", wrong, None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{wrong:?}");
        assert!(!body.contains("ada"), "{body}");
    }
}
