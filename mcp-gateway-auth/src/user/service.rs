//! What is done to people.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{
    Clock, IndexTerm, Key, ResourceStore, Revision, StoreError, StoreErrorKind, StoreLimits, When, Write,
};
use mcp_gateway_core::record::{
    ApiKey, FieldSealer, Group, Principal, Resources, Revocation, Revoked, Roles, Stored, Subject, TenantId, User,
    UserState,
};
use rand::RngExt as _;

use super::error::UserError;
use super::identity::PASSWORD;
use super::owners::{OwnersRecord, is_raised};
use super::{Identity, IdentityKey, UserDirectory, UserLimits};
use crate::token::SubjectMap;

/// Only an owner gives or takes these.
pub(super) const OWNERS_TO_GIVE: Roles = Roles::OWNER.union(Roles::AUDITOR);

/// The people and groups of one tenant.
///
/// Whether the caller may call at all is for the API to decide. What the roles of the caller mean for the roles of
/// others is decided here: only an owner makes, changes or unmakes owners and auditors, and the last owner stays.
#[derive(Clone)]
pub struct Users {
    pub(crate) users: Resources<User>,
    pub(crate) identities: Resources<Identity>,
    pub(crate) groups: Resources<Group>,
    pub(super) keys: Resources<ApiKey>,
    pub(super) owners: Resources<OwnersRecord>,
    revocations: Resources<Revocation>,
    tenant: TenantId,
    pub(super) clock: Arc<dyn Clock>,
    pub(crate) directory: Arc<dyn UserDirectory>,
    pub(crate) options: UserOptions,
}

/// How users are made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UserOptions {
    /// `roles.default`: the roles of somebody who signs in for the first time; basic.
    pub default_roles: Roles,
    /// How long a provider's word about groups and addresses holds for somebody who signs in without it: as long as a
    /// session lasts, 7 days.
    pub heard_for: Duration,
}

impl Default for UserOptions {
    fn default() -> Self {
        Self { default_roles: Roles::BASIC, heard_for: Duration::from_secs(7 * 24 * 3_600) }
    }
}

impl UserOptions {
    /// The same with these roles for new users.
    #[must_use]
    pub fn with_default_roles(mut self, roles: Roles) -> Self {
        self.default_roles = roles;
        self
    }

    /// The same with another time for the word of providers.
    #[must_use]
    pub fn with_heard_for(mut self, heard_for: Duration) -> Self {
        self.heard_for = heard_for;
        self
    }
}

impl Users {
    /// The people that are kept here.
    pub fn new(
        store: Arc<dyn ResourceStore>,
        sealer: Arc<dyn FieldSealer>,
        tenant: TenantId,
        clock: Arc<dyn Clock>,
        directory: Arc<dyn UserDirectory>,
        options: UserOptions,
    ) -> Self {
        let (users, identities) = (
            Resources::new(Arc::clone(&store), Arc::clone(&sealer), tenant.clone()),
            Resources::new(Arc::clone(&store), Arc::clone(&sealer), tenant.clone()),
        );
        let groups = Resources::new(Arc::clone(&store), Arc::clone(&sealer), tenant.clone());
        let owners = Resources::new(Arc::clone(&store), Arc::clone(&sealer), tenant.clone());
        let revocations = Resources::new(Arc::clone(&store), Arc::clone(&sealer), tenant.clone());
        let keys = Resources::new(store, sealer, tenant.clone());
        Self { users, identities, groups, keys, owners, revocations, tenant, clock, directory, options }
    }

    /// Reads one; `None` for a deleted one, too.
    ///
    /// # Errors
    /// [`UserError::Store`].
    pub async fn get(&self, id: &str) -> Result<Option<Stored<User>>, UserError> {
        if !is_id(id) {
            return Ok(None);
        }
        Ok(self.users.get(id).await?.filter(|user| user.value.state != UserState::Deleted))
    }

