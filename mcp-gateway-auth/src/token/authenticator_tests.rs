use std::sync::Mutex;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use mcp_gateway_core::egress::{Fetch, FetchError, Fetched};
use mcp_gateway_core::record::{Revoked, Roles, Scope, Secret, ServerList, Subject};
use serde_json::{Value, json};

use super::super::test_support::{ISSUER, Scripted, World, resource};
use super::super::{RemoteKeys, SubjectMap, TokenIssuer, limit};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

async fn call(authenticator: &TokenAuthenticator, token: &str, server: &str) -> Verdict {
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    let (parts, ()) = request.body(()).unwrap().into_parts();
    authenticator.authenticate(&parts, &resource(server)).await
}

fn why(verdict: Verdict) -> &'static str {
    match verdict {
        Err(AuthError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn claims(world: &World) -> Value {
    let now = world.clock.now().as_second();
    json!({
        "iss": ISSUER, "sub": "ada", "tenant": "default", "aud": &*resource("github").url, "srv": "github",
        "client_id": "laptop", "scope": "mcp", "jti": "1", "iat": now, "exp": now + 600, "epoch": now * 1_000,
    })
}

#[tokio::test]
async fn a_good_token_is_verified_once_and_speaks_for_its_subject_client_and_server() {
    let world = World::new().await;
    let token = world.token("github").await;
    let first = call(&world.authenticator, &token, "github").await.unwrap().unwrap();
    assert_eq!((&first.subject, &*first.actor.id), (&Subject::local("ada"), "laptop"));
    assert_eq!(&*first.scopes, [Scope::Mcp], "scopes that nobody knows are ignored");
    assert!(first.servers.contains("github") & !first.servers.contains("gitlab"));
    assert_eq!(first.expires_at.unwrap().as_second(), world.clock.now().as_second() + 3_600);
    let again = call(&world.authenticator, &token, "github").await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(world.checked(), 1);
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_left_to_others() {
    let world = World::new().await;
    for other in ["mcpgw_abc_def", "opaque", "Basic"] {
        assert!(matches!(call(&world.authenticator, other, "github").await, Ok(None)), "{other}");
    }
    let mut foreign = claims(&world);
    foreign["iss"] = "https://other.example".into();
    let foreign = world.signed(ACCESS_TOKEN, &foreign).await;
    assert!(matches!(call(&world.authenticator, &foreign, "github").await, Ok(None)));
    let (parts, ()) = Request::new(()).into_parts();
    assert!(matches!(world.authenticator.authenticate(&parts, &resource("x")).await, Ok(None)));
}

#[tokio::test]
async fn every_claim_counts_before_a_signature_is_checked() {
    let world = World::new().await;
    let now = world.clock.now().as_second();
    let wrong: [(&str, Value); 11] = [
        ("aud", json!("https://gateway.example/mcp-connect/gitlab")),
        ("aud", json!([&*resource("github").url])),
        ("aud", json!("https://gateway.example")),
        ("srv", json!("gitlab")),
        ("srv", Value::Null),
        ("exp", json!(now - 30)),
        ("exp", json!(now + 24 * 3_600 + 1)),
        ("nbf", json!(now + 31)),
        ("iat", json!(now + 31)),
        ("exp", json!("tomorrow")),
        ("epoch", Value::Null),
    ];
    for (claim, value) in wrong {
        let mut claims = claims(&world);
        claims[claim] = value.clone();
        let token = world.signed(ACCESS_TOKEN, &claims).await;
        why(call(&world.authenticator, &token, "github").await);
        assert_eq!(world.checked(), 0, "{claim} {value}");
    }
    for missing in ["sub", "tenant", "aud", "client_id", "scope", "jti", "iat", "exp", "epoch"] {
        let mut claims = claims(&world);
        claims.as_object_mut().unwrap().remove(missing);
        why(call(&world.authenticator, &world.signed(ACCESS_TOKEN, &claims).await, "github").await);
        assert_eq!(world.checked(), 0, "{missing}");
    }
    for typ in ["JWT", "mcp-hop+jwt", "oauth-id-jag+jwt", ""] {
        why(call(&world.authenticator, &world.signed(typ, &claims(&world)).await, "github").await);
        assert_eq!(world.checked(), 0, "{typ}");
    }
    let whole = world.signed(ACCESS_TOKEN, &claims(&world)).await;
    assert!(call(&world.authenticator, &whole, "github").await.is_ok(), "nothing else was wrong");
}

#[tokio::test]
async fn clocks_may_be_apart_by_the_named_tolerance_and_not_more() {
    let world = World::new().await;
    let now = world.clock.now().as_second();
    for (claim, edge, beyond) in [("exp", now - 29, now - 30), ("nbf", now + 30, now + 31), ("iat", now + 30, now + 31)]
    {
        let mut claims = claims(&world);
        claims["iat"] = (now - 600).into();
        claims[claim] = edge.into();
        let token = world.signed(ACCESS_TOKEN, &claims).await;
        assert!(call(&world.authenticator, &token, "github").await.is_ok(), "{claim}");
        claims[claim] = beyond.into();
        let token = world.signed(ACCESS_TOKEN, &claims).await;
        why(call(&world.authenticator, &token, "github").await);
    }
}

/// RFC 8725 §2.1, §3.1: the token does not choose how it is verified.
#[tokio::test]
async fn none_other_algorithms_and_keys_in_the_header_are_refused() {
    let world = World::new().await;
    let token = world.token("github").await;
    let kid = Jws::parse(token.as_bytes()).unwrap().header.kid.unwrap();
    let [_, payload, signature] = <[&str; 3]>::try_from(token.split('.').collect::<Vec<_>>()).unwrap();
    let with = |header: Value, signature: &str| {
        use base64::Engine as _;
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header.to_string());
        format!("{header}.{payload}.{signature}")
    };
    let header = |alg: &str| json!({ "typ": ACCESS_TOKEN, "alg": alg, "kid": kid });
    for alg in ["none", "None", "HS256", "ES384", "RS256", "es256", ""] {
        why(call(&world.authenticator, &with(header(alg), signature), "github").await);
    }
    why(call(&world.authenticator, &with(header("none"), ""), "github").await);
    let mut own = header("ES256");
    own["crit"] = json!(["exp"]);
    why(call(&world.authenticator, &with(own, signature), "github").await);
    let unknown = json!({ "typ": ACCESS_TOKEN, "alg": "ES256", "kid": "other" });
    why(call(&world.authenticator, &with(unknown, signature), "github").await);
    why(call(&world.authenticator, &with(json!({ "typ": ACCESS_TOKEN, "alg": "ES256" }), signature), "github").await);
    assert_eq!(world.checked(), 0, "none of it was worth a signature");

    // A key that the header brings does not replace the one that it names: the signature is simply wrong.
    let mut own = header("ES256");
    own["jwk"] = serde_json::from_str::<Value>(&world.keys.document()).unwrap()["keys"][0].clone();
    assert_eq!(why(call(&world.authenticator, &with(own, signature), "github").await), "the signature is wrong");
    let in_order = with(json!(["ES256", ACCESS_TOKEN, kid]), signature);
    why(call(&world.authenticator, &in_order, "github").await);
    let twice = r#"{"typ":"at+jwt","alg":"none","alg":"ES256"}"#;
    assert!(serde_json::from_str::<super::super::jws::Header>(twice).is_err(), "a member may occur once");
}

#[tokio::test]
async fn every_changed_byte_of_a_token_is_noticed() {
    let world = World::new().await;
    let token = world.token("github").await;
    for at in (0..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let verdict = call(&world.authenticator, &changed, "github").await;
        assert!(!matches!(verdict, Ok(Some(_))), "byte {at}");
    }
    let long = format!("{token}{}", "A".repeat(TokenLimits::BYTES + 1 - token.len()));
    assert_eq!(why(call(&world.authenticator, &long, "github").await), "the token is longer than 8 KiB");
}

#[tokio::test]
async fn a_token_for_one_server_is_worthless_at_another_remembered_or_not() {
    let world = World::new().await;
    let token = world.token("github").await;
    why(call(&world.authenticator, &token, "gitlab").await);
    call(&world.authenticator, &token, "github").await.unwrap();
    why(call(&world.authenticator, &token, "gitlab").await);
    let renamed = Resource { server: Some("other".into()), ..resource("github") };
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    let (parts, ()) = request.body(()).unwrap().into_parts();
    why(world.authenticator.authenticate(&parts, &renamed).await);
}

#[tokio::test]
async fn a_remembered_token_is_judged_anew_by_each_call() {
    let world = World::new().await;
    let token = world.token("github").await;
    let ada = Subject::local("ada");
    for what in
        [Revoked::Subject(&ada), Revoked::Client("laptop"), Revoked::Grant("grant-1"), Revoked::Session("session-1")]
    {
        call(&world.authenticator, &token, "github").await.unwrap();
        world.standing.end(what);
        why(call(&world.authenticator, &token, "github").await);
        world.standing.ended.lock().unwrap().clear();
    }
    let id = serde_json::from_slice::<Value>(&Jws::parse(token.as_bytes()).unwrap().claims).unwrap()["jti"].clone();
    world.standing.end(Revoked::Token(id.as_str().unwrap()));
    why(call(&world.authenticator, &token, "github").await);
    world.standing.ended.lock().unwrap().clear();

    let epoch = world.clock.now();
    world.standing.ended.lock().unwrap().insert(Revoked::Subject(&ada).id(), Some(epoch));
    why(call(&world.authenticator, &token, "github").await);
    world.clock.advance(SECOND);
    let later = world.token("github").await;
    assert!(call(&world.authenticator, &later, "github").await.is_ok(), "a later login is not ended");
    world.standing.ended.lock().unwrap().clear();

    world.standing.roles.lock().unwrap().insert("ada".into(), Roles::ADMIN);
    let admin = call(&world.authenticator, &token, "github").await.unwrap().unwrap();
    assert_eq!(admin.roles, Roles::ADMIN);
    *world.standing.epoch.lock().unwrap() = 1;
    why(call(&world.authenticator, &token, "github").await);
    let under_the_next = world.token("github").await;
    assert!(call(&world.authenticator, &under_the_next, "github").await.is_ok());
    *world.standing.epoch.lock().unwrap() = 0;
    world.standing.gone.lock().unwrap().insert("ada".into());
    why(call(&world.authenticator, &token, "github").await);
    *world.standing.cut_off.lock().unwrap() = true;
    let cut_off = call(&world.authenticator, &token, "github").await;
    assert!(matches!(cut_off, Err(AuthError::Unavailable(_))), "503: nobody can say");
}

/// Who goes on with what was ended, a program that nobody looks after for instance, costs a signature once and is no
/// attempt at anything.
#[tokio::test]
async fn a_token_that_was_ended_costs_one_signature_however_often_it_comes() {
    let world = World::new().await;
    let token = world.token("github").await;
    let effort = |token: &str| {
        let request = http::Request::post("/").header("authorization", format!("Bearer {token}"));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        world.authenticator.effort(&parts, &resource("github"))
    };
    assert_eq!(effort(&token), Effort::Work, "not seen before");
    world.standing.end(Revoked::Client("laptop"));
    for _ in 0..5 {
        why(call(&world.authenticator, &token, "github").await);
    }
    assert_eq!((world.checked(), effort(&token)), (1, Effort::Recall));
    world.standing.ended.lock().unwrap().clear();
    assert!(call(&world.authenticator, &token, "github").await.is_ok(), "what is remembered is no verdict");

    let (signed, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    why(call(&world.authenticator, &forged, "github").await);
    assert_eq!(effort(&forged), Effort::Work, "a forged one is not remembered");
    assert_eq!(effort("mcpgw_x"), Effort::Nothing);
    assert_eq!(effort("opaque"), Effort::Nothing);
    world.clock.advance(TokenIssuer::LIFETIME + TokenLimits::CLOCK_SKEW);
    assert_eq!(
        (effort(&token), effort(&forged)),
        (Effort::Recall, Effort::Recall),
        "their claims say that they are over"
    );
}

#[tokio::test]
async fn a_remembered_token_ends_at_its_end() {
    let world = World::new().await;
    let token = world.token("github").await;
    call(&world.authenticator, &token, "github").await.unwrap();
    world.clock.advance(TokenIssuer::LIFETIME + TokenLimits::CLOCK_SKEW - SECOND);
    assert!(call(&world.authenticator, &token, "github").await.is_ok());
    world.clock.advance(SECOND);
    assert_eq!(why(call(&world.authenticator, &token, "github").await), "the token has expired");
}

#[tokio::test]
async fn keys_may_turn_while_tokens_are_under_way_and_an_emergency_ends_them() {
    let world = World::new().await;
    let token = world.token("github").await;
    world.keys.rotate().await.unwrap();
    world.clock.advance(Duration::from_secs(1_200));
    let newer = world.token("github").await;
    assert!(call(&world.authenticator, &token, "github").await.is_ok());
    assert!(call(&world.authenticator, &newer, "github").await.is_ok());
    let unseen = world.token("github").await;
    world.keys.rotate_now().await.unwrap();
    assert_eq!(why(call(&world.authenticator, &unseen, "github").await), "no key of the issuer has this id");
}

#[tokio::test]
async fn a_flood_of_bad_tokens_pushes_out_no_good_one() {
    let options = TokenOptions { remembered: 64, ..TokenOptions::default() };
    let world = World::with(options).await;
    let good = world.token("github").await;
    call(&world.authenticator, &good, "github").await.unwrap();
    let checked = world.checked();
    let (head, signature) = good.rsplit_once('.').unwrap();
    for number in 0..1_000 {
        let bad = format!("{head}.{:04}{}", number, &signature[4..]);
        why(call(&world.authenticator, &bad, "github").await);
    }
    assert!(world.checked() > checked, "they had the known key's id");
    assert_eq!(world.authenticator.0.remembered.len(), 1);
    let before = world.checked();
    call(&world.authenticator, &good, "github").await.unwrap();
    assert_eq!(world.checked(), before, "still remembered");
}

#[tokio::test]
async fn what_is_remembered_is_bounded_and_what_is_used_stays() {
    let remembered = Remembered::new(320);
    for number in 0_u32..10_000 {
        remembered.insert(hash(&number.to_be_bytes(), &resource("x")), number);
        remembered.find(&hash(&0_u32.to_be_bytes(), &resource("x")));
        assert!(remembered.len() <= 320);
    }
    assert_eq!(remembered.find(&hash(&0_u32.to_be_bytes(), &resource("x"))), Some(0));
    assert_eq!(remembered.find(&hash(&1_u32.to_be_bytes(), &resource("x"))), None);
}

/// Answers what a test says, and counts.
#[derive(Default)]
struct Elsewhere {
    answer: Mutex<Option<(u16, String)>>,
    asked: std::sync::atomic::AtomicUsize,
    last: Mutex<Option<Request<Bytes>>>,
}

impl Elsewhere {
    fn says(&self, status: u16, body: &dyn ToString) {
        *self.answer.lock().unwrap() = Some((status, body.to_string()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Fetch for Elsewhere {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        *self.last.lock().unwrap() = Some(request);
        let answer = self.answer.lock().unwrap().clone();
        let Some((status, body)) = answer else {
            std::future::pending::<()>().await;
            unreachable!()
        };
        let status = http::StatusCode::from_u16(status).unwrap();
        Ok(Fetched { status, headers: http::HeaderMap::new(), body: body.into() })
    }
}

const IDP: &str = "https://idp.example";

/// A second issuer, whose keys are fetched.
fn with_foreign(world: &World, idp: &World) -> (TokenAuthenticator, Arc<Elsewhere>) {
    let elsewhere = Arc::new(Elsewhere::default());
    elsewhere.says(200, &idp.keys.document());
    let keys = RemoteKeys::new(format!("{IDP}/jwks"), elsewhere.clone(), world.clock.clone(), Default::default());
    let servers = ServerList::Only(Arc::from([Box::from("github"), Box::from("gitlab")]));
    let issuer = TrustedIssuer::new(IDP, Arc::new(keys)).with_audience("api://tools", servers);
    let standing: Arc<Scripted> = world.standing.clone();
    (TokenAuthenticator::builder(standing, world.clock.clone()).trust(issuer).build(), elsewhere)
}

fn foreign_claims(world: &World, audience: impl Into<Value>) -> Value {
    let now = world.clock.now().as_second();
    json!({
        "iss": IDP, "sub": "u-1", "aud": audience.into(), "iat": now, "exp": now + 600, "azp": "portal",
        "roles": ["owner"],
    })
}

#[tokio::test]
async fn tokens_of_trusted_issuers_are_good_by_their_audience_alone() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, _) = with_foreign(&world, &idp);
    let token = idp.signed(ACCESS_TOKEN, &foreign_claims(&world, json!(["other", "api://tools"]))).await;
    for server in ["github", "gitlab", "github"] {
        let principal = call(&authenticator, &token, server).await.unwrap().unwrap();
        assert_eq!(
            (&*principal.subject.issuer, &*principal.subject.id, &*principal.actor.id),
            (IDP, "u-1", "https://idp.example portal")
        );
        assert_eq!(principal.roles, Roles::NONE, "roles never come from a token");
    }
    why(call(&authenticator, &token, "jira").await);
    let direct = idp.signed(ACCESS_TOKEN, &foreign_claims(&world, &*resource("jira").url)).await;
    assert!(call(&authenticator, &direct, "jira").await.is_ok());
    for typ in ["JWT", "at+jwt+x"] {
        why(call(&authenticator, &idp.signed(typ, &foreign_claims(&world, "api://tools")).await, "github").await);
    }
    // Our own key, the other's name.
    let forged = world.signed(ACCESS_TOKEN, &foreign_claims(&world, "api://tools")).await;
    assert_eq!(why(call(&authenticator, &forged, "github").await), "no key of the issuer has this id");
}

#[tokio::test]
async fn foreign_keys_are_fetched_once_again_for_a_new_id_and_not_for_every_made_up_one() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, elsewhere) = with_foreign(&world, &idp);
    let claims = foreign_claims(&world, "api://tools");
    let first = idp.signed(ACCESS_TOKEN, &claims).await;
    call(&authenticator, &first, "github").await.unwrap();
    assert_eq!(elsewhere.asked(), 1);

    idp.keys.rotate_now().await.unwrap();
    elsewhere.says(200, &idp.keys.document());
    let second = idp.signed(ACCESS_TOKEN, &claims).await;
    for _ in 0..10 {
        why(call(&authenticator, &second, "github").await);
    }
    assert_eq!(elsewhere.asked(), 1, "within the retry time nobody is asked");
    world.clock.advance(30 * SECOND);
    call(&authenticator, &second, "github").await.unwrap();
    assert_eq!(elsewhere.asked(), 2);
}

#[tokio::test]
async fn while_the_issuer_is_away_known_keys_stay_good_and_without_any_the_answer_is_503() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, elsewhere) = with_foreign(&world, &idp);
    elsewhere.says(500, &"");
    let claims = foreign_claims(&world, "api://tools");
    let token = idp.signed(ACCESS_TOKEN, &claims).await;
    for _ in 0..3 {
        assert!(matches!(call(&authenticator, &token, "github").await, Err(AuthError::Unavailable(_))));
    }
    assert_eq!(elsewhere.asked(), 1);
    world.clock.advance(30 * SECOND);
    elsewhere.says(200, &idp.keys.document());
    call(&authenticator, &token, "github").await.unwrap();

    elsewhere.says(500, &"");
    world.clock.advance(2 * 3_600 * SECOND);
    let later = idp.signed(ACCESS_TOKEN, &foreign_claims(&world, "api://tools")).await;
    assert!(call(&authenticator, &later, "github").await.is_ok());
    world.clock.advance(24 * 3_600 * SECOND);
    let much_later = idp.signed(ACCESS_TOKEN, &foreign_claims(&world, "api://tools")).await;
    assert!(matches!(call(&authenticator, &much_later, "github").await, Err(AuthError::Unavailable(_))));
}

