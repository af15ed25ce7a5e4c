//! Users, groups, sessions, and what each role may do.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use mcp_gateway_auth::login::{Attempt, SessionUser, csrf_token};
use mcp_gateway_auth::server::{Consent, Grant};
use mcp_gateway_auth::user::{Asserted, AssertedGroup, IdentityKey};
use mcp_gateway_core::contract::{AuditRow, AuditStore as _, StreamId, When};
use mcp_gateway_core::record::{
    ActorFacts, ActorKind, AuditEvent, Category, Dependence, EventKind, Principal, Resources, Revoked, Roles, Scope,
    Secret, Subject, TenantId,
};
use serde_json::{Value, json};

use super::world::{Answer, BOOTSTRAP, World};
use super::{OPERATIONS, concrete};
use crate::api::Recorded;

/// Somebody at a browser.
struct Person {
    id: String,
    token: String,
}

impl World {
    /// A person with these roles, who has just signed in.
    async fn person(&self, name: &str, roles: Roles) -> Person {
        let users = &self.app.logins.users;
        let id = users.sign_in(&Asserted::new(IdentityKey::new("https://login.example", name), name)).await.unwrap().id;
        let owner = Principal::new("local", "owner").with_roles(Roles::OWNER);
        let revision = users.set_roles(&owner, &id, roles, None).await.unwrap();
        self.app.snapshots.wait_for(revision).await;
        let epoch = users.get(&id).await.unwrap().unwrap().value.epoch;
        let begun = self.app.logins.sessions.begin(&SessionUser { id: id.clone(), epoch }, "test").await.unwrap();
        Person { id: id.into(), token: begun.token.expose().to_owned() }
    }

    /// Signed in anew.
    async fn again(&self, person: Person) -> Person {
        let epoch = self.app.logins.users.get(&person.id).await.unwrap().unwrap().value.epoch;
        let user = SessionUser { id: person.id.as_str().into(), epoch };
        let begun = self.app.logins.sessions.begin(&user, "test").await.unwrap();
        Person { token: begun.token.expose().to_owned(), ..person }
    }

    async fn as_person(&self, person: &Person, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("cookie", format!("__Host-mcpgw_session={}", person.token))
            .header("sec-fetch-site", "same-origin")
            .header("x-csrf-token", csrf_token(&person.token));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.ask(request.body(body).unwrap()).await
    }
}

