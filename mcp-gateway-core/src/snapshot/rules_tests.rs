use bytes::Bytes;
use serde_json::{Value, json};

use super::tests::{following, memory, options};
use super::*;
use crate::context::McpContext;
use crate::contract::{Action, Ask, Authorizer as _, SystemClock, Target, When, Write};
use crate::policy::{AccessPolicy, Reach, SnapshotRules, everybody_at_first};
use crate::record::{Resources, Roles, User, UserState};

struct World {
    policies: Resources<AccessPolicy>,
    snapshots: Snapshots,
}

impl World {
    async fn new() -> Self {
        let store = memory();
        let options = options();
        let snapshots = following(Arc::clone(&store), options.clone()).await;
        Self { policies: Resources::new(store, options.sealer, TenantId::default()), snapshots }
    }

    #[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
    async fn put(&self, id: &str, rules: Value) {
        let policy: AccessPolicy = serde_json::from_value(json!({ "name": id, "rules": rules })).unwrap();
        self.snapshots.wait_for(self.policies.save(id, &policy, When::Any).await.unwrap()).await;
    }

    async fn delete(&self, id: &str) {
        self.snapshots.wait_for(self.policies.delete(id, When::Any).await.unwrap()).await;
    }

    async fn user(&self, id: &str, roles: Roles, groups: &[&str], state: UserState) {
        let user = User {
            name: id.to_owned(),
            email: None,
            roles,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            state,
            epoch: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let users = self.policies.of_kind::<User>();
        self.snapshots.wait_for(users.save(id, &user, When::Any).await.unwrap()).await;
    }

    fn says(&self, id: &str, server: &str) -> String {
        let principal = Principal::new(Subject::LOCAL, id);
        let rules = SnapshotRules::new(self.snapshots.clone());
        let decision = rules.explain(&principal, Action::Connect, Target { server, name: None }, None);
        format!("{}{}", if decision.allow { '+' } else { '-' }, decision.rule)
    }
}

fn allow(subject: &Value, server: &str) -> Value {
    json!([{ "effect": "allow", "subjects": [subject], "targets": [{ "server": server }] }])
}

#[tokio::test]
async fn policies_hold_from_their_commit_to_their_end() {
    let world = World::new().await;
    assert_eq!(world.says("ada", "a"), "-no-rule", "without a rule nothing is let");
    world.put("one", allow(&json!("everyone"), "a")).await;
    assert_eq!(world.says("ada", "a"), "+one/0");
    assert_eq!(world.says("ada", "b"), "-no-rule");
    world.put("one", allow(&json!({ "user": "eve" }), "a")).await;
    assert_eq!(world.says("ada", "a"), "-no-rule");
    world.put("two", allow(&json!({ "user": "ada" }), "a")).await;
    assert_eq!(world.says("ada", "a"), "+two/0");
    world.delete("two").await;
    assert_eq!(world.says("ada", "a"), "-no-rule");
    assert_eq!(world.says("eve", "a"), "+one/0");
}

#[tokio::test]
async fn groups_and_roles_are_those_of_now() {
    let world = World::new().await;
    world.put("group", allow(&json!({ "group": "ops" }), "a")).await;
    world.put("role", allow(&json!({ "role": "power_user" }), "b")).await;
    world.user("ada", Roles::BASIC, &["ops"], UserState::Active).await;
    assert_eq!((world.says("ada", "a"), world.says("ada", "b")), ("+group/0".into(), "-no-rule".into()));
    world.user("ada", Roles::ADMIN, &["other"], UserState::Active).await;
    assert_eq!((world.says("ada", "a"), world.says("ada", "b")), ("-no-rule".into(), "+role/0".into()));
    world.user("ada", Roles::ADMIN, &["ops"], UserState::Disabled).await;
    assert_eq!(world.says("ada", "a"), "-user-disabled");
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_closes_everything_until_it_is_gone() {
    let world = World::new().await;
    world.put("one", allow(&json!("everyone"), "a")).await;
    let key = world.policies.key("bad");
    let value = Bytes::from_static(br#"{"name":"bad","rules":[],"fromALaterVersion":true}"#);
    let write = Write::Put { key, value, index: Vec::new(), ttl: None, when: When::Any };
    let revision = world.policies.store().commit(vec![write]).await.unwrap();
    world.snapshots.wait_for(revision).await;
    assert_eq!(world.says("ada", "a"), "-bad/unreadable");
    world.delete("bad").await;
    assert_eq!(world.says("ada", "a"), "+one/0");
}

#[tokio::test]
async fn the_first_policy_is_made_once_in_a_life() {
    let world = World::new().await;
    let revision = everybody_at_first(&world.policies).await.unwrap().expect("it is made");
    world.snapshots.wait_for(revision).await;
    assert_eq!(world.says("ada", "a"), "+default/0");
    assert_eq!(world.snapshots.load().rules.reach("a"), Reach::default());
    world.delete(AccessPolicy::FIRST).await;
    assert!(everybody_at_first(&world.policies).await.unwrap().is_none());
    assert!(world.policies.get(AccessPolicy::FIRST).await.unwrap().is_none());
    assert_eq!(world.says("ada", "a"), "-no-rule");
}

#[tokio::test]
async fn the_first_policy_takes_back_no_rule_that_was_there_before() {
    let world = World::new().await;
    world.put("one", allow(&json!({ "user": "ada" }), "a")).await;
    assert!(everybody_at_first(&world.policies).await.unwrap().is_none());
    world.delete("one").await;
    assert!(everybody_at_first(&world.policies).await.unwrap().is_none(), "nor later");
    assert_eq!(world.says("ada", "a"), "-no-rule");
}

#[tokio::test]
async fn whoever_reaches_a_server_knows_how_far_its_rules_went() {
    let world = World::new().await;
    world.put("one", allow(&json!("everyone"), "a")).await;
    let rules = SnapshotRules::new(world.snapshots.clone());
    let (ada, cx) = (Principal::new(Subject::LOCAL, "ada"), McpContext::new(&SystemClock));
    let ask =
        |action| Ask { principal: &ada, action, target: Target { server: "a", name: None }, cx: &cx, arguments: None };
    assert!(rules.decide(&ask(Action::Method("ping"))).await.allow);
    assert_eq!(cx.reach(), None);
    assert!(rules.decide(&ask(Action::Connect)).await.allow);
    assert_eq!(cx.reach(), Some(&Reach::default()));
}
