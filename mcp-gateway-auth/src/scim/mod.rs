//! SCIM 2.0 (RFC 7643, RFC 7644): an identity provider makes, changes and removes users and groups by itself.
//!
//! A client is bound to one provider: its users are those whom this provider vouches for, joined by `externalId`, which
//! must be what the provider calls the person in its tokens. Whoever it deactivates has no session, key or token from
//! that moment on. It gives no role, and never puts anybody into a group that makes owners or auditors.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod check;
mod document;
mod error;
mod group;
mod list;
mod path;
mod record;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::{Clock, Revision, StoreLimits, When, Write};
use mcp_gateway_core::record::{Email, Group, Resources, Revoked, Stored, User, UserState};
use mcp_gateway_core::snapshot::RolePresets;
use serde_json::{Value, json};

pub use self::error::ScimError;
pub use self::record::{ScimGroup, ScimName, ScimUser};
pub(crate) use self::record::{forgetting, provisioned_by, provisioned_groups};

use self::document::UserDocument;
use self::error::bad;
use self::list::Listings;
use crate::login::Sessions;
use crate::server::Grant;
use crate::upstream::Accounts;
use crate::user::{Identity, IdentityKey, UserLimits, Users};

/// The bounds of what clients send.
#[derive(Debug)]
pub struct ScimLimits;

impl ScimLimits {
    /// Bytes of a filter or a path.
    pub const FILTER: usize = 1_024;
    /// Bytes of a text.
    pub const TEXT: usize = 1_024;
    /// Operations of a patch.
    pub const OPERATIONS: usize = 100;
    /// Members that change in one request.
    pub const MEMBERS: usize = 1_000;
    /// Resources of a page.
    pub const PAGE: usize = 200;
    /// How long a list that a client pages through stays the one of its first page: 10 minutes.
    pub const LISTING: Duration = Duration::from_secs(600);
    /// Bytes of a request's body.
    pub const BODY: usize = 256 << 10;
}

/// Rounds that are tried when a record changes at the same time.
const ATTEMPTS: usize = 4;

/// What clients do to users and groups.
#[derive(Clone)]
pub struct Scim {
    users: Users,
    sessions: Sessions,
    people: Resources<ScimUser>,
    names: Resources<ScimName>,
    groups: Resources<ScimGroup>,
    grants: Resources<Grant>,
    accounts: Option<Accounts>,
    presets: Arc<RolePresets>,
    clock: Arc<dyn Clock>,
    listings: Arc<Listings>,
    base: String,
}

/// A resource as it is answered.
#[derive(Debug, Clone)]
pub struct ScimResource {
    /// Its id.
    pub id: String,
    /// Its version: the ETag.
    pub revision: Revision,
    /// What a replica must have applied to know what was done, if anything was.
    pub applied: Option<Revision>,
    /// The resource.
    pub body: Value,
}

/// Which resources of a list.
#[derive(Debug, Clone, Default)]
pub struct ScimQuery {
    /// `filter`.
    pub filter: Option<String>,
    /// `startIndex`, from 1.
    pub start: usize,
    /// `count`, at most [`ScimLimits::PAGE`].
    pub count: usize,
    /// Whether members of groups are left out (`excludedAttributes=members`).
    pub without_members: bool,
}

impl Scim {
    /// Acts on these users. `base` is where it is reached (`https://gateway.example/scim/v2`), `presets` are the roles that
    /// the configuration gives to groups.
    pub fn new(
        users: Users,
        sessions: Sessions,
        presets: Arc<RolePresets>,
        clock: Arc<dyn Clock>,
        base: impl Into<String>,
    ) -> Self {
        let any = users.users.clone();
        Self {
            people: any.of_kind(),
            names: any.of_kind(),
            groups: any.of_kind(),
            grants: any.of_kind(),
            accounts: None,
            users,
            sessions,
            presets,
            clock,
            listings: Arc::default(),
            base: base.into(),
        }
    }

    /// The same, ending the accounts at servers of whoever is deactivated.
    #[must_use]
    pub fn with_accounts(self, accounts: Accounts) -> Self {
        Self { accounts: Some(accounts), ..self }
    }

