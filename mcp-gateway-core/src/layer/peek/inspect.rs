//! From bytes to facts.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{PeekOptions, UnknownMethods};
use crate::context::{Completes, Elicitation, MessageFacts, MessageKind};
use crate::refusal::Refusal;
use crate::wire::method::{Method, is_known};
use crate::wire::mirror::{self, MirrorError};
use crate::wire::outcome::Scanner;
use crate::wire::rpc::code;
use crate::wire::version::{Claim, Era, ProtocolVersion, claimed_era};
use crate::wire::{Fault, Kind, Message, PeekError, peek};

/// Reads a message and compares it with its headers.
///
/// The facts are there also when the message is refused for something that was found after its id was read: the refusal
/// then carries the id.
///
/// # Errors
/// The refusal, with whatever facts there are.
pub fn inspect(
    headers: &HeaderMap,
    body: &Bytes,
    options: &PeekOptions,
) -> Result<MessageFacts, (Refusal, Option<Box<MessageFacts>>)> {
    let claimed = claimed_era(headers);
    let claim = *claimed.as_ref().unwrap_or(&Claim::Unknown);
    let message = match peek(body, &options.message) {
        Ok(message) => message,
        Err(error) if error.fault() == Fault::NoTarget && claim.is_modern() => {
            return Err(
                removed(body).map_or_else(|| (malformed(error), None), |(refusal, facts)| (refusal, Some(facts)))
            );
        }
        Err(error) => return Err((malformed(error), None)),
    };
    let facts = facts(&message, claim, body);
    if let Err(error) = mirror::check_claim(claimed, headers, &message) {
        return Err((contradicted(&error), Some(Box::new(facts))));
    }
    let unknown = |method: &str| !is_known(facts.era, method);
    if message.method.as_deref().is_some_and(unknown) && options.unknown_methods == UnknownMethods::Deny {
        return Err((method_not_found(facts.era), Some(Box::new(facts))));
    }
    Ok(facts)
}

fn facts(message: &Message<'_>, claim: Claim, body: &Bytes) -> MessageFacts {
    let meta = message.meta();
    let era = claim.era().unwrap_or_else(|| match meta {
        Some(meta) if meta.protocol_version.is_some() => Era::Modern,
        _ => Era::Legacy,
    });
    let params = message.params.as_ref();
    let version = match claim {
        Claim::Known(version) => Some(version),
        // `initialize` states the version that it asks for in its body.
        Claim::Absent => params.and_then(|params| ProtocolVersion::parse(params.protocol_version.as_deref()?)),
        Claim::Unknown => None,
    };
    let method = message.method.as_deref().map(|method| match Method::parse(method) {
        Some(known) => Cow::Borrowed(known.as_str()),
        None => Cow::Owned(method.to_owned()),
    });
    let arguments = params.and_then(|params| params.arguments).map(|arguments| {
        // Both are slices of one allocation.
        let start = arguments.as_ptr() as usize - body.as_ptr() as usize;
        start..start + arguments.len()
    });
    let client = |own: fn(&crate::wire::Params<'_>) -> Option<Arc<str>>, of_meta: Option<&Cow<'_, str>>| {
        of_meta.map(|name| cut(name, 256)).or_else(|| params.and_then(own))
    };
    MessageFacts {
        kind: match message.kind {
            Kind::Request => MessageKind::Request,
            Kind::Notification => MessageKind::Notification,
            Kind::Response => MessageKind::Response,
        },
        era,
        version,
        method,
        target: message.target().map(Into::into),
        completes: completes(message),
        id: message.id.map(|id| text(id.raw())),
        arguments,
        client_name: client(
            |params| params.client_name.as_deref().map(|name| cut(name, 256)),
            meta.and_then(|meta| meta.client_name.as_ref()),
        ),
        client_version: client(
            |params| params.client_version.as_deref().map(|version| cut(version, 256)),
            meta.and_then(|meta| meta.client_version.as_ref()),
        ),
        elicitation: params.and_then(|params| params.capabilities).map(elicitation).unwrap_or_default(),
        body: body.clone(),
    }
}

fn completes(message: &Message<'_>) -> Option<Completes> {
    if message.method() != Method::CompletionComplete.as_str() {
        return None;
    }
    match message.params.as_ref()?.reference.as_ref()?.kind.as_deref()? {
        "ref/prompt" => Some(Completes::Prompt),
        "ref/resource" => Some(Completes::Resource),
        _ => None,
    }
}

/// How a client can ask its user, by its capabilities. Without a mode, as in revisions that know one only, by a form.
fn elicitation(capabilities: &[u8]) -> Elicitation {
    #[derive(Deserialize)]
    struct Capabilities {
        elicitation: Option<Modes>,
    }
    #[derive(Deserialize)]
    struct Modes {
        form: Option<IgnoredAny>,
        url: Option<IgnoredAny>,
    }
    let modes =
        serde_json::from_slice(capabilities).ok().and_then(|capabilities: Capabilities| capabilities.elicitation);
    modes.map_or_else(Elicitation::default, |Modes { form, url }| Elicitation {
        form: form.is_some() || url.is_none(),
        url: url.is_some(),
    })
}

/// A method that the revision has removed is not found, even without the target that earlier revisions demand.
fn removed(body: &Bytes) -> Option<(Refusal, Box<MessageFacts>)> {
    let mut scanner = Scanner::new();
    scanner.push(body);
    let method = Method::parse(scanner.method()?).filter(|method| !method.is_in(Era::Modern))?;
    let facts = MessageFacts {
        kind: MessageKind::Request,
        era: Era::Modern,
        method: Some(Cow::Borrowed(method.as_str())),
        id: Some(text(scanner.id()?)),
        body: body.clone(),
        ..MessageFacts::none()
    };
    Some((method_not_found(Era::Modern), Box::new(facts)))
}

pub(crate) fn method_not_found(era: Era) -> Refusal {
    let status = if era == Era::Modern { StatusCode::NOT_FOUND } else { StatusCode::OK };
    Refusal::new(status, "Method not found").with_code(code::METHOD_NOT_FOUND)
}

/// An id as it was written: a part of a body that was found to be UTF-8.
fn text(id: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(id).into()
}

/// At most `limit` bytes, cut between characters.
pub(crate) fn cut<'a, T: From<&'a str>>(text: &'a str, limit: usize) -> T {
    text[..text.floor_char_boundary(limit)].into()
}

fn malformed(error: PeekError) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error.message())
        .with_code(error.code())
        .with_data(serde_json::json!({ "offset": error.offset() }))
}

fn contradicted(error: &MirrorError) -> Refusal {
    let refusal = Refusal::new(StatusCode::BAD_REQUEST, error.to_string()).with_code(error.code());
    match error.data() {
        Some(data) => refusal.with_data(data),
        None => refusal,
    }
}
