//! From what a login proved to a user.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcp_gateway_core::contract::{Revision, StoreErrorKind, StoreLimits, When, Write};
#[cfg(feature = "login")]
use mcp_gateway_core::record::Subject;
use mcp_gateway_core::record::{Email, Group, Roles, Stored, User, UserState};

use super::error::{UserError, wrong};
use super::identity::tidy;
use super::owners::is_raised;
use super::{Asserted, AssertedGroup, Identity, UserLimits, Users, group_id};

/// Rounds that are tried when the same person signs in twice at the same moment.
const ATTEMPTS: usize = 4;
/// How far behind it may be when a provider was last heard of a person.
const HEARD_STEP: Duration = Duration::from_secs(3_600);

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
        self.sign_in_while(asserted, None).await
    }

    /// The same as long as something holds; a conflict when it does not.
    pub(crate) async fn sign_in_while(&self, asserted: &Asserted, holds: Option<Write>) -> Result<SignedIn, UserError> {
        asserted.identity.check()?;
        let groups = match &asserted.groups {
            Some(groups) => Some(self.known_groups(&asserted.identity.issuer, groups).await?),
            None => None,
        };
        let mut attempt = 1;
        loop {
            match self.try_sign_in(asserted, groups.as_deref(), holds.clone()).await {
                Err(UserError::Store(error)) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn try_sign_in(
        &self,
        asserted: &Asserted,
        groups: Option<&[String]>,
        holds: Option<Write>,
    ) -> Result<SignedIn, UserError> {
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
        let (mut user, mut owners) = self.lapsed(&id, &old, issuer).await?;
        let name = tidy(&asserted.name);
        if !name.is_empty() {
            user.name = name;
        }
        if let Some(email) = &asserted.email {
            let held_by = user.email.as_ref().and_then(|email| email.verified_by.as_deref());
            // What one provider has verified, another one does not replace: roles may come of it.
            if held_by.is_none_or(|by| by == issuer) {
                user.email = Some(email.clone());
            }
        }
        if let Some(groups) = groups {
            user.groups = self.with_groups(&user.groups, issuer, groups).await?;
        }
        let before = self.effective_roles(&id);
        let was_owner = before.contains(Roles::OWNER);
        let says_else = (&user.groups, &user.email) != (&old.groups, &old.email);
        if owners.is_none() && was_owner && says_else {
            owners = Some(self.may_unmake().await?);
        }
        let mut writes: Vec<Write> = owners.into_iter().collect();
        // What others know goes before the word holds, and with it.
        let raised = says_else && is_raised(self.kept_roles(&old).await?, self.kept_roles(&user).await?);
        if raised {
            writes.extend(self.forget_what_others_know(&id).await?);
            user.epoch += 1;
        }
        if self.silence(&known.value) >= self.heard_step() {
            let heard = Identity { heard_at: Some(self.clock.now()), ..known.value };
            writes.push(self.identities.put(&known.id, &heard, None, When::At(known.revision))?);
        }
        let changed = user != old;
        if changed {
            writes.push(self.users.put(&id, &user, None, When::At(revision))?);
        }
        if writes.is_empty() {
            return Ok(SignedIn { id, user, first: false, revision, ownerless: false });
        }
        writes.extend(holds);
        let revision = self.users.store().commit(writes).await?;
        let ownerless = changed && was_owner && self.has_left_ownerless(&id, revision).await;
        // Roles that are preset, and those that the group was given meanwhile.
        if says_else
            && !raised
            && let Some(raised) = self.trust_by_word(&id, before, revision).await?
        {
            let Stored { id, revision, value: user } = raised;
            return Ok(SignedIn { id, user, first: false, revision, ownerless });
        }
        Ok(SignedIn { id, user, first: false, revision, ownerless })
    }

    /// Takes from somebody who has signed in without any provider what none has said for too long.
    #[cfg(feature = "login")]
    pub(crate) async fn lapse(&self, id: &str) -> Result<(), UserError> {
        for attempt in 1.. {
            let Some(Stored { revision, value: old, .. }) = self.get(id).await? else { break };
            let (user, owners) = self.lapsed(id, &old, Subject::LOCAL).await?;
            if user == old {
                break;
            }
            let put = self.users.put(id, &user, None, When::At(revision))?;
            match self.users.store().commit(owners.into_iter().chain([put]).collect()).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {}
                done => return Ok(done.map(drop)?),
            }
        }
        Ok(())
    }

    /// Takes from a user what a provider has said of them that vouches for them no more. Groups that its SCIM client
    /// keeps are for that client to take. Whether this has left nobody an owner.
    ///
    /// # Errors
    /// [`UserError::Store`]; a conflict when `holds`, which is committed with it, does not.
    pub async fn disavow(&self, id: &str, issuer: &str, holds: Option<Write>) -> Result<bool, UserError> {
        for attempt in 1.. {
            let Some(Stored { revision, value: old, .. }) = self.get(id).await? else { break };
            let stay = self.provisioned_groups(&old).await?;
            let user = self.without(&old, |by| by == issuer, &stay).await?;
            if user == old {
                break;
            }
            let was_owner = self.effective_roles(id).contains(Roles::OWNER);
            let mut writes = vec![self.users.put(id, &user, None, When::At(revision))?];
            if was_owner {
                writes.push(self.may_unmake().await?);
            }
            writes.extend(holds.clone());
            match self.users.store().commit(writes).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {}
                done => {
                    let done = done?;
                    return Ok(was_owner && self.has_left_ownerless(id, done).await);
                }
            }
        }
        Ok(false)
    }

    /// The user, without what providers have said that were not heard for [`UserOptions::heard_for`](super::UserOptions),
    /// but for the one that `speaks`; and what goes with unmaking an owner by that. The last one keeps it: nobody has said
    /// that they are no member any more.
    async fn lapsed(&self, id: &str, old: &User, speaks: &str) -> Result<(User, Option<Write>), UserError> {
        if old.groups.is_empty() && !old.email.as_ref().is_some_and(|email| email.verified) {
            return Ok((old.clone(), None));
        }
        let identities = self.identities_of(id).await?;
        let heard = identities.iter().filter(|one| self.silence(one) <= self.options.heard_for);
        let heard: BTreeSet<&str> = heard.map(|one| &*one.key.issuer).chain([speaks]).collect();
        let stay = self.provisioned_groups(old).await?;
        let user = self.without(old, |by| !heard.contains(by), &stay).await?;
        if user == *old {
            return Ok((user, None));
        }
        match self.unmake_user(id).await {
            Err(UserError::LastOwner) => Ok((old.clone(), None)),
            owners => Ok((user, owners?)),
        }
    }

    /// How long an identity's issuer has said nothing.
    fn silence(&self, identity: &Identity) -> Duration {
        self.clock.now().duration_since(identity.last_heard()).try_into().unwrap_or(Duration::ZERO)
    }

    /// After how long it is written again that it has: a login each minute does not write each minute.
    fn heard_step(&self) -> Duration {
        HEARD_STEP.min(self.options.heard_for / 2)
    }

    /// A user without what some issuers have said of them, but for groups that `stay`.
    pub(super) async fn without(
        &self,
        old: &User,
        gone: impl Fn(&str) -> bool,
        stay: &[Box<str>],
    ) -> Result<User, UserError> {
        let groups = self.groups.get_many(old.groups.iter().map(String::as_str)).await?;
        let stays = |group: &Stored<Group>| !gone(&group.value.provider) || stay.contains(&group.id);
        let groups = groups.into_iter().flatten().filter(stays).map(|group| group.id.into()).collect();
        let mut user = User { groups, ..old.clone() };
        if let Some(email) = &old.email
            && email.verified_by.as_deref().is_some_and(gone)
        {
            user.email = Some(Email::unverified(&email.address));
        }
        Ok(user)
    }

    #[cfg(feature = "login")]
    async fn provisioned_groups(&self, user: &User) -> Result<Vec<Box<str>>, UserError> {
        Ok(crate::scim::provisioned_groups(&self.users, user.groups.iter().map(String::as_str)).await?)
    }

    #[cfg(not(feature = "login"))]
    async fn provisioned_groups(&self, _: &User) -> Result<Vec<Box<str>>, UserError> {
        Ok(Vec::new())
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
        let identity = Identity::new(asserted.identity.clone(), &*id, self.clock.now());
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