    /// Makes a user, or takes over one who has signed in with the provider before.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn create_user(&self, provider: &str, json: &Value) -> Result<ScimResource, ScimError> {
        let document = UserDocument::read(json)?;
        let key = identity(provider, &document)?;
        let mut attempt = 1;
        let (id, applied) = loop {
            match self.try_create(provider, &key, &document).await {
                Err(ScimError::Changed) if attempt < ATTEMPTS => attempt += 1,
                done => break done?,
            }
        };
        self.user(provider, &id).await.map(|user| ScimResource { applied, ..user })
    }

    async fn try_create(
        &self,
        provider: &str,
        key: &IdentityKey,
        document: &UserDocument,
    ) -> Result<(String, Option<Revision>), ScimError> {
        let now = self.clock.now();
        let mut record = ScimUser {
            provider: provider.to_owned(),
            document: document.clone(),
            created_at: now,
            disabled_in: None,
            removed: false,
        };
        let name_id = ScimName::id(provider, &document.user_name);
        if self.names.get(&name_id).await?.is_some() {
            return Err(ScimError::Exists("the userName is taken"));
        }
        let named = |id: &str| self.names.put(&name_id, &ScimName { user: id.to_owned() }, None, When::Absent);
        if let Some(identity) = self.users.identities.get(&key.id()).await? {
            let id = identity.value.user;
            let old = self.people.get(&id).await?;
            let when = old.as_ref().map_or(When::Absent, |old| When::At(old.revision));
            if old.as_ref().is_some_and(|old| !old.value.removed && old.value.provider != provider) {
                return Err(ScimError::Exists("the client of another identity provider has made this user"));
            }
            let old = old.map(|old| old.value).filter(|old| old.provider == provider);
            if old.as_ref().is_some_and(|old| !old.removed) {
                return Err(ScimError::Exists("there is a user of this externalId"));
            }
            if old.is_some() {
                self.begin_anew(&id).await?;
            }
            record.disabled_in = old.and_then(|old| old.disabled_in);
            // Nobody takes it from the user at the same moment.
            let still = Write::Check { key: self.users.identities.key(&key.id()), when: When::At(identity.revision) };
            let applied = self.follow(&id, record, when, vec![named(&id)?, still]).await?;
            return Ok((id, applied));
        }
        let id = Users::new_id();
        let user = User {
            name: tidy(&document.name()),
            email: email(document),
            roles: self.users.options.default_roles,
            groups: Vec::new(),
            state: if document.active { UserState::Active } else { UserState::Disabled },
            epoch: 0,
            created_at: now,
        };
        record.disabled_in = (!document.active).then_some(user.epoch);
        let identity = Identity::new(key.clone(), &*id, now);
        let writes = vec![
            self.users.users.put(&id, &user, None, When::Absent)?,
            self.users.identities.put(&key.id(), &identity, None, When::Absent)?,
            self.people.put(&id, &record, None, When::Absent)?,
            named(&id)?,
        ];
        let made = self.people.store().commit(writes).await?;
        Ok((id, Some(made)))
    }

    /// Somebody who comes back after they were removed has nothing of what they had: no role, group or key.
    async fn begin_anew(&self, id: &str) -> Result<(), ScimError> {
        self.users.delete_keys(id, |_| true).await?;
        let Some(Stored { revision, value: old, .. }) = self.users.get(id).await? else { return Ok(()) };
        // Enabled meanwhile by an administrator, they are theirs to judge.
        if old.state == UserState::Disabled {
            let user = User { roles: self.users.options.default_roles, groups: Vec::new(), ..old };
            self.users.users.save(id, &user, When::At(revision)).await?;
        }
        Ok(())
    }

    /// Reads a user.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn user(&self, provider: &str, id: &str) -> Result<ScimResource, ScimError> {
        let person = self.person(provider, id).await?;
        let user = self.users.get(id).await?.ok_or(ScimError::Missing)?.value;
        let groups = self.groups_of([&user]).await?;
        Ok(self.shown(person, &user, &groups))
    }

    /// Replaces what is kept of a user.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn replace_user(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        json: &Value,
    ) -> Result<ScimResource, ScimError> {
        self.change(provider, id, when, |old| UserDocument::replacing(json, old.active)).await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn patch_user(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        json: &Value,
    ) -> Result<ScimResource, ScimError> {
        self.change(provider, id, when, |old| old.patched(json)).await
    }

    /// Removes a user from the client's sight: disabled, so that nothing of theirs works; an administrator deletes what
    /// is kept. The same person may be made again.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn delete_user(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
    ) -> Result<Option<Revision>, ScimError> {
        let ended = self.update(provider, id, when, |old| Ok(UserDocument { active: false, ..old })).await?;
        // After it has ended: until then the client finds the user, and tries again.
        let person = self.person(provider, id).await?;
        let name = self.names.key(&ScimName::id(provider, &person.value.document.user_name));
        let removed = ScimUser { removed: true, ..person.value };
        let writes = vec![
            Write::Delete { key: name, when: When::Any },
            self.people.put(id, &removed, None, When::At(person.revision))?,
        ];
        self.names.store().commit(writes).await?;
        Ok(ended)
    }

    /// A user of this client that it has not removed.
    async fn person(&self, provider: &str, id: &str) -> Result<Stored<ScimUser>, ScimError> {
        if self.users.get(id).await?.is_none() {
            return Err(ScimError::Missing);
        }
        let stored = self.people.get(id).await?.filter(|person| is_of(&person.value, provider));
        stored.ok_or(ScimError::Missing)
    }

    async fn change(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        new: impl Fn(UserDocument) -> Result<UserDocument, ScimError>,
    ) -> Result<ScimResource, ScimError> {
        let applied = self.update(provider, id, when, new).await?;
        self.user(provider, id).await.map(|user| ScimResource { applied, ..user })
    }

    /// Tries again while somebody else changes the same, unless the client has said what it has seen.
    async fn update(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        new: impl Fn(UserDocument) -> Result<UserDocument, ScimError>,
    ) -> Result<Option<Revision>, ScimError> {
        let mut attempt = 1;
        loop {
            let person = self.person(provider, id).await?;
            if when.is_some_and(|when| when != person.revision) {
                return Err(ScimError::Changed);
            }
            let old = person.value.document.clone();
            let document = new(old.clone())?;
            if identity(provider, &document)? != identity(provider, &old)? {
                return bad("mutability", "externalId says who the user is, and does not change");
            }
            let (before, after) = (ScimName::id(provider, &old.user_name), ScimName::id(provider, &document.user_name));
            let mut writes = Vec::new();
            if before != after {
                if self.names.get(&after).await?.is_some() {
                    return Err(ScimError::Exists("the userName is taken"));
                }
                writes.push(Write::Delete { key: self.names.key(&before), when: When::Any });
                writes.push(self.names.put(&after, &ScimName { user: id.to_owned() }, None, When::Absent)?);
            }
            let record = ScimUser { document, ..person.value };
            match self.follow(id, record, When::At(person.revision), writes).await {
                Err(ScimError::Changed) if attempt < ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }

    /// Brings the user to what the document says, and keeps both in one commit, with these writes. The revision is that
    /// of the user, if anything about them has changed.
    async fn follow(
        &self,
        id: &str,
        mut record: ScimUser,
        when: When,
        mut writes: Vec<Write>,
    ) -> Result<Option<Revision>, ScimError> {
        let Stored { revision, value: old, .. } = self.users.get(id).await?.ok_or(ScimError::Missing)?;
        let (active, at) = (record.document.active, When::At(revision));
        let mut user = old.clone();
        user.name = tidy(&record.document.name());
        // What a login has verified, it alone replaces.
        if !old.email.as_ref().is_some_and(|email| email.verified) {
            user.email = email(&record.document);
        }
        match (old.state, active) {
            (UserState::Active, false) => user.state = UserState::Disabled,
            // Somebody else's block is theirs to lift, and whoever has blocked since has counted the epoch up.
            (UserState::Disabled, true) if record.disabled_in == Some(old.epoch) => user.state = UserState::Active,
            _ => {}
        }
        let changed = user != old;
        if user.state == UserState::Active {
            record.disabled_in = None;
        }
        if (old.state, user.state) == (UserState::Active, UserState::Disabled) {
            record.disabled_in = Some(old.epoch + 1);
            let reason = "the identity provider has deactivated the user";
            writes.extend(self.users.disabling(id, user, at, reason).await?);
        } else if changed {
            writes.push(self.users.users.put(id, &user, None, at)?);
        }
        writes.push(self.people.put(id, &record, None, when)?);
        let applied = self.people.store().commit(writes).await?;
        if !active {
            // The epoch has ended all of it; the records go, again after a failure. Keys do not come back with the person.
            self.users.delete_keys(id, |_| true).await?;
            self.sessions.end_all(id).await?;
            let subject = User::subject(self.users.users.key(id).tenant, id);
            crate::server::forget(&self.grants, Revoked::Subject(&subject)).await?;
            if let Some(accounts) = &self.accounts {
                accounts.forget(&subject).await?;
            }
        }
        Ok(changed.then_some(applied))
    }

    /// The groups of these users, each read once.
    async fn groups_of(&self, users: impl IntoIterator<Item = &User>) -> Result<HashMap<Box<str>, Group>, ScimError> {
        let ids: BTreeSet<&str> = users.into_iter().flat_map(|user| user.groups.iter().map(String::as_str)).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let mut groups = HashMap::new();
        for ids in ids.chunks(StoreLimits::PAGE) {
            let found = self.users.groups.get_many(ids.iter().copied()).await?;
            groups.extend(found.into_iter().flatten().map(|group| (group.id, group.value)));
        }
        Ok(groups)
    }

    fn shown(&self, person: Stored<ScimUser>, user: &User, groups: &HashMap<Box<str>, Group>) -> ScimResource {
        let Stored { id, revision, value } = person;
        let document = &value.document;
        let of_provider = |id: &String| groups.get(&**id).filter(|group| group.provider == value.provider);
        let groups = user.groups.iter().filter_map(|id| Some((id, of_provider(id)?)));
        let groups: Vec<_> = groups.map(|(id, group)| json!({ "value": id, "display": group.name })).collect();
        let mut body = json!({
            "schemas": [schema::USER],
            "id": &*id,
            "externalId": document.external_id,
            "userName": document.user_name,
            "displayName": document.name(),
            "name": { "formatted": document.name(), "givenName": document.given, "familyName": document.family },
            "active": user.state == UserState::Active,
            "groups": groups,
            "meta": self.meta("User", "Users", &id, value.created_at, revision),
        });
        if let Some(address) = &document.email {
            body["emails"] = json!([{ "value": address, "type": "work", "primary": true }]);
        }
        ScimResource { id: id.into(), revision, applied: None, body }
    }

    fn meta(&self, kind: &str, path: &str, id: &str, created: Timestamp, revision: Revision) -> Value {
        json!({
            "resourceType": kind,
            "created": created,
            "location": format!("{}/{path}/{id}", self.base),
            "version": version(revision),
        })
    }
}

impl fmt::Debug for Scim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scim").field("base", &self.base).finish_non_exhaustive()
    }
}

