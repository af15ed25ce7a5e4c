use serde_json::json;

use super::tests::{api_key, following, memory, options};
use super::*;
use crate::contract::{Key, When, Write};
use crate::record::{ApiKey, Group, Resource, Resources, Roles, Subject, TenantId, User, UserState};

struct World {
    users: Resources<User>,
    groups: Resources<Group>,
    keys: Resources<ApiKey>,
    snapshots: Snapshots,
}

impl World {
    async fn new(presets: &[(&str, Roles)]) -> Self {
        Self::hearing(presets, None).await
    }

    async fn hearing(presets: &[(&str, Roles)], issuer: Option<&str>) -> Self {
        let store = memory();
        let mut options = options();
        options.vouching = issuer.map(|issuer| Arc::new([(issuer.into(), Default::default())].into()));
        options.presets = Arc::new(presets.iter().map(|(address, roles)| ((*address).into(), *roles)).collect());
        let snapshots = following(Arc::clone(&store), options.clone()).await;
        let typed = (store, options.sealer, TenantId::default());
        Self {
            users: Resources::new(Arc::clone(&typed.0), Arc::clone(&typed.1), typed.2.clone()),
            groups: Resources::new(Arc::clone(&typed.0), Arc::clone(&typed.1), typed.2.clone()),
            keys: Resources::new(typed.0, typed.1, typed.2),
            snapshots,
        }
    }

    async fn user(&self, id: &str, roles: Roles, groups: &[&str]) -> User {
        let user = User {
            name: id.to_owned(),
            email: None,
            roles,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            state: UserState::Active,
            epoch: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        self.save(id, &user).await;
        user
    }

    async fn save(&self, id: &str, user: &User) {
        self.snapshots.wait_for(self.users.save(id, user, When::Any).await.unwrap()).await;
    }

    async fn group(&self, id: &str, roles: Roles) {
        let (provider, name) = ("https://login.example".to_owned(), id.to_owned());
        let group = Group { provider, external_id: name.clone(), name, roles };
        self.snapshots.wait_for(self.groups.save(id, &group, When::Any).await.unwrap()).await;
    }

    async fn key(&self, id: &str, subject: &str, owner: bool) {
        let key = ApiKey { subject: Subject::local(subject), owner, ..api_key(id, &["*"]) };
        self.snapshots.wait_for(self.keys.save(id, &key, When::Any).await.unwrap()).await;
    }

    fn roles(&self, id: &str) -> Vec<&'static str> {
        self.snapshots.load().user(&Subject::local(id)).unwrap().roles.names().collect()
    }

    fn roles_of_key(&self, id: &str) -> Option<Vec<&'static str>> {
        self.snapshots.load().key(id).map(|key| key.principal.roles.names().collect())
    }
}

/// A provider that was taken out of the configuration says nothing any more, whatever was read first.
#[tokio::test]
async fn groups_are_those_of_issuers_that_are_heard() {
    for (issuer, roles, groups) in [("https://login.example", 2, 1), ("https://other.example", 1, 0)] {
        let world = World::hearing(&[], Some(issuer)).await;
        world.user("before", Roles::BASIC, &["ops"]).await;
        world.group("ops", Roles::POWER_USER).await;
        world.user("after", Roles::BASIC, &["ops"]).await;
        for id in ["before", "after"] {
            let facts = world.snapshots.load().users[id].clone();
            assert_eq!((world.roles(id).len(), facts.groups.len()), (roles, groups), "{issuer}: {id}");
        }
    }
}

#[tokio::test]
async fn effective_roles_are_the_union_of_own_groups_and_preset() {
    let world = World::new(&[("ada@a.example", Roles::AUDITOR)]).await;
    world.group("ops", Roles::POWER_USER).await;
    let mut ada = world.user("ada", Roles::BASIC, &["ops", "empty"]).await;
    assert_eq!(world.roles("ada"), ["power_user", "basic"]);

    // The group's role changes under its members, and goes with the group.
    world.group("ops", Roles::POWER_USER_PLUS).await;
    assert_eq!(world.roles("ada"), ["power_user_plus", "power_user", "basic"]);
    world.snapshots.wait_for(world.groups.delete("ops", When::Any).await.unwrap()).await;
    assert_eq!(world.roles("ada"), ["basic"]);

    let email = |verified| json!({ "address": "ada@a.example", "verified": verified });
    for (verified, wanted) in [(false, &["basic"][..]), (true, &["basic", "auditor"])] {
        ada.email = serde_json::from_value(email(verified)).unwrap();
        world.save("ada", &ada).await;
        assert_eq!(world.roles("ada"), wanted, "preset only for verified addresses");
    }
}

