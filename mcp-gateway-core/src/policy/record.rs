//! Access rules as they are kept.

use serde::{Deserialize, Serialize};

use crate::contract::{IndexTerm, Kind};
use crate::record::{Resource, Roles};

/// Some rules, changed together. The rules of all policies hold together; their order means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicy {
    /// A name, for people.
    pub name: String,
    /// Whether its rules count.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// At most [`PolicyLimits::RULES`].
    pub rules: Vec<AccessRule>,
}

fn yes() -> bool {
    true
}

impl Resource for AccessPolicy {
    const KIND: Kind = Kind::logged("access-policy");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        Vec::new()
    }
}

/// Lets each of some subjects use each of some targets, or forbids it. One that forbids wins over any that allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// What it does.
    pub effect: Effect,
    /// Whom it concerns: anybody who is one of these.
    pub subjects: Vec<PolicySubject>,
    /// What it concerns.
    pub targets: Vec<PolicyTarget>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Lets.
    Allow,
    /// Forbids.
    Deny,
}

/// Whom a rule concerns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PolicySubject {
    /// Every caller.
    Everyone,
    /// The person of this id.
    User(String),
    /// Everybody in the group of this id.
    Group(String),
    /// Everybody who has this role, or one that includes it.
    Role(RoleName),
    /// Whoever calls with the API key of this id.
    ApiKey(String),
    /// Whoever calls by the OAuth client of this id: itself, or a person through it.
    Client(String),
}

/// One role, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoleName(pub Roles);

impl Serialize for RoleName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = Roles::NAMES.iter().find(|(role, _)| *role == self.0).map(|(_, name)| *name);
        name.ok_or_else(|| serde::ser::Error::custom("not one role"))?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let role = Roles::NAMES.iter().find(|(_, known)| *known == name).map(|(role, _)| Self(*role));
        role.ok_or_else(|| {
            let known: Vec<&str> = Roles::NAMES.iter().map(|(_, name)| *name).collect();
            serde::de::Error::custom(format!("{name:?} is no role; there are {}", known.join(", ")))
        })
    }
}

/// What a rule concerns.
///
/// Without `tools`, `prompts` and `resources` it is the whole server. With one of them it is what these name and nothing
/// else of the server that has a name. A pattern is a name in which `*` stands for any characters, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    /// The server of this id; every server if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Patterns of names of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Patterns of names of prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<String>>,
    /// Patterns of URIs of resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<String>>,
}

impl PolicyTarget {
    /// Whether it is all of a server.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.tools.is_none() && self.prompts.is_none() && self.resources.is_none()
    }
}

/// How large a policy may be.
#[derive(Debug, Clone, Copy)]
pub struct PolicyLimits;

impl PolicyLimits {
    /// Rules of one policy.
    pub const RULES: usize = 1_000;
    /// Subjects, targets and patterns of one rule, each.
    pub const ITEMS: usize = 1_000;
    /// Pairs of a subject and a target, of all rules of one policy: what it takes in memory.
    pub const PAIRS: usize = 10_000;
    /// Bytes of one id, name or pattern.
    pub const TEXT: usize = 1_024;
}
