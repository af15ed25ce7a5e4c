//! The configuration: one YAML file, every key also as an environment variable.

mod effective;
mod issuers;
mod process;
mod providers;
mod reference;
mod section;
mod settings;
mod source;

pub use self::effective::{Capacity, Database};
pub use self::issuers::{INTROSPECTION_SECRET, IdentityProviderSettings, IntrospectionSettings, IssuerSettings};
pub use self::process::ProcessRole;
pub use self::providers::{ProviderPreset, ProviderSettings};
pub use self::reference::{reference, reference_table};
pub use self::section::{Key, Shape};
pub use self::settings::{
    Audit, AuditDurability, Auth, Catalog, Children, Config, DeviceSettings, Egress, EgressPurpose, Limits, Log,
    LogFormat, Login, OAuthSettings, Policy, PostgresSettings, Process, ProcessSettings, RateSetting, Rates,
    RoleSettings, RuntimeSettings, Sessions, Telemetry, Tls, Traces,
};
pub use self::source::{ConfigError, load};

#[cfg(test)]
mod tests;
