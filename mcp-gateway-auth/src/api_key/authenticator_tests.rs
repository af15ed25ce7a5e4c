use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::record::{ApiKey, Roles, Scope, ServerList, Subject, TenantId};

use super::*;
use crate::api_key::NewKeyText;

#[derive(Default)]
struct Directory {
    keys: HashMap<Box<str>, Arc<KeyFacts>>,
    cut_off: AtomicBool,
}

impl KeyDirectory for Directory {
    fn key(&self, id: &str) -> Option<Arc<KeyFacts>> {
        self.keys.get(id).cloned()
    }

    fn refuses(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }
}

struct World {
    clock: Arc<ManualClock>,
    directory: Arc<Directory>,
    authenticator: ApiKeyAuthenticator,
    good: NewKeyText,
    other: NewKeyText,
    expiring: NewKeyText,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let [good, other, expiring] = std::array::from_fn(|_| NewKeyText::generate());
        let mut directory = Directory::default();
        for (text, life) in [(&good, None), (&other, None), (&expiring, Some(60))] {
            let record = ApiKey {
                name: "laptop".into(),
                secret_sha256: text.secret_sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
                subject: Subject::local("ada"),
                owner: true,
                scopes: vec![Scope::Mcp],
                servers: vec!["time".into()],
                created_at: clock.now(),
                expires_at: life.map(|life| clock.now() + std::time::Duration::from_secs(life)),
                rate: None,
            };
            let facts = KeyFacts::new(&TenantId::default(), &text.id, &record).unwrap();
            directory.keys.insert(text.id.clone(), Arc::new(facts));
        }
        let directory = Arc::new(directory);
        let authenticator = ApiKeyAuthenticator::new(directory.clone(), clock.clone());
        Self { clock, directory, authenticator, good, other, expiring }
    }

    fn ask(&self, headers: &[(&str, &str)]) -> Result<Option<Arc<Principal>>, AuthError> {
        let mut request = http::Request::get("/?access_token=x&api_key=y");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.authenticator.check(&request.body(()).unwrap().into_parts().0)
    }
}

fn bearer(key: &NewKeyText) -> String {
    format!("Bearer {}", key.text.expose())
}

#[test]
fn both_headers_carry_keys() {
    let world = World::new();
    let (key, token) = (world.good.text.expose(), bearer(&world.good));
    let lower = token.replace("Bearer", "bearer");
    for headers in [
        &[("authorization", &*token)][..],
        &[("authorization", &*lower)],
        &[("x-api-key", key)],
        &[("authorization", &*token), ("x-api-key", key)],
    ] {
        let principal = world.ask(headers).unwrap().unwrap();
        assert_eq!(principal.subject, Subject::local("ada"));
        assert_eq!((&*principal.actor.id, principal.actor.name.as_deref()), (&*world.good.id, Some("laptop")));
        assert!(principal.roles.contains(Roles::OWNER) && principal.servers.contains("time"));
        assert!(!matches!(principal.servers, ServerList::All));
    }
}

#[test]
fn what_is_not_a_key_is_somebody_elses() {
    let world = World::new();
    for headers in [
        &[][..],
        &[("authorization", "Bearer eyJhbGciOi.x.y")],
        &[("authorization", "Bearer")],
        &[("authorization", "Basic mcpgw_x")],
        &[("x-api-key", "sk-other")],
        &[("authorization", "Bearer eyJ"), ("x-api-key", "sk-other")],
    ] {
        assert!(world.ask(headers).unwrap().is_none(), "{headers:?}");
    }
}

#[test]
fn a_wrong_key_ends_the_chain() {
    let world = World::new();
    let key = world.good.text.expose();
    let unknown = NewKeyText::generate();
    // A secret under another key's id, with a checksum that is right.
    let forged = with_checksum(&format!("mcpgw_{}_{}", world.other.id, &key[33..76]));
    for bad in [&key[..81], &key[..40], "mcpgw_", unknown.text.expose(), &forged] {
        for headers in [("x-api-key", bad.to_owned()), ("authorization", format!("Bearer {bad}"))] {
            let answer = world.ask(&[(headers.0, &headers.1)]);
            assert!(matches!(answer, Err(AuthError::Invalid(_))), "{bad}");
        }
    }
    let answer = world.ask(&[("x-api-key", &forged)]);
    assert!(matches!(answer, Err(AuthError::Invalid(reason)) if reason.contains("secret")));
}

fn with_checksum(body: &str) -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = vec![];
    for _ in 0..6 {
        digits.push(char::from(BASE62[rest % 62]));
        rest /= 62;
    }
    body.chars().chain(digits.into_iter().rev()).collect()
}

#[test]
fn ambiguous_credentials_are_malformed() {
    let world = World::new();
    let (good, other) = (bearer(&world.good), bearer(&world.other));
    for headers in [
        &[("authorization", &*good), ("authorization", &*good)][..],
        &[("authorization", "Bearer eyJ"), ("authorization", "Bearer eyK")],
        &[("x-api-key", world.good.text.expose()), ("x-api-key", world.other.text.expose())],
        &[("authorization", &*other), ("x-api-key", world.good.text.expose())],
        &[("authorization", "Bearer eyJ"), ("x-api-key", world.good.text.expose())],
        &[("authorization", "Basic eyJ"), ("x-api-key", world.good.text.expose())],
    ] {
        assert!(matches!(world.ask(headers), Err(AuthError::Malformed(_))), "{headers:?}");
    }
}

#[test]
fn a_key_ends_when_it_says() {
    let world = World::new();
    let token = bearer(&world.expiring);
    world.clock.advance(std::time::Duration::from_secs(59));
    assert!(world.ask(&[("authorization", &token)]).unwrap().is_some());
    world.clock.advance(std::time::Duration::from_secs(1));
    assert!(matches!(world.ask(&[("authorization", &token)]), Err(AuthError::Invalid(_))));
}

#[test]
fn a_directory_that_is_cut_off_judges_nobody() {
    let world = World::new();
    world.directory.cut_off.store(true, Ordering::Relaxed);
    assert!(matches!(world.ask(&[("authorization", &bearer(&world.good))]), Err(AuthError::Unavailable(_))));
    assert!(matches!(world.ask(&[("x-api-key", "mcpgw_x")]), Err(AuthError::Invalid(_))));
    assert!(world.ask(&[("authorization", "Bearer eyJ")]).unwrap().is_none());
}
