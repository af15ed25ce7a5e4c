use std::os::unix::fs::PermissionsExt;

use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::contract::SystemClock;
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::seal::Sealer;

use super::*;
use crate::api_key::LastUsed;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct World {
    clock: Arc<ManualClock>,
    state: Resources<BootstrapState>,
    keys: ApiKeys,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
        let tenant = TenantId::default();
        let last_used = Arc::new(LastUsed::new(Resources::new(store.clone(), sealer.clone(), tenant.clone())));
        let keys =
            ApiKeys::new(Resources::new(store.clone(), sealer.clone(), tenant.clone()), last_used, clock.clone());
        Self { state: Resources::new(store, sealer, tenant), clock, keys }
    }

    async fn open(&self, options: BootstrapOptions) -> Result<Bootstrap, BootstrapError> {
        Bootstrap::open(self.state.clone(), self.clock.clone(), options).await
    }

    async fn supplied(&self) -> Bootstrap {
        self.open(BootstrapOptions::supplied(Secret::new(TOKEN))).await.unwrap()
    }
}

fn ask(
    authenticator: &BootstrapAuthenticator,
    authorization: &[&str],
    server: Option<&str>,
) -> Result<Option<Arc<Principal>>, AuthError> {
    let mut request = http::Request::get("/");
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    authenticator.check(&parts, &Audience { url: "https://g".into(), metadata: None, server: server.map(Into::into) })
}

#[tokio::test]
async fn the_token_is_the_owners_for_the_admin_api_alone() {
    let bootstrap = World::new().await.supplied().await;
    let authenticator = bootstrap.authenticator().unwrap();
    let bearer = format!("bEaReR {TOKEN}");
    let principal = ask(&authenticator, &[&bearer], None).unwrap().unwrap();
    assert_eq!(principal.subject, Subject::local("owner"));
    assert_eq!(principal.actor.kind, ActorKind::Bootstrap);
    assert!(principal.roles.contains(Roles::OWNER) && !principal.has(Scope::Mcp) && principal.has(Scope::ApiWrite));

    assert!(matches!(ask(&authenticator, &[&bearer], Some("everything")), Err(AuthError::Invalid(_))));
    assert!(matches!(ask(&authenticator, &[&bearer, "Bearer x"], None), Err(AuthError::Malformed(_))));
    let (shorter, longer) = (format!("Bearer {}", &TOKEN[1..]), format!("Bearer {TOKEN}0"));
    let basic = format!("Basic {TOKEN}");
    for other in [&[][..], &["Bearer"], &["Bearer "], &[&*shorter], &[&*longer], &[&*basic], &[TOKEN]] {
        assert!(ask(&authenticator, other, None).unwrap().is_none(), "{other:?}");
    }
    assert!(!format!("{bootstrap:?}{authenticator:?}").contains(TOKEN));
}

#[tokio::test]
async fn its_time_is_a_day_after_the_first_start() {
    let world = World::new().await;
    let authenticator = world.supplied().await.authenticator().unwrap();
    let bearer = format!("Bearer {TOKEN}");
    world.clock.advance(Bootstrap::WINDOW - Duration::from_secs(1));
    // A restart does not make it longer.
    assert_eq!(world.supplied().await.authenticator().unwrap().until(), authenticator.until());
    assert!(ask(&authenticator, &[&bearer], None).unwrap().is_some());
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(ask(&authenticator, &[&bearer], None), Err(AuthError::Invalid(_))));
    assert!(world.supplied().await.authenticator().is_none());

    let again = BootstrapOptions::supplied(Secret::new(TOKEN)).reopened(true);
    let authenticator = world.open(again).await.unwrap().authenticator().unwrap();
    assert!(ask(&authenticator, &[&bearer], None).unwrap().is_some());
}

#[tokio::test]
async fn supplied_tokens_have_a_length() {
    let world = World::new().await;
    for bad in ["", &TOKEN[1..], &"x".repeat(Bootstrap::LONGEST + 1), &format!("{TOKEN} x"), &format!("{TOKEN}\n")] {
        let refused = world.open(BootstrapOptions::supplied(Secret::new(bad))).await;
        assert!(matches!(refused, Err(BootstrapError::Token)), "{bad:?}");
    }
    for good in [TOKEN, &"x".repeat(Bootstrap::LONGEST)] {
        assert!(world.open(BootstrapOptions::supplied(Secret::new(good))).await.is_ok());
    }
}

#[tokio::test]
async fn a_generated_token_is_for_its_owner_alone_and_stays() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap-token");
    let options = BootstrapOptions::generated(&path);
    let first = world.open(options.clone()).await.unwrap();
    let token = first.generated().unwrap().1.clone();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), token.expose());
    assert!(token.expose().starts_with("mcpgw-bootstrap-") && token.expose().len() == 59);
    let bearer = format!("Bearer {}", token.expose());
    assert!(ask(&first.authenticator().unwrap(), &[&bearer], None).unwrap().is_some());
    assert_eq!(world.open(options.clone()).await.unwrap().generated().unwrap().1, &token);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = world.open(options.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "short").unwrap();
    assert!(matches!(world.open(options.clone()).await, Err(BootstrapError::File { .. })));

    // After its time no file is made.
    std::fs::remove_file(&path).unwrap();
    world.clock.advance(Bootstrap::WINDOW);
    assert!(world.open(options).await.unwrap().generated().is_none());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_real_owner_ends_it() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap-token");
    let bootstrap = world.open(BootstrapOptions::generated(&path)).await.unwrap();
    let bearer = format!("Bearer {}", bootstrap.generated().unwrap().1.expose());
    bootstrap.end().await.unwrap();
    assert!(!path.exists());
    assert!(matches!(ask(&bootstrap.authenticator().unwrap(), &[&bearer], None), Err(AuthError::Invalid(_))));
    bootstrap.end().await.unwrap();
    // A restart does not begin it again, only the operator does.
    let again = world.open(BootstrapOptions::generated(&path)).await.unwrap();
    assert!(again.had_ended() && again.authenticator().is_none() && !path.exists());
    let reopened = world.open(BootstrapOptions::generated(&path).reopened(true)).await.unwrap();
    assert!(!reopened.had_ended() && reopened.authenticator().is_some());
}

#[tokio::test]
async fn one_starter_key_on_the_first_start_on_loopback() {
    let world = World::new().await;
    let bootstrap = world.supplied().await;
    assert!(bootstrap.is_first_start());
    assert!(bootstrap.starter_key(&world.keys, false).await.unwrap().is_none());
    let key = bootstrap.starter_key(&world.keys, true).await.unwrap().unwrap();
    assert_eq!((&key.record.servers[..], &key.record.scopes[..]), (&["*".to_owned()][..], &[Scope::Mcp][..]));
    assert_eq!(key.record.subject, Subject::local("owner"));
    assert!(key.record.owner);
    let life = key.record.expires_at.unwrap().duration_since(world.clock.now());
    assert_eq!(life.unsigned_abs(), Bootstrap::STARTER_KEY);
    assert!(bootstrap.starter_key(&world.keys, true).await.unwrap().is_none());
    let second = world.supplied().await;
    assert!(!second.is_first_start());
    assert!(second.starter_key(&world.keys, true).await.unwrap().is_none());
    assert_eq!(world.keys.list(None, None, 10).await.unwrap().0.len(), 1);
}