fn introspecting(world: &World, options: TokenOptions) -> (TokenAuthenticator, Arc<Elsewhere>) {
    let elsewhere = Arc::new(Elsewhere::default());
    let issuer = TrustedIssuer::opaque(IDP).with_audience("api://tools", ServerList::All);
    let secret = Secret::new("s%cret");
    let introspection = Introspection::new(issuer, format!("{IDP}/introspect"), "gw", secret, elsewhere.clone());
    let standing: Arc<Scripted> = world.standing.clone();
    let builder = TokenAuthenticator::builder(standing, world.clock.clone()).options(options);
    (builder.introspect(introspection).build(), elsewhere)
}

#[tokio::test]
async fn opaque_tokens_are_asked_about_and_remembered_for_a_minute() {
    let world = World::new().await;
    let (authenticator, elsewhere) = introspecting(&world, TokenOptions::default());
    let mut answer = foreign_claims(&world, "api://tools");
    answer["active"] = true.into();
    elsewhere.says(200, &answer);
    for _ in 0..3 {
        call(&authenticator, "opaque-1", "github").await.unwrap().unwrap();
    }
    assert_eq!(elsewhere.asked(), 1);
    let asked = elsewhere.last.lock().unwrap().take().unwrap();
    assert_eq!(asked.headers()["authorization"], "Basic Z3c6cyUyNWNyZXQ=", "gw:s%25cret");
    assert_eq!(asked.body(), "token=opaque-1&token_type_hint=access_token");

    elsewhere.says(200, &r#"{"active":false}"#);
    world.clock.advance(Introspection::REMEMBER - SECOND);
    assert!(call(&authenticator, "opaque-1", "github").await.is_ok());
    world.clock.advance(SECOND);
    why(call(&authenticator, "opaque-1", "github").await);
    for (status, body) in [(500, ""), (200, "<html>"), (302, "")] {
        elsewhere.says(status, &body);
        let verdict = call(&authenticator, "opaque-2", "github").await;
        assert!(matches!(verdict, Err(AuthError::Unavailable(_))), "{status} {body}");
    }
    assert!(matches!(call(&authenticator, "mcpgw_a_b", "github").await, Ok(None)), "API keys are asked of nobody");
}

/// An issuer tells nobody of a revocation: what is open with its token is asked about as often as calls are.
#[tokio::test(start_paused = true)]
async fn what_is_open_with_an_opaque_token_ends_with_it() {
    let world = World::new().await;
    let (authenticator, elsewhere) = introspecting(&world, TokenOptions::default());
    let mut answer = foreign_claims(&world, "api://tools");
    answer["active"] = true.into();
    answer["exp"] = (world.clock.now().as_second() + 24 * 3_600).into();
    elsewhere.says(200, &answer);
    let open =
        async || call(&authenticator, "opaque-1", "github").await.unwrap().unwrap().watch.clone().unwrap().over();
    let later = async |over: &mut mcp_gateway_core::BoxFuture<()>, by: Duration| {
        world.clock.advance(by);
        tokio::time::timeout(by + SECOND, over).await.is_ok()
    };
    let mut over = open().await;
    assert!(!later(&mut over, Introspection::REMEMBER).await);
    assert_eq!(elsewhere.asked(), 2, "once more");
    elsewhere.says(200, &r#"{"active":false}"#);
    assert!(later(&mut over, Introspection::REMEMBER).await);

    elsewhere.says(200, &answer);
    let mut over = open().await;
    elsewhere.says(500, &"");
    assert!(!later(&mut over, Introspection::AWAY - 2 * SECOND).await, "an issuer that is away ends nothing at once");
    assert!(later(&mut over, Introspection::REMEMBER).await);
}

/// RFC 8725 §3.11: of an issuer that gives its access tokens no type, what is something else is told by its claims.
#[tokio::test]
async fn tokens_of_no_type_are_taken_only_where_that_is_said_and_never_id_tokens() {
    let (world, idp) = (World::new().await, World::new().await);
    let elsewhere = Arc::new(Elsewhere::default());
    elsewhere.says(200, &idp.keys.document());
    let keys = RemoteKeys::new(format!("{IDP}/jwks"), elsewhere, world.clock.clone(), Default::default());
    let issuer = TrustedIssuer::new(IDP, Arc::new(keys)).with_audience("api://tools", ServerList::All).with_typ("JWT");
    let standing: Arc<Scripted> = world.standing.clone();
    let untyped = TokenAuthenticator::builder(standing, world.clock.clone()).trust(issuer).build();
    let claims = foreign_claims(&world, "api://tools");
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        assert!(call(&untyped, &idp.signed(typ, &claims).await, "github").await.is_ok(), "{typ}");
    }
    for typ in ["logout+jwt", "oauth-id-jag+jwt", "secevent+jwt", "dpop+jwt", "id_token+jwt", ""] {
        why(call(&untyped, &idp.signed(typ, &claims).await, "github").await);
    }
    for (claim, value) in [
        ("nonce", json!("n")),
        ("at_hash", json!("h")),
        ("c_hash", json!("h")),
        ("events", json!({})),
        ("typ", json!("ID")),
        ("typ", json!("Refresh")),
        ("token_use", json!("id")),
    ] {
        let mut other = claims.clone();
        other[claim] = value;
        let verdict = call(&untyped, &idp.signed("JWT", &other).await, "github").await;
        assert_eq!(why(verdict), "the token is not of the type of an access token", "{claim}");
    }
    let mut keycloaks = claims.clone();
    keycloaks["typ"] = "Bearer".into();
    assert!(call(&untyped, &idp.signed("JWT", &keycloaks).await, "github").await.is_ok());
    // Before Keycloak 25.
    keycloaks["nonce"] = "n".into();
    assert!(call(&untyped, &idp.signed("JWT", &keycloaks).await, "github").await.is_ok());
    keycloaks["at_hash"] = "h".into();
    why(call(&untyped, &idp.signed("JWT", &keycloaks).await, "github").await);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_tokens_are_looked_at_at_once_and_the_others_do_not_wait_for_ever() {
    let world = World::new().await;
    let options = TokenOptions { questions: 1, ..TokenOptions::default() };
    let (authenticator, elsewhere) = introspecting(&world, options);
    let busy = tokio::spawn({
        let authenticator = authenticator.clone();
        async move { call(&authenticator, "slow", "github").await }
    });
    while elsewhere.asked() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(call(&authenticator, "next", "github").await, Err(AuthError::Unavailable(_))));
    assert_eq!(elsewhere.asked(), 1);
    busy.abort();
    let _ = busy.await;
    elsewhere.says(200, &r#"{"active":false}"#);
    why(call(&authenticator, "next", "github").await);
}

/// The issuer of opaque tokens is away, and anybody can make such tokens up.
#[tokio::test(start_paused = true)]
async fn an_issuer_that_does_not_answer_keeps_no_other_token_waiting() {
    let world = World::new().await;
    let (_, elsewhere) = introspecting(&world, TokenOptions::default());
    let issuer = TrustedIssuer::opaque(IDP).with_audience("api://tools", ServerList::All);
    let introspection = Introspection::new(issuer, IDP, "gw", Secret::new("s"), elsewhere.clone());
    let standing: Arc<Scripted> = world.standing.clone();
    let authenticator = TokenAuthenticator::builder(standing, world.clock.clone())
        .own(ISSUER, world.keys.clone())
        .introspect(introspection)
        .build();
    let began = tokio::time::Instant::now();
    let asking = (0..16).map(|n| {
        let authenticator = authenticator.clone();
        tokio::spawn(async move { call(&authenticator, &format!("made-up-{n}"), "github").await })
    });
    let asking: Vec<_> = asking.collect();
    while elsewhere.asked() < TokenOptions::default().questions {
        tokio::task::yield_now().await;
    }
    assert!(call(&authenticator, &world.token("github").await, "github").await.unwrap().is_some());
    assert_eq!(began.elapsed(), Duration::ZERO, "no turn was waited for");
    for one in asking {
        assert!(matches!(one.await.unwrap(), Err(AuthError::Unavailable(_))));
    }
    assert_eq!(elsewhere.asked(), TokenOptions::default().questions, "the others have given up");
    assert_eq!(began.elapsed(), Introspection::TIMEOUT);
}

#[tokio::test]
async fn own_credentials_for_something_else_are_shown_to_no_issuer() {
    let world = World::new().await;
    let elsewhere = Arc::new(Elsewhere::default());
    elsewhere.says(200, &r#"{"active":false}"#);
    let introspection = Introspection::new(TrustedIssuer::opaque(IDP), IDP, "gw", Secret::new("s"), elsewhere.clone());
    let introspection = introspection.withhold(|token| token == b"of-the-owner");
    let standing: Arc<Scripted> = world.standing.clone();
    let authenticator = TokenAuthenticator::builder(standing, world.clock.clone()).introspect(introspection).build();
    for own in ["of-the-owner", "mcpgwr_abc"] {
        assert_eq!(
            why(call(&authenticator, own, "github").await),
            "the credential is one of this gateway's own for something else"
        );
    }
    assert_eq!(elsewhere.asked(), 0);
    why(call(&authenticator, "of-somebody", "github").await);
    assert_eq!(elsewhere.asked(), 1);
}

/// A revocation is kept for a day: a token that lives longer would outlive it.
#[tokio::test]
async fn a_token_of_others_is_good_no_longer_than_its_revocation_is_known() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, _) = with_foreign(&world, &idp);
    let (now, day) = (world.clock.now().as_second(), TokenLimits::LIFETIME + TokenLimits::CLOCK_SKEW);
    let mut claims = foreign_claims(&world, "api://tools");
    claims["exp"] = (now + 7 * 24 * 3_600).into();
    let token = idp.signed(ACCESS_TOKEN, &claims).await;
    let principal = call(&authenticator, &token, "github").await.unwrap().unwrap();
    assert_eq!(principal.expires_at.unwrap().as_second(), now + limit(day), "what is open ends then too");
    world.clock.advance(day - SECOND);
    assert!(call(&authenticator, &token, "github").await.is_ok());
    world.clock.advance(SECOND);
    for server in ["github", "gitlab"] {
        let why = why(call(&authenticator, &token, server).await);
        assert_eq!(why, "the token is so old that its revocation may be forgotten", "remembered or not");
    }
    for (name, value) in [("iat", Value::Null), ("cnf", json!({ "jkt": "0" }))] {
        let mut claims = foreign_claims(&world, "api://tools");
        claims[name] = value;
        why(call(&authenticator, &idp.signed(ACCESS_TOKEN, &claims).await, "github").await);
    }
}

/// Two replicas over one store: each refuses as soon as it has applied the commit.
#[tokio::test]
async fn a_revocation_in_the_store_ends_tokens_at_every_replica() {
    use mcp_gateway_core::contract::When;
    use mcp_gateway_core::record::{Resources, Revocation, TenantId};
    use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};

    let world = World::new().await;
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let compile = Arc::new(|_: &_| unreachable!("there is no entry"));
        let options = SnapshotOptions::new(world.sealer.clone(), compile);
        let (snapshots, driver) = Snapshots::follow(world.store.clone(), options).await.unwrap();
        tokio::spawn(driver);
        let builder = TokenAuthenticator::builder(Arc::new(snapshots.clone()), world.clock.clone());
        replicas.push((builder.own(ISSUER, world.keys.clone()).build(), snapshots));
    }
    let token = world.token("github").await;
    for (authenticator, _) in &replicas {
        call(authenticator, &token, "github").await.unwrap().unwrap();
    }
    let until = world.clock.now() + Duration::from_secs(3_600);
    let revocation = Revocation { reason: "reuse".into(), before: None, until };
    let revocations: Resources<Revocation> = world.ring();
    assert_eq!(revocations.key("x").tenant, TenantId::default());
    let id = Revoked::Grant("grant-1").id();
    let revision = revocations.save(&id, &revocation, When::Absent).await.unwrap();
    for (authenticator, snapshots) in &replicas {
        snapshots.wait_for(revision).await;
        why(call(authenticator, &token, "github").await);
    }
    let revision = revocations.delete(&id, When::Any).await.unwrap();
    for (authenticator, snapshots) in &replicas {
        snapshots.wait_for(revision).await;
        call(authenticator, &token, "github").await.unwrap().unwrap();
    }
}

