//! What a person has agreed to, and the steps on the way there.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use mcp_gateway_core::contract::{IndexTerm, Kind};
use mcp_gateway_core::record::{Dependence, Resource, Revoked, Secret, Subject};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// What a client may do in a person's name at one server: the family of its refresh tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Whose rights.
    pub subject: Subject,
    /// Which client has them.
    pub client_id: String,
    /// At which server.
    pub server: String,
    /// The server whose own issuer gave it; absent for the shared one. No other issuer renews it.
    #[serde(default)]
    pub issuer: Option<String>,
    /// For what; scopes with blanks between.
    pub scope: String,
    /// The epoch of the person that it was given under.
    #[serde(default)]
    pub person_epoch: u64,
    /// The login in which it was given.
    #[serde(default)]
    pub session: Option<String>,
    /// When it was given.
    pub created_at: Timestamp,
    /// When it ends, used or not.
    pub ends_at: Timestamp,
    /// Makes and recognises its refresh tokens; sealed at rest. A client without refresh tokens has none.
    #[serde(default)]
    pub refresh_key: Option<Secret>,
    /// Which refresh token is the one to use: they are counted.
    #[serde(default)]
    pub generation: u64,
    /// When that one was made.
    pub rotated_at: Timestamp,
}

impl Resource for Grant {
    const KIND: Kind = Kind::quiet("oauth-grant");
    const INDEXES: &'static [&'static str] = &["subject", "client", "session"];
    const SEALED: &'static [&'static str] = &["/refreshKey"];

    fn terms(&self) -> Vec<IndexTerm> {
        let mut terms = vec![Self::term("subject", &of_subject(&self.subject)), Self::term("client", &self.client_id)];
        terms.extend(self.session.as_deref().map(|session| Self::term("session", session)));
        terms
    }
}

impl Grant {
    /// The term under which a person's grants are listed.
    pub(crate) fn of(subject: &Subject) -> IndexTerm {
        Self::term("subject", &of_subject(subject))
    }

    fn term(name: &'static str, value: &str) -> IndexTerm {
        IndexTerm { name, value: super::client_key(value).into() }
    }

    /// The term under which the grants that end with this are listed.
    pub(crate) fn ended_with(what: Revoked<'_>) -> Option<IndexTerm> {
        match what {
            Revoked::Subject(subject) => Some(Self::term("subject", &of_subject(subject))),
            Revoked::Client(id) => Some(Self::term("client", id)),
            Revoked::Session(id) => Some(Self::term("session", id)),
            _ => None,
        }
    }

    /// What it depends on, as of when it was given.
    pub(crate) fn dependence(&self) -> Dependence {
        let mut on = vec![Revoked::Subject(&self.subject).id(), Revoked::Client(&self.client_id).id()];
        on.extend(self.session.as_deref().map(|session| Revoked::Session(session).id()));
        Dependence { epoch: self.created_at, on: on.into() }
    }
}

pub(crate) fn of_subject(subject: &Subject) -> String {
    format!("{} {}", subject.issuer, subject.id)
}

/// A refresh token: which grant, which in the row, and the proof that we made it.
///
/// The proof lets a token that was used long ago be told from one that was made up: only the first ends the family.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RefreshToken<'a> {
    pub(crate) grant: &'a str,
    pub(crate) generation: u64,
    proof: &'a str,
}

/// What scanners for leaked secrets look for.
const PREFIX: &str = "mcpgwr_";

impl<'a> RefreshToken<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.split('.');
        let (grant, generation, proof) = (parts.next()?, parts.next()?, parts.next()?);
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let whole = parts.next().is_none() && plain(grant) && grant.len() <= 64 && plain(proof) && proof.len() == 43;
        whole.then_some(Self { grant, generation: generation.parse().ok()?, proof })
    }

    /// Whether the grant's key made it.
    pub(crate) fn is_genuine(&self, grant: &Grant) -> bool {
        let (Some(mac), Ok(proof)) = (mac(self.grant, grant, self.generation), URL_SAFE_NO_PAD.decode(self.proof))
        else {
            return false;
        };
        mac.verify_slice(&proof).is_ok()
    }

    /// The text of the grant's token of this generation.
    pub(crate) fn make(id: &str, grant: &Grant, generation: u64) -> Option<Secret> {
        let proof = URL_SAFE_NO_PAD.encode(mac(id, grant, generation)?.finalize().into_bytes());
        Some(Secret::new(format!("{PREFIX}{id}.{generation}.{proof}")))
    }
}

fn mac(id: &str, grant: &Grant, generation: u64) -> Option<Hmac<Sha256>> {
    let key = grant.refresh_key.as_ref()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).ok()?;
    mac.update(b"mcp-gateway refresh token v1 ");
    mac.update(id.as_bytes());
    mac.update(&generation.to_be_bytes());
    Some(mac)
}

/// A code (RFC 6749 §4.1.2); its id is the SHA-256 of it. Kept for a while after its use, so that a second use is
/// noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationCode {
    /// The id of the grant that it becomes.
    pub grant_id: String,
    /// What that grant is.
    pub grant: Grant,
    /// The redirect URI that the code was sent to. A token request that names one must name this: RFC 6749 §4.1.3 has
    /// clients repeat it, OAuth 2.1 has left it out, since the challenge binds the code.
    pub redirect_uri: String,
    /// The S256 challenge (RFC 7636 §4.2).
    pub challenge: String,
    /// When it ends unused.
    pub ends_at: Timestamp,
    /// Whether it was used.
    pub used: bool,
}

impl Resource for AuthorizationCode {
    const KIND: Kind = Kind::quiet("oauth-code");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/grant/refreshKey"];
}

/// An authorization request that waits for login and consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingRequest {
    /// SHA-256 of the nonce in the browser that brought it.
    pub browser_sha256: String,
    /// The client.
    pub client_id: String,
    /// Where the browser goes back to; not to be believed before the client has been looked at.
    pub redirect_uri: Option<String>,
    /// Given back as it is.
    pub state: Option<String>,
    /// The S256 challenge.
    pub challenge: String,
    /// The server's id, if the client named one.
    pub server: Option<String>,
    /// The server whose own issuer was asked; absent for the shared one.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The scopes that are known.
    pub scope: String,
    /// Whether the client wants the person to be asked in any case (`prompt=consent`).
    #[serde(default)]
    pub ask_anew: bool,
    /// What of the client was shown: with anything else of it, the answer counts for nothing.
    #[serde(default)]
    pub shown: Option<String>,
    /// Who was shown the consent page; nobody else may answer it.
    pub shown_to: Option<Subject>,
    /// SHA-256 of the token that the page sends back.
    pub csrf_sha256: Option<String>,
}

impl Resource for PendingRequest {
    const KIND: Kind = Kind::quiet("oauth-request");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// An assertion that was used: its id may not come again before its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsedAssertionRecord {}

impl Resource for UsedAssertionRecord {
    const KIND: Kind = Kind::quiet("oauth-assertion");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}
