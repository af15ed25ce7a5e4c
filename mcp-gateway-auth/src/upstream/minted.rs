//! Tokens for servers that trust the gateway.
//!
//! They are of an issuer, keys and a type of their own: what checks signature and issuer alone takes none of them for a
//! token of a client, and none of those for one of them (RFC 8725 §3.11).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{CredentialAsk, CredentialError, Signer, UpstreamCredential};
use mcp_gateway_core::record::{Secret, Subject};

use super::credentials::{bearer, unavailable};
use super::record::tag;
use super::{AccountLimits, Accounts, lock};

/// The type of the tokens.
const TYPE: &str = "mcp-upstream+jwt";
/// A token is used for so long before its end.
const MARGIN: Duration = Duration::from_secs(60);

/// The issuer of tokens for servers.
#[derive(Clone)]
pub struct UpstreamIssuer {
    issuer: Arc<str>,
    signer: Arc<dyn Signer>,
    /// For whom nothing is made.
    others: Arc<[String]>,
}

impl UpstreamIssuer {
    /// The issuer `{origin}/upstream`, signing so; `others` are issuers, who would take a token for one of a client.
    #[must_use]
    pub fn new(origin: &str, signer: Arc<dyn Signer>, others: Vec<String>) -> Self {
        Self { issuer: format!("{origin}/upstream").into(), signer, others: others.into() }
    }
}

impl fmt::Debug for UpstreamIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamIssuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What was made and is still good, by server and subject.
#[derive(Debug, Default)]
pub(super) struct MintedTokens(Mutex<HashMap<(Arc<str>, String), Minted>>);

#[derive(Debug)]
struct Minted {
    audience: Arc<str>,
    credential: UpstreamCredential,
    expires_at: Timestamp,
}

impl Accounts {
    pub(super) fn minted(
        &self,
        ask: &CredentialAsk,
        audience: &Arc<str>,
    ) -> MaybeReady<Result<UpstreamCredential, CredentialError>> {
        let Some(issuer) = self.0.issuer.clone() else {
            return Err(CredentialError::Denied("the gateway makes no tokens for servers")).into();
        };
        let same = |other: &String| other.trim_end_matches('/') == audience.trim_end_matches('/');
        if issuer.others.iter().any(same) {
            return Err(CredentialError::Denied("the audience is an issuer, not a server")).into();
        }
        let now = self.0.clock.now();
        let key = (Arc::clone(&ask.route.id), tag(&ask.subject));
        let margin = SignedDuration::try_from(MARGIN).unwrap_or_default();
        if let Some(minted) = lock(&self.0.minted.0).get(&key)
            && minted.audience == *audience
            && minted.expires_at.duration_since(now) > margin
        {
            return Ok(minted.credential.clone()).into();
        }
        if self.0.known.is_other(&ask.route.id, audience) {
            return Err(CredentialError::Denied("the audience is another entry's server")).into();
        }
        let expires_at = now.saturating_add(AccountLimits::MINTED).unwrap_or(now);
        let claims = claims(&issuer.issuer, ask, audience, now, expires_at);
        let signed = issuer.signer.sign(TYPE, claims.to_string().as_bytes());
        let (this, audience) = (self.clone(), Arc::clone(audience));
        let keep = move |token: String| {
            let id = format!("minted:{}", issuer.issuer);
            let credential = bearer(&Secret::new(token), &id);
            let credential = credential.ok_or(CredentialError::Denied("the token is no text of a header"))?;
            let mut held = lock(&this.0.minted.0);
            if held.len() >= AccountLimits::HELD {
                held.clear();
            }
            held.insert(key, Minted { audience, credential: credential.clone(), expires_at });
            Ok(credential)
        };
        match signed {
            MaybeReady::Ready(signed) => signed.map_err(unavailable).and_then(keep).into(),
            MaybeReady::Wait(signed) => {
                MaybeReady::wait(async move { signed.await.map_err(unavailable).and_then(keep) })
            }
        }
    }
}

impl Accounts {
    /// Another token after this one was refused: the key that has signed it may have been replaced.
    pub(super) async fn minted_anew(
        &self,
        ask: &CredentialAsk,
        audience: &Arc<str>,
        refused: &UpstreamCredential,
    ) -> Result<UpstreamCredential, CredentialError> {
        {
            let (now, mut held) = (self.0.clock.now(), lock(&self.0.minted.0));
            let key = (Arc::clone(&ask.route.id), tag(&ask.subject));
            let is_new = |minted: &Minted| {
                let lives = [AccountLimits::MINTED, AccountLimits::REFUSED_ANEW]
                    .map(|one| SignedDuration::try_from(one).unwrap_or_default());
                minted.expires_at.duration_since(now) > lives[0] - lives[1]
            };
            match held.get(&key) {
                Some(minted) if minted.credential != *refused => {}
                Some(minted) if is_new(minted) => {
                    return Err(CredentialError::Denied("the server refuses the gateway's token"));
                }
                _ => drop(held.remove(&key)),
            }
        }
        self.minted(ask, audience).await
    }
}

fn claims(
    issuer: &str,
    ask: &CredentialAsk,
    audience: &str,
    now: Timestamp,
    expires_at: Timestamp,
) -> serde_json::Value {
    serde_json::json!({
        "iss": issuer,
        "sub": name_of(&ask.subject),
        "aud": audience,
        "iat": now.as_second(),
        "exp": expires_at.as_second(),
        "jti": URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
        // Who acts for the person: the gateway's door to this server.
        "act": { "sub": &*ask.route.resource.url },
    })
}

/// What servers call a subject: a person of the gateway by the id, others by issuer and id, so that no two are one.
fn name_of(subject: &Subject) -> String {
    match *subject.issuer == *Subject::LOCAL {
        true => subject.id.to_string(),
        false => format!("{}#{}", subject.issuer, subject.id),
    }
}