#[tokio::test]
async fn the_table_says_who_may_do_what() {
    let world = World::with_servers().await;
    let everybody = [
        ("admin", Roles::ADMIN),
        ("power_user_plus", Roles::POWER_USER_PLUS),
        ("power_user", Roles::POWER_USER),
        ("basic", Roles::BASIC),
        ("auditor", Roles::AUDITOR),
        ("nothing", Roles::NONE),
    ];
    for (name, roles) in everybody {
        let person = world.person(name, roles).await;
        for operation in OPERATIONS {
            let path = concrete(operation.path);
            let answer = world.as_person(&person, operation.method.as_str(), &path, None).await;
            let may = operation.access.roles.iter().any(|role| roles.with_included().contains(*role));
            assert_eq!(answer.status != StatusCode::FORBIDDEN, may, "{name} {operation:?}: {}", answer.body);
        }
        let groups = world.as_person(&person, "GET", "/api/v1/groups", None).await.status;
        let publishes = ["admin", "auditor", "power_user_plus"].contains(&name);
        assert_eq!(groups, if publishes { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{name}");
        // An auditor looks, and changes nothing but their own keys, accounts at servers, ways to sign in, and what clients may do in their
        // name.
        let changes = |roles: Roles| {
            OPERATIONS.iter().filter(move |operation| {
                operation.recorded == Recorded::Write && operation.access.roles.contains(&roles)
            })
        };
        let own = [
            "/api/v1/api-keys",
            "/api/v1/connections",
            "/api/v1/oauth/grants",
            "/api/v1/oauth/consents",
            "/api/v1/me/",
        ];
        assert!(changes(Roles::AUDITOR).all(|operation| own.iter().any(|path| operation.path.starts_with(path))));
    }
}

/// Who is neither admin nor auditor reads what they did themselves, whatever they ask for.
#[tokio::test]
async fn everybody_reads_their_own_rows_of_the_trail_alone() {
    let world = World::new().await;
    let (ada, auditor) = (world.person("ada", Roles::BASIC).await, world.person("eve", Roles::AUDITOR).await);
    let did = |n: u64, issuer: &str, id: &str| {
        let ts = jiff::Timestamp::from_microsecond(i64::try_from(n).unwrap()).unwrap();
        let mut event = AuditEvent::new(ts, ulid::Ulid(n.into()), Category::Mcp, EventKind::Exchange);
        let subject = Subject { tenant: TenantId::default(), issuer: issuer.into(), id: id.into() };
        event.actor = Some(ActorFacts { subject, kind: ActorKind::ApiKey, id: "k".into(), name: None });
        AuditRow { stream: StreamId(ulid::Ulid(1)), seq: n, event }
    };
    let rows = vec![did(1, "local", &ada.id), did(2, "local", "bob"), did(3, "https://other.example", &ada.id)];
    world.audit.append(rows).await.unwrap();
    let seen = async |person: &Person, query: &str| {
        let path = format!("/api/v1/audit-events?category=mcp{query}");
        world.as_person(person, "GET", &path, None).await.body["items"].as_array().unwrap().len()
    };
    assert_eq!(seen(&ada, "").await, 1, "not those of somebody else of the same id");
    assert_eq!(seen(&ada, "&subject=bob").await, 1, "what is asked for does not count");
    assert_eq!((seen(&auditor, "").await, seen(&auditor, "&subject=bob").await), (3, 1));
    for path in ["/api/v1/servers", "/api/v1/entries"] {
        assert_eq!(world.as_person(&auditor, "GET", path, None).await.status, StatusCode::OK);
        assert_eq!(world.as_person(&ada, "GET", path, None).await.status, StatusCode::FORBIDDEN);
    }
}

/// `audit.admin_reads`: who looked at what of others.
#[tokio::test]
async fn looks_of_administrators_are_in_the_trail_where_that_is_wanted() {
    for (wanted, rows) in [(false, 0), (true, 1)] {
        let mut config = crate::config::Config::default();
        config.runtime.process.i_trust_all_servers = true;
        config.audit.admin_reads = wanted;
        let world = World::with(config).await;
        let admin = world.person("root", Roles::ADMIN).await;
        world.recorded();
        for path in ["/api/v1/users", "/api/v1/me"] {
            assert_eq!(world.as_person(&admin, "GET", path, None).await.status, StatusCode::OK);
        }
        let recorded = world.recorded();
        assert_eq!(recorded.len(), rows, "{recorded:?}");
        assert!(recorded.iter().all(|event| event.method.as_deref() == Some("user.list")));
    }
}

#[tokio::test]
async fn everybody_sees_and_ends_what_clients_may_do_in_their_own_name() {
    let world = World::new().await;
    let (ada, bob) = (world.person("ada", Roles::BASIC).await, world.person("bob", Roles::BASIC).await);
    let (auditor, admin) = (world.person("eve", Roles::AUDITOR).await, world.person("root", Roles::ADMIN).await);
    let kept = Resources::<Grant>::new(world.app.resources.clone(), world.app.sealer.clone(), TenantId::default());
    for (id, person) in [("of-ada", &ada), ("of-bob", &bob), ("of-ada-too", &ada)] {
        let grant: Grant = serde_json::from_value(json!({
            "subject": Subject::local(&*person.id), "clientId": "laptop", "server": "far", "scope": "mcp",
            "createdAt": "2026-01-01T00:00:00Z", "endsAt": "2999-01-01T00:00:00Z", "rotatedAt": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        kept.save(id, &grant, When::Any).await.unwrap();
    }
    let seen = async |person: &Person| {
        let listed = world.as_person(person, "GET", "/api/v1/oauth/grants", None).await.body;
        listed["items"].as_array().unwrap().iter().map(|grant| grant["id"].as_str().unwrap().to_owned()).collect()
    };
    let seen_by: [Vec<String>; 4] = [seen(&ada).await, seen(&bob).await, seen(&auditor).await, seen(&admin).await];
    assert_eq!(seen_by.each_ref().map(Vec::len), [2, 1, 3, 3], "{seen_by:?}");
    for (person, grant, status) in [
        (&bob, "of-ada", StatusCode::NOT_FOUND),
        (&auditor, "of-ada", StatusCode::NOT_FOUND),
        (&ada, "of-ada", StatusCode::NO_CONTENT),
        (&ada, "of-ada", StatusCode::NOT_FOUND),
        (&admin, "of-bob", StatusCode::NO_CONTENT),
    ] {
        let path = format!("/api/v1/oauth/grants/{grant}");
        assert_eq!(world.as_person(person, "DELETE", &path, None).await.status, status, "{grant}");
    }
    assert_eq!(seen(&admin).await, ["of-ada-too".to_owned()]);
    // In the feed too: no token that came of it is good any more.
    let on = [Revoked::Grant("of-ada").id()];
    let given = Dependence { epoch: jiff::Timestamp::UNIX_EPOCH, on: on.into() };
    assert!(world.app.snapshots.load().revocations.end(&given));
}

#[tokio::test]
async fn everybody_sees_and_forgets_what_they_have_agreed_to() {
    let world = World::new().await;
    let (ada, bob) = (world.person("ada", Roles::BASIC).await, world.person("bob", Roles::BASIC).await);
    let admin = world.person("root", Roles::ADMIN).await;
    let kept = Resources::<Consent>::new(world.app.resources.clone(), world.app.sealer.clone(), TenantId::default());
    for (id, person) in [("of-ada", &ada), ("of-bob", &bob)] {
        let consent: Consent = serde_json::from_value(json!({
            "subject": Subject::local(&*person.id), "clientId": "portal", "server": "far", "scope": "mcp",
            "redirectUri": "https://portal.example/cb", "shown": "x", "personEpoch": 0,
            "agreedAt": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        kept.save(id, &consent, When::Any).await.unwrap();
    }
    let seen = async |person: &Person| {
        let listed = world.as_person(person, "GET", "/api/v1/oauth/consents", None).await.body;
        listed["items"].as_array().unwrap().clone()
    };
    let [consent] = &*seen(&ada).await else { panic!("Ada sees her own alone") };
    assert_eq!((&consent["id"], &consent["ends_at"]), (&json!("of-ada"), &json!("2026-06-30T00:00:00Z")), "180 days");
    assert_eq!((seen(&bob).await.len(), seen(&admin).await.len()), (1, 2));
    for (person, consent, status) in [
        (&bob, "of-ada", StatusCode::NOT_FOUND),
        (&ada, "of-ada", StatusCode::NO_CONTENT),
        (&ada, "of-ada", StatusCode::NOT_FOUND),
        (&admin, "of-bob", StatusCode::NO_CONTENT),
    ] {
        let path = format!("/api/v1/oauth/consents/{consent}");
        assert_eq!(world.as_person(person, "DELETE", &path, None).await.status, status, "{consent}");
    }
    assert!(seen(&admin).await.is_empty());
}

#[tokio::test]
async fn ways_to_sign_in_are_seen_linked_by_owners_and_taken_but_for_the_last() {
    let mut config = crate::config::Config::default();
    config.runtime.process.enabled = false;
    let providers = json!([
        { "name": "company", "issuer": "https://login.example", "client_id": "gateway" },
        { "name": "other", "issuer": "https://other.example", "client_id": "gateway" },
    ]);
    config.login.providers = serde_json::from_value(providers).unwrap();
    let world = World::with(config).await;
    let (ada, eve) = (world.person("ada", Roles::BASIC).await, world.person("eve", Roles::BASIC).await);
    let (owner, admin) = (world.person("boss", Roles::OWNER).await, world.person("root", Roles::ADMIN).await);
    let of_ada = format!("/api/v1/users/{}/identities", ada.id);
    let seen = async |person: &Person, path: &str| {
        let answer = world.as_person(person, "GET", path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.body["items"].as_array().unwrap().clone()
    };
    let [first] = &*seen(&ada, "/api/v1/me/identities").await else { panic!("one") };
    assert_eq!((&first["issuer"], &first["subject"]), (&json!("https://login.example"), &json!("ada")));
    let first = first["id"].as_str().unwrap().to_owned();
    let own = format!("/api/v1/me/identities/{first}");
    assert_eq!(world.as_person(&ada, "DELETE", &own, None).await.status, StatusCode::CONFLICT, "it is the last one");

    let link = async |by: &Person, issuer: &str, subject: &str| {
        let body = json!({ "issuer": issuer, "subject": subject });
        world.as_person(by, "POST", &of_ada, Some(&body)).await
    };
    assert_eq!(
        link(&admin, "https://other.example", "7").await.status,
        StatusCode::FORBIDDEN,
        "for an owner to answer"
    );
    let strange = link(&owner, "https://evil.example", "7").await;
    assert_eq!((strange.status, &strange.body["data"]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("issuer")));
    assert_eq!(link(&owner, "https://login.example", "eve").await.status, StatusCode::CONFLICT, "it is Eve's");
    assert_eq!(link(&owner, "https://login.example", "7").await.status, StatusCode::CONFLICT, "she has one there");
    let linked = link(&owner, "https://other.example", "7").await;
    assert_eq!(linked.body["items"].as_array().unwrap().len(), 2, "{}", linked.body);
    assert_eq!(seen(&admin, &of_ada).await.len(), 2);
    assert_eq!(world.as_person(&ada, "GET", "/api/v1/me", None).await.status, StatusCode::UNAUTHORIZED, "once more");
    let ada = world.again(ada).await;

    assert_eq!(world.as_person(&eve, "DELETE", &own, None).await.status, StatusCode::NOT_FOUND, "not hers");
    assert_eq!(world.as_person(&ada, "DELETE", &own, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        world.as_person(&ada, "GET", "/api/v1/me", None).await.status,
        StatusCode::UNAUTHORIZED,
        "all has ended"
    );
    let left = seen(&admin, &of_ada).await;
    let left = format!("{of_ada}/{}", left[0]["id"].as_str().unwrap());
    assert_eq!(world.as_person(&admin, "DELETE", &left, None).await.status, StatusCode::CONFLICT);
    let gone = world.as_person(&admin, "GET", "/api/v1/users/nobody/identities", None).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_first_owner_ends_the_bootstrap() {
    let world = World::new().await;
    let key = world.key(&[Scope::ApiRead], true).await.1;
    assert_eq!(world.with_key(&key, "GET", "/api/v1/users").await.status, StatusCode::OK);
    let ada = json!({ "login": "ada", "password": "only the first time", "name": "Ada", "roles": ["owner"] });
    let made = world.post("/api/v1/users", &ada).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(made.body["effective_roles"][0], "owner");
    assert_eq!(world.get("/api/v1/users").await.status, StatusCode::UNAUTHORIZED);
    // So have the rights of a key that was made with it; what it is good for on the data plane, it is good for still.
    assert_eq!(world.with_key(&key, "GET", "/api/v1/users").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn nobody_is_enabled_beside_another_person_where_processes_serve_one() {
    let world = World::with(crate::config::Config::default()).await;
    let (owner, eve) = (world.person("owner", Roles::OWNER).await, world.person("eve", Roles::BASIC).await);
    let post = async |act: &str| {
        let path = format!("/api/v1/users/{}/{act}", eve.id);
        world.as_person(&owner, "POST", &path, None).await
    };
    assert_eq!(post("disable").await.status, StatusCode::OK);
    let refused = post("enable").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    let read = world.as_person(&owner, "GET", &format!("/api/v1/users/{}", eve.id), None).await;
    assert_eq!(read.body["state"], "disabled");
}

#[tokio::test]
async fn users_are_made_changed_disabled_and_deleted() {
    let world = World::new().await;
    let owner = world.person("owner", Roles::OWNER).await;
    let eve = json!({ "login": "Eve", "password": "only the first time", "name": "Eve", "email": "Eve@E.example" });
    let made = world.as_person(&owner, "POST", "/api/v1/users", Some(&eve)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let path = made.headers["location"].to_str().unwrap().to_owned();
    assert_eq!((&made.body["roles"], &made.body["email"]), (&json!(["basic"]), &json!("eve@e.example")));
    assert!(!made.body.to_string().contains("first time"));
    let again = world.as_person(&owner, "POST", "/api/v1/users", Some(&eve)).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "the login is taken, in whatever case");

    let read = world.as_person(&owner, "GET", &path, None).await;
    assert_eq!((read.status, &read.headers["etag"]), (StatusCode::OK, &made.headers["etag"]));
    let roles = |names: &[&str]| json!({ "roles": names });
    let put = async |body: Value| world.as_person(&owner, "PUT", &format!("{path}/roles"), Some(&body)).await;
    // Whoever made her knows her password: with it, they would be what she is made.
    let early = put(roles(&["power_user", "auditor"])).await;
    assert_eq!(early.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", early.body);
    let (first, own) = (Secret::new("only the first time"), Secret::new("known to Eve alone"));
    let replaced = world.app.logins.local.change("eve", &first, &own, Attempt::default()).await.unwrap();
    world.app.snapshots.wait_for(replaced.1).await;
    let changed = put(roles(&["power_user", "auditor"])).await;
    assert_eq!(changed.body["effective_roles"], json!(["power_user", "basic", "auditor"]), "{}", changed.body);
    assert_eq!(put(roles(&["root"])).await.status, StatusCode::UNPROCESSABLE_ENTITY);

    let post = async |act: &str| world.as_person(&owner, "POST", &format!("{path}/{act}"), None).await;
    let disabled = post("disable").await;
    assert_eq!(disabled.body["state"], "disabled");
    assert_eq!(post("enable").await.body["state"], "active");
    assert_eq!(post("end-sessions").await.status, StatusCode::OK);
    let password = json!({ "password": "another first time" });
    let set = world.as_person(&owner, "PUT", &format!("{path}/password"), Some(&password)).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.body);
    let listed = world.as_person(&owner, "GET", "/api/v1/users", None).await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 2);

    assert_eq!(world.as_person(&owner, "DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.as_person(&owner, "GET", &path, None).await.status, StatusCode::NOT_FOUND);
    let own = format!("/api/v1/users/{}", owner.id);
    let last = world.as_person(&owner, "DELETE", &own, None).await;
    assert_eq!(last.status, StatusCode::CONFLICT, "{}", last.body);
    assert!(last.body["detail"].as_str().unwrap().starts_with("This is the last owner"), "{}", last.body);
}

#[tokio::test]
async fn keys_of_owners_are_for_owners_to_revoke() {
    let world = World::new().await;
    let (owner, admin) = (world.person("owner", Roles::OWNER).await, world.person("adam", Roles::ADMIN).await);
    let eve = world.person("eve", Roles::BASIC).await;
    let make = async |who: &Person, scopes: Value| {
        let key = json!({ "name": "k", "servers": ["*"], "scopes": scopes, "rate": { "limit": 5, "seconds": 60 } });
        let made = world.as_person(who, "POST", "/api/v1/api-keys", Some(&key)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        assert_eq!(made.body["rate"]["limit"], 5);
        made.body
    };
    let (of_owner, of_eve) = (make(&owner, json!(["mcp"])).await, make(&eve, json!(["mcp"])).await);
    assert_eq!((&of_owner["owner"], &of_eve["owner"]), (&json!(true), &json!(false)));
    let path = |key: &Value| format!("/api/v1/api-keys/{}", key["id"].as_str().unwrap());
    let programs = make(&admin, json!(["api:write"])).await["key"].as_str().unwrap().to_owned();
    assert_eq!(world.with_key(&programs, "DELETE", &path(&of_owner)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.as_person(&admin, "DELETE", &path(&of_owner), None).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.with_key(&programs, "DELETE", &path(&of_eve)).await.status, StatusCode::NO_CONTENT);
    // What is shown follows what the person is now.
    let by = Principal::new("local", "owner").with_roles(Roles::OWNER);
    let second = world.app.logins.users.set_roles(&by, &eve.id, Roles::OWNER, None).await.unwrap();
    world.app.snapshots.wait_for(second).await;
    let less = world.app.logins.users.set_roles(&by, &owner.id, Roles::BASIC, None).await.unwrap();
    world.app.snapshots.wait_for(less).await;
    let shown = world.as_person(&owner, "GET", &path(&of_owner), None).await;
    assert_eq!(shown.body["owner"], false);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_between_two_steps_has_changed_something() {
    for (method, path, body) in [
        ("POST", "/api/v1/users", Some(json!({ "login": "new", "password": "only the first time", "name": "new" }))),
        ("POST", "/api/v1/users/{id}/disable", None),
        ("POST", "/api/v1/users/{id}/end-sessions", None),
        ("PUT", "/api/v1/users/{id}/roles", Some(json!({ "roles": ["power_user"] }))),
        ("DELETE", "/api/v1/users/{id}", None),
    ] {
        let world = World::new().await;
        let path = &path.replace("{id}", &world.person("eve", Roles::BASIC).await.id);
        let ask = async || {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("authorization", format!("Bearer {BOOTSTRAP}"))
                .header("content-type", "application/json");
            let body = body.as_ref().map_or_else(Body::empty, |body| Body::from(body.to_string()));
            world.ask(request.body(body).unwrap()).await
        };
        world.store.cut_after(1);
        let answer = ask().await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}: {}", answer.body);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("read again whether it was done"), "{method} {path}: {detail}");

        // Nothing was changed where already the first step failed.
        let answer = ask().await;
        assert!(answer.body["detail"].as_str().unwrap().contains("nothing was changed"), "{}", answer.body);
    }
}

#[tokio::test]
async fn child_processes_serve_one_person() {
    let world = World::with(crate::config::Config::default()).await;
    let user = |login: &str, roles: &[&str]| json!({ "login": login, "password": "only the first time", "name": login, "roles": roles });
    // The first owner takes over what the first day's keys speak for.
    world.key(&[Scope::Mcp], true).await;
    assert_eq!(world.post("/api/v1/users", &user("bob", &["basic"])).await.status, StatusCode::CONFLICT);
    assert_eq!(world.post("/api/v1/users", &user("ada", &["owner"])).await.status, StatusCode::CREATED);
    let people = crate::people::People::of(&world.app.snapshots.load());
    assert!(people.has_others(&mcp_gateway_core::record::Subject::local("owner")));
    #[cfg(feature = "process")]
    assert_eq!(people.count(), 1);
}

#[tokio::test]
async fn a_version_that_was_changed_meanwhile_is_not_changed() {
    let world = World::new().await;
    let owner = world.person("owner", Roles::OWNER).await;
    let eve = world.person("eve", Roles::BASIC).await;
    let path = format!("/api/v1/users/{}/roles", eve.id);
    let put = async |tag: &str| {
        let request = Request::put(&path)
            .header("cookie", format!("__Host-mcpgw_session={}", owner.token))
            .header("sec-fetch-site", "same-origin")
            .header("x-csrf-token", csrf_token(&owner.token))
            .header("content-type", "application/json")
            .header("if-match", tag);
        world.ask(request.body(Body::from(r#"{"roles":["admin"]}"#)).unwrap()).await
    };
    let tag = world.as_person(&owner, "GET", &format!("/api/v1/users/{}", eve.id), None).await.headers["etag"].clone();
    let tag = tag.to_str().unwrap();
    assert_eq!(put("\"1\"").await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(put(tag).await.status, StatusCode::OK);
    assert_eq!(put(tag).await.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn only_owners_give_what_only_owners_give() {
    let world = World::new().await;
    let owner = world.person("owner", Roles::OWNER).await;
    let admin = world.person("admin", Roles::ADMIN).await;
    for (path, body) in [
        (format!("/api/v1/users/{}/roles", admin.id), json!({ "roles": ["owner"] })),
        (format!("/api/v1/users/{}/roles", admin.id), json!({ "roles": ["admin", "auditor"] })),
        (format!("/api/v1/users/{}/roles", owner.id), json!({ "roles": ["basic"] })),
    ] {
        let answer = world.as_person(&admin, "PUT", &path, Some(&body)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {body}");
    }
    let disable = format!("/api/v1/users/{}/disable", owner.id);
    assert_eq!(world.as_person(&admin, "POST", &disable, None).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn roles_of_a_group_are_those_of_its_members() {
    let world = World::new().await;
    let owner = world.person("owner", Roles::OWNER).await;
    let identity = IdentityKey::new("https://login.example", "7");
    let ops = AssertedGroup { id: "ops".into(), name: "Operations".into() };
    let eve = world.app.logins.users.sign_in(&Asserted::new(identity, "Eve").in_groups(vec![ops])).await.unwrap();
    world.app.snapshots.wait_for(eve.revision).await;
    let groups = world.as_person(&owner, "GET", "/api/v1/groups", None).await;
    let group = &groups.body["items"][0];
    assert_eq!((&group["name"], &group["roles"]), (&json!("Operations"), &json!([])));
    let path = format!("/api/v1/groups/{}", group["id"].as_str().unwrap());
    let body = json!({ "roles": ["admin"] });
    assert_eq!(world.as_person(&owner, "PUT", &format!("{path}/roles"), Some(&body)).await.status, StatusCode::OK);
    assert_eq!(world.as_person(&owner, "GET", &path, None).await.body["roles"], json!(["admin"]));
    let eve = world.as_person(&owner, "GET", &format!("/api/v1/users/{}", eve.id), None).await;
    assert_eq!((&eve.body["roles"], &eve.body["effective_roles"][0]), (&json!(["basic"]), &json!("admin")));
}

#[tokio::test]
async fn an_old_login_changes_no_rights() {
    let mut config = crate::config::Config::default();
    config.login.fresh_seconds = 60;
    let world = World::with(config).await;
    let owner = world.person("owner", Roles::OWNER).await;
    let fresh = Duration::from_secs(world.app.config.login.fresh_seconds);
    let password = json!({ "password": "another first time" });
    let path = "/api/v1/users/nobody/password";
    world.clock.advance(fresh);
    assert_eq!(world.as_person(&owner, "PUT", path, Some(&password)).await.status, StatusCode::NOT_FOUND);
    world.clock.advance(Duration::from_secs(1));
    let answer = world.as_person(&owner, "PUT", path, Some(&password)).await;
    assert_eq!((answer.status, &answer.body["data"]["login"]), (StatusCode::FORBIDDEN, &json!("/login")));
    assert_eq!(world.as_person(&owner, "GET", "/api/v1/users", None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn people_have_their_own_keys_and_see_no_others() {
    let world = World::new().await;
    let ada = world.person("ada", Roles::BASIC).await;
    let bob = world.person("bob", Roles::BASIC).await;
    let key = json!({ "name": "laptop", "servers": ["*"], "scopes": ["mcp", "api:read"] });
    let made = world.as_person(&ada, "POST", "/api/v1/api-keys", Some(&key)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(made.body["subject"]["id"], ada.id.as_str());
    let path = format!("/api/v1/api-keys/{}", made.body["id"].as_str().unwrap());
    let listed = async |person: &Person| {
        world.as_person(person, "GET", "/api/v1/api-keys", None).await.body["items"].as_array().unwrap().len()
    };
    assert_eq!((listed(&ada).await, listed(&bob).await), (1, 0));
    for method in ["GET", "DELETE"] {
        assert_eq!(world.as_person(&bob, method, &path, None).await.status, StatusCode::NOT_FOUND);
    }
    let for_bob = json!({ "name": "x", "servers": ["*"], "subject": bob.id });
    let refused = world.as_person(&ada, "POST", "/api/v1/api-keys", Some(&for_bob)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);

    // An admin sees and revokes it; and with its owner, it ends.
    let admin = world.person("admin", Roles::ADMIN).await;
    assert_eq!(world.as_person(&admin, "GET", &path, None).await.status, StatusCode::OK);
    let text = made.body["key"].as_str().unwrap();
    let me = world.with_key(text, "GET", "/api/v1/me").await;
    assert_eq!((&me.body["subject"]["id"], &me.body["csrf_token"]), (&json!(ada.id), &Value::Null));
    let act = async |act: &str| {
        let path = format!("/api/v1/users/{}/{act}", ada.id);
        assert_eq!(world.as_person(&admin, "POST", &path, None).await.status, StatusCode::OK);
    };
    act("disable").await;
    assert_eq!(world.with_key(text, "GET", "/api/v1/me").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.as_person(&ada, "GET", "/api/v1/me", None).await.status, StatusCode::UNAUTHORIZED);
    act("enable").await;
    assert_eq!(world.with_key(text, "GET", "/api/v1/me").await.status, StatusCode::OK);
    assert_eq!(world.as_person(&ada, "GET", "/api/v1/me", None).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.as_person(&admin, "DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_act_for_anybody() {
    let world = World::new().await;
    let owner = world.person("owner", Roles::OWNER).await;
    let me = world.as_person(&owner, "GET", "/api/v1/me", None).await;
    let token = me.body["csrf_token"].as_str().unwrap();
    assert_eq!(me.body["roles"][0], "owner");
    let post = |site: &str, token: &str| {
        Request::post(format!("/api/v1/users/{}/end-sessions", owner.id))
            .header("cookie", format!("__Host-mcpgw_session={}", owner.token))
            .header("sec-fetch-site", site)
            .header("x-csrf-token", token)
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(world.ask(post("cross-site", token)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.ask(post("same-origin", "guess")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.ask(post("same-origin", token)).await.status, StatusCode::OK);
    assert_eq!(world.ask(post("same-origin", token)).await.status, StatusCode::UNAUTHORIZED, "they have ended");
}

#[tokio::test]
async fn what_an_auditor_sees_of_a_filter_opens_no_door() {
    let world = World::new().await;
    let (auditor, admin) = (world.person("eve", Roles::AUDITOR).await, world.person("root", Roles::ADMIN).await);
    let check = json!({ "kind": "webhook", "url": "https://a.example/x?key=of-the-hook" });
    let made = world.post("/api/v1/filters", &json!({ "id": "hook", "name": "Hook", "check": check })).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    for (person, url) in [(&auditor, "https://a.example/x"), (&admin, "https://a.example/x?key=of-the-hook")] {
        let one = world.as_person(person, "GET", "/api/v1/filters/hook", None).await.body;
        let all = world.as_person(person, "GET", "/api/v1/filters", None).await.body;
        assert_eq!((&one["check"]["url"], &all["items"][0]["check"]["url"]), (&json!(url), &json!(url)));
    }
}
