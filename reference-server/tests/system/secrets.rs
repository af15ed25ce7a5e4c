//! What children, and other processes of the same user, can learn of the gateway's secrets.

use crate::support::gateway::BOOTSTRAP;
use crate::support::{Call, Gateway};

#[tokio::test]
async fn the_environment_of_the_running_gateway_holds_no_settings() {
    let gateway = Gateway::start(&[]).await;
    let proc = std::path::PathBuf::from(format!("/proc/{}", gateway.process.id()));
    match std::fs::read(proc.join("environ")) {
        Ok(environ) => {
            let environ = String::from_utf8_lossy(&environ);
            let names: Vec<&str> = environ.split('\0').filter_map(|pair| pair.split('=').next()).collect();
            assert!(names.contains(&"PATH"), "the rest of the environment is there: {names:?}");
            assert!(!environ.contains(BOOTSTRAP), "{names:?}");
            let own: Vec<_> = names.iter().filter(|name| name.starts_with("MCP_GATEWAY_")).collect();
            assert_eq!(own, [&"MCP_GATEWAY_ENVIRONMENT"]);
            assert_eq!(std::fs::read_link(proc.join("fd/0")).unwrap(), std::path::Path::new("/dev/null"));
        }
        // Hidden as a whole from whoever is not root.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    // It knows them all the same.
    gateway.admin(Call::get("/api/v1")).await.expect(200);
}
