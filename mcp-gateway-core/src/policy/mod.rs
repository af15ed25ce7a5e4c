//! Who may use what: access rules, compiled into an index that a call looks its own few rules up in.
//!
//! ```
//! use std::sync::Arc;
//! use mcp_gateway_core::context::McpContext;
//! use mcp_gateway_core::contract::{Action, Ask, Authorizer, SystemClock, Target};
//! use mcp_gateway_core::policy::{AccessPolicy, AccessRules, Ruled};
//! use mcp_gateway_core::record::Principal;
//!
//! let policy: AccessPolicy = serde_json::from_str(r#"{
//!     "name": "Support may read tickets",
//!     "rules": [
//!         { "effect": "allow", "subjects": [{ "group": "support" }], "targets": [{ "server": "tickets" }] },
//!         { "effect": "deny", "subjects": ["everyone"], "targets": [{ "server": "tickets", "tools": ["delete_*"] }] }
//!     ]
//! }"#)?;
//! let rules = AccessRules::compile([("support", &policy)])?;
//! let authorizer = Ruled::new(Arc::new(rules)).with_groups(|_| [Arc::from("support")].into());
//!
//! let (ada, cx) = (Principal::new("local", "ada"), McpContext::new(&SystemClock));
//! let may = async |tool| {
//!     let target = Target { server: "tickets", name: Some(tool) };
//!     let ask = Ask { principal: &ada, action: Action::Method("tools/call"), target, cx: &cx, arguments: None };
//!     authorizer.decide(&ask).await
//! };
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! assert!(may("list_tickets").await.allow);
//! assert_eq!(&*may("delete_ticket").await.rule, "support/1");
//! # });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod authorizer;
mod first;
mod index;
mod lists;
mod pattern;
mod record;
mod uri;
mod visible;

pub use self::authorizer::{Ruled, SnapshotRules};
pub use self::first::everybody_at_first;
pub use self::index::{AccessRules, PolicyError, Reach, Verdict};
pub use self::lists::RuleFilter;
pub(crate) use self::pattern::Pattern;
pub use self::record::{AccessPolicy, AccessRule, Effect, PolicyLimits, PolicySubject, PolicyTarget, RoleName};
pub(crate) use self::uri::is_ambiguous;
pub use self::visible::Visible;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
