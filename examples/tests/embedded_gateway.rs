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
