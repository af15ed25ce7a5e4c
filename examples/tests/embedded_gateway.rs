//! The example of the same name, run in this process.

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/embedded_gateway.rs"]
mod example;
#[cfg(test)]
mod support;

use http::StatusCode;
use mcp_gateway_core::record::EventKind;

#[tokio::test]
async fn a_call_goes_through_without_its_key_and_is_recorded() {
    let upstream = support::upstream().await;
    let (listener, url) = support::listener().await;
    let service = example::service(&url, &upstream).await.unwrap();
    let address = support::serve(listener, service.router);
    let bearer = format!("Bearer {}", service.key.expose());
    let key = Some(("authorization", &*bearer));

    assert_eq!(support::send(address, "/", None, None).await, (StatusCode::OK, "my service\n".to_owned()));

    let (status, body) = support::send(address, "/mcp-connect/tools", key, Some(support::call("hello"))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains(r#""text":"hello""#), "{body}");
    assert!(body.contains(r#""content-type""#) && !body.contains(r#""authorization""#), "{body}");

    let (status, _) = support::send(address, "/mcp-connect/tools", None, Some(support::call("hello"))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = support::send(address, "/mcp-connect/other", key, Some(support::call("hello"))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let events = service.audit.take();
    let call = events.iter().find(|event| event.kind == EventKind::Exchange && event.status == 200).unwrap();
    assert_eq!((call.method.as_deref(), call.target.as_deref()), (Some("tools/call"), Some("echo")));
    assert_eq!(&*call.actor.as_ref().unwrap().subject.id, "owner");
}

#[tokio::test]
async fn a_session_is_sealed_on_its_way_out_and_opened_on_its_way_in() {
    let upstream = support::upstream().await;
    let (listener, url) = support::listener().await;
    let service = example::service(&url, &upstream).await.unwrap();
    let address = support::serve(listener, service.router);
    let bearer = format!("Bearer {}", service.key.expose());
    let call = async |session: Option<&str>| {
        let mut headers = vec![("authorization", &*bearer)];
        headers.extend(session.map(|session| ("mcp-session-id", session)));
        support::exchange(address, "/mcp-connect/tools", &headers, Some(support::call("hello"))).await
    };

    let (status, headers, _) = call(None).await;
    let sealed = headers["mcp-session-id"].to_str().unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(!sealed.contains(support::SESSION), "{sealed}");

    let (status, headers, body) = call(Some(sealed)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains(support::SESSION), "{body}");
    assert_eq!(headers["mcp-session-id"], sealed);

    // The server's own id is nobody's here.
    assert_eq!(call(Some(support::SESSION)).await.0, StatusCode::NOT_FOUND);
}
