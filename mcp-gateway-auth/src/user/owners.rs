//! The last owner stays, and no owner comes about whom somebody else can be.

use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::contract::{
    IndexTerm, Key, Kind, Revision, StoreError, StoreErrorKind, StoreLimits, When, Write,
};
use mcp_gateway_core::record::{ApiKey, Principal, Resource, Resources, Roles, Scope, Stored, Subject, User};
use serde::{Deserialize, Serialize};

use super::error::{UserError, wrong};
use super::identity::PASSWORD;
use super::service::OWNERS_TO_GIVE;
use super::{Identity, UserDirectory, Users};

/// The id of the one record.
const ID: &str = "state";
/// Rounds that are tried when a person's record changes at the same time.
const ATTEMPTS: usize = 4;
/// How long is waited until this process knows what others have done about owners.
const APPLY: Duration = Duration::from_secs(5);

/// Counts up whenever an owner is unmade. Of two who unmake each other at the same moment, each of whom sees the other
/// stay, one finds it changed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct OwnersRecord {
    unmade: u64,
}

impl Resource for OwnersRecord {
    const KIND: Kind = Kind::quiet("owners");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

impl Users {
    async fn counted(&self) -> Result<(OwnersRecord, When), UserError> {
        let stored = self.owners.get(ID).await?;
        let absent = (OwnersRecord::default(), When::Absent);
        Ok(stored.map_or(absent, |stored| (stored.value, When::At(stored.revision))))
    }

    /// The write that goes with what may unmake an owner whoever is left: others who unmake one at the same moment look
    /// again.
    pub(super) async fn may_unmake(&self) -> Result<Write, UserError> {
        let (record, when) = self.counted().await?;
        Ok(self.owners.put(ID, &OwnersRecord { unmade: record.unmade + 1 }, None, when)?)
    }

    /// The write that goes with unmaking an owner, when `stays` says that another one is left.
    pub(super) async fn unmake(&self, stays: impl Fn(&dyn UserDirectory) -> bool + Send) -> Result<Write, UserError> {
        let (record, when) = self.counted().await?;
        if let When::At(revision) = when {
            // What is counted up to there has been done, and must be seen in what is asked next.
            self.knows(revision).await?;
        }
        if !stays(&*self.directory) {
            return Err(UserError::LastOwner);
        }
        Ok(self.owners.put(ID, &OwnersRecord { unmade: record.unmade + 1 }, None, when)?)
    }

    /// The same for a user, if they are an owner at all.
    pub(super) async fn unmake_user(&self, id: &str) -> Result<Option<Write>, UserError> {
        if !self.effective_roles(id).contains(Roles::OWNER) {
            return Ok(None);
        }
        self.unmake(|directory| directory.has_owner_but(id)).await.map(Some)
    }

    /// The write that goes with taking these people out of a group that gives these roles, if it unmakes owners. Where
    /// there is no owner, none is lost.
    #[cfg(feature = "login")]
    pub(crate) async fn unmake_members(
        &self,
        group: &str,
        gives: Roles,
        leaving: &[String],
    ) -> Result<Option<Write>, UserError> {
        if !gives.contains(Roles::OWNER) || !self.directory.has_owner_but("") {
            return Ok(None);
        }
        self.unmake(|directory| directory.has_owner_without(group, Some(leaving))).await.map(Some)
    }

    /// The same for everybody who is in it when it goes.
    #[cfg(feature = "login")]
    pub(crate) async fn unmake_group(&self, group: &str, gives: Roles) -> Result<Option<Write>, UserError> {
        if !gives.contains(Roles::OWNER) || !self.directory.has_owner_but("") {
            return Ok(None);
        }
        self.unmake(|directory| directory.has_owner_without(group, None)).await.map(Some)
    }

