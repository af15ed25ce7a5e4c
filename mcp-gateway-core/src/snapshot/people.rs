//! What a call needs to know of a person, compiled when something changes: no call merges anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{KeyFacts, Snapshot, SnapshotOptions};
use crate::Map;
use crate::record::{Email, Group, Roles, Subject, User, UserState};

/// A person, ready for use: about 120 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserFacts {
    /// The person's id: that of the subject, whose issuer is `local`.
    pub id: Arc<str>,
    /// Whether the person may do anything. What belongs to one who may not is refused.
    pub enabled: bool,
    /// Whether the person was deleted; the record stays, so that nobody else gets the id.
    pub deleted: bool,
    /// What the person may do: own roles, those of the groups, those preset for the verified address, and what these
    /// include.
    pub roles: Roles,
    /// Ids of the person's groups; those of issuers that are not heard any more are none.
    pub groups: Arc<[Arc<str>]>,
    /// What was issued under another epoch is void.
    pub epoch: u64,
    /// Without those of the groups.
    own: Roles,
    /// The groups as they are kept.
    kept: Arc<[Arc<str>]>,
    unreadable: bool,
}

impl UserFacts {
    /// The person's own roles and those preset for the verified address, without those of the groups.
    #[must_use]
    pub fn own_roles(&self) -> Roles {
        self.own
    }

    /// Whether the person is an owner, or cannot be read and so may be one.
    fn may_be_owner(&self) -> bool {
        self.unreadable || (self.enabled && self.roles.contains(Roles::OWNER))
    }
}

/// Roles by verified e-mail address, in lowercase, from the configuration.
pub type RolePresets = HashMap<Box<str>, Roles>;

/// The issuers that are heard now, and the domains, in lowercase, that each may vouch for.
pub type Vouching = HashMap<Box<str>, HashSet<Box<str>>>;

/// What a replica remembers so that a change of one record reaches all that depend on it.
#[derive(Default)]
pub(super) struct People {
    presets: Arc<RolePresets>,
    group_presets: Arc<RolePresets>,
    vouching: Option<Arc<Vouching>>,
    /// Roles of groups that have any.
    groups: HashMap<Arc<str>, Roles>,
    /// Groups of issuers that are not heard: whoever was in one is not any more.
    unheard: HashSet<Arc<str>>,
    /// One copy of each group's id.
    names: HashSet<Arc<str>>,
    /// Every key as it was kept, also those of people who may do nothing.
    keys: Map<Box<str>, Arc<KeyFacts>>,
    /// Ids of keys by the id of their local subject.
    keys_of: HashMap<Arc<str>, Vec<Box<str>>>,
    owned: bool,
    changed: Changed,
}

#[derive(Default)]
struct Changed {
    users: HashSet<Arc<str>>,
    groups: HashSet<Arc<str>>,
    keys: HashSet<Box<str>>,
}

impl People {
    pub(super) fn new(options: &SnapshotOptions, owned: bool) -> Self {
        Self {
            presets: Arc::clone(&options.presets),
            group_presets: Arc::clone(&options.group_presets),
            vouching: options.vouching.clone(),
            owned,
            ..Self::default()
        }
    }

    /// A user that cannot be read may do nothing: the record may have been a restriction.
    pub(super) fn set_user(&mut self, snapshot: &mut Snapshot, id: &str, user: Option<&User>) {
        let id: Arc<str> = id.into();
        let facts = user.map_or_else(
            || UserFacts {
                id: Arc::clone(&id),
                enabled: false,
                deleted: false,
                roles: Roles::NONE,
                groups: Arc::default(),
                epoch: u64::MAX,
                own: Roles::NONE,
                kept: Arc::default(),
                unreadable: true,
            },
            |user| self.compile(Arc::clone(&id), user),
        );
        Arc::make_mut(&mut snapshot.users).insert(Arc::clone(&id), Arc::new(facts));
        self.changed.users.insert(id);
    }

    pub(super) fn remove_user(&mut self, snapshot: &mut Snapshot, id: &str) {
        if let Some((id, _)) = Arc::make_mut(&mut snapshot.users).remove_entry(id) {
            self.changed.users.insert(id);
        }
    }

    /// `None` for a group that is gone or cannot be read: it gives nobody anything.
    pub(super) fn set_group(&mut self, id: &str, group: Option<&Group>) {
        let id = self.name(id);
        let is_heard = |group: &Group| self.vouching.as_ref().is_none_or(|all| all.contains_key(&*group.provider));
        match group.is_none_or(is_heard) {
            true => self.unheard.remove(&id),
            false => self.unheard.insert(Arc::clone(&id)),
        };
        match group.map(|group| group.roles).filter(|roles| *roles != Roles::NONE) {
            Some(roles) => self.groups.insert(Arc::clone(&id), roles),
            None => self.groups.remove(&id),
        };
        self.changed.groups.insert(id);
    }

    pub(super) fn set_key(&mut self, id: &str, facts: KeyFacts) {
        self.remove_key(id);
        if let Some(user) = local(&facts.principal.subject) {
            self.keys_of.entry(Arc::clone(user)).or_default().push(id.into());
        }
        self.keys.insert(id.into(), Arc::new(facts));
    }