    /// Reads a page of those that are not deleted, in the order of ids, and where the next begins.
    ///
    /// # Errors
    /// [`UserError::Store`].
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<User>>, Option<Box<str>>), UserError> {
        let present = IndexTerm { name: "present", value: "yes".into() };
        Ok(self.users.list(Some(present), after, limit.clamp(1, UserLimits::PAGE)).await?)
    }

    /// The user that an identity is of, whether they may do anything or not.
    ///
    /// # Errors
    /// [`UserError::Store`].
    pub async fn of_identity(&self, identity: &IdentityKey) -> Result<Option<Box<str>>, UserError> {
        Ok(self.identities.get(&identity.id()).await?.map(|found| found.value.user.into()))
    }

    /// What a user may do in the end, with the roles of groups and those that are preset; as of the snapshot.
    #[must_use]
    pub fn effective_roles(&self, id: &str) -> Roles {
        self.directory.user(id).map_or(Roles::NONE, |user| user.roles)
    }

    /// Gives a user exactly these roles, beside those of their groups. Whoever becomes owner or auditor signs in anew,
    /// and the keys that they had for the admin API end.
    ///
    /// # Errors
    /// [`UserError`]; a `when` that does not hold is a conflict.
    pub async fn set_roles(
        &self,
        by: &Principal,
        id: &str,
        roles: Roles,
        when: Option<Revision>,
    ) -> Result<Revision, UserError> {
        let Stored { revision, value: mut user, .. } = self.to_change(by, id).await?;
        may_give(by, user.roles, roles)?;
        let raised = is_raised(user.roles, roles);
        if raised {
            self.prepare_to_trust(by, id, roles).await?;
            if *by.subject.id != *id {
                user.epoch += 1;
            }
        }
        let unmade = user.roles.contains(Roles::OWNER) && !roles.contains(Roles::OWNER);
        let other = if unmade { self.unmake_user(id).await? } else { None };
        user.roles = roles;
        let saved = self.save_with(id, &user, when.unwrap_or(revision), other).await;
        // Keys may be gone already.
        if raised { saved.map_err(UserError::halfway) } else { saved }
    }

    async fn save_with(
        &self,
        id: &str,
        user: &User,
        when: Revision,
        more: Option<Write>,
    ) -> Result<Revision, UserError> {
        let put = self.users.put(id, user, None, When::At(when))?;
        Ok(self.users.store().commit(std::iter::once(put).chain(more).collect()).await?)
    }

    /// Disables a user, or enables them again. Disabling ends sessions and tokens for good, and keys until the user is
    /// enabled again; a replica that has applied the revision accepts none of them.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn set_state(
        &self,
        by: &Principal,
        id: &str,
        state: UserState,
        when: Option<Revision>,
    ) -> Result<Revision, UserError> {
        if state == UserState::Deleted {
            return self.delete(by, id, when).await;
        }
        let Stored { revision, value: mut user, .. } = self.to_change(by, id).await?;
        let when = When::At(when.unwrap_or(revision));
        let mut other = None;
        if state == UserState::Disabled && user.state == UserState::Active {
            other = self.unmake_user(id).await?;
        }
        user.state = state;
        if state == UserState::Disabled {
            return Ok(self.end_everything(id, user, when, other, "the person is disabled").await?);
        }
        Ok(self.users.save(id, &user, when).await?)
    }

    /// Ends every session and token of a user; keys stay.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn end_sessions(&self, by: &Principal, id: &str) -> Result<Revision, UserError> {
        let Stored { revision, value: user, .. } = if *by.subject.id == *id && *by.subject.issuer == *Subject::LOCAL {
            self.get(id).await?.ok_or(UserError::Missing)?
        } else {
            self.to_change(by, id).await?
        };
        Ok(self.end_everything(id, user, When::At(revision), None, "sessions and tokens were ended").await?)
    }

    /// Writes a user under a new epoch: no session, token or grant of before is good any more, those of other issuers
    /// neither.
    async fn end_everything(
        &self,
        id: &str,
        user: User,
        when: When,
        more: Option<Write>,
        reason: &str,
    ) -> Result<Revision, StoreError> {
        let writes = self.ending(id, user, when, reason)?;
        self.users.store().commit(writes.into_iter().chain(more).collect()).await
    }

    /// The writes of that.
    pub(crate) fn ending(&self, id: &str, user: User, when: When, reason: &str) -> Result<[Write; 2], StoreError> {
        let user = User { epoch: user.epoch + 1, ..user };
        let subject = User::subject(self.tenant.clone(), id);
        let revoked = Revoked::Subject(&subject);
        Ok([
            self.users.put(id, &user, None, when)?,
            crate::server::revocation(&self.revocations, revoked, reason, &*self.clock)?,
        ])
    }

    /// The writes that disable somebody who is active, and end everything of theirs.
    #[cfg(feature = "login")]
    pub(crate) async fn disabling(
        &self,
        id: &str,
        user: User,
        when: When,
        reason: &str,
    ) -> Result<Vec<Write>, UserError> {
        let other = self.unmake_user(id).await?;
        let user = User { state: UserState::Disabled, ..user };
        Ok(self.ending(id, user, when, reason)?.into_iter().chain(other).collect())
    }

    /// Deletes a user: what is kept about the person, their identities, passwords and keys, and what clients could do in
    /// their name. The emptied record stays, so that the
    /// id is never somebody else's. Whoever signs in with the same identity later is a new user.
    ///
    /// # Errors
    /// [`UserError`]; after one of the store, nothing of the user is good for anything, and a second call removes what
    /// was left.
    pub async fn delete(&self, by: &Principal, id: &str, when: Option<Revision>) -> Result<Revision, UserError> {
        if !is_id(id) {
            return Err(UserError::Missing);
        }
        let stored = self.users.get(id).await?.ok_or(UserError::Missing)?;
        let mut other = None;
        if stored.value.state != UserState::Deleted {
            self.may_touch(by, id, &stored.value)?;
            other = self.unmake_user(id).await?;
        }
        // First of all nothing works any more, then it goes.
        let emptied = User {
            name: String::new(),
            email: None,
            roles: Roles::NONE,
            groups: Vec::new(),
            state: UserState::Deleted,
            epoch: stored.value.epoch,
            created_at: stored.value.created_at,
        };
        let when = When::At(when.unwrap_or(stored.revision));
        let revision = self.end_everything(id, emptied, when, other, "the person is deleted").await?;
        let subject = User::subject(self.tenant.clone(), id);
        crate::server::forget(&self.users.of_kind(), Revoked::Subject(&subject)).await.map_err(StoreError::halfway)?;
        let of_user = IndexTerm { name: "user", value: id.into() };
        let of_subject = IndexTerm { name: "subject", value: format!("{} {id}", Subject::LOCAL).into() };
        loop {
            let identities = self.identities.list(Some(of_user.clone()), None, StoreLimits::WRITES / 4).await;
            let (identities, more) = identities.map_err(StoreError::halfway)?;
            let keys = self.keys.list(Some(of_subject.clone()), None, StoreLimits::WRITES / 4).await;
            let (keys, more_keys) = keys.map_err(StoreError::halfway)?;
            let gone = |key| Write::Delete { key, when: When::Any };
            let mut writes: Vec<_> = identities.iter().map(|one| gone(self.identities.key(&one.id))).collect();
            let tenant = self.users.key(id).tenant;
            writes.extend(identities.iter().map(|one| gone(Key::new(tenant.clone(), PASSWORD, one.id.clone()))));
            writes.extend(keys.iter().map(|one| gone(self.keys.key(&one.id))));
            #[cfg(feature = "login")]
            writes.extend(crate::scim::forgetting(&self.users, id).await.map_err(StoreError::halfway)?);
            if !writes.is_empty() {
                self.users.store().commit(writes).await.map_err(StoreError::halfway)?;
            }
            if more.is_none() && more_keys.is_none() {
                return Ok(revision);
            }
        }
    }

    /// Reads a group.
    ///
    /// # Errors
    /// [`UserError::Store`].
    pub async fn group(&self, id: &str) -> Result<Option<Stored<Group>>, UserError> {
        if !is_id(id) {
            return Ok(None);
        }
        Ok(self.groups.get(id).await?)
    }

    /// Reads a page of groups, in the order of ids, and where the next begins.
    ///
    /// # Errors
    /// [`UserError::Store`].
    pub async fn list_groups(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<Group>>, Option<Box<str>>), UserError> {
        Ok(self.groups.list(None, after, limit.clamp(1, UserLimits::PAGE)).await?)
    }

    /// Gives every member of a group exactly these roles, beside their own. Whoever becomes owner or auditor by that signs
    /// in anew, and the keys that they had for the admin API end.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn set_group_roles(
        &self,
        by: &Principal,
        id: &str,
        roles: Roles,
        when: Option<Revision>,
    ) -> Result<Revision, UserError> {
        let Stored { revision, value: mut group, .. } = self.group(id).await?.ok_or(UserError::Missing)?;
        may_give(by, group.roles, roles)?;
        if when.is_some_and(|when| when != revision) {
            // Before anybody has lost a key for it.
            return Err(StoreError::new(StoreErrorKind::Conflict, "group").because("it has changed since").into());
        }
        let raised = is_raised(group.roles, roles);
        let members = if raised { self.prepare_to_trust_members(by, id, roles).await? } else { Vec::new() };
        let unmade = group.roles.contains(Roles::OWNER) && !roles.contains(Roles::OWNER);
        let other = if unmade && self.directory.has_owner_but("") {
            Some(self.unmake(|directory| directory.has_owner_without(id, None)).await?)
        } else {
            None
        };
        group.roles = roles;
        let put = self.groups.put(id, &group, None, When::At(revision))?;
        let given = self.groups.store().commit(std::iter::once(put).chain(other).collect()).await?;
        if raised {
            self.trust_newcomers(by, id, &members, given).await?;
        }
        Ok(given)
    }

    /// The identities of a user.
    pub(crate) async fn identities_of(&self, id: &str) -> Result<Vec<Identity>, UserError> {
        Ok(self.identities(id).await?.into_iter().map(|one| one.value).collect())
    }

    /// The user, if this caller may change them.
    pub(crate) async fn to_change(&self, by: &Principal, id: &str) -> Result<Stored<User>, UserError> {
        let stored = self.get(id).await?.ok_or(UserError::Missing)?;
        self.may_touch(by, id, &stored.value)?;
        Ok(stored)
    }

    /// 26 characters of base32, 128 bits: never a name that somebody chose.
    pub(crate) fn new_id() -> String {
        const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut random = rand::rng();
        (0..26).map(|_| char::from(BASE32[random.random_range(0..BASE32.len())])).collect()
    }

    fn may_touch(&self, by: &Principal, id: &str, user: &User) -> Result<(), UserError> {
        let roles = user.roles.union(self.effective_roles(id));
        if roles.intersects(OWNERS_TO_GIVE) && !by.roles.contains(Roles::OWNER) {
            return Err(UserError::Forbidden("only an owner may change an owner or auditor"));
        }
        Ok(())
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("users", &self.users).field("options", &self.options).finish_non_exhaustive()
    }
}

/// Subjects of other issuers are the people who have signed in from there.
#[async_trait]
impl SubjectMap for Users {
    async fn subject(&self, foreign: &Subject) -> Result<Option<Subject>, BoxError> {
        let found = self.of_identity(&IdentityKey::new(&*foreign.issuer, &*foreign.id)).await?;
        Ok(found.map(|id| User::subject(self.tenant.clone(), &id)))
    }
}

/// Whoever gives a role that only owners give, or takes one, must be one.
pub(super) fn may_give(by: &Principal, old: Roles, new: Roles) -> Result<(), UserError> {
    let changed = old.without(new).union(new.without(old));
    if changed.intersects(OWNERS_TO_GIVE) && !by.roles.contains(Roles::OWNER) {
        return Err(UserError::Forbidden("only an owner may give or take the roles owner and auditor"));
    }
    Ok(())
}

/// Asked about anything else, a store would rightly call it an invalid request.
pub(crate) fn is_id(id: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=UserLimits::ID).contains(&id.len()) && id.bytes().all(fits)
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