/// A version as ETag.
#[must_use]
pub fn version(revision: Revision) -> String {
    format!("W/\"{}\"", revision.0)
}

fn page(total: usize, start: usize, resources: &[Value]) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
        "totalResults": total,
        "startIndex": start.max(1),
        "itemsPerPage": resources.len(),
        "Resources": resources,
    })
}

fn identity(provider: &str, document: &UserDocument) -> Result<IdentityKey, ScimError> {
    identity_of(provider, document.external_id.as_deref().unwrap_or_default())
}

/// Who is called so by a provider.
fn identity_of(provider: &str, external_id: &str) -> Result<IdentityKey, ScimError> {
    if external_id.is_empty() || external_id.len() > UserLimits::FOREIGN_ID {
        return bad(
            "invalidValue",
            "externalId must be there, and be what the provider calls the person in its tokens: sub, of Entra ID the \
             object id",
        );
    }
    if !provider.starts_with(ENTRA) {
        return Ok(IdentityKey::new(provider, external_id));
    }
    // What Entra ID sends unless told otherwise is a nickname, and would be a person whom nobody ever signs in as.
    if !is_guid(external_id) {
        return bad(
            "invalidValue",
            "externalId must be the object id: in the attribute mappings of Entra ID, map objectId to externalId",
        );
    }
    // Tokens have it in lowercase.
    Ok(IdentityKey::new(provider, external_id.to_ascii_lowercase()))
}

/// How issuers of Entra ID begin.
const ENTRA: &str = "https://login.microsoftonline.com/";

fn is_guid(text: &str) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let fits = |(at, byte): (usize, u8)| if dash(at) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// Whether a record is one that the client of this provider sees.
fn is_of(person: &ScimUser, provider: &str) -> bool {
    person.provider == provider && !person.removed
}

fn email(document: &UserDocument) -> Option<Email> {
    let address = document.email.as_deref().and_then(crate::user::address)?;
    Some(Email::unverified(address))
}

fn tidy(name: &str) -> String {
    crate::user::tidy(name)
}

impl Scim {
    /// `/ServiceProviderConfig`.
    #[must_use]
    pub fn service_provider_config(&self) -> Value {
        schema::service_provider_config(&self.base)
    }

    /// `/ResourceTypes`.
    #[must_use]
    pub fn resource_types(&self) -> Value {
        let types = schema::resource_types(&self.base);
        page(types.len(), 1, &types)
    }

    /// `/Schemas`.
    #[must_use]
    pub fn schemas(&self) -> Value {
        let schemas = schema::schemas(&self.base);
        page(schemas.len(), 1, &schemas)
    }
}
