//! The policy of the first day.

use serde::{Deserialize, Serialize};

use super::record::{AccessPolicy, AccessRule, Effect, PolicySubject, PolicyTarget};
use crate::contract::{Kind, Query, Revision, StoreError, StoreErrorKind, When};
use crate::record::{Resource, Resources};

/// What a gateway remembers of its access policies.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PolicyState {
    /// Whether the first policy was made. It is never made again, whatever became of it.
    begun: bool,
}

impl Resource for PolicyState {
    const KIND: Kind = Kind::quiet("access-policy-state");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

const STATE: &str = "state";

impl AccessPolicy {
    /// The id of the policy that a gateway begins with.
    pub const FIRST: &'static str = "default";

    /// Everyone may use everything.
    #[must_use]
    pub fn everybody() -> Self {
        let rule = AccessRule {
            effect: Effect::Allow,
            subjects: vec![PolicySubject::Everyone],
            targets: vec![PolicyTarget::default()],
        };
        Self { name: "Everyone may use everything".to_owned(), enabled: true, rules: vec![rule] }
    }
}

/// Makes the policy that [lets everyone](AccessPolicy::everybody) use everything, once in the life of a store and only
/// where there is no other, and returns the revision if it was now. A gateway without rules would let nobody do anything, one that comes from a version
/// without rules, too. From then on it is a policy like any other: once deleted, it stays deleted.
///
/// # Errors
/// Those of the store.
pub async fn everybody_at_first(policies: &Resources<AccessPolicy>) -> Result<Option<Revision>, StoreError> {
    let states = policies.of_kind::<PolicyState>();
    if states.get(STATE).await?.is_some() {
        return Ok(None);
    }
    // Together: whoever sees the one sees the other, and of two replicas one makes both.
    let mut writes = vec![states.put(STATE, &PolicyState { begun: true }, None, When::Absent)?];
    let query =
        Query { tenant: Some(policies.key(STATE).tenant), kind: AccessPolicy::KIND, term: None, after: None, limit: 1 };
    // Somebody has made rules already, of which this one must not take any back.
    let begins = policies.store().list(&query).await?.records.is_empty();
    if begins {
        writes.push(policies.put(AccessPolicy::FIRST, &AccessPolicy::everybody(), None, When::Absent)?);
    }
    match policies.store().commit(writes).await {
        Ok(revision) => Ok(begins.then_some(revision)),
        Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}
