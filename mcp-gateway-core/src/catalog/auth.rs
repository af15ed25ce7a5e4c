//! As whom a remote entry is called.

use std::sync::Arc;

use http::Uri;

use super::compile::{Problem, bounded, no_variables, wrong};
use super::limits::CatalogLimits as Limits;
use super::remote::{authority_of, link};
use crate::record::{
    Entry, Mount, OAuthClientSource, RemoteAuth, RemoteAuthKind, RemoteClient, RemoteClientKind, RouteAuth,
    StaticClient,
};

const AUTH: &str = "remoteConfig.auth";
const CLIENT: &str = "remoteConfig.auth.client";

/// `None`: nobody is asked for a credential.
pub(super) fn route_auth(entry: &Entry, url: &Uri, mount: &Mount) -> Result<Option<RouteAuth>, Problem> {
    let Some(auth) = entry.remote_config.as_ref().and_then(|remote| remote.auth.as_ref()) else { return Ok(None) };
    only_its_own_fields(auth)?;
    let scopes = || scopes(&auth.scopes);
    Ok(match auth.kind {
        RemoteAuthKind::None => None,
        RemoteAuthKind::Oauth => {
            let client = auth.client.as_ref().map_or(Ok(OAuthClientSource::Auto), source)?;
            Some(RouteAuth::Account { scopes: scopes()?, client })
        }
        RemoteAuthKind::ClientCredentials => {
            let Some(client) = &auth.client else {
                return wrong(CLIENT, "is missing, but type: clientCredentials needs it");
            };
            let OAuthClientSource::Static(client) = source(client)? else {
                return wrong(format!("{CLIENT}.type"), "must be static for type: clientCredentials");
            };
            if client.client_secret.is_none() {
                return wrong(format!("{CLIENT}.clientSecret"), "is missing, but type: clientCredentials needs it");
            }
            Some(RouteAuth::Machine { scopes: scopes()?, client })
        }
        RemoteAuthKind::Minted => Some(RouteAuth::Minted { audience: audience(auth, url, mount)? }),
    })
}

/// A field of another type is a sign that the author meant something else.
fn only_its_own_fields(auth: &RemoteAuth) -> Result<(), Problem> {
    use RemoteAuthKind::{ClientCredentials, Minted, Oauth};
    let asks = [Oauth, ClientCredentials].contains(&auth.kind);
    let fields = [
        ("scopes", !auth.scopes.is_empty(), asks, "oauth or clientCredentials"),
        ("client", auth.client.is_some(), asks, "oauth or clientCredentials"),
        ("audience", auth.audience.is_some(), auth.kind == Minted, "minted"),
    ];
    match fields.into_iter().find(|(_, present, belongs, _)| *present && !*belongs) {
        Some((field, _, _, kinds)) => {
            wrong(format!("{AUTH}.{field}"), format!("belongs to type: {kinds}; remove it or change the type"))
        }
        None => Ok(()),
    }
}

/// RFC 6749 §3.3.
fn scopes(scopes: &[String]) -> Result<Arc<[Box<str>]>, Problem> {
    bounded(&format!("{AUTH}.scopes"), scopes)?;
    for (index, scope) in scopes.iter().enumerate() {
        let plain = (1..=Limits::SCOPE).contains(&scope.len())
            && scope.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !b"\"\\".contains(&byte));
        if !plain {
            let problem = format!("must be 1 to {} visible ASCII characters but \" and \\", Limits::SCOPE);
            return wrong(format!("{AUTH}.scopes[{index}]"), problem);
        }
    }
    Ok(scopes.iter().map(|scope| scope.as_str().into()).collect())
}

fn source(client: &RemoteClient) -> Result<OAuthClientSource, Problem> {
    let fields = [
        ("issuer", client.issuer.is_some()),
        ("clientId", client.client_id.is_some()),
        ("clientSecret", client.client_secret.is_some()),
    ];
    if client.kind != RemoteClientKind::Static
        && let Some((field, _)) = fields.into_iter().find(|(_, present)| *present)
    {
        return wrong(format!("{CLIENT}.{field}"), "belongs to type: static; remove it or change the type");
    }
    Ok(match client.kind {
        RemoteClientKind::Auto => OAuthClientSource::Auto,
        RemoteClientKind::Cimd => OAuthClientSource::Document,
        RemoteClientKind::Dcr => OAuthClientSource::Registration,
        RemoteClientKind::Static => OAuthClientSource::Static(registered(client)?),
    })
}

fn registered(client: &RemoteClient) -> Result<StaticClient, Problem> {
    let text = |name: &str, value: Option<&str>| {
        let field = format!("{CLIENT}.{name}");
        match value {
            None | Some("") => wrong(field, "is missing, but type: static needs it"),
            Some(value) if value.len() > Limits::URL => wrong(field, format!("is longer than {} bytes", Limits::URL)),
            Some(value) => {
                no_variables(&field, value)?;
                Ok(Arc::<str>::from(value))
            }
        }
    };
    let issuer = text("issuer", client.issuer.as_deref())?;
    link(&format!("{CLIENT}.issuer"), &issuer)?;
    let client_id = text("clientId", client.client_id.as_deref())?;
    if let Some(secret) = &client.client_secret {
        text("clientSecret", Some(secret.expose()))?;
    }
    Ok(StaticClient { issuer, client_id, client_secret: client.client_secret.clone() })
}

/// A token for one server must be worth nothing at another: neither at this gateway nor at whatever else trusts it.
fn audience(auth: &RemoteAuth, url: &Uri, mount: &Mount) -> Result<Arc<str>, Problem> {
    let field = format!("{AUTH}.audience");
    let Some(audience) = auth.audience.as_deref().filter(|audience| !audience.is_empty()) else {
        return wrong(field, "is missing, but type: minted needs it");
    };
    link(&field, audience)?;
    let Ok(named) = audience.parse::<Uri>() else { return wrong(field, "is not a URL") };
    if authority_of(&named).is_some_and(|authority| authority == mount.authority()) {
        return wrong(field, "names this gateway itself: the token would be good here");
    }
    if named.scheme() != url.scheme() || authority_of(&named) != authority_of(url) {
        return wrong(field, "must have the origin of fixedURL: a token for another server does not go to this one");
    }
    Ok(audience.into())
}
