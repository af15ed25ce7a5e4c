//! What the authorization server keeps.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::{Clock, ResourceStore, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{FieldSealer, Resources, Revocation, Revoked, Secret, Stored, TenantId};

use super::client::hex_hash;
use super::device::{DevicePoll, DeviceRequest, UserCode, UserCodeKey, UserCodeRecord};
use super::grant::UsedAssertionRecord;
use super::{AuthorizationCode, Consent, Grant, OAuthClient, PendingRequest, random};
use crate::token::TokenLimits;

/// How long the end of something is remembered: as long as a token that depends on it may live.
const ENDED: Duration = TokenLimits::LIFETIME.saturating_add(TokenLimits::CLOCK_SKEW);

/// Typed access to everything of one tenant.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) clients: Resources<OAuthClient>,
    pub(crate) grants: Resources<Grant>,
    pub(crate) codes: Resources<AuthorizationCode>,
    pub(crate) requests: Resources<PendingRequest>,
    pub(crate) consents: Resources<Consent>,
    pub(crate) devices: Resources<DeviceRequest>,
    pub(crate) polls: Resources<DevicePoll>,
    pub(crate) user_codes: Resources<UserCodeRecord>,
    user_code_keys: Resources<UserCodeKey>,
    revocations: Resources<Revocation>,
    assertions: Resources<UsedAssertionRecord>,
}

impl State {
    pub(crate) fn new(store: &Arc<dyn ResourceStore>, sealer: &Arc<dyn FieldSealer>, tenant: &TenantId) -> Self {
        fn of<T: mcp_gateway_core::record::Resource>(
            (store, sealer, tenant): (&Arc<dyn ResourceStore>, &Arc<dyn FieldSealer>, &TenantId),
        ) -> Resources<T> {
            Resources::new(Arc::clone(store), Arc::clone(sealer), tenant.clone())
        }
        let parts = (store, sealer, tenant);
        Self {
            clients: of(parts),
            grants: of(parts),
            codes: of(parts),
            requests: of(parts),
            consents: of(parts),
            devices: of(parts),
            polls: of(parts),
            user_codes: of(parts),
            user_code_keys: of(parts),
            revocations: of(parts),
            assertions: of(parts),
        }
    }

    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.clients.store().commit(writes).await.map(drop)
    }

    /// Ends a grant: its refresh tokens with the record, its access tokens by the feed.
    pub(crate) async fn end_grant(&self, id: &str, reason: &str, clock: &dyn Clock) -> Result<(), StoreError> {
        let delete = Write::Delete { key: self.grants.key(id), when: When::Any };
        self.commit(vec![delete, self.revoke(Revoked::Grant(id), reason, clock)?]).await
    }

    /// Ends whatever depends on this.
    pub(crate) fn revoke(&self, what: Revoked<'_>, reason: &str, clock: &dyn Clock) -> Result<Write, StoreError> {
        revocation(&self.revocations, what, reason, clock)
    }

    /// Ends what depends on this until now; what is made later is good.
    pub(crate) fn revoke_past(&self, what: Revoked<'_>, reason: &str, clock: &dyn Clock) -> Result<Write, StoreError> {
        write(&self.revocations, what, Some(clock.now()), reason, clock)
    }

    /// What must still hold when a grant is written, so that it cannot outlive what is ended at the same time; `None`
    /// when something it depends on has ended.
    pub(crate) async fn standing(&self, id: &str, grant: &Grant) -> Result<Option<Vec<Write>>, StoreError> {
        let mut on = grant.dependence().on.to_vec();
        on.push(Revoked::Grant(id).id());
        let mut checks = Vec::with_capacity(on.len());
        for id in on {
            let when = match self.revocations.get(&id).await? {
                Some(kept) if grant.created_at <= kept.value.before.unwrap_or(kept.value.until) => return Ok(None),
                Some(kept) => When::At(kept.revision),
                None => When::Absent,
            };
            checks.push(Write::Check { key: self.revocations.key(&id), when });
        }
        Ok(Some(checks))
    }

    /// Uses up the id of a client's assertion; `false` when it was used before.
    pub(crate) async fn use_assertion(&self, client: &str, id: &str, life: Duration) -> Result<bool, StoreError> {
        let key = hex_hash(&format!("{} {client} {id}", client.len()));
        let put = self.assertions.put(&key, &UsedAssertionRecord {}, Some(life), When::Absent)?;
        won(self.commit(vec![put]).await)
    }

    /// The id of the record of a user code, the same at every replica.
    pub(crate) async fn user_code_id(&self, code: &UserCode) -> Result<String, StoreError> {
        const ID: &str = "1";
        loop {
            if let Some(kept) = self.user_code_keys.get(ID).await? {
                return Ok(code.id(&kept.value.secret));
            }
            let key = UserCodeKey { secret: Secret::new(random()) };
            let put = self.user_code_keys.put(ID, &key, None, When::Absent)?;
            // Of several replicas that make the first, one does.
            won(self.commit(vec![put]).await)?;
        }
    }

    pub(crate) async fn request(&self, id: &str) -> Result<Option<Stored<PendingRequest>>, StoreError> {
        if id.is_empty() || id.len() > 64 { Ok(None) } else { self.requests.get(id).await }
    }
}

/// The write that ends whatever depends on this, at every replica that has applied it.
pub(crate) fn revocation(
    kept: &Resources<Revocation>,
    what: Revoked<'_>,
    reason: &str,
    clock: &dyn Clock,
) -> Result<Write, StoreError> {
    // A person comes back by a new login.
    let before = matches!(what, Revoked::Subject(_)).then(|| clock.now());
    write(kept, what, before, reason, clock)
}

fn write(
    kept: &Resources<Revocation>,
    what: Revoked<'_>,
    before: Option<Timestamp>,
    reason: &str,
    clock: &dyn Clock,
) -> Result<Write, StoreError> {
    let until = clock.now().saturating_add(ENDED).unwrap_or(Timestamp::MAX);
    let revocation = Revocation { reason: reason.to_owned(), before, until };
    kept.put(&what.id(), &revocation, Some(ENDED), When::Any)
}

/// Whether a commit with a precondition was the first; everything but a lost race is an error. A commit whose outcome
/// is unknown counts as lost: what can be used once may have been used.
pub(crate) fn won(committed: Result<(), StoreError>) -> Result<bool, StoreError> {
    match committed {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Unknown) => Ok(false),
        Err(error) => Err(error),
    }
}