/// Knows one person of the other issuer.
struct OneOfThem;

#[async_trait]
impl SubjectMap for OneOfThem {
    async fn subject(&self, foreign: &Subject) -> Result<Option<Subject>, mcp_gateway_core::BoxError> {
        assert_eq!(&*foreign.issuer, IDP);
        Ok((&*foreign.id == "u-1").then(|| Subject::local("ada")))
    }
}

#[tokio::test]
async fn people_of_other_issuers_have_the_rights_that_they_have_here() {
    let (world, idp) = (World::new().await, World::new().await);
    let elsewhere = Arc::new(Elsewhere::default());
    elsewhere.says(200, &idp.keys.document());
    let keys = RemoteKeys::new(format!("{IDP}/jwks"), elsewhere, world.clock.clone(), Default::default());
    let issuer = TrustedIssuer::new(IDP, Arc::new(keys)).with_audience("api://tools", ServerList::All);
    let issuer = issuer.with_people(Arc::new(OneOfThem));
    let standing: Arc<Scripted> = world.standing.clone();
    let authenticator = TokenAuthenticator::builder(standing, world.clock.clone()).trust(issuer).build();
    let claims = |sub: &str| {
        let mut claims = foreign_claims(&world, "api://tools");
        (claims["sub"], claims["iat"]) = (sub.into(), world.clock.now().as_second().into());
        claims
    };
    let stranger = idp.signed(ACCESS_TOKEN, &claims("u-2")).await;
    assert_eq!(why(call(&authenticator, &stranger, "github").await), "the subject of the token is nobody here");
    let token = idp.signed(ACCESS_TOKEN, &claims("u-1")).await;
    for _ in 0..2 {
        let principal = call(&authenticator, &token, "github").await.unwrap().unwrap();
        assert_eq!(principal.subject, Subject::local("ada"));
    }
    // What ends the person here ends it, remembered or not.
    world.standing.end(Revoked::Subject(&Subject::local("ada")));
    assert_eq!(why(call(&authenticator, &token, "github").await), "the token, or what it depends on, was revoked");
}

