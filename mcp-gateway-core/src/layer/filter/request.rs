//! The request's way through the filters.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request};

use super::judge::failed;
use super::{Chain, params, refused};
use crate::Body;
use crate::context::{McpContext, MessageFacts, MessageKind};
use crate::contract::{Action, Ask, Direction, Needs, Target, Verdict, View};
use crate::layer::peek::inspect;
use crate::refusal::Refusal;
use crate::wire::mirror::MCP_NAME;

pub(super) async fn filter(
    chain: &Chain,
    needs: &mut [Needs],
    mut request: Request<Body>,
    cx: &McpContext,
) -> Result<Request<Body>, Refusal> {
    let Some(message) = cx.message().filter(|message| message.kind != MessageKind::None) else { return Ok(request) };
    let mut view = View {
        direction: Direction::Request,
        method: message.method.as_deref().map(Into::into),
        target: message.target.clone(),
        body: message.body.clone(),
    };
    let mut replaced = false;
    for (number, filter) in chain.filters.iter().enumerate() {
        if !needs[number].request {
            continue;
        }
        match chain.judge(&**filter, cx, &view, chain.options.peek.message.max_bytes).await {
            Verdict::Pass => {}
            Verdict::Refuse { public } => return Err(refused(&**filter, public, cx)),
            Verdict::Failed { cause } => return Err(failed(&cause)),
            Verdict::Replace(body) => {
                let target: Option<Arc<str>> = target_of(&body, chain).map(Into::into);
                if target != view.target {
                    chain.widen(needs, target.as_deref(), cx);
                    view.target = target;
                }
                view.body = body;
                replaced = true;
            }
        }
    }
    if !replaced {
        if needs.iter().any(|needs| needs.request) {
            params::follow(request.headers_mut(), &message.body, &message.body);
        }
        return Ok(request);
    }
    let (mut parts, _) = request.into_parts();
    // The header follows the body before both are compared again.
    let name = target_of(&view.body, chain).filter(|_| parts.headers.contains_key(MCP_NAME));
    if let Some(name) = name {
        parts.headers.insert(MCP_NAME, coded(&name).ok_or_else(|| nonsense("a name that no header can carry"))?);
    }
    params::follow(&mut parts.headers, &message.body, &view.body);
    let facts = inspect(&parts.headers, &view.body, &chain.options.peek)
        .map_err(|(refusal, _)| nonsense("an unacceptable message").because(refusal.public().to_owned()))?;
    if facts.method != message.method || facts.id != message.id || facts.kind != message.kind {
        return Err(nonsense("another method or id"));
    }
    if facts.completes != message.completes {
        return Err(nonsense("another kind of reference"));
    }
    authorize(chain, cx, &facts).await?;
    cx.note_request_mutated();
    if let Some(target) = facts.target.filter(|target| message.target.as_ref() != Some(target)) {
        cx.set_forwarded_target(target).map_err(Refusal::fact_set)?;
    }
    Ok(Request::from_parts(parts, Body::from(view.body)))
}

fn nonsense(what: &'static str) -> Refusal {
    failed(&format!("a filter replaced a message by {what}"))
}

async fn authorize(chain: &Chain, cx: &McpContext, facts: &MessageFacts) -> Result<(), Refusal> {
    let (Some(principal), Some(route), Some(method)) = (cx.principal(), cx.route(), facts.method.as_deref()) else {
        return Err(Refusal::layer_absent("principal or route", "AuthenticateLayer or ResolveLayer"));
    };
    let decision = chain.authorizer.decide(&Ask {
        principal,
        action: Action::Method(method),
        target: Target { server: &route.id, name: facts.target.as_deref() },
        cx,
        arguments: facts.arguments(),
    });
    if decision.await.allow { Ok(()) } else { Err(nonsense("one that the caller may not send")) }
}

fn target_of(body: &Bytes, chain: &Chain) -> Option<String> {
    let message = crate::wire::peek(body, &chain.options.peek.message).ok()?;
    message.target().map(str::to_owned)
}

/// A value as the specification codes it: plain where it can be, else base64 between markers.
pub(super) fn coded(name: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let plain = name.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && name.trim() == name
        && !(name.starts_with("=?base64?") && name.ends_with("?="));
    let text = if plain { name.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(name)) };
    HeaderValue::from_str(&text).ok()
}
