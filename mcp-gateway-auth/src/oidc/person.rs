//! From what a provider says to who it is.

use mcp_gateway_core::record::Email;
use serde_json::{Map, Value};

use super::{OidcError, ProviderKind, ProviderOptions};
use crate::user::{Asserted, AssertedGroup, IdentityKey, UserLimits};

/// The claims of a person, of ID token and userinfo together.
pub(crate) type Claims = Map<String, Value>;

/// Who somebody is, by these claims. The signature has been checked; what is believed of the rest is decided here.
///
/// # Errors
/// [`OidcError::Invalid`] and [`OidcError::NotAllowed`].
pub(crate) fn person(provider: &ProviderOptions, subject: &str, claims: &Claims) -> Result<Asserted, OidcError> {
    let subject = match provider.kind {
        // `sub` of Entra ID differs from application to application; SCIM and everybody else say `oid`.
        ProviderKind::Entra => {
            let tenant = text(claims, "tid").unwrap_or_default();
            if provider.issuer != format!("https://login.microsoftonline.com/{tenant}/v2.0") {
                return Err(OidcError::Invalid("the ID token is of another tenant"));
            }
            text(claims, "oid").ok_or(OidcError::Invalid("the ID token has no oid"))?
        }
        _ => subject,
    };
    let email = text(claims, "email").and_then(|address| judged(provider, claims, address));
    allowed(provider, email.as_ref())?;
    let name = ["name", "preferred_username", "email"].into_iter().find_map(|claim| text(claims, claim));
    let identity = IdentityKey::new(&provider.issuer, subject);
    let asserted = Asserted::new(identity, name.unwrap_or(subject)).with_email(email);
    match &provider.groups_claim {
        Some(claim) => Ok(asserted.in_groups(groups(claims, claim)?)),
        None => Ok(asserted),
    }
}

/// What says whether an address is verified; it means nothing beside another address.
const VERIFIED: [&str; 2] = ["email_verified", "xms_edov"];
/// What is believed of a signed token alone.
const SIGNED: [&str; 3] = ["tid", "oid", "hd"];

/// Adds what userinfo says to what the token says. An address comes with what is said of it, from one of the two.
pub(super) fn merge(token: &mut Claims, userinfo: Claims) {
    let same = text(token, "email").is_some() && text(token, "email") == text(&userinfo, "email");
    let takes_address = text(token, "email").is_none() && text(&userinfo, "email").is_some();
    if takes_address {
        for claim in VERIFIED.into_iter().chain(["email", "hd"]) {
            token.remove(claim);
        }
    }
    for (name, value) in userinfo {
        let of_address = name == "email" || VERIFIED.contains(&&*name);
        if !SIGNED.contains(&&*name) && (!of_address || same || takes_address) {
            token.entry(name).or_insert(value);
        }
    }
}

/// Whether somebody with this address may sign in.
pub(super) fn allowed(provider: &ProviderOptions, email: Option<&Email>) -> Result<(), OidcError> {
    if provider.email_domains.is_empty() || email.is_some_and(|email| email.verified) {
        return Ok(());
    }
    Err(OidcError::NotAllowed("the person has no verified address of an allowed domain"))
}

/// The address, verified if the provider says so and may say so for its domain.
pub(super) fn believed(provider: &ProviderOptions, address: &str, verified: bool) -> Option<Email> {
    let address = address.trim().to_lowercase();
    let (local, domain) = address.rsplit_once('@')?;
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if local.is_empty() || address.len() > UserLimits::EMAIL || address.contains(odd) {
        return None;
    }
    let verified = verified && provider.email_domains.iter().any(|one| one == domain);
    Some(if verified { Email::verified_by(address, &provider.issuer) } else { Email::unverified(address) })
}

