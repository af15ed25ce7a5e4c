//! Filters as they are kept.

use serde::{Deserialize, Serialize};

use crate::contract::{Direction, Kind};
use crate::record::{Resource, Secret};

/// A filter that an administrator made: which messages it concerns, what it looks for, and what becomes of what it finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSpec {
    /// A name, for people.
    pub name: String,
    /// Whether it is asked.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Filters are asked from the lowest to the highest, those of one number by id.
    #[serde(default)]
    pub order: i32,
    /// What it concerns: whatever one of these does, and everything without any. At most [`FilterLimits::SELECTORS`].
    #[serde(default)]
    pub selectors: Vec<Selector>,
    /// What it does.
    pub check: Check,
    /// What becomes of a message that it fails to judge.
    #[serde(default)]
    pub fail_mode: FailMode,
    /// How long one attempt to ask, or to look through a large message, may take, in milliseconds; 1 to
    /// [`FilterLimits::TIMEOUT_MS`].
    #[serde(default = "timeout")]
    pub timeout_ms: u32,
    /// How often it is asked again after it failed; at most [`FilterLimits::RETRIES`].
    #[serde(default)]
    pub retries: u8,
    /// Whether the filters after it are left out when it refuses. They cannot let the message go on; their judgement is
    /// for the trail. Services are left out in any case.
    #[serde(default = "yes")]
    pub short_circuit: bool,
    /// What the caller of a refused message reads, instead of what the filter says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn yes() -> bool {
    true
}

fn timeout() -> u32 {
    FilterLimits::USUAL_TIMEOUT_MS
}

impl Resource for FilterSpec {
    const KIND: Kind = Kind::logged("filter");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/check/secret"];
}

/// Which messages a filter concerns: those that all of its fields say yes to. What is absent says yes to everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Ids of servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<String>>,
    /// Patterns of methods: of the request, of the request that a response answers, of a notification, or of what a
    /// server asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Patterns of names of tools and prompts and URIs of resources: of the request that a message is, answers, or comes
    /// along with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
    /// Which way messages go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directions: Option<Vec<Way>>,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// From the caller to the server.
    Request,
    /// Back, as the answer.
    Response,
    /// Back on a stream, and no answer: a notification, or what a server asks.
    Event,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Request => Self::Request,
            Way::Response => Self::Response,
            Way::Event => Self::Event,
        }
    }
}

/// What a filter does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// Looks for credentials by their form.
    Secrets {
        /// What becomes of them.
        action: Action,
        /// Which; all without it. [`secret_types`](super::secret_types) lists them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        types: Option<Vec<String>>,
    },
    /// Looks for numbers of cards, accounts and persons by their check digits.
    Pii {
        /// What becomes of them.
        action: Action,
        /// Which; all without it. [`pii_types`](super::pii_types) lists them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        types: Option<Vec<String>>,
    },
    /// Looks for regular expressions.
    Regex {
        /// What becomes of what they fit.
        action: Action,
        /// At most [`FilterLimits::PATTERNS`].
        patterns: Vec<NamedPattern>,
    },
    /// Looks at the size of the message.
    Size {
        /// Anything but [`Action::Redact`].
        action: Action,
        /// The most bytes that a message may have.
        bytes: u64,
    },
    /// Looks at the addresses that users are asked to visit.
    ElicitationUrl {
        /// Anything but [`Action::Redact`].
        action: Action,
        /// The hosts that may be visited, `*.example.com` for every one below; any public name without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hosts: Option<Vec<String>>,
    },
    /// Asks an HTTP service.
    Webhook {
        /// Where the message is posted.
        url: String,
        /// What requests are signed with; they are not without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret>,
        /// Whether the service may replace the message.
        #[serde(default)]
        mutation: bool,
    },
}

/// What becomes of what a filter finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The message does not go on.
    Refuse,
    /// It is replaced by its name.
    Redact,
    /// It is noted in the audit trail.
    Flag,
}

/// What becomes of a message that a filter fails to judge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// It does not go on.
    #[default]
    Closed,
    /// It goes on unjudged.
    Open,
}

/// A regular expression with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPattern {
    /// What is put in the place of what it fits, and what the trail calls it: a-z, 0-9 and `-`.
    pub name: String,
    /// The expression, as the crate `regex` reads it.
    pub pattern: String,
}

/// How large a filter may be.
#[derive(Debug, Clone, Copy)]
pub struct FilterLimits;

impl FilterLimits {
    /// Selectors of one filter.
    pub const SELECTORS: usize = 100;
    /// Items of one list of a selector, types and hosts.
    pub const ITEMS: usize = 100;
    /// Expressions of one filter.
    pub const PATTERNS: usize = 100;
    /// Bytes of one id, name, pattern, expression, text or URL.
    pub const TEXT: usize = 1_024;
    /// Bytes that one expression may take when it is compiled.
    pub const COMPILED: usize = 256 << 10;
    /// The longest time for one attempt, milliseconds.
    pub const TIMEOUT_MS: u32 = 60_000;
    /// The time for one attempt where nothing is said, milliseconds.
    pub const USUAL_TIMEOUT_MS: u32 = 5_000;
    /// Further attempts.
    pub const RETRIES: u8 = 5;
    /// The longest time that all filters together may take over one message, milliseconds. Those whose turn comes later
    /// fail.
    pub const MESSAGE_MS: u32 = 120_000;
    /// Calls of one service at once; those beyond wait, in their time.
    pub const CALLS: usize = 64;
    /// Filters.
    pub const FILTERS: usize = 200;
    /// The largest message that is looked through between others, bytes; a larger one by a thread of its own.
    pub const AT_ONCE: usize = 16 << 10;
    /// Places in one message that one filter replaces. One with more is refused.
    pub const FINDS: usize = 10_000;
    /// Bytes of one message that expressions may read more than once, each place after the first at which one fits
    /// counted with all that follows it. A message that takes more is refused.
    pub const AGAIN: usize = 512 << 20;
}
