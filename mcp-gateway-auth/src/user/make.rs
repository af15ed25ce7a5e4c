//! Users who are made by an administrator, together with a way to sign in.

use mcp_gateway_core::contract::{When, Write};
use mcp_gateway_core::record::{Email, Principal, Roles, User, UserState};

use super::error::{UserError, wrong};
use super::identity::tidy;
use super::service::{is_id, may_give};
use super::{Identity, IdentityKey, UserLimits, Users};

/// A user that is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    /// The id; a random one by default. An owner may name one, so that keys which were made for the subject of that
    /// name become this person's.
    pub id: Option<String>,
    /// A name, for people.
    pub name: String,
    /// An address, for people; not verified.
    pub email: Option<String>,
    /// The roles; those of the [options](UserOptions) by default.
    pub roles: Option<Roles>,
}

impl Users {
    /// The writes that make a user, and the id. With an identity, the user can sign in.
    pub(crate) async fn prepare(
        &self,
        by: &Principal,
        new: NewUser,
        identity: IdentityKey,
    ) -> Result<(String, Vec<Write>), UserError> {
        let roles = new.roles.unwrap_or(self.options.default_roles);
        may_give(by, self.options.default_roles, roles)?;
        let name = tidy(&new.name);
        if name.is_empty() || name != new.name {
            return wrong("name", "must be 1 to 256 bytes of text without control characters");
        }
        let email = match new.email.as_deref().map(address) {
            Some(None) => return wrong("email", "must be an address such as ada@example.com, at most 254 bytes"),
            Some(Some(address)) => Some(Email::unverified(address)),
            None => None,
        };
        let id = match new.id {
            Some(_) if !by.roles.contains(Roles::OWNER) => {
                return Err(UserError::Forbidden(
                    "only an owner may name a user's id: keys of that subject become theirs",
                ));
            }
            Some(id) if !is_id(&id) => return wrong("id", "must be 1 to 64 letters, digits, -, _ and ."),
            Some(id) => id,
            None => Self::new_id(),
        };
        if self.users.get(&id).await?.is_some() {
            return Err(UserError::Exists("id"));
        }
        if self.identities.get(&identity.id()).await?.is_some() {
            return Err(UserError::Exists("login"));
        }
        let now = self.clock.now();
        let user = User { name, email, roles, groups: Vec::new(), state: UserState::Active, epoch: 0, created_at: now };
        let identity = Identity::new(identity, &*id, now);
        let writes = vec![
            self.users.put(&id, &user, None, When::Absent)?,
            self.identities.put(&identity.key.id(), &identity, None, When::Absent)?,
        ];
        Ok((id, writes))
    }
}

/// An address in lowercase, if it is one: good enough to be shown and compared, never to be sent to.
pub(crate) fn address(text: &str) -> Option<String> {
    // In lowercase first: a few letters grow.
    let text = text.trim().to_lowercase();
    let (local, domain) = text.rsplit_once('@')?;
    let odd = |c: char| c.is_whitespace() || c.is_control();
    let is_one = !local.is_empty() && !domain.is_empty() && text.len() <= UserLimits::EMAIL && !text.contains(odd);
    is_one.then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn foreign_addresses_are_bounded(text in any::<String>()) {
            if let Some(address) = address(&text) {
                prop_assert!(address.contains('@') && address.len() <= UserLimits::EMAIL);
            }
        }
    }

    #[test]
    fn addresses_are_compared_in_lowercase() {
        assert_eq!(address(" Ada@Example.COM ").as_deref(), Some("ada@example.com"));
        for wrong in ["", "@", "a@", "@b", "a b@c", "a\n@b", &format!("{}@b.example", "İ".repeat(100))] {
            assert_eq!(address(wrong), None, "{wrong:?}");
        }
        assert!(address(&format!("{}@b.example", "a".repeat(UserLimits::EMAIL - 10))).is_some());
    }
}