    /// Whether what was done to this person with this revision has left nobody an owner. Nobody is asked about a
    /// provider's word: it holds, and is told here.
    pub(super) async fn has_left_ownerless(&self, id: &str, revision: Revision) -> bool {
        let known = tokio::time::timeout(APPLY, self.directory.wait_for(revision)).await.is_ok();
        let ownerless = known && !self.directory.has_owner_but("");
        if ownerless {
            tracing::error!(
                user = id,
                "an identity provider has taken the last owner's group: nobody is an owner any more; put somebody back \
                 at the provider, or start with --bootstrap and make an owner with the token"
            );
        }
        ownerless
    }

    /// Whoever has chosen somebody's password, or has a key or session in their name, must not become an owner with
    /// them: an owner of whom others are sure signs in with what nobody else knows. The keys that are good for the admin
    /// API go.
    pub(super) async fn prepare_to_trust(&self, by: &Principal, id: &str, roles: Roles) -> Result<(), UserError> {
        let identities = self.identities_of(id).await?;
        if roles.contains(Roles::OWNER) && identities.is_empty() {
            // An owner who cannot sign in would end the bootstrap token, and nobody could get in any more.
            return wrong("roles", "must not make an owner of somebody who cannot sign in");
        }
        if is_self(by, id) {
            return Ok(());
        }
        if self.knows_another(&identities).await? {
            return wrong(
                "roles",
                "must wait until the person has replaced the password that somebody else has chosen",
            );
        }
        self.delete_keys(id, for_api).await
    }

    /// The same for those whom a group is about to make owners or auditors: all of them, or none. Returns all members.
    pub(super) async fn prepare_to_trust_members(
        &self,
        by: &Principal,
        group: &str,
        gives: Roles,
    ) -> Result<Vec<Arc<str>>, UserError> {
        let members = self.directory.members(&[group]).pop().unwrap_or_default();
        let mut raised = Vec::new();
        for id in &members {
            let now = self.effective_roles(id);
            if is_raised(now, now.union(gives)) && !is_self(by, id) {
                if self.knows_another(&self.identities_of(id).await?).await? {
                    return wrong(
                        "roles",
                        "must wait until every member has replaced the password that somebody else has chosen",
                    );
                }
                raised.push(id);
            }
        }
        for id in raised {
            self.delete_keys(id, for_api).await?;
            let Some(stored) = self.get(id).await? else { continue };
            let user = User { epoch: stored.value.epoch + 1, ..stored.value };
            self.users.save(id, &user, When::At(stored.revision)).await?;
        }
        Ok(members)
    }

    /// The same for those who came into the group while it was given the roles, with this revision. It has them: what
    /// others may know of its new members goes.
    pub(super) async fn trust_newcomers(
        &self,
        by: &Principal,
        group: &str,
        seen: &[Arc<str>],
        given: Revision,
    ) -> Result<(), UserError> {
        self.knows(given).await?;
        let members = self.directory.members(&[group]).pop().unwrap_or_default();
        for id in members.iter().filter(|id| !seen.contains(id) && !is_self(by, id)) {
            self.trust(id).await?;
        }
        Ok(())
    }

    /// The same for somebody whom a provider's word has just made one. The word holds, so what others may know goes: their
    /// keys for the admin API, sessions, and a password that somebody else has chosen. `None`: nobody was made one.
    pub(super) async fn trust_by_word(
        &self,
        id: &str,
        before: Roles,
        heard: Revision,
    ) -> Result<Option<Stored<User>>, UserError> {
        // Where it cannot be known in time what the word means, it may mean this.
        if self.knows(heard).await.is_ok() && !is_raised(before, self.effective_roles(id)) {
            return Ok(None);
        }
        self.trust(id).await
    }

    async fn trust(&self, id: &str) -> Result<Option<Stored<User>>, UserError> {
        for attempt in 1.. {
            let Some(Stored { revision, value, .. }) = self.get(id).await? else { break };
            let user = User { epoch: value.epoch + 1, ..value };
            let mut writes = self.forget_what_others_know(id).await?;
            writes.push(self.users.put(id, &user, None, When::At(revision))?);
            match self.users.store().commit(writes).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {}
                done => return Ok(Some(Stored { id: id.into(), revision: done?, value: user })),
            }
        }
        Ok(None)
    }