/// The fetch of keys belongs to nobody who waits for it.
#[tokio::test]
async fn a_caller_who_hangs_up_takes_the_keys_from_nobody() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, elsewhere) = with_foreign(&world, &idp);
    *elsewhere.answer.lock().unwrap() = None;
    let token = idp.signed(ACCESS_TOKEN, &foreign_claims(&world, "api://tools")).await;
    let gate = Arc::new(Gate(elsewhere.clone(), tokio::sync::Semaphore::new(0)));
    let keys = RemoteKeys::new(format!("{IDP}/jwks"), gate.clone(), world.clock.clone(), Default::default());
    let issuer = TrustedIssuer::new(IDP, Arc::new(keys)).with_audience("api://tools", ServerList::All);
    drop(authenticator);
    let standing: Arc<Scripted> = world.standing.clone();
    let authenticator = TokenAuthenticator::builder(standing, world.clock.clone()).trust(issuer).build();
    elsewhere.says(200, &idp.keys.document());
    let first = Box::pin(call(&authenticator, &token, "github"));
    // Begun, and given up.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), first).await.is_err());
    let (second, third) = (call(&authenticator, &token, "github"), call(&authenticator, &token, "github"));
    let open = async {
        tokio::task::yield_now().await;
        gate.1.add_permits(1);
    };
    let (second, third, ()) = tokio::join!(second, third, open);
    assert!(second.unwrap().is_some() && third.unwrap().is_some());
    assert_eq!(elsewhere.asked(), 1, "one fetch for all");
}

