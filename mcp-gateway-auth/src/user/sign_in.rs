//! From what a login proved to a user.

use std::collections::{BTreeMap, BTreeSet};

use mcp_gateway_core::contract::{Revision, StoreErrorKind, StoreLimits, When};
use mcp_gateway_core::record::{Group, Roles, Stored, User, UserState};

use super::error::{UserError, wrong};
use super::identity::tidy;
use super::{Asserted, AssertedGroup, Identity, UserLimits, Users, group_id};

/// Rounds that are tried when the same person signs in twice at the same moment.
const ATTEMPTS: usize = 4;

/// Who signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The user's id.
    pub id: Box<str>,
    /// What is kept of them, brought up to date.
    pub user: User,
    /// Whether the user was made by this login.
    pub first: bool,
    /// A replica that has applied this revision knows the user as they are now.
    pub revision: Revision,
    /// Whether the groups that the provider named now have left nobody an owner.
    pub ownerless: bool,
}

impl Users {
    /// Finds the user of an identity, or makes one, and brings name, address and groups up to date.
    ///
    /// A login from elsewhere with the same address is another user: see [`Identity`].
    ///
    /// # Errors
    /// [`UserError::Disabled`]; [`UserError::Invalid`] for an identity without an id or with too many groups;
    /// [`UserError::Store`].
    pub async fn sign_in(&self, asserted: &Asserted) -> Result<SignedIn, UserError> {
        asserted.identity.check()?;
        let groups = match &asserted.groups {
            Some(groups) => Some(self.known_groups(&asserted.identity.issuer, groups).await?),
            None => None,
        };
        let mut attempt = 1;
        loop {
            match self.try_sign_in(asserted, groups.as_deref()).await {
                Err(UserError::Store(error)) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn try_sign_in(&self, asserted: &Asserted, groups: Option<&[String]>) -> Result<SignedIn, UserError> {
        let Some(known) = self.identities.get(&asserted.identity.id()).await? else {
            return self.first_sign_in(asserted, groups).await;
        };
        let Some(Stored { id, revision, value: old }) = self.users.get(&known.value.user).await? else {
            return Err(UserError::Disabled);
        };
        if old.state != UserState::Active {
            return Err(UserError::Disabled);
        }
        let issuer = &*asserted.identity.issuer;
        let mut user = old.clone();
        let name = tidy(&asserted.name);
        if !name.is_empty() {
            user.name = name;
        }
        if let Some(email) = &asserted.email {
            let held_by = user.email.as_ref().and_then(|email| email.verified_by.as_deref());
            // What one provider has verified, another one's guess does not replace.
            if email.verified || held_by.is_none_or(|by| by == issuer) {
                user.email = Some(email.clone());
            }
        }
        if let Some(groups) = groups {
            user.groups = self.with_groups(&old.groups, issuer, groups).await?;
        }
        if user == old {
            return Ok(SignedIn { id, user, first: false, revision, ownerless: false });
        }
        let was_owner = self.effective_roles(&id).contains(Roles::OWNER);
        let revision = self.users.save(&id, &user, When::At(revision)).await?;
        let ownerless = was_owner && self.has_left_ownerless(&id, revision).await;
        Ok(SignedIn { id, user, first: false, revision, ownerless })
    }

    /// The groups of before, with those of this provider replaced: each speaks for its own alone.
    async fn with_groups(&self, old: &[String], provider: &str, new: &[String]) -> Result<Vec<String>, UserError> {
        let before = self.groups.get_many(old.iter().map(String::as_str)).await?;
        let others = before.into_iter().flatten().filter(|group| group.value.provider != provider);
        let all: BTreeSet<String> = others.map(|group| group.id.into()).chain(new.iter().cloned()).collect();
        if all.len() > UserLimits::GROUPS {
            return wrong("groups", "are more than 500; let the identity provider name only those that matter here");
        }
        Ok(all.into_iter().collect())
    }

    async fn first_sign_in(&self, asserted: &Asserted, groups: Option<&[String]>) -> Result<SignedIn, UserError> {
        let id = Self::new_id();
        let user = User {
            name: tidy(&asserted.name),
            email: asserted.email.clone(),
            roles: self.options.default_roles,
            groups: groups.unwrap_or_default().to_vec(),
            state: UserState::Active,
            epoch: 0,
            created_at: self.clock.now(),
        };
        let identity = Identity { key: asserted.identity.clone(), user: id.clone(), linked_at: self.clock.now() };
        let writes = vec![
            self.users.put(&id, &user, None, When::Absent)?,
            self.identities.put(&asserted.identity.id(), &identity, None, When::Absent)?,
        ];
        let revision = self.users.store().commit(writes).await?;
        Ok(SignedIn { id: id.into(), user, first: true, revision, ownerless: false })
    }

    /// The ids of groups, each kept, so that an administrator sees it and can give it roles. A name that changed at the
    /// provider stays as it was first seen until an administrator touches the group: it says nothing about rights.
    async fn known_groups(&self, provider: &str, named: &[AssertedGroup]) -> Result<Vec<String>, UserError> {
        if named.len() > UserLimits::GROUPS {
            return wrong("groups", "are more than 500; let the identity provider name only those that matter here");
        }
        if named.iter().any(|group| group.id.is_empty() || group.id.len() > UserLimits::FOREIGN_ID) {
            return wrong("groups", "must have ids of 1 to 1,024 bytes");
        }
        let named: BTreeMap<String, &AssertedGroup> =
            named.iter().map(|group| (group_id(provider, &group.id), group)).collect();
        let kept = self.groups.get_many(named.keys().map(String::as_str)).await?;
        let missing: Vec<_> =
            named.iter().zip(kept).filter(|(_, kept)| kept.is_none()).map(|(group, _)| group).collect();
        for batch in missing.chunks(StoreLimits::WRITES) {
            let mut writes = Vec::with_capacity(batch.len());
            for (id, group) in batch {
                let (provider, external_id) = (provider.to_owned(), group.id.clone());
                let group = Group { provider, external_id, name: tidy(&group.name), roles: Default::default() };
                writes.push(self.groups.put(id, &group, None, When::Absent)?);
            }
            match self.groups.store().commit(writes).await {
                // Somebody of the same groups signed in at the same moment: the next login makes what is still missing.
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                done => drop(done?),
            }
        }
        Ok(named.into_keys().collect())
    }
}