    pub(super) fn remove_key(&mut self, id: &str) {
        self.changed.keys.insert(id.into());
        let Some(old) = self.keys.remove(id) else { return };
        if let Some(user) = local(&old.principal.subject)
            && let Some(ids) = self.keys_of.get_mut(user)
        {
            ids.retain(|one| &**one != id);
            if ids.is_empty() {
                self.keys_of.remove(user);
            }
        }
    }

    /// Carries what changed to all that depends on it. Called once a swap.
    pub(super) fn settle(&mut self, snapshot: &mut Snapshot) {
        let Changed { mut users, groups, mut keys } = std::mem::take(&mut self.changed);
        if !groups.is_empty() {
            let members: Vec<_> = snapshot
                .users
                .values()
                .filter(|facts| facts.kept.iter().any(|group| groups.contains(group)))
                .map(Arc::clone)
                .collect();
            for facts in members {
                let heard = self.heard(&facts.kept);
                let roles = self.effective(facts.own, &heard);
                if roles != facts.roles || heard != facts.groups {
                    let id = Arc::clone(&facts.id);
                    let facts = UserFacts { roles, groups: heard, ..(*facts).clone() };
                    Arc::make_mut(&mut snapshot.users).insert(Arc::clone(&id), Arc::new(facts));
                    users.insert(id);
                }
            }
        }
        if !users.is_empty() {
            let takes_over = |id: &Arc<str>| snapshot.users.get(id).is_some_and(|facts| facts.may_be_owner());
            if !self.owned && users.iter().any(takes_over) {
                // For good: nobody who made the last owner disappear gets the rights of the first day.
                self.owned = true;
                keys.extend(self.keys.keys().cloned());
            } else {
                keys.extend(users.iter().filter_map(|id| self.keys_of.get(id)).flatten().cloned());
            }
        }
        snapshot.owned = self.owned;
        for id in keys {
            let facts = self.keys.get(&id).and_then(|facts| self.for_its_owner(snapshot, facts));
            let known = Arc::make_mut(&mut snapshot.keys);
            match facts {
                Some(facts) => known.insert(id, facts),
                None => known.remove(&id),
            };
        }
    }

    /// The key with what its owner may do now; `None` when that is nothing.
    fn for_its_owner(&self, snapshot: &Snapshot, facts: &Arc<KeyFacts>) -> Option<Arc<KeyFacts>> {
        match snapshot.user(&facts.principal.subject) {
            Some(user) => user.enabled.then(|| facts.of_person(user.roles)),
            // Made before there were users. Such a key's rights end when a person takes over.
            None if self.owned => Some(facts.with_roles(Roles::NONE)),
            None => Some(Arc::clone(facts)),
        }
    }

    fn compile(&mut self, id: Arc<str>, user: &User) -> UserFacts {
        let verified = user.email.as_ref().filter(|email| email.verified && self.is_vouched_for(email));
        let preset = verified.and_then(|email| self.presets.get(&*email.address)).copied().unwrap_or_default();
        let own = user.roles.union(preset);
        let kept: Arc<[Arc<str>]> = user.groups.iter().map(|group| self.name(group)).collect();
        let groups = self.heard(&kept);
        let enabled = user.state == UserState::Active;
        let deleted = user.state == UserState::Deleted;
        let roles = self.effective(own, &groups);
        UserFacts { id, enabled, deleted, roles, groups, epoch: user.epoch, own, kept, unreadable: false }
    }

    /// Those of these groups whose issuer is heard.
    fn heard(&self, kept: &Arc<[Arc<str>]>) -> Arc<[Arc<str>]> {
        if kept.iter().any(|group| self.unheard.contains(group)) {
            kept.iter().filter(|group| !self.unheard.contains(*group)).cloned().collect()
        } else {
            Arc::clone(kept)
        }
    }

    /// Whether whoever said that the address is the person's may still say so.
    fn is_vouched_for(&self, email: &Email) -> bool {
        let Some(vouching) = &self.vouching else { return true };
        let domains = email.verified_by.as_deref().and_then(|issuer| vouching.get(issuer));
        let domain = email.address.rsplit_once('@').map_or("", |(_, domain)| domain);
        domains.is_some_and(|domains| domains.contains(domain))
    }

    fn effective(&self, own: Roles, groups: &[Arc<str>]) -> Roles {
        let given = groups.iter().filter_map(|group| self.groups.get(group));
        let preset = groups.iter().filter_map(|group| self.group_presets.get(&**group));
        given.chain(preset).fold(own, |all, roles| all.union(*roles)).with_included()
    }

    fn name(&mut self, id: &str) -> Arc<str> {
        if let Some(name) = self.names.get(id) {
            return Arc::clone(name);
        }
        let name: Arc<str> = id.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

fn local(subject: &Subject) -> Option<&Arc<str>> {
    (*subject.issuer == *Subject::LOCAL).then_some(&subject.id)
}
