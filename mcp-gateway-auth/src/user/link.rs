//! Several ways to sign in as one person.

use mcp_gateway_core::contract::{IndexTerm, Key, Revision, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{Principal, Roles, Stored, Subject, UserState};

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
    /// What the provider says of groups holds from the next login by it. Sessions and tokens of before end, and of a user
    /// with a password every key: nobody gets rights by what they made in the person's name.
    ///
    /// # Errors
    /// [`UserError`]; [`Exists`](UserError::Exists) when the identity is somebody else's, whose user would have to be
    /// deleted first; [`SameIssuer`](UserError::SameIssuer). Linking what is linked does nothing.
    pub async fn link(&self, id: &str, identity: &IdentityKey) -> Result<Revision, UserError> {
        identity.check()?;
        let Stored { revision, value: user, .. } = self.get(id).await?.ok_or(UserError::Missing)?;
        if user.state != UserState::Active {
            return Err(UserError::Disabled);
        }
        let before = self.identities_of(id).await?;
        match self.of_identity(identity).await? {
            Some(user) if *user == *id => return Ok(revision),
            Some(_) => return Err(UserError::Exists("identity")),
            None => {}
        }
        if before.len() >= UserLimits::IDENTITIES {
            return wrong("identity", "would be one of more than 20 of this user; unlink one first");
        }
        // Of two, each login would take away what the other has said of groups.
        if before.iter().any(|one| one.key.issuer == identity.issuer) {
            return Err(UserError::SameIssuer);
        }
        if self.knows_another(&before).await? {
            return wrong(
                "identity",
                "must wait until the person has replaced the password that somebody else has chosen",
            );
        }
        if before.iter().any(|one| one.key.issuer == Subject::LOCAL) {
            self.delete_keys(id, |_| true).await?;
        }
        let linked = Identity::new(identity.clone(), id, self.clock.now());
        let mut writes = vec![self.identities.put(&identity.id(), &linked, None, When::Absent)?];
        // Of two links at the same moment one finds the user changed; nobody is linked to one who is being deleted.
        writes.extend(self.ending(id, user, When::At(revision), "another way to sign in was added")?);
        // Keys may be gone already.
        match self.users.store().commit(writes).await.map_err(StoreError::halfway) {
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
        // Whoever came back by it would be somebody whom the provider could not end.
        let provisioned = self.provisioned_by(id).await?;
        if provisioned.0.is_some_and(|by| by == issuer) {
            return Err(UserError::Provisioned);
        }
        let speaks_still = others.iter().any(|other| other.value.key.issuer == issuer);
        let user = if speaks_still { old.clone() } else { self.without(&old, |by| by == issuer, &[]).await? };
        let mut other = None;
        if user != old && !user.roles.contains(Roles::OWNER) {
            other = self.unmake_user(id).await?;
        }
        let mut writes = vec![Write::Delete { key: self.identities.key(identity), when: When::At(gone.revision) }];
        let password = Key::new(self.users.key(id).tenant, PASSWORD, identity);
        writes.push(Write::Delete { key: password, when: When::Any });
        writes.extend(self.ending(id, user, When::At(revision), "a way to sign in was taken away")?);
        Ok(self.users.store().commit(writes.into_iter().chain(other).chain(provisioned.1).collect()).await?)
    }

    /// The issuer whose SCIM client answers for a user, and that this holds.
    #[cfg(feature = "login")]
    async fn provisioned_by(&self, id: &str) -> Result<(Option<String>, Option<Write>), UserError> {
        let (by, holds) = crate::scim::provisioned_by(&self.users, id).await?;
        Ok((by, Some(holds)))
    }

    #[cfg(not(feature = "login"))]
    async fn provisioned_by(&self, _: &str) -> Result<(Option<String>, Option<Write>), UserError> {
        Ok((None, None))
    }
}

#[cfg(test)]
mod tests {
    use mcp_gateway_core::record::Email;

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
        let second = users.link(&ada.id, &IdentityKey::new(GITHUB, "8")).await;
        assert!(matches!(second, Err(UserError::SameIssuer)), "each would take away what the other says");

        let team = AssertedGroup { id: "team".into(), name: "Team".into() };
        let by_github = Asserted::new(github.clone(), "Ada").in_groups(vec![team]);
        let guess = Some(Email::verified_by("other@b.example", GITHUB));
        let there = users.sign_in(&by_github.with_email(guess)).await.unwrap();
        assert_eq!((&there.id, there.user.groups.len()), (&ada.id, 2), "both groups");
        assert_eq!(there.user.email, Some(email), "what one has verified, the other does not replace");
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
        assert_eq!((left.epoch, left.groups.len()), (2, 0), "sessions end, and what the provider said goes with it");
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

    /// A provider speaks for as long as a session lasts, whatever else the person signs in with.
    #[tokio::test]
    async fn what_a_provider_has_not_said_for_long_holds_no_more() {
        let world = World::new().await;
        let users = &world.users;
        let email = Email::verified_by("ada@a.example", COMPANY);
        let ada = users.sign_in(&company(&["ops"]).with_email(Some(email))).await.unwrap();
        let ops = ada.user.groups[0].clone();
        world.applied(users.set_group_roles(&owner(), &ops, Roles::OWNER, None).await.unwrap()).await;
        let github = IdentityKey::new(GITHUB, "7");
        world.applied(users.link(&ada.id, &github).await.unwrap()).await;
        let by_github = async || users.sign_in(&Asserted::new(github.clone(), "Ada")).await.unwrap();
        let bound = users.options.heard_for;
        world.clock.advance(bound / 2);
        // It says so again, and the time begins anew.
        users.sign_in(&company(&["ops"])).await.unwrap();
        world.clock.advance(bound);
        assert_eq!(by_github().await.user.groups.len(), 1, "at the bound");
        world.clock.advance(std::time::Duration::from_secs(1));
        let last = by_github().await.user;
        assert!(last.groups.len() == 1 && last.email.unwrap().verified, "nobody's word makes the last owner none");
        let bob = users.sign_in(&Asserted::new(IdentityKey::new(COMPANY, "bob"), "Bob")).await.unwrap().id;
        world.applied(users.set_roles(&owner(), &bob, Roles::OWNER, None).await.unwrap()).await;
        let late = by_github().await;
        assert!(late.user.groups.is_empty() && !late.user.email.unwrap().verified && !late.ownerless);
        // Another one's address is hers to show, now that nobody vouches for the first.
        let other = Email::verified_by("ada@b.example", GITHUB);
        let told = users.sign_in(&Asserted::new(github.clone(), "Ada").with_email(Some(other.clone()))).await.unwrap();
        assert_eq!(told.user.email, Some(other));
    }

    /// Others who unmake an owner at the same moment look again.
    #[tokio::test]
    async fn an_owners_group_is_not_taken_unseen() {
        let world = World::new().await;
        let users = &world.users;
        let ada = users.sign_in(&company(&["board"])).await.unwrap();
        world.applied(users.set_group_roles(&owner(), &ada.user.groups[0], Roles::OWNER, None).await.unwrap()).await;
        let bob = users.sign_in(&Asserted::new(IdentityKey::new(COMPANY, "bob"), "Bob")).await.unwrap().id;
        world.applied(users.set_roles(&owner(), &bob, Roles::OWNER, None).await.unwrap()).await;
        // Another replica sees Ada, and unmakes Bob.
        let unmakes = users.unmake(|directory| directory.has_owner_but(&bob)).await.unwrap();
        users.sign_in(&company(&[])).await.unwrap();
        let unmade = users.users.store().commit(vec![unmakes]).await;
        assert_eq!(unmade.unwrap_err().kind(), StoreErrorKind::Conflict);
    }

    #[tokio::test]
    async fn a_user_has_at_most_20_identities() {
        let world = World::new().await;
        let ada = world.users.sign_in(&company(&[])).await.unwrap().id;
        for n in 1..UserLimits::IDENTITIES {
            world.users.link(&ada, &IdentityKey::new(format!("https://{n}.example"), "1")).await.unwrap();
        }
        let more = world.users.link(&ada, &IdentityKey::new(GITHUB, "more")).await;
        assert!(matches!(more, Err(UserError::Invalid { field: "identity", .. })));
    }
}
