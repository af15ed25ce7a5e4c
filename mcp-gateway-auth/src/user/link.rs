//! Several ways to sign in as one person.

use mcp_gateway_core::contract::{IndexTerm, Key, Revision, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{Email, Principal, Roles, Stored, Subject, User, UserState};

use super::error::{UserError, wrong};
use super::identity::PASSWORD;
use super::{Identity, IdentityKey, UserLimits, Users};

impl Users {
    /// The identities of a user, in the order of ids; none for one that is deleted.
    ///
    /// # Errors
    /// [`UserError::Store`].
    pub async fn identities(&self, id: &str) -> Result<Vec<Stored<Identity>>, UserError> {
        if self.get(id).await?.is_none() {
            return Ok(Vec::new());
        }
        let of_user = IndexTerm { name: "user", value: id.into() };
        Ok(self.identities.list(Some(of_user), None, UserLimits::IDENTITIES).await?.0)
    }

    /// Lets whoever has this identity sign in as this user, too. The caller has seen both proved, in one browser and a
    /// moment ago, or is told so by an owner: an address never says that two are one.
    ///
    /// # Errors
    /// [`UserError`]; [`Exists`](UserError::Exists) when the identity is somebody else's, whose user would have to be
    /// deleted first. Linking what is linked does nothing.
    pub async fn link(&self, id: &str, identity: &IdentityKey) -> Result<Revision, UserError> {
        identity.check()?;
        let Stored { revision, value: user, .. } = self.get(id).await?.ok_or(UserError::Missing)?;
        if user.state != UserState::Active {
            return Err(UserError::Disabled);
        }
        if self.identities(id).await?.len() >= UserLimits::IDENTITIES {
            return wrong("identity", "would be one of more than 20 of this user; unlink one first");
        }
        let linked = Identity { key: identity.clone(), user: id.to_owned(), linked_at: self.clock.now() };
        let writes = vec![
            self.identities.put(&identity.id(), &linked, None, When::Absent)?,
            // Nobody is linked to a user who is being deleted.
            Write::Check { key: self.users.key(id), when: When::At(revision) },
        ];
        match self.users.store().commit(writes).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => match self.of_identity(identity).await? {
                Some(user) if *user == *id => Ok(revision),
                Some(_) => Err(UserError::Exists("identity")),
                None => Err(error.into()),
            },
            done => Ok(done?),
        }
    }

    /// Takes an identity from a user, with a password of it and what its provider says of the person, and ends every
    /// session and token: some came by it.
    ///
    /// At least one must stay that `counts`, or nobody could sign in as this user any more.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn unlink(
        &self,
        by: &Principal,
        id: &str,
        identity: &str,
        counts: impl Fn(&IdentityKey) -> bool,
    ) -> Result<Revision, UserError> {
        let themself = *by.subject.id == *id && *by.subject.issuer == *Subject::LOCAL;
        let Stored { revision, value: old, .. } = match themself {
            true => self.get(id).await?.ok_or(UserError::Missing)?,
            false => self.to_change(by, id).await?,
        };
        let (gone, others): (Vec<_>, Vec<_>) =
            self.identities(id).await?.into_iter().partition(|one| *one.id == *identity);
        let gone = gone.into_iter().next().ok_or(UserError::Missing)?;
        if !others.iter().any(|other| counts(&other.value.key)) {
            return Err(UserError::LastIdentity);
        }
        let issuer = gone.value.key.issuer;
        let speaks_still = others.iter().any(|other| other.value.key.issuer == issuer);
        let user = if speaks_still { old.clone() } else { self.unheard(&old, &issuer).await? };
        let mut other = None;
        if user != old && !user.roles.contains(Roles::OWNER) {
            other = self.unmake_user(id).await?;
        }
        let mut writes = vec![Write::Delete { key: self.identities.key(identity), when: When::At(gone.revision) }];
        let password = Key::new(self.users.key(id).tenant, PASSWORD, identity);
        writes.push(Write::Delete { key: password, when: When::Any });
        writes.extend(self.ending(id, user, When::At(revision), "a way to sign in was taken away")?);
        Ok(self.users.store().commit(writes.into_iter().chain(other).collect()).await?)
    }

    /// A user without what an issuer has said of them.
    async fn unheard(&self, old: &User, issuer: &str) -> Result<User, UserError> {
        let groups = self.groups.get_many(old.groups.iter().map(String::as_str)).await?;
        let others = groups.into_iter().flatten().filter(|group| group.value.provider != issuer);
        let mut user = User { groups: others.map(|group| group.id.into()).collect(), ..old.clone() };
        if let Some(email) = old.email.as_ref().filter(|email| email.verified_by.as_deref() == Some(issuer)) {
            user.email = Some(Email::unverified(&email.address));
        }
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, owner};
    use crate::user::{Asserted, AssertedGroup};

    const COMPANY: &str = "https://login.example";
    const GITHUB: &str = "https://github.com";

    fn company(groups: &[&str]) -> Asserted {
        let named = groups.iter().map(|id| AssertedGroup { id: (*id).to_owned(), name: (*id).to_owned() });
        Asserted::new(IdentityKey::new(COMPANY, "248289"), "Ada").in_groups(named.collect())
    }

    fn person(id: &str) -> Principal {
        Principal::new(Subject::LOCAL, id.to_owned())
    }

    #[tokio::test]
    async fn one_person_signs_in_in_two_ways_and_each_provider_speaks_for_its_own_groups() {
        let world = World::new().await;
        let users = &world.users;
        let email = Email::verified_by("ada@a.example", COMPANY);
        let ada = users.sign_in(&company(&["ops"]).with_email(Some(email.clone()))).await.unwrap();
        let github = IdentityKey::new(GITHUB, "7");
        users.link(&ada.id, &github).await.unwrap();
        assert!(users.link(&ada.id, &github).await.is_ok(), "twice is once");

        let team = AssertedGroup { id: "team".into(), name: "Team".into() };
        let by_github = Asserted::new(github.clone(), "Ada").in_groups(vec![team]);
        let guess = Some(Email::unverified("other@b.example"));
        let there = users.sign_in(&by_github.with_email(guess)).await.unwrap();
        assert_eq!((&there.id, there.user.groups.len()), (&ada.id, 2), "both groups");
        assert_eq!(there.user.email, Some(email), "what one has verified, the other's guess does not replace");
        let out = users.sign_in(&company(&[])).await.unwrap();
        assert_eq!(out.user.groups, [crate::user::group_id(GITHUB, "team")]);

        // Somebody else's identity stays theirs.
        let eve = users.sign_in(&Asserted::new(IdentityKey::new(COMPANY, "eve"), "Eve")).await.unwrap();
        assert!(matches!(users.link(&eve.id, &github).await, Err(UserError::Exists("identity"))));
        assert!(matches!(users.link("nobody", &IdentityKey::new(GITHUB, "8")).await, Err(UserError::Missing)));
        users.set_state(&owner(), &eve.id, UserState::Disabled, None).await.unwrap();
        assert!(matches!(users.link(&eve.id, &IdentityKey::new(GITHUB, "8")).await, Err(UserError::Disabled)));
    }

    #[tokio::test]
    async fn what_is_unlinked_signs_nobody_in_and_the_last_one_stays() {
        let world = World::new().await;
        let users = &world.users;
        let ada = users.sign_in(&company(&["ops"])).await.unwrap();
        let (first, github) = (IdentityKey::new(COMPANY, "248289").id(), IdentityKey::new(GITHUB, "7"));
        let unlink = async |by: &Principal, identity: &str| users.unlink(by, &ada.id, identity, |_| true).await;
        assert!(matches!(unlink(&person(&ada.id), &first).await, Err(UserError::LastIdentity)));
        users.link(&ada.id, &github).await.unwrap();
        assert_eq!(users.identities(&ada.id).await.unwrap().len(), 2);
        assert!(matches!(unlink(&person(&ada.id), "f00").await, Err(UserError::Missing)));
        // One that nobody can use any more does not count.
        let unusable = users.unlink(&person(&ada.id), &ada.id, &first, |key| key.issuer != GITHUB).await;
        assert!(matches!(unusable, Err(UserError::LastIdentity)));

        world.applied(unlink(&person(&ada.id), &first).await.unwrap()).await;
        let left = users.get(&ada.id).await.unwrap().unwrap().value;
        assert_eq!((left.epoch, left.groups.len()), (1, 0), "sessions end, and what the provider said goes with it");
        assert!(users.sign_in(&company(&[])).await.unwrap().first, "it is somebody else's from then on");
        assert_eq!(users.sign_in(&Asserted::new(github, "Ada")).await.unwrap().id, ada.id);
    }

    #[tokio::test]
    async fn the_last_owner_is_not_lost_with_a_way_to_sign_in() {
        let world = World::new().await;
        let users = &world.users;
        let ada = users.sign_in(&company(&["board"])).await.unwrap();
        let board = ada.user.groups[0].clone();
        world.applied(users.set_group_roles(&owner(), &board, Roles::OWNER, None).await.unwrap()).await;
        users.link(&ada.id, &IdentityKey::new(GITHUB, "7")).await.unwrap();
        let first = IdentityKey::new(COMPANY, "248289").id();
        let unlink = async || users.unlink(&person(&ada.id), &ada.id, &first, |_| true).await;
        assert!(matches!(unlink().await, Err(UserError::LastOwner)));
        world.applied(users.set_roles(&owner(), &ada.id, Roles::OWNER, None).await.unwrap()).await;
        unlink().await.unwrap();
    }

    #[tokio::test]
    async fn a_user_has_at_most_20_identities() {
        let world = World::new().await;
        let ada = world.users.sign_in(&company(&[])).await.unwrap().id;
        for n in 1..UserLimits::IDENTITIES {
            world.users.link(&ada, &IdentityKey::new(GITHUB, n.to_string())).await.unwrap();
        }
        let more = world.users.link(&ada, &IdentityKey::new(GITHUB, "more")).await;
        assert!(matches!(more, Err(UserError::Invalid { field: "identity", .. })));
    }
}