/// Lets as many fetches through as a test says.
struct Gate(Arc<Elsewhere>, tokio::sync::Semaphore);

#[async_trait]
impl Fetch for Gate {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        self.1.acquire().await.unwrap().forget();
        self.0.fetch(request).await
    }
}

/// What an emergency is for: a token that a stolen key signed may have been used before.
#[tokio::test]
async fn a_remembered_token_ends_with_the_key_that_signed_it() {
    let world = World::new().await;
    let token = world.token("github").await;
    call(&world.authenticator, &token, "github").await.unwrap().unwrap();
    world.keys.rotate().await.unwrap();
    call(&world.authenticator, &token, "github").await.unwrap().unwrap();
    assert_eq!(world.checked(), 1, "a usual rotation is noticed by nobody");
    world.keys.rotate_now().await.unwrap();
    for _ in 0..2 {
        assert_eq!(why(call(&world.authenticator, &token, "github").await), "no key of the issuer has this id");
    }
    let token = world.token("github").await;
    assert!(call(&world.authenticator, &token, "github").await.is_ok());
}

/// An issuer that takes its time delays nobody whose key is known by more than a second, and once it failed by nothing.
#[tokio::test(start_paused = true)]
async fn known_keys_do_not_wait_for_an_issuer_that_is_slow() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, elsewhere) = with_foreign(&world, &idp);
    let mut claims = foreign_claims(&world, "api://tools");
    claims["exp"] = (world.clock.now().as_second() + 10 * 3_600).into();
    let token = idp.signed(ACCESS_TOKEN, &claims).await;
    call(&authenticator, &token, "github").await.unwrap();
    *elsewhere.answer.lock().unwrap() = None;
    world.clock.advance(3_600 * SECOND);
    let began = tokio::time::Instant::now();
    assert!(call(&authenticator, &token, "github").await.is_ok());
    assert_eq!((began.elapsed(), elsewhere.asked()), (SECOND, 2));
}

