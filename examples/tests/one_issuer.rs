//! The example of the same name, run in this process.

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/one_issuer.rs"]
mod example;
#[cfg(test)]
mod support;

use std::sync::Arc;

use http::StatusCode;
use mcp_gateway_auth::token::{NewToken, SigningKeyOptions, SigningKeys, TokenIssuer};
use mcp_gateway_core::contract::{Clock as _, Resource, SystemClock};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Resources, Subject, TenantId};
use mcp_gateway_core::seal::Sealer;

#[tokio::test]
async fn only_what_the_issuer_has_signed_for_the_service_reaches_the_handler() {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
    let ring = Resources::new(store, sealer, TenantId::default());
    let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
    let (listener, _) = support::listener().await;
    let address = support::serve(listener, example::service(keys.clone()));

    let token = async |issuer: &str, audience: &str| {
        let resource = Resource { url: audience.into(), metadata: None, server: None };
        let ada = Subject::local("ada");
        let new = NewToken {
            subject: &ada,
            client_id: "laptop",
            resource: &resource,
            scope: "mcp",
            epoch: clock.now(),
            person_epoch: 0,
            grant: None,
            session: None,
        };
        let issued = TokenIssuer::new(issuer, keys.clone(), clock.clone()).issue(&new).await.unwrap();
        format!("Bearer {}", issued.token.expose())
    };
    let (issuer, here) = ("https://login.example.com", "https://tools.example.com");
    let right = token(issuer, here).await;
    let answer = support::send(address, "/whoami", Some(("authorization", &*right)), None).await;
    assert_eq!(answer, (StatusCode::OK, "ada\n".to_owned()));
    let wrong = [token("https://evil.example", here).await, token(issuer, "https://other.example").await];
    for wrong in [None, Some(&*wrong[0]), Some(&*wrong[1])] {
        let header = wrong.map(|wrong| ("authorization", wrong));
        assert_eq!(support::send(address, "/whoami", header, None).await.0, StatusCode::UNAUTHORIZED);
    }
}
