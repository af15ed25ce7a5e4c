//! The example of the same name, run in this process.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/own_people.rs"]
mod example;

use axum::Router;
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

const ORIGIN: &str = "https://gateway.example.com";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const FORM: &str = "application/x-www-form-urlencoded";

async fn send(service: &Router, request: http::request::Builder, body: &str) -> (http::response::Parts, String) {
    let request = request.body(axum::body::Body::from(body.to_owned())).unwrap();
    let response: Response<axum::body::Body> = service.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head, String::from_utf8(body.to_vec()).unwrap())
}

fn value<'a>(page: &'a str, name: &str) -> &'a str {
    let rest = page.split(&format!("name={name} value=")).nth(1).unwrap();
    rest.split('>').next().unwrap()
}

#[tokio::test]
async fn a_person_of_the_service_gives_a_client_a_token() {
    let service = example::service(ORIGIN).await.unwrap();
    let metadata = r#"{"redirect_uris":["http://127.0.0.1:1/cb"]}"#;
    let (_, registered) = send(&service, Request::post("/register"), metadata).await;
    let client = serde_json::from_str::<Value>(&registered).unwrap()["client_id"].as_str().unwrap().to_owned();
    let authorize = format!(
        "/authorize?response_type=code&client_id={client}&redirect_uri=http://127.0.0.1:1/cb&state=s\
         &code_challenge={CHALLENGE}&code_challenge_method=S256&resource={ORIGIN}/mcp-connect/tools"
    );
    let (held, _) = send(&service, Request::get(authorize), "").await;
    let cookie = held.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    let there = held.headers[LOCATION].to_str().unwrap();
    let (login, _) = send(&service, Request::get(there).header(COOKIE, cookie), "").await;
    assert!(login.headers[LOCATION].to_str().unwrap().starts_with("https://login.example.com/"));
    let request = Request::get(there).header(COOKIE, cookie).header("x-forwarded-user", "ada");
    let (_, page) = send(&service, request, "").await;
    let form = format!("request={}&csrf={}&decision=allow", value(&page, "request"), value(&page, "csrf"));
    let request = Request::post("/authorize/decide").header(COOKIE, cookie).header("x-forwarded-user", "ada");
    let (decided, _) = send(&service, request.header(CONTENT_TYPE, FORM), &form).await;
    let location = decided.headers[LOCATION].to_str().unwrap();
    let code = location.split("code=").nth(1).unwrap().split('&').next().unwrap();
    let form = format!("grant_type=authorization_code&client_id={client}&code={code}&code_verifier={VERIFIER}");
    let (_, tokens) = send(&service, Request::post("/token").header(CONTENT_TYPE, FORM), &form).await;
    let tokens: Value = serde_json::from_str(&tokens).unwrap();
    assert_eq!(tokens["token_type"], "Bearer", "{tokens}");
}