/// … and is asked again meanwhile.
#[tokio::test(start_paused = true)]
async fn known_keys_wait_for_nothing_once_the_issuer_has_failed() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, elsewhere) = with_foreign(&world, &idp);
    let mut claims = foreign_claims(&world, "api://tools");
    claims["exp"] = (world.clock.now().as_second() + 10 * 3_600).into();
    let token = idp.signed(ACCESS_TOKEN, &claims).await;
    call(&authenticator, &token, "github").await.unwrap();
    elsewhere.says(500, &"");
    world.clock.advance(3_600 * SECOND);
    assert!(call(&authenticator, &token, "github").await.is_ok());
    *elsewhere.answer.lock().unwrap() = None;
    world.clock.advance(30 * SECOND);
    let began = tokio::time::Instant::now();
    assert!(call(&authenticator, &token, "github").await.is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO);
    while elsewhere.asked() < 3 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_remembered_token_ends_when_its_issuer_withdraws_the_key() {
    let (world, idp) = (World::new().await, World::new().await);
    let (authenticator, elsewhere) = with_foreign(&world, &idp);
    let mut claims = foreign_claims(&world, "api://tools");
    claims["exp"] = (world.clock.now().as_second() + 3 * 3_600).into();
    let token = idp.signed(ACCESS_TOKEN, &claims).await;
    for (hour, asked) in [(0, 1), (1, 2)] {
        world.clock.advance(3_600 * SECOND * hour);
        for _ in 0..2 {
            assert!(call(&authenticator, &token, "github").await.is_ok());
        }
        assert_eq!(elsewhere.asked(), asked, "the keys are as old as they may be");
    }
    idp.keys.rotate_now().await.unwrap();
    elsewhere.says(200, &idp.keys.document());
    world.clock.advance(3_600 * SECOND);
    for _ in 0..2 {
        assert_eq!(why(call(&authenticator, &token, "github").await), "no key of the issuer has this id");
    }
}
