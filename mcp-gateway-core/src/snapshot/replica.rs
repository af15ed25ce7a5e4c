//! The state that changes are applied to before it is published.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::people::People;
use super::{KeyFacts, Snapshot, SnapshotOptions};
use crate::contract::{Change, Key, Kind, Record, Revision, StoreError, StoreErrorKind};
use crate::filter::{Compiled, FilterSpec, Filters, of_kept};
use crate::pin::ToolInventory;
use crate::policy::{AccessPolicy, AccessRules};
use crate::record::{ApiKey, Entry, Group, Resource, Revocation, Stored, User};

/// The kinds that are in a snapshot.
pub(super) const KINDS: [Kind; 8] = [
    AccessPolicy::KIND,
    FilterSpec::KIND,
    ToolInventory::KIND,
    Entry::KIND,
    ApiKey::KIND,
    Revocation::KIND,
    User::KIND,
    Group::KIND,
];

/// A snapshot in the making. Each map is copied at most once between two swaps, when its first change comes.
pub(super) struct Replica {
    options: SnapshotOptions,
    snapshot: Snapshot,
    people: People,
    /// Every policy by its id, `None` for one that cannot be read.
    policies: BTreeMap<Box<str>, Option<AccessPolicy>>,
    policies_changed: bool,
    /// Every filter by its id.
    filters: BTreeMap<Box<str>, Arc<Compiled>>,
    filters_changed: bool,
    /// Everything up to here is applied.
    pub(super) position: Revision,
    /// Whether the snapshot differs from what was published.
    pub(super) changed: bool,
    /// Whether an entry could not be read because its key was away: it is tried again.
    pub(super) incomplete: bool,
    /// Records that a page had in a later version than the feed begins with.
    ahead: HashMap<Key, Revision>,
    /// What was served before, for entries that no longer compile.
    before: Option<Arc<Snapshot>>,
}

impl Replica {
    /// An empty state; `before` is what is served until it is filled.
    pub(super) fn new(options: SnapshotOptions, before: Arc<Snapshot>) -> Self {
        // Listing anew forgets nothing of that.
        let owned = options.owned || before.owned;
        let people = People::new(&options, owned);
        Self {
            options,
            snapshot: Snapshot::default(),
            people,
            policies: BTreeMap::new(),
            policies_changed: false,
            filters: BTreeMap::new(),
            filters_changed: false,
            position: Revision(0),
            changed: true,
            incomplete: false,
            ahead: HashMap::new(),
            before: Some(before),
        }
    }

    /// Adds a record of a page; `from` is where the feed will begin.
    pub(super) fn add(&mut self, record: &Record, from: Revision) {
        if record.revision > from {
            self.ahead.insert(record.key.clone(), record.revision);
        }
        self.set(&record.key, record.revision, &record.value);
    }

    /// Pages and feed have met: from here on every change of the feed is news.
    pub(super) fn complete(&mut self) {
        self.ahead = HashMap::new();
        self.before = None;
    }

    /// Applies a commit of the feed.
    pub(super) fn apply(&mut self, revision: Revision, changes: Vec<Change>) {
        for Change { key, value } in changes {
            if key.tenant != self.options.tenant || self.ahead.get(&key).is_some_and(|held| *held >= revision) {
                continue;
            }
            match value {
                Some(value) => self.set(&key, revision, &value),
                None => self.remove(&key),
            }
            self.changed = true;
        }
        self.position = self.position.max(revision);
    }

