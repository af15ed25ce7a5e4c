//! What ended before its time.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Dependence, Resource, Subject};
use crate::contract::Kind;

/// Something that tokens depend on has ended: a person's access, a client, a grant, a session, a single token.
///
/// In the feed, so every replica refuses from its next call on. Lives as long as a token that depends on it may: whoever
/// writes one gives it a time to live of at least the longest life of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// For people: what has ended, and why.
    pub reason: String,
    /// Everything that was checked until this time has ended; `None`: everything that can be, until
    /// [`until`](Self::until).
    #[serde(default)]
    pub before: Option<Timestamp>,
    /// When no token can depend on it any more.
    pub until: Timestamp,
}

impl Resource for Revocation {
    const KIND: Kind = Kind::logged("revocation");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// What a [`Revocation`] is of. Its id is a hash: names may be longer than ids can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revoked<'a> {
    /// All that a person or service has.
    Subject(&'a Subject),
    /// All that a client got, from anybody.
    Client(&'a str),
    /// All that came of one consent.
    Grant(&'a str),
    /// All that came of one login.
    Session(&'a str),
    /// One token, by its `jti`.
    Token(&'a str),
}

impl Revoked<'_> {
    /// The id of the record.
    #[must_use]
    pub fn id(&self) -> Box<str> {
        let (kind, parts) = match self {
            Self::Subject(subject) => ("subject", vec![subject.tenant.as_str(), &subject.issuer, &subject.id]),
            Self::Client(id) => ("client", vec![*id]),
            Self::Grant(id) => ("grant", vec![*id]),
            Self::Session(id) => ("session", vec![*id]),
            Self::Token(id) => ("token", vec![*id]),
        };
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind}-{hex}").into()
    }
}

/// The revocations of a tenant, as the snapshot holds them.
#[derive(Debug, Clone, Default)]
pub struct Revocations(HashMap<Box<str>, Revocation>);

impl Revocations {
    /// Whether something that a credential depends on has ended.
    #[must_use]
    pub fn end(&self, dependence: &Dependence) -> bool {
        let ends = |revocation: &Revocation| dependence.epoch <= revocation.before.unwrap_or(revocation.until);
        !self.0.is_empty() && dependence.on.iter().any(|id| self.0.get(id).is_some_and(ends))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one, and forgets those that nothing depends on any more.
    pub(crate) fn insert(&mut self, id: Box<str>, revocation: Revocation, now: Timestamp) {
        self.0.retain(|_, held| held.until > now);
        self.0.insert(id, revocation);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(id: &str, epoch: i64) -> Dependence {
        Dependence { epoch: at(epoch), on: ["other".into(), id.into()].into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ends_what_was_checked_before_and_forgets_itself_when_nothing_can_depend_on_it() {
        let revoked = |before, until| Revocation { reason: String::new(), before, until: at(until) };
        let mut all = Revocations::default();
        all.insert("a".into(), revoked(Some(at(100)), 200), at(100));
        assert!(all.end(&on("a", 100)) && !all.end(&on("a", 101)) && !all.end(&on("b", 0)));
        all.insert("b".into(), revoked(None, 300), at(150));
        assert!(all.end(&on("b", 300)) && !all.end(&on("b", 301)) && all.len() == 2);
        all.insert("c".into(), revoked(None, 300), at(200));
        assert!(!all.end(&on("a", 0)) && all.len() == 2);
        all.remove("b");
        assert!(!all.end(&on("b", 0)));
    }

    #[test]
    fn ids_are_distinct_and_fit_the_store() {
        let long = "https://client.example/".repeat(100);
        let (ada, bob) = (Subject::local("ada"), Subject { issuer: "https://idp".into(), ..Subject::local("ada") });
        let all = [Revoked::Subject(&ada), Revoked::Subject(&bob), Revoked::Client(&long), Revoked::Client("x")];
        let more = [Revoked::Grant("x"), Revoked::Session("x"), Revoked::Token("x")];
        let ids: std::collections::HashSet<_> = all.iter().chain(&more).map(Revoked::id).collect();
        assert_eq!(ids.len(), 7);
        assert!(ids.iter().all(|id| id.len() <= crate::contract::StoreLimits::ID));
    }
}
