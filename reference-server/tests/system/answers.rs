//! What of a server's answer reaches the client: servers share the gateway's origin.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::json;

use crate::support::mcp;
use crate::support::upstream::{self, Arrived};
use crate::support::{Answer, Gateway, Upstream};

const OK: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

/// What a legacy ping gets when the server answers so.
async fn answered<F>(answer: F) -> (Answer, Upstream)
where
    F: Fn(&Arrived) -> Response<Body> + Clone + Send + Sync + 'static,
{
    let upstream = Upstream::start(answer).await;
    let gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let ping = mcp::request(1, "ping", &json!({})).to_string();
    let answer = mcp::post("toy", &gateway.key().await, ping).send(gateway.address).await;
    (answer, upstream)
}

fn plain(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn only_listed_headers_pass() {
    let (answer, _upstream) = answered(|_| {
        plain(
            200,
            &[
                ("content-type", "application/json"),
                ("set-cookie", "session=evil; Path=/"),
                ("location", "https://evil.example"),
                ("www-authenticate", "Bearer resource_metadata=\"https://evil.example\""),
                ("access-control-allow-origin", "*"),
                ("strict-transport-security", "max-age=0"),
                ("clear-site-data", "\"*\""),
                ("link", "<https://evil.example>; rel=preload"),
                ("refresh", "0; url=https://evil.example"),
                ("alt-svc", "h3=\":443\""),
                ("server", "evil"),
                ("content-language", "de"),
                ("retry-after", "3"),
                ("mcp-param-x", "kept"),
            ],
            OK,
        )
    })
    .await;
    let answer = answer.expect(200);
    assert_eq!(answer.text(), OK);
    for name in [
        "set-cookie",
        "location",
        "www-authenticate",
        "access-control-allow-origin",
        "strict-transport-security",
        "clear-site-data",
        "link",
        "refresh",
        "alt-svc",
        "server",
    ] {
        assert!(!answer.headers.contains_key(name), "{name}: {:?}", answer.headers);
    }
    assert_eq!(answer.header("content-language"), "de");
    assert_eq!(answer.header("retry-after"), "3");
    assert_eq!(answer.header("mcp-param-x"), "kept");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("content-security-policy"), "default-src 'none'; sandbox");
    assert!(answer.header("vary").to_ascii_lowercase().contains("authorization"));
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_servers_demand_to_log_in_never_passes() {
    for status in [401, 403, 407] {
        let (answer, _upstream) = answered(move |_| {
            plain(status, &[("www-authenticate", "Bearer"), ("content-type", "application/json")], OK)
        })
        .await;
        assert_eq!(answer.status, 502, "{status}");
        assert!(!answer.headers.contains_key("www-authenticate"));
        // The caller's own credential is fine, and the answer belongs to its request.
        assert_eq!(answer.json()["id"], 1, "{}", answer.text());
    }
}

#[tokio::test]
async fn redirects_do_not_pass_and_are_not_followed_elsewhere() {
    let elsewhere = Upstream::start(|_| upstream::json(OK)).await;
    let target = elsewhere.url();
    for status in [301, 302, 303, 307, 308] {
        let target = target.clone();
        let (answer, upstream) = answered(move |_| plain(status, &[("location", &target)], "")).await;
        assert_eq!(answer.status, 502, "{status}");
        assert!(!answer.headers.contains_key("location"));
        assert_eq!(upstream.arrived().len(), 1);
    }
    assert!(elsewhere.arrived().is_empty());
}

#[tokio::test]
async fn a_redirect_of_the_same_origin_is_followed_once() {
    let (answer, upstream) = answered(|request| match request.path.as_str() {
        "/mcp" => plain(307, &[("location", "/other")], ""),
        _ => upstream::json(OK),
    })
    .await;
    answer.expect(200);
    let arrived = upstream.arrived();
    assert_eq!(arrived.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["/mcp", "/other"]);
    assert_eq!(arrived[0].body, arrived[1].body);

    let (answer, upstream) = answered(|_| plain(308, &[("location", "/again")], "")).await;
    assert_eq!(answer.status, 502);
    assert_eq!(upstream.arrived().len(), 2);
}

#[tokio::test]
async fn pages_do_not_pass() {
    for media_type in ["text/html", "text/plain", "image/svg+xml", "application/xml"] {
        let (answer, _upstream) =
            answered(move |_| plain(200, &[("content-type", media_type)], "<script>evil()</script>")).await;
        assert_eq!(answer.status, 502, "{media_type}");
        assert!(!answer.text().contains("evil"));
        assert_eq!(answer.header("content-type"), "application/json");
    }
    // An error keeps its class, without the page.
    let (answer, _upstream) = answered(|_| plain(404, &[("content-type", "text/html")], "<b>evil</b>")).await;
    assert_eq!(answer.status, 404);
    assert!(!answer.text().contains("evil"));
}

#[tokio::test]
async fn statuses_keep_their_class() {
    for status in [200, 202, 400, 404, 405, 406, 409, 429, 500, 503] {
        let (answer, _upstream) = answered(move |_| {
            let body = if status == 202 { "" } else { OK };
            plain(status, &[("content-type", "application/json")], body)
        })
        .await;
        assert_eq!(answer.status.as_u16(), status);
        if status != 202 {
            assert_eq!(answer.text(), OK, "{status}");
        }
    }
}

#[tokio::test]
async fn servers_are_asked_for_plain_answers() {
    // Taken, wherever the client says that it takes encoded ones.
    let upstream = Upstream::start(|_| upstream::json(OK)).await;
    let gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let ping = mcp::request(1, "ping", &json!({})).to_string();
    let call = mcp::post("toy", &gateway.key().await, ping).header("accept-encoding", "gzip, br");
    call.send(gateway.address).await.expect(200);
    assert_eq!(upstream.arrived()[0].headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn an_encoded_answer_passes_as_it_is_and_its_outcome_is_opaque() {
    const GZIP: &[u8] = b"\x1f\x8b\x08\x00not really";
    let upstream = Upstream::start(|_| {
        let response =
            Response::builder().header("content-type", "application/json").header("content-encoding", "gzip");
        response.body(Body::from(GZIP)).unwrap()
    })
    .await;
    let gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let call = mcp::post("toy", &gateway.key().await, mcp::tool(1, "x", &json!({})).to_string());
    let answer = call.send(gateway.address).await.expect(200);
    assert_eq!(answer.body, GZIP);
    assert_eq!(answer.header("content-encoding"), "gzip");
    let rows = gateway.audit_of(1, |row| row["method"] == "tools/call").await;
    assert_eq!(rows[0]["outcome"], "opaque");
}

#[tokio::test]
async fn a_server_that_is_down_or_breaks_off_is_a_bad_gateway() {
    let gone =
        crate::support::gateway::remote("toy", &format!("http://{}/mcp", crate::support::gateway::free_address()));
    let gateway = Gateway::start(&[gone]).await;
    let ping = mcp::request(1, "ping", &json!({})).to_string();
    let answer = mcp::post("toy", &gateway.key().await, ping).send(gateway.address).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json()["id"], 1);
    // Nothing of the inside: neither address nor operating system.
    assert!(!answer.text().contains("127.0.0.1") && !answer.text().contains("os error"), "{}", answer.text());
}

#[tokio::test]
async fn an_empty_answer_passes_also_when_its_length_is_not_said() {
    // As Node.js servers answer notifications: 202, chunked, no content type, and then nothing.
    let (answer, _upstream) = answered(|_| {
        let nothing = futures_util::stream::empty::<Result<bytes::Bytes, std::convert::Infallible>>();
        Response::builder().status(202).body(Body::from_stream(nothing)).unwrap()
    })
    .await;
    let answer = answer.expect(202);
    assert!(answer.body.is_empty());
}
