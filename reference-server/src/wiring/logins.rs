//! People, and how they sign in.

use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_auth::login::{CookieNames, LocalLogins, Passwords, SessionOptions, Sessions, Throttle};
use mcp_gateway_auth::user::{UserOptions, Users};
use mcp_gateway_core::contract::{Clock, RateLimiter};
use mcp_gateway_core::record::{Mount, TenantId};
use mcp_gateway_core::snapshot::Snapshots;

use super::StartError;
use super::serve::Typed;
use crate::app::Logins;
use crate::config::Config;

pub(super) fn build(
    config: &Config,
    mount: &Mount,
    typed: &Typed,
    snapshots: &Snapshots,
    limiter: Arc<dyn RateLimiter>,
    clock: &Arc<dyn Clock>,
) -> Result<Logins, StartError> {
    let login = &config.login;
    let users = Users::new(
        Arc::clone(&typed.store),
        Arc::clone(&typed.sealer),
        TenantId::default(),
        Arc::clone(clock),
        Arc::new(snapshots.clone()),
        UserOptions::default().with_default_roles(config.default_roles()?),
    );
    let hashes = Passwords::new(login.hashes_at_once);
    let throttle = Throttle::per_period(login.attempts_per_account, login.attempts_per_address);
    let local = LocalLogins::new(users.clone(), typed.of(), hashes, limiter, Arc::clone(clock)).with_throttle(throttle);
    let lasting = SessionOptions::lasting(
        Duration::from_secs(login.session_idle_seconds),
        Duration::from_secs(login.session_seconds),
    );
    let sessions = Sessions::new(typed.of(), Arc::clone(clock), lasting);
    Ok(Logins { users, local, sessions, cookies: CookieNames::for_url(mount.origin()) })
}