    /// What is to be published, if anything is.
    pub(super) fn take(&mut self) -> Option<Snapshot> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.people.settle(&mut self.snapshot);
        if std::mem::take(&mut self.policies_changed) {
            let policies = self.policies.iter().map(|(id, policy)| (&**id, policy.as_ref()));
            self.snapshot.rules = Arc::new(AccessRules::of_kept(policies));
        }
        if std::mem::take(&mut self.filters_changed) {
            self.snapshot.filters = Arc::new(Filters::of_compiled(self.filters.values().cloned().collect()));
        }
        self.snapshot.revision = self.position;
        Some(self.snapshot.clone())
    }

    fn set(&mut self, key: &Key, revision: Revision, value: &Bytes) {
        let record = Record { key: key.clone(), revision, value: value.clone() };
        if key.kind == AccessPolicy::KIND {
            let policy = self.read::<AccessPolicy>(&record);
            self.policies.insert(key.id.clone(), policy);
            self.policies_changed = true;
        } else if key.kind == FilterSpec::KIND {
            self.set_filter(&record);
        } else if key.kind == ToolInventory::KIND {
            let inventory = self.read::<ToolInventory>(&record).unwrap_or_else(ToolInventory::unreadable);
            Arc::make_mut(&mut self.snapshot.tools).insert(Arc::from(&*key.id), Arc::new(inventory));
        } else if key.kind == Entry::KIND {
            self.set_entry(&record);
        } else if key.kind == ApiKey::KIND {
            self.set_key(&record);
        } else if key.kind == Revocation::KIND {
            self.set_revocation(&record);
        } else if key.kind == User::KIND {
            let user = self.read::<User>(&record);
            self.people.set_user(&mut self.snapshot, &key.id, user.as_ref());
        } else if key.kind == Group::KIND {
            let group = self.read::<Group>(&record);
            self.people.set_group(&key.id, group.as_ref());
        }
    }

    /// A revocation that cannot be read ends everything it may have meant.
    fn set_revocation(&mut self, record: &Record) {
        let revocation = Stored::<Revocation>::decode(record, &*self.options.sealer).map_or_else(
            |error| {
                tracing::warn!(revocation = &*record.key.id, %error, "a revocation cannot be read; it ends everything");
                Revocation { reason: String::new(), before: None, until: jiff::Timestamp::MAX }
            },
            |stored| stored.value,
        );
        let now = self.options.clock.now();
        Arc::make_mut(&mut self.snapshot.revocations).insert(record.key.id.clone(), revocation, now);
    }

    fn read<T: Resource>(&self, record: &Record) -> Option<T> {
        let read = Stored::<T>::decode(record, &*self.options.sealer);
        let (kind, id, revision) = (T::KIND.name, &*record.key.id, record.revision.0);
        read.map_err(|error| tracing::warn!(kind, id, revision, %error, "a record cannot be read"))
            .ok()
            .map(|read| read.value)
    }

    fn set_entry(&mut self, record: &Record) {
        let id: Arc<str> = Arc::from(&*record.key.id);
        let compiled = match Stored::<Entry>::decode(record, &*self.options.sealer) {
            Ok(stored) => (self.options.compile)(&stored.value)
                .map(|route| (stored.value, route))
                .map_err(|error| error.to_string()),
            Err(error) => {
                self.incomplete |= error.kind() == StoreErrorKind::Unavailable;
                Err(error.to_string())
            }
        };
        match compiled {
            Ok((entry, route)) => self.serve(id, Arc::new(entry), Arc::new(route)),
            Err(error) => {
                let before = self.before.as_ref().and_then(|before| {
                    Some((Arc::clone(before.entries.get(&*id)?), Arc::clone(before.routes.get(&*id)?)))
                });
                let kept = before.is_some() || self.snapshot.routes.contains_key(&*id);
                tracing::warn!(
                    entry = &*id, revision = record.revision.0, %error, still_served_as_before = kept,
                    "an entry cannot be used"
                );
                if let Some((entry, route)) = before {
                    self.serve(id, entry, route);
                }
            }
        }
    }

    /// One whose key is away is tried again.
    fn set_filter(&mut self, record: &Record) {
        let read = Stored::<FilterSpec>::decode(record, &*self.options.sealer);
        let spec = read.map_err(|error| {
            self.incomplete |= error.kind() == StoreErrorKind::Unavailable;
            tracing::warn!(filter = &*record.key.id, revision = record.revision.0, %error, "a record cannot be read");
        });
        let compiled = of_kept(&record.key.id, spec.ok().as_ref().map(|stored| &stored.value));
        self.filters.insert(record.key.id.clone(), compiled);
        self.filters_changed = true;
    }

    fn serve(&mut self, id: Arc<str>, entry: Arc<Entry>, route: Arc<crate::record::Route>) {
        Arc::make_mut(&mut self.snapshot.entries).insert(Arc::clone(&id), entry);
        Arc::make_mut(&mut self.snapshot.routes).insert(id, route);
    }

    /// A key that cannot be read is no key, even if it could be read before: it may have been restricted.
    fn set_key(&mut self, record: &Record) {
        let facts = Stored::<ApiKey>::decode(record, &*self.options.sealer).and_then(|stored| {
            KeyFacts::new(&record.key.tenant, &record.key.id, &stored.value)
                .map_err(|error| StoreError::new(StoreErrorKind::Corrupt, "decode").because(error))
        });
        match facts {
            Ok(facts) => {
                self.people.set_key(&record.key.id, facts);
            }
            Err(error) => {
                tracing::warn!(key = &*record.key.id, revision = record.revision.0, %error, "an API key cannot be used");
                self.remove(&record.key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if key.kind == AccessPolicy::KIND {
            self.policies.remove(&key.id);
            self.policies_changed = true;
        } else if key.kind == FilterSpec::KIND {
            self.filters.remove(&key.id);
            self.filters_changed = true;
        } else if key.kind == ToolInventory::KIND {
            Arc::make_mut(&mut self.snapshot.tools).remove(&*key.id);
        } else if key.kind == Entry::KIND {
            Arc::make_mut(&mut self.snapshot.entries).remove(&*key.id);
            Arc::make_mut(&mut self.snapshot.routes).remove(&*key.id);
        } else if key.kind == ApiKey::KIND {
            self.people.remove_key(&key.id);
        } else if key.kind == Revocation::KIND {
            Arc::make_mut(&mut self.snapshot.revocations).remove(&key.id);
        } else if key.kind == User::KIND {
            self.people.remove_user(&mut self.snapshot, &key.id);
        } else if key.kind == Group::KIND {
            self.people.set_group(&key.id, None);
        }
    }
}