fn judged(provider: &ProviderOptions, claims: &Claims, address: &str) -> Option<Email> {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    let verified = match provider.kind {
        // Google is authoritative for its own addresses, and for those of a Workspace domain that `hd` names.
        ProviderKind::Google => {
            let hosted = text(claims, "hd").is_some_and(|hd| hd.eq_ignore_ascii_case(domain));
            is_true(claims.get("email_verified")) && (hosted || domain.eq_ignore_ascii_case("gmail.com"))
        }
        // `email` of Entra ID is whatever a tenant's administrator writes; `xms_edov` says that the domain is theirs.
        ProviderKind::Entra => is_true(claims.get("xms_edov")),
        _ => is_true(claims.get("email_verified")),
    };
    believed(provider, address, verified)
}

/// `true`, in the forms that providers have for it.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => matches!(&**text, "true" | "1"),
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        _ => false,
    }
}

fn groups(claims: &Claims, claim: &str) -> Result<Vec<AssertedGroup>, OidcError> {
    // Where there are too many, Entra ID says where to ask instead (distributed claims, Core §5.6.2). Taken for none,
    // the group that forbids would be missing.
    let elsewhere = claims.get("_claim_names").is_some_and(|names| names.get(claim).is_some());
    if elsewhere || is_true(claims.get("hasgroups")) {
        return Err(OidcError::Invalid(
            "the person has more groups than fit into a token: let the identity provider name only those that are \
             assigned to this application",
        ));
    }
    let named: Vec<&Value> = match at(claims, claim) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(one) => vec![one],
    };
    let wrong = OidcError::Invalid("the claim with the groups is no list of texts");
    let group = |value: &Value| {
        value.as_str().map(|id| AssertedGroup { id: id.to_owned(), name: id.trim_start_matches('/').to_owned() })
    };
    named.into_iter().map(group).collect::<Option<Vec<_>>>().ok_or(wrong)
}

/// A claim by its name, or by a JSON pointer.
pub(super) fn at<'a>(claims: &'a Claims, claim: &str) -> Option<&'a Value> {
    claims.get(claim).or_else(|| {
        let (first, rest) = claim.strip_prefix('/')?.split_once('/')?;
        claims.get(first)?.pointer(&format!("/{rest}"))
    })
}

