//! Groups that clients provision.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::contract::{IndexTerm, Revision, StoreError, StoreErrorKind, StoreLimits, When, Write};
use mcp_gateway_core::record::{Group, Roles, Stored, UserState};
use serde_json::{Value, json};

use super::document::{GroupDocument, MemberChange};
use super::error::bad;
use super::path::Comparison;
use super::record::of_provider;
use super::{ATTEMPTS, Scim, ScimError, ScimGroup, ScimLimits, ScimQuery, ScimResource, page, schema, tidy};
use crate::user::{IdentityKey, UserLimits, group_id, is_id};

/// How long is waited until this process knows what others have done.
const APPLY: Duration = Duration::from_secs(5);
/// Users that change in one commit.
const BATCH: usize = 100;

impl Scim {
    /// Makes a group, or takes over one that a login has named.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn create_group(&self, provider: &str, json: &Value) -> Result<ScimResource, ScimError> {
        let document = GroupDocument::read(json)?;
        // Where the provider names no id of its own, its tokens name groups by their names.
        let external_id = document.external_id.clone().unwrap_or_else(|| document.display_name.clone());
        let id = group_id(provider, &external_id);
        let record = ScimGroup {
            provider: provider.to_owned(),
            display_name: document.display_name.clone(),
            external_id: document.external_id.clone(),
            created_at: self.clock.now(),
        };
        let known = self.users.groups.get(&id).await?;
        let when = known.as_ref().map_or(When::Absent, |known| When::At(known.revision));
        let roles = known.map_or(Roles::NONE, |known| known.value.roles);
        let group = Group { provider: provider.to_owned(), external_id, name: tidy(&document.display_name), roles };
        let writes =
            vec![self.users.groups.put(&id, &group, None, when)?, self.groups.put(&id, &record, None, When::Absent)?];
        let mut applied = match self.groups.store().commit(writes).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                return Err(ScimError::Exists("there is a group of this externalId or displayName"));
            }
            done => done?,
        };
        let changes = [MemberChange::Add(document.members)];
        applied = self.change_members(provider, &id, applied, &changes).await?.unwrap_or(applied);
        self.group(provider, &id, false).await.map(|group| ScimResource { applied: Some(applied), ..group })
    }

    /// Reads a group.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn group(&self, provider: &str, id: &str, without_members: bool) -> Result<ScimResource, ScimError> {
        let stored = self.provisioned(provider, id).await?;
        self.shown_groups(vec![stored], without_members).pop().ok_or(ScimError::Missing)
    }

    /// Replaces a group.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn replace_group(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        json: &Value,
    ) -> Result<ScimResource, ScimError> {
        let document = GroupDocument::read(json)?;
        let changes = [MemberChange::Replace(document.members)];
        self.change_group(provider, id, when, Some(document.display_name), &changes).await
    }

    /// Changes a group.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn patch_group(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        json: &Value,
    ) -> Result<ScimResource, ScimError> {
        let (renamed, changes) = GroupDocument::patch(json)?;
        self.change_group(provider, id, when, renamed, &changes).await
    }

    /// Removes a group, and everybody from it; with it go the roles that it gave.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn delete_group(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
    ) -> Result<Option<Revision>, ScimError> {
        let stored = self.provisioned(provider, id).await?;
        if when.is_some_and(|when| when != stored.revision) {
            return Err(ScimError::Changed);
        }
        self.change_members(provider, id, stored.revision, &[MemberChange::Replace(Vec::new())]).await?;
        Ok(Some(self.groups.store().commit(self.gone(id, stored.revision).await?).await?))
    }

    /// The writes that remove a group: what it gives, or who was put into it by a login, may have changed since.
    pub(super) async fn gone(&self, id: &str, seen: Revision) -> Result<Vec<Write>, ScimError> {
        let mut writes = vec![Write::Delete { key: self.groups.key(id), when: When::At(seen) }];
        let (gives, holds) = self.given(id).await?;
        if let Write::Check { key, when: When::At(revision) } = holds {
            writes.push(Write::Delete { key, when: When::At(revision) });
        }
        writes.extend(self.users.unmake_group(id, gives).await?);
        Ok(writes)
    }

    /// Lists groups.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn list_groups(&self, provider: &str, query: &ScimQuery) -> Result<Value, ScimError> {
        let term = match &query.filter {
            None => of_provider(provider),
            Some(filter) => match Comparison::read(filter) {
                Some(Comparison { attribute, value }) if attribute == "displayname" => {
                    let name = IdentityKey::new(provider, value.to_lowercase()).id();
                    IndexTerm { name: "name", value: name.into() }
                }
                Some(Comparison { attribute, value }) if attribute == "externalid" => {
                    let found = match self.provisioned(provider, &group_id(provider, &value)).await {
                        Ok(group) => self.shown_groups(vec![group], query.without_members),
                        Err(ScimError::Missing) => Vec::new(),
                        Err(error) => return Err(error),
                    };
                    let found: Vec<_> = found.into_iter().map(|group| group.body).collect();
                    return Ok(page(found.len(), 1, &found));
                }
                _ => return bad("invalidFilter", "groups are found by displayName or externalId, eq and a text"),
            },
        };
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (found, more) = self.groups.list(Some(term.clone()), after.as_deref(), StoreLimits::PAGE).await?;
            all.extend(found);
            after = match more {
                Some(more) => Some(more),
                None => break,
            };
        }
        // New ones come last.
        all.sort_by(|a, b| (a.value.created_at, &a.id).cmp(&(b.value.created_at, &b.id)));
        let total = all.len();
        let shown = all.into_iter().skip(query.start.saturating_sub(1)).take(query.count.min(ScimLimits::PAGE));
        let shown = self.shown_groups(shown.collect(), query.without_members);
        let shown: Vec<_> = shown.into_iter().map(|group| group.body).collect();
        Ok(page(total, query.start, &shown))
    }

    async fn provisioned(&self, provider: &str, id: &str) -> Result<Stored<ScimGroup>, ScimError> {
        if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ScimError::Missing);
        }
        let stored = self.groups.get(id).await?.filter(|group| group.value.provider == provider);
        stored.ok_or(ScimError::Missing)
    }

    async fn change_group(
        &self,
        provider: &str,
        id: &str,
        when: Option<Revision>,
        renamed: Option<String>,
        changes: &[MemberChange],
    ) -> Result<ScimResource, ScimError> {
        let stored = self.provisioned(provider, id).await?;
        if when.is_some_and(|when| when != stored.revision) {
            return Err(ScimError::Changed);
        }
        let mut applied = self.change_members(provider, id, stored.revision, changes).await?;
        let name = renamed.unwrap_or_else(|| stored.value.display_name.clone());
        // Written in any case: another version after a change of members.
        let record = ScimGroup { display_name: name.clone(), ..stored.value };
        let mut writes = vec![self.groups.put(id, &record, None, When::At(stored.revision))?];
        if let Some(group) = self.users.groups.get(id).await?
            && group.value.name != tidy(&name)
        {
            let renamed = Group { name: tidy(&name), ..group.value };
            writes.push(self.users.groups.put(id, &renamed, None, When::At(group.revision))?);
        }
        applied = applied.max(Some(self.groups.store().commit(writes).await?));
        self.group(provider, id, false).await.map(|group| ScimResource { applied, ..group })
    }

    async fn change_members(
        &self,
        provider: &str,
        group: &str,
        since: Revision,
        changes: &[MemberChange],
    ) -> Result<Option<Revision>, ScimError> {
        let mut applied = None;
        for change in changes {
            let (add, remove): (Vec<String>, Vec<String>) = match change {
                MemberChange::Add(ids) => (ids.clone(), Vec::new()),
                MemberChange::Remove(ids) => (Vec::new(), ids.clone()),
                MemberChange::Replace(ids) => {
                    // Who is in it is what has been done to it so far, here or elsewhere.
                    let known = self.users.directory.wait_for(applied.map_or(since, |applied| since.max(applied)));
                    let known = tokio::time::timeout(APPLY, known).await;
                    known
                        .map_err(|_| StoreError::new(StoreErrorKind::Unavailable, "feed").because("it lags behind"))?;
                    let wanted: BTreeSet<&String> = ids.iter().collect();
                    let old = self.users.directory.members(&[group]).pop().unwrap_or_default();
                    (ids.clone(), old.iter().map(ToString::to_string).filter(|id| !wanted.contains(id)).collect())
                }
            };
            // Whoever goes, goes, whatever becomes of those who come.
            for batch in remove.chunks(BATCH) {
                applied = applied.max(self.move_users(batch, group, since, Move::Out(&remove)).await?);
            }
            let add = self.newcomers(provider, &add, group).await?;
            for batch in add.chunks(BATCH) {
                applied = applied.max(self.move_users(batch, group, since, Move::In).await?);
            }
        }
        Ok(applied)
    }

    /// Those of the users who are not in the group yet, and are the client's to move.
    async fn newcomers(&self, provider: &str, ids: &[String], group: &str) -> Result<Vec<String>, ScimError> {
        let mut others: BTreeSet<&str> = BTreeSet::new();
        for ids in ids.chunks(StoreLimits::PAGE) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let known = self.users.users.get_many(ids.iter().copied().filter(|id| is_id(id))).await?;
            let known = known.into_iter().flatten();
            let in_it: BTreeSet<Box<str>> =
                known.filter(|user| user.value.groups.iter().any(|one| one == group)).map(|user| user.id).collect();
            others.extend(ids.into_iter().filter(|id| !in_it.contains(*id)));
        }
        if others.is_empty() {
            return Ok(Vec::new());
        }
        self.may_add(group).await?;
        let others: Vec<&str> = others.into_iter().collect();
        for ids in others.chunks(StoreLimits::PAGE) {
            // Only those whom this client has made are its to move.
            if self.known(provider, ids).await?.len() != ids.len() {
                return bad("invalidValue", "a member is none of the users of this client");
            }
        }
        Ok(others.into_iter().map(str::to_owned).collect())
    }

    /// What a group gives to its members, and that it does so for as long as this holds.
    async fn given(&self, group: &str) -> Result<(Roles, Write), ScimError> {
        let stored = self.users.groups.get(group).await?;
        let when = stored.as_ref().map_or(When::Absent, |stored| When::At(stored.revision));
        let given = stored.map_or(Roles::NONE, |stored| stored.value.roles);
        let preset = self.presets.get(group).copied().unwrap_or_default();
        Ok((given.union(preset), Write::Check { key: self.users.groups.key(group), when }))
    }

    /// A client makes no owners: what would, is for an owner to do.
    async fn may_add(&self, group: &str) -> Result<Write, ScimError> {
        let (gives, holds) = self.given(group).await?;
        if gives.intersects(Roles::OWNER.union(Roles::AUDITOR)) {
            return Err(ScimError::Forbidden(
                "the group makes owners or auditors of its members; only a login puts them there",
            ));
        }
        Ok(holds)
    }

    /// It unmakes them, as long as one is left.
    async fn may_remove(&self, group: &str, leaving: &[String]) -> Result<Vec<Write>, ScimError> {
        let (gives, holds) = self.given(group).await?;
        let other = self.users.unmake_members(group, gives, leaving).await?;
        Ok(std::iter::once(holds).chain(other).collect())
    }

    /// Moves users of the group that the client has seen at this revision.
    async fn move_users(
        &self,
        ids: &[String],
        group: &str,
        seen: Revision,
        how: Move<'_>,
    ) -> Result<Option<Revision>, ScimError> {
        for attempt in 1.. {
            let mut writes = Vec::new();
            let known = self.users.users.get_many(ids.iter().map(String::as_str).filter(|id| is_id(id))).await?;
            for Stored { id, revision, value: mut user } in known.into_iter().flatten() {
                let member = user.groups.iter().any(|one| one == group);
                match how {
                    Move::In if !member && user.state != UserState::Deleted => {
                        if user.groups.len() >= UserLimits::GROUPS {
                            return bad("tooMany", "a user is in at most 500 groups");
                        }
                        user.groups.push(group.to_owned());
                    }
                    Move::Out(_) if member => user.groups.retain(|one| one != group),
                    _ => continue,
                }
                writes.push(self.users.users.put(&id, &user, None, When::At(revision))?);
            }
            if writes.is_empty() {
                return Ok(None);
            }
            writes.push(Write::Check { key: self.groups.key(group), when: When::At(seen) });
            match how {
                Move::In => writes.push(self.may_add(group).await?),
                Move::Out(leaving) => writes.extend(self.may_remove(group, leaving).await?),
            }
            match self.users.users.store().commit(writes).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {}
                done => return Ok(Some(done?)),
            }
        }
        Ok(None)
    }

    fn shown_group(&self, stored: Stored<ScimGroup>, members: Option<Vec<Arc<str>>>) -> ScimResource {
        let Stored { id, revision, value } = stored;
        let mut body = json!({
            "schemas": [schema::GROUP],
            "id": &*id,
            "displayName": value.display_name,
            "meta": self.meta("Group", "Groups", &id, value.created_at, revision),
        });
        if let Some(external_id) = value.external_id {
            body["externalId"] = json!(external_id);
        }
        if let Some(members) = members {
            let members: Vec<_> = members.iter().map(|id| json!({ "value": &**id })).collect();
            body["members"] = json!(members);
        }
        ScimResource { id: id.into(), revision, applied: None, body }
    }

    /// Groups with their members, for which everybody is gone through once.
    fn shown_groups(&self, groups: Vec<Stored<ScimGroup>>, without_members: bool) -> Vec<ScimResource> {
        if without_members {
            return groups.into_iter().map(|group| self.shown_group(group, None)).collect();
        }
        let ids: Vec<&str> = groups.iter().map(|group| &*group.id).collect();
        let members = self.users.directory.members(&ids);
        groups.into_iter().zip(members).map(|(group, members)| self.shown_group(group, Some(members))).collect()
    }
}

/// Which way users go.
#[derive(Clone, Copy)]
enum Move<'a> {
    In,
    /// Together with all of these.
    Out(&'a [String]),
}
