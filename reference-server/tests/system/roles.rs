//! Processes that share the gateway's work, over one Postgres.

use mcp_gateway_test_postgres::Cluster;
use serde_json::json;
use tempfile::TempDir;

use crate::postgres::{folder, mcp_gateway};
use crate::support::gateway::stdio_fixture;
use crate::support::mcp::{self, initialize};
use crate::support::{Call, Fixture, Gateway, Key, until};

const PUBLIC: &str = "https://gateway.example";

struct World {
    cluster: &'static Cluster,
    database: String,
    fixture: Fixture,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::shared();
        Self { cluster, database: cluster.database(), fixture: Fixture::start() }
    }

    /// A process with these roles; the first one's folder has the key that all share.
    async fn process(&self, roles: &str, first: Option<&Gateway>) -> Gateway {
        let settings = [
            ("DATABASE", &*self.database),
            ("PROCESS__ROLES", roles),
            ("PUBLIC_URL", PUBLIC),
            ("ALLOWED_HOSTS", "127.0.0.1"),
        ];
        Gateway::start_in(folder(first, &self.database), &[self.fixture.entry(), stdio_fixture()], &settings).await
    }

    /// The names of the leases that somebody has.
    fn leases(&self) -> Vec<String> {
        let database = self.database.rsplit('/').next().unwrap();
        let live =
            "SELECT id FROM mcp_gateway.record WHERE kind = 'lease' AND expires_at > mcp_gateway.now_us() ORDER BY id";
        self.cluster.sql(database, live).lines().map(ToOwned::to_owned).collect()
    }
}

/// What each role answers, what another process says there, and what it never says.
async fn answers(process: &Gateway, roles: &str, key: &Key) {
    let does = |role| roles.split(',').any(|one| one == role);
    let status = async |call: Call| call.send(process.address).await.status.as_u16();
    let post = || Call::post("/mcp-connect/fixture", initialize().to_string());

    let stranger = post().send(process.address).await;
    if does("gateway") {
        stranger.expect(401);
        let stranger = post().send(process.address).await;
        let challenge = stranger.header("www-authenticate");
        let metadata = format!("{PUBLIC}/.well-known/oauth-protected-resource/mcp-connect/fixture");
        assert!(challenge.contains(&metadata), "{challenge}");
        let metadata = Call::get("/.well-known/oauth-protected-resource/mcp-connect/fixture");
        let metadata = metadata.send(process.address).await.expect(200).json();
        assert_eq!(metadata["authorization_servers"], json!([PUBLIC]), "whoever answers there");
        mcp::modern_tool("fixture", key, "1", "test_simple_text", &json!({})).send(process.address).await.expect(200);
    } else {
        let said = stranger.expect(421).json();
        assert!(said["detail"].as_str().unwrap().contains("Other processes do: gateway"), "{said}");
        assert_eq!(status(Call::get("/.well-known/oauth-protected-resource/mcp-connect/fixture")).await, 404);
    }
    for (call, served) in [
        (Call::get("/.well-known/oauth-authorization-server"), 200),
        (Call::get("/jwks.json"), 200),
        (Call::get("/login"), 200),
        (Call::post("/token", "").header("content-type", "application/x-www-form-urlencoded"), 400),
    ] {
        let what = format!("{call:?} at {roles}");
        assert_eq!(status(call).await, if does("auth") { served } else { 404 }, "{what}");
    }
    let servers = process.admin(Call::get("/api/v1/servers")).await;
    if does("api") {
        let servers = servers.expect(200).json();
        assert_eq!(servers["items"][0]["id"], "fixture");
        let restarted = process.admin(Call::post("/api/v1/servers/stdio/restart", "")).await;
        if does("gateway") {
            restarted.expect(202);
        } else {
            assert_eq!(servers["items"][1]["state"], "unknown", "{servers}");
            let said = restarted.expect(409).json();
            assert!(said["detail"].as_str().unwrap().contains("have gateway and api"), "{said}");
        }
    } else {
        let said = servers.expect(404);
        assert_eq!(said.header("content-type"), "application/problem+json");
        assert!(said.json()["detail"].as_str().unwrap().contains("Other processes do"), "{}", said.text());
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(status(Call::get(path)).await, 200, "{path} at {roles}");
    }
}

#[tokio::test]
async fn each_process_answers_for_its_roles_and_no_other() {
    let world = World::new();
    let mut all = world.process("gateway,auth,api,worker", None).await;
    let key = all.key().await;
    answers(&all, "gateway,auth,api,worker", &key).await;
    assert_eq!(world.leases(), ["audit-retention", "catalog", "expiry", "keys"]);
    all.process.stop();
    assert_eq!(world.leases(), [""; 0], "given back at the end");

    let mut others = Vec::new();
    for roles in ["gateway", "auth", "api", "gateway,api", "auth,api,gateway"] {
        let process = world.process(roles, Some(&all)).await;
        answers(&process, roles, &key).await;
        others.push(process);
    }
    // Whoever leads tries at its start.
    assert_eq!(world.leases(), [""; 0], "nobody works who was not told to");
    // What one process changes another one knows.
    let newer = others[2].key().await;
    until("the key at the data plane", async || {
        let call = mcp::modern_tool("fixture", &newer, "2", "test_simple_text", &json!({}));
        (call.send(others[0].address).await.status == 200).then_some(())
    })
    .await;

    let worker = world.process("worker", Some(&all)).await;
    answers(&worker, "worker", &key).await;
    until("the leases", async || (world.leases().len() == 4).then_some(())).await;
    assert!(!worker.folder().join("data/bootstrap-token").exists());
}

#[test]
fn the_command_line_says_what_a_process_does() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let out = mcp_gateway(
            folder.path(),
            "postgres://localhost/gateway",
            &[&["serve", "--print-config"], arguments].concat(),
        );
        (out.status.success(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (done, printed, _) = run(&["--roles", "api,gateway"]);
    assert!(done && printed.contains("roles:\n  - api\n  - gateway\n"), "{printed}");
    for wrong in ["", "gateway,", "gateway,admin"] {
        let (done, _, said) = run(&["--roles", wrong]);
        assert!(!done && said.contains("gateway, auth, api, worker"), "{wrong:?}: {said}");
    }
    let out = mcp_gateway(folder.path(), "memory", &["serve", "--roles", "gateway"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && said.contains("process.roles: must be gateway, auth, api and worker"), "{said}");
}