fn text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(json: &Value) -> Claims {
        json.as_object().unwrap().clone()
    }

    fn of_domain(mut provider: ProviderOptions) -> ProviderOptions {
        provider.email_domains = vec!["a.example".into()];
        provider
    }

    const TENANT: &str = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";

    /// Whoever can make a provider say an address would be whoever has it (nOAuth).
    #[test]
    fn an_address_counts_only_where_its_provider_may_vouch_for_it() {
        let plain = ProviderOptions::new("p", "https://p.example", "gateway");
        let google = ProviderOptions::google("g", "gateway");
        let entra = ProviderOptions::entra("e", TENANT, "gateway");
        let of_entra = |more: Value| {
            let mut all = json!({ "email": "ada@a.example", "tid": TENANT, "oid": "o" });
            all.as_object_mut().unwrap().extend(claims(&more));
            all
        };
        for (provider, said, may) in [
            (&plain, json!({ "email": "Ada@A.example", "email_verified": true }), true),
            (&plain, json!({ "email": "ada@a.example", "email_verified": "true" }), true),
            (&plain, json!({ "email": "ada@a.example", "email_verified": false }), false),
            (&plain, json!({ "email": "ada@a.example" }), false),
            (&plain, json!({ "email": "ada@b.example", "email_verified": true }), false),
            (&plain, json!({ "email": "ada@a.example@b.example", "email_verified": true }), false),
            (&plain, json!({ "email": "ada@b.a.example", "email_verified": true }), false),
            (&plain, json!({ "email": "@a.example", "email_verified": true }), false),
            (&plain, json!({}), false),
            (&google, json!({ "email": "ada@a.example", "email_verified": true, "hd": "a.example" }), true),
            (&google, json!({ "email": "ada@a.example", "email_verified": true }), false),
            (&google, json!({ "email": "ada@a.example", "email_verified": true, "hd": "b.example" }), false),
            (&google, json!({ "email": "ada@a.example", "hd": "a.example" }), false),
            (&entra, of_entra(json!({ "xms_edov": true })), true),
            (&entra, of_entra(json!({ "xms_edov": 1 })), true),
            (&entra, of_entra(json!({ "email_verified": true })), false),
            (&entra, of_entra(json!({ "xms_edov": "0" })), false),
        ] {
            let known = person(&of_domain(provider.clone()), "248289", &claims(&said));
            assert_eq!(known.is_ok(), may, "{said}");
            assert!(matches!(known, Ok(_) | Err(OidcError::NotAllowed(_))));
            // Where no domain is the provider's, all may sign in and no address is believed.
            let anybody = person(provider, "248289", &claims(&said)).unwrap();
            assert!(anybody.email.is_none_or(|email| !email.verified));
        }
    }

    #[test]
    fn a_person_of_entra_is_tenant_and_object() {
        let provider = ProviderOptions::entra("e", TENANT, "gateway");
        let known = person(&provider, "pairwise", &claims(&json!({ "tid": TENANT, "oid": "o" }))).unwrap();
        let issuer = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
        assert_eq!(known.identity, IdentityKey::new(issuer, "o"));
        for said in [json!({ "tid": "other", "oid": "o" }), json!({ "oid": "o" }), json!({ "tid": TENANT })] {
            assert!(person(&provider, "pairwise", &claims(&said)).is_err(), "{said}");
        }
    }

    #[test]
    fn an_address_is_verified_by_the_document_that_has_it() {
        let merged = |token: Value, userinfo: Value| {
            let mut all = claims(&token);
            merge(&mut all, claims(&userinfo));
            Value::Object(all)
        };
        let (ada, eve) = (json!({ "email": "ada@a.example" }), json!({ "email": "eve@a.example" }));
        let verified = |of: &Value, hd: bool| {
            let mut all = of.clone();
            all["email_verified"] = json!(true);
            if hd {
                all["hd"] = json!("a.example");
            }
            all
        };
        assert_eq!(merged(ada.clone(), verified(&ada, true)), verified(&ada, false));
        assert_eq!(merged(ada.clone(), verified(&eve, true)), ada);
        assert_eq!(merged(json!({ "email_verified": true, "hd": "a.example" }), eve.clone()), eve);
        assert_eq!(merged(json!({}), verified(&eve, true)), verified(&eve, false));
        assert_eq!(
            merged(json!({ "name": "Ada" }), json!({ "tid": "t", "oid": "o", "name": "Eve", "x": 1 })),
            json!({ "name": "Ada", "x": 1 })
        );
        let denied = json!({ "email": "ada@a.example", "email_verified": false });
        assert_eq!(merged(denied.clone(), verified(&ada, false)), denied);
    }

    #[test]
    fn groups_are_what_the_claim_lists() {
        let mut provider = ProviderOptions::keycloak("k", "https://k.example/realms/a", "gateway");
        let ids = |provider: &ProviderOptions, said: &Value| {
            let known = person(provider, "s", &claims(said));
            known.map(|known| known.groups.map(|all| all.into_iter().map(|one| one.id).collect::<Vec<_>>()))
        };
        let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(ids(&provider, &json!({ "groups": ["/ops", "dev"] })).unwrap(), list(&["/ops", "dev"]));
        assert_eq!(ids(&provider, &json!({ "groups": "ops" })).unwrap(), list(&["ops"]));
        assert_eq!(ids(&provider, &json!({})).unwrap(), list(&[]), "the provider was asked, and said none");
        assert!(ids(&provider, &json!({ "groups": [1] })).is_err());
        assert!(ids(&provider, &json!({ "_claim_names": { "groups": "src1" } })).is_err());
        assert!(ids(&provider, &json!({ "hasgroups": true })).is_err());
        provider.groups_claim = Some("/realm_access/roles".into());
        assert_eq!(ids(&provider, &json!({ "realm_access": { "roles": ["a"] } })).unwrap(), list(&["a"]));
        provider.groups_claim = Some("https://a.example/groups".into());
        assert_eq!(ids(&provider, &json!({ "https://a.example/groups": ["a"] })).unwrap(), list(&["a"]));
        provider.groups_claim = None;
        assert_eq!(ids(&provider, &json!({ "groups": ["a"] })).unwrap(), None, "nobody asked");
    }
}
