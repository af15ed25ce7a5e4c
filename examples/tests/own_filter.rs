//! The example of the same name, run in this process.

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/own_filter.rs"]
mod example;
#[cfg(test)]
mod support;

use http::StatusCode;
use serde_json::Value;

/// A number that card issuers give out for tests.
const CARD: &str = "4111111111111111";

#[tokio::test]
async fn card_numbers_do_not_pass_in_either_direction() {
    let upstream = support::upstream().await;
    let (listener, url) = support::listener().await;
    let address = support::serve(listener, example::service(&url, &upstream).await.unwrap());
    let ada = Some(("x-internal-user", "ada"));
    let text = |body: &str| {
        let message: Value = serde_json::from_str(body).unwrap();
        message["result"]["content"][0]["text"].as_str().map(str::to_owned)
    };

    // Sixteen digits without the right check digit are not a card number.
    for harmless in ["hello", "4111111111111112", "41111111111111111"] {
        let (status, body) = support::send(address, "/mcp-connect/tools", ada, Some(support::call(harmless))).await;
        assert_eq!((status, text(&body).as_deref()), (StatusCode::OK, Some(harmless)), "{body}");
    }

    let (_, body) = support::send(address, "/mcp-connect/tools", ada, Some(support::call(CARD))).await;
    assert!(body.contains("payment card number") && !body.contains(CARD), "{body}");

    // The server answers with what was asked for by half; put together, it is a number.
    let mut call = support::call("");
    call["params"]["arguments"]["message"] = serde_json::json!({ "halves": [&CARD[..8], &CARD[8..]] });
    let (status, body) = support::send(address, "/mcp-connect/tools", ada, Some(call)).await;
    assert_eq!(
        (status, text(&body).as_deref()),
        (StatusCode::OK, Some("card ****************, **************** again")),
        "{body}"
    );
    assert!(!body.contains(CARD), "{body}");

    let (status, _) = support::send(address, "/mcp-connect/tools", None, Some(support::call("hello"))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn hanging_up_and_resuming_is_no_way_around_the_filter() {
    let upstream = support::upstream().await;
    let (listener, url) = support::listener().await;
    let address = support::serve(listener, example::service(&url, &upstream).await.unwrap());
    let ada = ("x-internal-user", "ada");
    let exchange = async |headers: &[(&str, &str)], message| {
        support::exchange(address, "/mcp-connect/tools", headers, message).await
    };

    let mut call = support::call("");
    call["params"]["arguments"]["message"] = serde_json::json!({ "halves": [&CARD[..8], &CARD[8..]], "later": true });
    let (status, headers, body) = exchange(&[ada], Some(call)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let session = headers["mcp-session-id"].to_str().unwrap();
    let event = body.lines().find_map(|line| line.strip_prefix("id: ")).expect("an event to resume from");

    let resume = [ada, ("mcp-session-id", session), ("last-event-id", event), ("accept", "text/event-stream")];
    let (status, _, body) = exchange(&resume, None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains("card ****************") && !body.contains(CARD), "{body}");
}
