//! What people may do.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The roles of a subject, as bits; as JSON, a list of their names.
///
/// Four of them include the next: an owner is an admin, an admin a power user plus, then power user, then basic.
/// [`AUDITOR`](Self::AUDITOR) stands beside them: an owner is none unless made one. A subject may hold several; its
/// rights are the union.
///
/// ```
/// use mcp_gateway_core::record::Roles;
///
/// let roles = Roles::ADMIN.union(Roles::AUDITOR);
/// assert_eq!(serde_json::to_string(&roles).unwrap(), r#"["admin","auditor"]"#);
/// assert!(roles.with_included().contains(Roles::BASIC) && !roles.with_included().contains(Roles::OWNER));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// No role.
    pub const NONE: Self = Self(0);
    /// May do what an admin may, and make owners and auditors.
    pub const OWNER: Self = Self(1);
    /// May administer everything but owners and auditors.
    pub const ADMIN: Self = Self(1 << 1);
    /// May read the audit trail with its bodies, and most lists of the admin API; changes nothing.
    pub const AUDITOR: Self = Self(1 << 2);
    /// May also read groups. For those who publish servers for others, which nobody can yet.
    pub const POWER_USER_PLUS: Self = Self(1 << 3);
    /// For those who publish servers for themselves, which nobody can yet.
    pub const POWER_USER: Self = Self(1 << 4);
    /// May use the servers that they are let to, and their own keys.
    pub const BASIC: Self = Self(1 << 5);

    /// Every role with its name.
    pub const NAMES: [(Self, &'static str); 6] = [
        (Self::OWNER, "owner"),
        (Self::ADMIN, "admin"),
        (Self::POWER_USER_PLUS, "power_user_plus"),
        (Self::POWER_USER, "power_user"),
        (Self::BASIC, "basic"),
        (Self::AUDITOR, "auditor"),
    ];

    /// Whether all of these are held.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether one of these is held.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These, without the others.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Together with the roles that those held include.
    #[must_use]
    pub const fn with_included(self) -> Self {
        const RANKS: [Roles; 5] = [Roles::OWNER, Roles::ADMIN, Roles::POWER_USER_PLUS, Roles::POWER_USER, Roles::BASIC];
        let (mut all, mut rank, mut held) = (self.0, 0, false);
        while rank < RANKS.len() {
            held |= self.0 & RANKS[rank].0 != 0;
            if held {
                all |= RANKS[rank].0;
            }
            rank += 1;
        }
        Self(all)
    }

    /// The names of those that are held, the highest first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(role, _)| self.contains(*role)).map(|(_, name)| name)
    }

    /// The role of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, one)| *one == name).map(|(role, _)| role)
    }
}

impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        names.iter().try_fold(Self::NONE, |roles, name| {
            let role = Self::named(name).ok_or_else(|| {
                let known: Vec<_> = Self::NAMES.iter().map(|(_, name)| *name).collect();
                D::Error::custom(format_args!("no role of this name, expected one of {}", known.join(", ")))
            })?;
            Ok(roles.union(role))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_roles_include_lower_ones_and_none_includes_auditor() {
        let ranks = ["owner", "admin", "power_user_plus", "power_user", "basic"];
        for (rank, name) in ranks.iter().enumerate() {
            let all = Roles::named(name).unwrap().with_included();
            assert_eq!(all.names().collect::<Vec<_>>(), ranks[rank..]);
        }
        assert_eq!(Roles::AUDITOR.with_included(), Roles::AUDITOR);
        assert_eq!(Roles::NONE.with_included(), Roles::NONE);
    }

    #[test]
    fn roles_are_kept_by_name() {
        for bits in 0..64 {
            let roles = Roles(bits);
            let json = serde_json::to_vec(&roles).unwrap();
            assert_eq!(serde_json::from_slice::<Roles>(&json).unwrap(), roles);
        }
        for wrong in [r#"["root"]"#, r#"["Owner"]"#, r#""owner""#, "1", "null"] {
            assert!(serde_json::from_str::<Roles>(wrong).is_err(), "{wrong}");
        }
    }
}