#[tokio::test]
async fn a_group_has_the_roles_of_the_configuration_beside_its_own() {
    let store = memory();
    let mut options = options();
    options.group_presets = Arc::new([("ops".into(), Roles::POWER_USER)].into_iter().collect());
    let snapshots = following(Arc::clone(&store), options.clone()).await;
    let users = Resources::<User>::new(store, options.sealer, TenantId::default());
    let user: User = serde_json::from_value(json!({
        "name": "Ada", "groups": ["ops"], "createdAt": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    snapshots.wait_for(users.save("ada", &user, When::Any).await.unwrap()).await;
    assert_eq!(snapshots.load().users["ada"].roles.names().collect::<Vec<_>>(), ["power_user", "basic"]);
}

#[tokio::test]
async fn a_key_has_the_rights_that_its_owner_has_now() {
    let world = World::new(&[]).await;
    let mut ada = world.user("ada", Roles::ADMIN, &["ops"]).await;
    world.key("k", "ada", true).await;
    let admin = ["admin", "power_user_plus", "power_user", "basic"];
    assert_eq!(world.roles_of_key("k").unwrap(), admin, "not what the key remembers of its making");

    ada.roles = Roles::BASIC;
    world.save("ada", &ada).await;
    assert_eq!(world.roles_of_key("k").unwrap(), ["basic"]);
    world.group("ops", Roles::ADMIN).await;
    assert_eq!(world.roles_of_key("k").unwrap(), admin);

    for (state, lives) in [(UserState::Disabled, false), (UserState::Active, true), (UserState::Deleted, false)] {
        ada.state = state;
        world.save("ada", &ada).await;
        assert_eq!(world.roles_of_key("k").is_some(), lives, "{state:?}");
    }
    // Nor does a key that is made, or kept, for somebody who may do nothing live.
    world.key("late", "ada", true).await;
    assert_eq!(world.roles_of_key("late"), None);
}

#[tokio::test]
async fn keys_from_before_there_were_users_lose_their_rights_to_the_first_owner() {
    let world = World::new(&[]).await;
    world.key("first", "owner", true).await;
    assert!(world.roles_of_key("first").unwrap().contains(&"owner"));
    world.user("bob", Roles::ADMIN, &[]).await;
    assert!(world.roles_of_key("first").unwrap().contains(&"owner"), "an admin is no owner");
    let ada = world.user("ada", Roles::OWNER, &[]).await;
    assert!(world.roles_of_key("first").unwrap().is_empty());
    assert!(world.snapshots.load().owned);
    world.save("ada", &User { state: UserState::Disabled, ..ada }).await;
    assert!(world.roles_of_key("first").unwrap().is_empty(), "the first day does not come back");
    assert!(world.snapshots.load().owned);
}

#[tokio::test]
async fn a_replica_that_starts_later_knows_that_there_was_an_owner() {
    let store = memory();
    let mut options = options();
    options.owned = true;
    let snapshots = following(Arc::clone(&store), options.clone()).await;
    let keys = Resources::<ApiKey>::new(store, options.sealer, TenantId::default());
    let key = ApiKey { subject: Subject::local("owner"), owner: true, ..api_key("first", &["*"]) };
    snapshots.wait_for(keys.save("first", &key, When::Any).await.unwrap()).await;
    assert_eq!(snapshots.load().key("first").unwrap().principal.roles, Roles::NONE);
}

#[tokio::test]
async fn a_user_that_cannot_be_read_may_do_nothing() {
    let world = World::new(&[]).await;
    world.user("ada", Roles::ADMIN, &[]).await;
    world.key("k", "ada", false).await;
    world.key("first", "owner", true).await;
    let key = Key::new(TenantId::default(), User::KIND, "ada");
    let put = Write::Put { key, value: "{}".into(), index: Vec::new(), ttl: None, when: When::Any };
    world.snapshots.wait_for(world.users.store().commit(vec![put]).await.unwrap()).await;
    assert!(!world.snapshots.load().user(&Subject::local("ada")).unwrap().enabled);
    assert_eq!(world.roles_of_key("k"), None);
    assert!(world.roles_of_key("first").unwrap().is_empty(), "it may be an owner");
}
