//! As whom a server is called, and what a caller is told who has to connect an account first.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Body;
use crate::context::{McpContext, MessageFacts, MessageKind};
use crate::contract::{
    ConnectReason, CredentialAsk, CredentialError, UpstreamCredential, UpstreamCredentials, UpstreamRefusal,
};
use crate::record::Route;
use crate::refusal::Refusal;
use crate::wire::method::Method;
use crate::wire::rpc::code;
use crate::wire::version::Era;

/// The name of our request among a server's own `inputRequests`.
const OURS: &str = "mcp-gateway/connect";
/// Bytes of a challenge that is read.
const CHALLENGE: usize = 4 << 10;

/// A call in somebody's name.
pub(super) struct Calling {
    credentials: Arc<dyn UpstreamCredentials>,
    ask: CredentialAsk,
    credential: UpstreamCredential,
}

impl Calling {
    /// Gets the credential.
    pub(super) async fn begin(
        credentials: Option<&Arc<dyn UpstreamCredentials>>,
        cx: &McpContext,
        route: &Arc<Route>,
    ) -> Result<Self, Refusal> {
        let credentials = credentials.ok_or_else(|| Refusal::layer_absent("credential", "UpstreamCredentials"))?;
        let principal = cx.principal().ok_or_else(|| Refusal::layer_absent("principal", "AuthenticateLayer"))?;
        let ask = CredentialAsk { subject: principal.subject.clone(), route: Arc::clone(route) };
        let credential = credentials.credential(&ask).await.map_err(|error| refuse(error, cx, route))?;
        cx.set_credential(Arc::clone(&credential.id)).map_err(Refusal::fact_set)?;
        Ok(Self { credentials: Arc::clone(credentials), ask, credential })
    }

    /// Puts the credential on a request, in the place of any other.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.credential.value.clone());
    }

    /// Gets another credential after this one was refused.
    pub(super) async fn renew(
        &mut self,
        refused: &UpstreamRefusal,
        cx: &McpContext,
        route: &Route,
    ) -> Result<(), Refusal> {
        let renewed = self.credentials.refused(&self.ask, &self.credential, refused).await;
        self.credential = renewed.map_err(|error| refuse(error, cx, route))?;
        Ok(())
    }
}

/// How an answer refuses the credential of its request, if it does.
pub(super) fn refused(answer: &Response<Body>) -> Option<UpstreamRefusal> {
    let status = answer.status();
    if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return None;
    }
    // Several fields are one list (RFC 9110 §5.3).
    let fields = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let challenge = fields.collect::<Vec<_>>().join(", ");
    let is_read = (1..=CHALLENGE).contains(&challenge.len());
    Some(UpstreamRefusal { status, challenge: is_read.then(|| challenge.into()) })
}

/// The credential is new, but the request is gone.
pub(super) fn try_again() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The account's token was renewed. Send the request again.")
        .retry_after(1)
}

/// The server takes no credential that there is.
pub(super) fn not_accepted(route: &Route) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "The server does not accept the gateway's credentials.")
        .because(format!("{}: upstream refused two credentials", route.id))
}

fn refuse(error: CredentialError, cx: &McpContext, route: &Route) -> Refusal {
    match error {
        CredentialError::Connect { url, why } => connect(&url, why, cx, route),
        CredentialError::Denied(why) => {
            let public = "The gateway has no credential for this server that the call could be made with.";
            Refusal::new(StatusCode::BAD_GATEWAY, public).because(format!("{}: {why}", route.id))
        }
        CredentialError::Unavailable(error) => {
            let public = "The credential for this server cannot be had now.";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, public).retry_after(5).because(error)
        }
    }
}

/// "Connect your account", in the form that the client understands.
fn connect(url: &str, why: ConnectReason, cx: &McpContext, route: &Route) -> Refusal {
    let name = &route.name;
    let text = match why {
        ConnectReason::NotConnected => format!("Connect your account for {name} first: open {url}, then try again."),
        ConnectReason::Reconnect => format!("Connect your account for {name} anew: open {url}, then try again."),
        ConnectReason::MoreScopes => format!("{name} asks for more rights: open {url} to agree, then try again."),
    };
    let Some(message) = cx.message().filter(|message| message.kind == MessageKind::Request) else {
        // Streams and notifications have no answer that anybody reads.
        return Refusal::new(StatusCode::BAD_GATEWAY, text);
    };
    let id = cx.request_id().to_string();
    let elicitation = json!({ "mode": "url", "elicitationId": id, "url": url, "message": text });
    let method = message.method.as_deref().unwrap_or_default();
    match message.era {
        // Who finds out the server's era would take a JSON-RPC error for the older one.
        Era::Modern if cx.is_probe() => Refusal::new(StatusCode::BAD_GATEWAY, text).with_data(json!({ "url": url })),
        Era::Modern if takes_input(method) && declares_url(message) => {
            let requests = json!({ OURS: { "method": "elicitation/create", "params": elicitation } });
            Refusal::input_required(text, &requests)
        }
        Era::Legacy if cx.session().is_some_and(|session| session.agreed.elicitation.url) => {
            let data = json!({ "elicitations": [elicitation] });
            Refusal::new(StatusCode::OK, text).with_code(code::URL_ELICITATION_REQUIRED).with_data(data)
        }
        _ => Refusal::new(StatusCode::OK, text).with_code(code::NOT_CONNECTED).with_data(json!({ "url": url })),
    }
}

