//! The keys that sign the audit trail.

use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{KeyRing as _, KeyRingError, Signer, VerifyingKey};
use mcp_gateway_core::trail::Notary;

use super::jws::Jws;
use super::{PublicKey, SigningKeys};

/// What the trail's checkpoints are checked with: public keys alone, for whoever did not write it.
#[derive(Debug, Clone)]
pub struct TrailKeys(Vec<PublicKey>);

impl TrailKeys {
    /// Reads the keys of a JWK Set (RFC 7517 §5).
    ///
    /// # Errors
    /// It is none.
    pub fn read(document: &[u8]) -> Result<Self, serde_json::Error> {
        PublicKey::read_set(document).map(Self)
    }

    /// The claims of a JWS of this `typ` that one of the keys signed; or why it is none.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self, typ: &str, signed: &str) -> Result<Vec<u8>, String> {
        let jws = Jws::parse(signed.as_bytes())?;
        let key = self.0.iter().find(|key| key.id().is_some() && key.id() == jws.header.kid.as_deref());
        checked(jws, typ, key.map(|key| key as &dyn VerifyingKey))
    }
}

fn checked(jws: Jws<'_>, typ: &str, key: Option<&dyn VerifyingKey>) -> Result<Vec<u8>, String> {
    if !jws.header.is(typ) {
        return Err("it is of another type".to_owned());
    }
    jws.verify(key.ok_or("none of the keys has its `kid`")?)?;
    Ok(jws.claims)
}

/// Of a ring that signs nothing else, and whose keys are kept for ever.
impl Notary for SigningKeys {
    fn sign(&self, typ: &'static str, claims: &[u8]) -> MaybeReady<Result<String, KeyRingError>> {
        Signer::sign(self, typ, claims)
    }

    fn check(&self, typ: &'static str, signed: &str) -> Result<Vec<u8>, String> {
        // Its own keys are in memory.
        TrailKeys::read(self.document().as_bytes()).map_err(|error| error.to_string())?.check(typ, signed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mcp_gateway_core::contract::SystemClock;
    use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
    use mcp_gateway_core::record::{Resources, TenantId};
    use mcp_gateway_core::seal::Sealer;

    use super::super::{SigningKeyOptions, SigningKeys};
    use super::*;

    #[tokio::test]
    async fn what_was_signed_is_known_for_what_it_is() {
        let clock = Arc::new(SystemClock);
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
        let ring = async |name: &str| {
            let options = SigningKeyOptions { name: name.to_owned(), ..SigningKeyOptions::default() };
            let ring = Resources::new(store.clone(), sealer.clone(), TenantId::default());
            SigningKeys::open(ring, clock.clone(), options).await.unwrap()
        };
        let (trail, access) = (ring("audit").await, ring("access").await);
        let signed = Notary::sign(&*trail, "checkpoint", b"{\"seq\":1}").await.unwrap();
        let public = TrailKeys::read(trail.document().as_bytes()).unwrap();
        assert_eq!(public.check("checkpoint", &signed).as_deref(), Ok(&b"{\"seq\":1}"[..]));
        assert_eq!(trail.check("checkpoint", &signed).as_deref(), Ok(&b"{\"seq\":1}"[..]));
        assert!(public.check("retention", &signed).is_err(), "another kind of claims");
        let foreign = Notary::sign(&*access, "checkpoint", b"{\"seq\":1}").await.unwrap();
        assert!(public.check("checkpoint", &foreign).is_err(), "another ring");
        let [head, _, signature] = <[&str; 3]>::try_from(signed.split('.').collect::<Vec<_>>()).unwrap();
        assert!(public.check("checkpoint", &format!("{head}.eyJzZXEiOjJ9.{signature}")).is_err(), "other claims");
        trail.rotate_now().await.unwrap();
        assert!(trail.check("checkpoint", &signed).is_err(), "a key that was thrown away");
    }
}
