//! The reference server of mcp-gateway: configuration, wiring, admin API, command line.
//!
//! Thin on purpose: no rule of the domain lives here. A team that embeds the gateway into a service of its own reads
//! [`wiring`] as the longest example.

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
mod connect;
pub mod listen;
mod login;
pub mod metrics;
mod oauth;
mod people;
pub mod scim;
#[cfg(feature = "otel")]
pub mod traces;
pub mod wiring;