    /// Deletes a person's keys for the admin API; the writes that delete passwords that somebody else has chosen.
    pub(super) async fn forget_what_others_know(&self, id: &str) -> Result<Vec<Write>, UserError> {
        self.delete_keys(id, for_api).await?;
        let mut writes = Vec::new();
        for identity in self.identities_of(id).await? {
            if self.knows_another(std::slice::from_ref(&identity)).await? {
                let key = Key::new(self.users.key(id).tenant, PASSWORD, identity.key.id());
                writes.push(Write::Delete { key, when: When::Any });
            }
        }
        Ok(writes)
    }

    /// A person's own roles and those of their groups, as they are kept; without those that are preset.
    pub(super) async fn kept_roles(&self, user: &User) -> Result<Roles, UserError> {
        let groups = self.groups.get_many(user.groups.iter().map(String::as_str)).await?;
        let given = groups.into_iter().flatten().fold(user.roles, |all, group| all.union(group.value.roles));
        Ok(given.with_included())
    }

    /// Waits until this process knows what was done with a revision.
    pub(super) async fn knows(&self, revision: Revision) -> Result<(), UserError> {
        let known = tokio::time::timeout(APPLY, self.directory.wait_for(revision)).await;
        Ok(known.map_err(|_| StoreError::new(StoreErrorKind::Unavailable, "feed").because("it lags behind"))?)
    }

    /// Whether one of these identities has a password that somebody else has chosen.
    pub(super) async fn knows_another(&self, identities: &[Identity]) -> Result<bool, UserError> {
        let tenant = self.users.key("").tenant;
        let passwords: Vec<Key> = identities
            .iter()
            .filter(|identity| identity.key.issuer == Subject::LOCAL)
            .map(|identity| Key::new(tenant.clone(), PASSWORD, identity.key.id()))
            .collect();
        let kept = if passwords.is_empty() { Vec::new() } else { self.users.store().get(&passwords).await? };
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Chosen {
            must_change: bool,
        }
        // One that cannot be read may have been chosen by anybody.
        let own_choice = |value: &[u8]| serde_json::from_slice::<Chosen>(value).is_ok_and(|chosen| !chosen.must_change);
        Ok(kept.into_iter().flatten().any(|record| !own_choice(&record.value)))
    }

    /// Deletes those of a person's keys.
    pub(crate) async fn delete_keys(&self, id: &str, which: impl Fn(&ApiKey) -> bool) -> Result<(), UserError> {
        let of_subject = IndexTerm { name: "subject", value: format!("{} {id}", Subject::LOCAL).into() };
        let keys: &Resources<ApiKey> = &self.keys;
        let mut after = None;
        loop {
            let (page, more) = keys.list(Some(of_subject.clone()), after.as_deref(), StoreLimits::WRITES).await?;
            let gone = page.iter().filter(|key| which(&key.value));
            let writes: Vec<_> = gone.map(|key| Write::Delete { key: keys.key(&key.id), when: When::Any }).collect();
            if !writes.is_empty() {
                keys.store().commit(writes).await?;
            }
            after = match more {
                Some(more) => Some(more),
                None => return Ok(()),
            };
        }
    }
}

/// Whether a key is good for the admin API.
fn for_api(key: &ApiKey) -> bool {
    key.scopes.iter().any(|one| matches!(one, Scope::ApiRead | Scope::ApiWrite))
}

fn is_self(by: &Principal, id: &str) -> bool {
    *by.subject.issuer == *Subject::LOCAL && *by.subject.id == *id
}

/// Whether somebody gets a right that only owners give.
pub(super) fn is_raised(old: Roles, new: Roles) -> bool {
    new.without(old).intersects(OWNERS_TO_GIVE)
}
