//! How a struct of settings knows its keys.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use mcp_gateway_auth::server::{Issuers, RegistrationMode};
use mcp_gateway_core::layer::audit::OnFull;
use mcp_gateway_core::layer::peek::UnknownMethods;
use mcp_gateway_core::record::{FirstUse, OnToolChange, Secret};
use serde::Serialize;
use serde_json::Value;

use super::issuers::{IdentityProviderSettings, IssuerSettings};
use super::process::ProcessRole;
use super::providers::ProviderSettings;
use super::settings::{AuditDurability, LogFormat};

/// One setting.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its place in the file: `limits.body_bytes`.
    pub path: String,
    /// What it does.
    pub doc: String,
    /// Its value when nobody sets it.
    pub default: Value,
    /// What its value looks like.
    pub shape: Shape,
}

impl Key {
    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", super::source::PREFIX, self.path.replace('.', "__").to_ascii_uppercase())
    }
}

/// What the value of a setting looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Text, an address, a path or one of some words.
    Text,
    /// A whole number, not negative.
    Number,
    /// A number from 0 to 1.
    Part,
    /// `true` or `false`.
    Flag,
    /// Texts, separated by commas in the environment.
    List,
    /// Mappings, in the environment as YAML.
    Tree,
}

/// A setting or a section of settings.
pub(super) trait Describe {
    /// Adds the keys at and below this path.
    fn describe(&self, path: &str, doc: &[&str], keys: &mut Vec<Key>);
}

/// The type of a value in the file.
pub(super) trait Leaf: Serialize {
    const SHAPE: Shape;
}

impl<T: Leaf> Describe for T {
    fn describe(&self, path: &str, doc: &[&str], keys: &mut Vec<Key>) {
        keys.push(Key {
            path: path.to_owned(),
            doc: doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "),
            default: serde_json::to_value(self).unwrap_or(Value::Null),
            shape: T::SHAPE,
        });
    }
}

macro_rules! leaf {
    ($($shape:ident: $($type:ty),+;)+) => { $($(
        impl Leaf for $type {
            const SHAPE: Shape = Shape::$shape;
        }
    )+)+ };
}

leaf! {
    Text: String, Secret, PathBuf, SocketAddr, AuditDurability, OnFull, UnknownMethods, LogFormat, Issuers,
        RegistrationMode, OnToolChange, FirstUse;
    Number: u16, u32, u64, usize;
    Part: f64;
    Flag: bool;
    List: Vec<String>, Vec<PathBuf>, Vec<IpNet>, Vec<ProcessRole>;
    Tree: Vec<ProviderSettings>, Vec<IssuerSettings>, Vec<IdentityProviderSettings>;
}

impl<T: Leaf> Leaf for Option<T> {
    const SHAPE: Shape = T::SHAPE;
}

/// Declares a section: the struct, its defaults, and its keys with their documentation are one text.
///
/// Where a section of one form stands in several places, `of each` puts what the place is for in front of the
/// documentation of its keys.
macro_rules! section {
    ($(#[doc = $about:expr])+ pub struct $name:ident $(of $each:ident)? {
        $($(#[doc = $doc:expr])+ $field:ident: $type:ty = $default:expr,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::section::Describe for $name {
            fn describe(&self, path: &str, outer: &[&str], keys: &mut Vec<$crate::config::section::Key>) {
                let outer = if stringify!($($each)?).is_empty() { &[] } else { outer };
                let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
                $($crate::config::section::Describe::describe(
                    &self.$field,
                    &format!("{prefix}{}", stringify!($field)),
                    &[outer, &[$($doc),+]].concat(),
                    keys,
                );)+
            }
        }
    };
}

pub(super) use section;
