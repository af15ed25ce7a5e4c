//! Lists of users, page by page.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::StoreLimits;
use mcp_gateway_core::record::{Stored, User, UserState};
use serde_json::Value;

use super::error::bad;
use super::path::Comparison;
use super::record::of_provider;
use super::{Scim, ScimError, ScimLimits, ScimName, ScimQuery, ScimUser, identity_of, is_of, page};
use crate::user::is_id;

/// The ids that a client pages through, by provider: what comes after the first page is read by id, without going through
/// all of them again, and is the same list to its end.
#[derive(Default)]
pub(super) struct Listings(Mutex<HashMap<Box<str>, Listing>>);

#[derive(Clone)]
struct Listing {
    begun: Timestamp,
    ids: Arc<[Box<str>]>,
}

impl Listings {
    fn of(&self, provider: &str, now: Timestamp) -> Option<Arc<[Box<str>]>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = held.get(provider).filter(|listing| is_young(listing.begun, now));
        listing.map(|listing| Arc::clone(&listing.ids))
    }

    fn keep(&self, provider: &str, begun: Timestamp, ids: Arc<[Box<str>]>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(provider.into(), Listing { begun, ids });
    }
}

/// Afterwards, the next page goes through all again.
fn is_young(begun: Timestamp, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(begun)).is_ok_and(|age| age < ScimLimits::LISTING)
}

impl fmt::Debug for Listings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listings").finish_non_exhaustive()
    }
}

impl Scim {
    /// Lists users.
    ///
    /// The first page (`startIndex` 1) sees all users as they are; those after it, for [`ScimLimits::LISTING`], are of the
    /// same list, so that nobody is passed over or told twice while others come and go. The list is this process's: a page
    /// of another one sees all users as they are, where whoever was made last comes last.
    ///
    /// # Errors
    /// [`ScimError`].
    pub async fn list_users(&self, provider: &str, query: &ScimQuery) -> Result<Value, ScimError> {
        let ids = match &query.filter {
            Some(filter) => {
                let found = self.find_user(provider, filter).await?;
                // It may be somebody whom this client does not see.
                let seen = self.known(provider, &found.iter().map(String::as_str).collect::<Vec<_>>()).await?;
                seen.into_iter().map(|(person, _)| person.id).collect()
            }
            None => self.listed(provider, query.start > 1).await?,
        };
        let wanted = ids.iter().skip(query.start.saturating_sub(1)).take(query.count.min(ScimLimits::PAGE));
        let wanted: Vec<&str> = wanted.map(|id| &**id).collect();
        let known = self.known(provider, &wanted).await?;
        let groups = self.groups_of(known.iter().map(|(_, user)| &user.value)).await?;
        let shown: Vec<Value> =
            known.into_iter().map(|(person, user)| self.shown(person, &user.value, &groups).body).collect();
        Ok(page(ids.len(), query.start, &shown))
    }

    /// The ids of all users of a client, the eldest first; those of the list that it goes through, when it `goes_on`.
    async fn listed(&self, provider: &str, goes_on: bool) -> Result<Arc<[Box<str>]>, ScimError> {
        let now = self.clock.now();
        if goes_on && let Some(ids) = self.listings.of(provider, now) {
            return Ok(ids);
        }
        let ids = self.all_users(provider).await?;
        self.listings.keep(provider, now, Arc::clone(&ids));
        Ok(ids)
    }

    async fn all_users(&self, provider: &str) -> Result<Arc<[Box<str>]>, ScimError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let of = Some(of_provider(provider));
            let (found, more) = self.people.list(of, after.as_deref(), StoreLimits::PAGE).await?;
            all.extend(found.into_iter().map(|person| (person.value.created_at, person.id)));
            after = match more {
                Some(more) => Some(more),
                None => break,
            };
        }
        all.sort_unstable();
        Ok(all.into_iter().map(|(_, id)| id).collect())
    }

    /// Those of these users whom the client sees, at most [`StoreLimits::PAGE`].
    pub(super) async fn known(
        &self,
        provider: &str,
        ids: &[&str],
    ) -> Result<Vec<(Stored<ScimUser>, Stored<User>)>, ScimError> {
        let ids: Vec<&str> = ids.iter().copied().filter(|id| is_id(id)).collect();
        let people = self.people.get_many(ids.iter().copied()).await?;
        let users = self.users.users.get_many(ids.iter().copied()).await?;
        let both = people.into_iter().zip(users).filter_map(|(person, user)| Some((person?, user?)));
        let seen = both
            .filter(|(person, user)| is_of(&person.value, provider) && user.value.state != UserState::Deleted)
            .collect();
        Ok(seen)
    }

    async fn find_user(&self, provider: &str, filter: &str) -> Result<Option<String>, ScimError> {
        let Some(Comparison { attribute, value }) = Comparison::read(filter) else {
            return bad("invalidFilter", "a filter is userName, externalId or id, eq and a text");
        };
        Ok(match &*attribute {
            "username" => self.names.get(&ScimName::id(provider, &value)).await?.map(|name| name.value.user),
            "externalid" => match identity_of(provider, &value) {
                Ok(key) => self.users.identities.get(&key.id()).await?.map(|identity| identity.value.user),
                Err(_) => None,
            },
            "id" => Some(value),
            _ => return bad("invalidFilter", "users are found by userName, externalId or id"),
        })
    }
}
