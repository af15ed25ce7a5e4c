use bytes::Bytes;
use http::{HeaderMap, Request};
use proptest::prelude::*;

use super::*;
use crate::contract::SystemClock;
use crate::layer::peek::{PeekOptions, inspect};
use crate::record::{Principal, Route};

fn context(message: Option<&str>) -> McpContext {
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
    cx.set_route(Arc::new(Route::remote("a"))).unwrap();
    let facts = match message {
        Some(message) => {
            let mut headers = HeaderMap::new();
            if message.contains("2026-07-28") {
                headers.insert("mcp-protocol-version", http::HeaderValue::from_static("2026-07-28"));
                headers.insert("mcp-method", http::HeaderValue::from_static("resources/read"));
                headers.insert("mcp-name", http::HeaderValue::from_static("x:y"));
            }
            inspect(&headers, &Bytes::copy_from_slice(message.as_bytes()), &PeekOptions::default()).unwrap()
        }
        None => MessageFacts::none(),
    };
    cx.set_message(facts).unwrap();
    cx
}

/// What the caller reads, and the rule in the context.
async fn judged(decision: Decision, cx: McpContext, later: bool) -> Result<Option<Arc<str>>, Refusal> {
    struct Says(Decision, bool);
    impl Authorizer for Says {
        fn decide(&self, _: &Ask<'_>) -> MaybeReady<Decision> {
            let decision = self.0.clone();
            if self.1 { MaybeReady::wait(async { decision }) } else { decision.into() }
        }
    }
    let (mut parts, ()) = Request::builder().extension(cx.clone()).body(()).unwrap().into_parts();
    let judgement = AuthorizeLayer::new(Arc::new(Says(decision, later))).judge(&mut parts);
    judgement.await.map(|()| cx.rule().cloned())
}

fn message(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#)
}

#[tokio::test]
async fn what_is_hidden_is_answered_as_unknown_and_never_as_another_era_or_token() {
    let modern = r#""uri":"x:y","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    for (method, params, code, text) in [
        ("tools/call", r#""name":"x""#, -32602, "Unknown tool: x"),
        ("prompts/get", r#""name":"x""#, -32602, "Unknown prompt: x"),
        ("resources/read", r#""uri":"x:y""#, -32002, "Resource not found: x:y"),
        ("resources/read", modern, -32602, "Resource not found: x:y"),
        ("resources/subscribe", r#""uri":"x:y""#, -32002, "Resource not found: x:y"),
        ("resources/unsubscribe", r#""uri":"x:y""#, -32002, "Resource not found: x:y"),
        ("completion/complete", r#""ref":{"type":"ref/prompt","name":"x"}"#, -32602, "Unknown reference: x"),
        ("completion/complete", r#""ref":{"type":"ref/resource","uri":"x:y"}"#, -32602, "Unknown reference: x:y"),
        ("tasks/get", r#""taskId":"x""#, -32602, "Task not found: x"),
        ("tasks/cancel", r#""taskId":"x""#, -32602, "Task not found: x"),
        ("tools/list", "", 40301, "This is not allowed."),
    ] {
        for later in [false, true] {
            let refusal =
                judged(Decision::deny("r"), context(Some(&message(method, params))), later).await.unwrap_err();
            assert_eq!((refusal.status().as_u16(), refusal.code(), refusal.public()), (200, code, text), "{method}");
        }
    }
}

#[tokio::test]
async fn what_is_visible_is_refused_as_what_it_is() {
    let read = |response: http::Response<Bytes>| String::from_utf8(response.into_body().to_vec()).unwrap();
    let call = context(Some(&message("tools/call", r#""name":"x""#)));
    let refusal = judged(Decision::narrow("r"), call.clone(), false).await.unwrap_err();
    assert!(read(refusal.into_mcp(Some(&call))).contains(r#""isError":true"#));
    let prompt = context(Some(&message("prompts/get", r#""name":"x""#)));
    assert_eq!(judged(Decision::narrow("r"), prompt, false).await.unwrap_err().code(), 40301);
    let note = context(Some(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#));
    assert_eq!(judged(Decision::deny("r"), note, false).await.unwrap_err().status().as_u16(), 202);
}

#[tokio::test]
async fn the_rule_is_kept_and_what_has_no_method_is_not_asked_about() {
    let call = context(Some(&message("tools/call", r#""name":"x""#)));
    assert_eq!(judged(Decision::allow("r"), call, false).await.unwrap().as_deref(), Some("r"));
    assert_eq!(judged(Decision::deny("r"), context(None), false).await.unwrap(), None);
    let answer = context(Some(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    assert_eq!(judged(Decision::deny("r"), answer, false).await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_fact_is_a_refusal() {
    let bare = McpContext::new(&SystemClock);
    assert_eq!(judged(Decision::allow("r"), bare, false).await.unwrap_err().status().as_u16(), 500);
}

proptest! {
    /// Lists of methods grow; none of their denials may look like another era's or another token's answer.
    #[test]
    fn no_denial_of_a_message_is_an_http_error(at in 0..crate::wire::method::Method::ALL.len(), hidden: bool) {
        let method = crate::wire::method::Method::ALL[at].as_str();
        let params = r#""name":"x","uri":"x:y","taskId":"x","ref":{"type":"ref/prompt","name":"x"}"#;
        let decision = if hidden { Decision::deny("r") } else { Decision::narrow("r") };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = runtime.block_on(judged(decision, context(Some(&message(method, params))), false));
        prop_assert_eq!(refused.unwrap_err().status().as_u16(), 200);
    }
}