/// The only methods that may be answered by `input_required`.
fn takes_input(method: &str) -> bool {
    [Method::ToolsCall, Method::PromptsGet, Method::ResourcesRead].iter().any(|one| one.as_str() == method)
}

/// Whether a modern request says that its client lets its user visit addresses.
fn declares_url(message: &MessageFacts) -> bool {
    let body: Option<Value> = serde_json::from_slice(&message.body).ok();
    const URL: &str = "/params/_meta/io.modelcontextprotocol~1clientCapabilities/elicitation/url";
    body.is_some_and(|body| body.pointer(URL).is_some_and(Value::is_object))
}

/// The message without the client's answer to what we have asked it: the server has asked for nothing of that name.
pub(super) fn without_our_answer(body: Body, cx: &McpContext) -> Result<Body, Refusal> {
    let modern = cx.message().is_some_and(|message| message.era == Era::Modern);
    let Some(bytes) = body.bytes().filter(|bytes| modern && memmem::find(bytes, OURS.as_bytes()).is_some()) else {
        return Ok(body);
    };
    let cut = cut(&bytes).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, "The answers of the request cannot be read.")
            .with_code(code::INVALID_REQUEST)
            .because(error)
    })?;
    Ok(cut.map_or(body, Body::from))
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "inputResponses")]
    responses: Option<&'a RawValue>,
}

/// `None`: there is no answer of ours. Everything but the member stays as it is, byte for byte.
fn cut(message: &Bytes) -> Result<Option<Bytes>, serde_json::Error> {
    let read: Message<'_> = serde_json::from_slice(message)?;
    let Some(raw) = read.params.and_then(|params| params.responses) else { return Ok(None) };
    let Ok(Members(members)) = serde_json::from_str(raw.get()) else { return Ok(None) };
    if members.iter().all(|(name, _)| name != OURS) {
        return Ok(None);
    }
    let mut kept = String::from("{");
    for (name, value) in members.iter().filter(|(name, _)| name != OURS) {
        if kept.len() > 1 {
            kept.push(',');
        }
        kept.push_str(&serde_json::to_string(name)?);
        kept.push(':');
        kept.push_str(value.get());
    }
    kept.push('}');
    // A raw value borrows from what it was read from.
    let begin = raw.get().as_ptr().addr() - message.as_ptr().addr();
    let parts = [&message[..begin], kept.as_bytes(), &message[begin + raw.get().len()..]];
    Ok(Some(parts.concat().into()))
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_answer_alone_is_cut_out() {
        let cut = |text: &'static str| cut(&Bytes::from_static(text.as_bytes())).unwrap();
        let with = r#"{"id":1, "params":{"n":1.0e2,"inputResponses": {"a":{"x": 1}, "mcp-gateway\/connect":{"action":"accept"},"b":2 },"z":0}}"#;
        let without = r#"{"id":1, "params":{"n":1.0e2,"inputResponses": {"a":{"x": 1},"b":2},"z":0}}"#;
        assert_eq!(cut(with).unwrap(), without);
        let alone = r#"{"params":{"inputResponses":{"mcp-gateway/connect":{}}}}"#;
        assert_eq!(cut(alone).unwrap(), r#"{"params":{"inputResponses":{}}}"#);
        for other in
            [r#"{"params":{"arguments":{"mcp-gateway/connect":1}}}"#, r#"{"params":{"inputResponses":[1]}}"#, "{}"]
        {
            assert!(cut(other).is_none(), "{other}");
        }
    }

    #[test]
    fn every_challenge_of_an_answer_is_read() {
        let answer = Response::builder().status(401).header(WWW_AUTHENTICATE, "Basic realm=x");
        let answer = answer.header(WWW_AUTHENTICATE, "Bearer error=invalid_token").body(Body::empty()).unwrap();
        let refusal = refused(&answer).unwrap();
        assert_eq!(refusal.challenge.as_deref(), Some("Basic realm=x, Bearer error=invalid_token"));
        let plain = Response::builder().status(403).body(Body::empty()).unwrap();
        assert!(refused(&plain).unwrap().challenge.is_none());
    }
}
