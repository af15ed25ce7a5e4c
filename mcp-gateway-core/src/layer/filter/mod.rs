//! Lets filters inspect and change messages.

mod body;
mod canonical;
mod json;
mod judge;
mod params;
mod request;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::FilteredBody;
pub(crate) use self::judge::is_same;
use self::judge::{Identity, failed};
use crate::context::{McpContext, MessageFacts, MessageKind};
use crate::contract::{Authorizer, Direction, Filter, Head, Needs, Verdict, View};
use crate::layer::peek::{PeekOptions, is_utf8};
use crate::refusal::{Refusal, tool_result};
use crate::wire::rpc::{code, error_body};
use crate::wire::sse::is_event_stream;
use crate::wire::version::Era;
use crate::wire::{Kind, same_id};
use crate::{Body, BoxFuture};

/// Runs filters over the messages that they ask for, in their order.
///
/// Required facts: `route`, `message`. An exchange that no filter asks for passes through without a copy or an
/// allocation. A request that a filter replaced is read and authorized again; its method and id cannot change, and its
/// mirrored headers are made anew. What cannot be read although a filter wants to see it is refused. Filters see every
/// response on a GET stream, unless they say otherwise, and every one on another stream that answers a different request.
#[derive(Clone)]
pub struct FilterLayer(Arc<Chain>);

/// How a [`FilterLayer`] reads.
#[derive(Debug, Clone)]
pub struct FilterOptions {
    /// `limits.filter_body_bytes`: the largest JSON answer that is collected for filters.
    pub body_bytes: usize,
    /// `limits.event_bytes`: the largest event.
    pub event_bytes: usize,
    /// `limits.filter_seconds`: how long one filter may take over one message.
    pub filter_time: Duration,
    /// How a replaced request is read.
    pub peek: PeekOptions,
}

impl Default for FilterOptions {
    /// 8 MiB of JSON, 16 MiB an event, 10 s a filter and message.
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            event_bytes: 16 << 20,
            filter_time: Duration::from_secs(10),
            peek: PeekOptions::default(),
        }
    }
}

pub(crate) struct Chain {
    filters: Vec<Arc<dyn Filter>>,
    authorizer: Arc<dyn Authorizer>,
    options: FilterOptions,
}

impl FilterLayer {
    /// Runs these filters; what they replace is authorized by this authorizer.
    pub fn new(filters: Vec<Arc<dyn Filter>>, authorizer: Arc<dyn Authorizer>, options: FilterOptions) -> Self {
        Self(Arc::new(Chain { filters, authorizer, options }))
    }
}

impl std::fmt::Debug for FilterLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.0.filters.iter().map(|filter| filter.name()).collect();
        f.debug_struct("FilterLayer").field("filters", &names).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for FilterLayer {
    type Service = FilterService<S>;

    fn layer(&self, inner: S) -> FilterService<S> {
        FilterService { chain: Arc::clone(&self.0), inner }
    }
}

/// The service of a [`FilterLayer`].
#[derive(Clone)]
pub struct FilterService<S> {
    chain: Arc<Chain>,
    inner: S,
}

impl<S: std::fmt::Debug> std::fmt::Debug for FilterService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S> Service<Request<Body>> for FilterService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FilterFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.chain.filters.is_empty() {
            return FilterFuture::inner(self.inner.call(request));
        }
        let cx = McpContext::of(request.extensions()).cloned();
        let Some(cx) = cx.filter(|cx| cx.route().is_some() && cx.message().is_some()) else {
            let refusal = Refusal::layer_absent("route or message", "ResolveLayer or PeekLayer");
            return FilterFuture::slow(Box::pin(async move { Ok(refusal.into_mcp(None)) }));
        };
        let resumes = request.method() == Method::GET;
        let Some(mut needs) = self.chain.needs(&cx, resumes) else {
            return FilterFuture::inner(self.inner.call(request));
        };
        let chain = Arc::clone(&self.chain);
        let clone = self.inner.clone();
        // The service that was polled ready is the one that is called.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        FilterFuture::slow(Box::pin(async move {
            let request = match request::filter(&chain, &mut needs, request, &cx).await {
                Ok(request) => request,
                Err(refusal) => return Ok(refusal.into_mcp(Some(&cx))),
            };
            chain.note(&needs, &cx);
            let response = inner.call(request).await?;
            Ok(match respond(chain, needs, response, &cx).await {
                Ok(response) => response,
                Err(refusal) => refusal.into_mcp(Some(&cx)),
            })
        }))
    }
}

/// The future of a [`FilterService`].
pub type FilterFuture<F> = super::either::Either<F, BoxFuture<Result<Response<Body>, Infallible>>>;

impl Chain {
    /// What the filters want to see of an exchange; `None` when that is nothing. A stream that a client `resumes` may
    /// bring the response to any call of its session, of which no head tells: filters see it, or hanging up and coming
    /// back would be a way around those that ask by method.
    fn needs(&self, cx: &McpContext, resumes: bool) -> Option<Vec<Needs>> {
        let head = head_of(cx);
        let needs = |filter: &Arc<dyn Filter>| {
            let needs = filter.needs(&head);
            Needs { response: needs.response || (resumes && filter.resumed(head.server)), ..needs }
        };
        if self.filters.iter().all(|filter| needs(filter) == Needs::NONE) {
            self.note(&[], cx);
            return None;
        }
        // Asked again only by the few exchanges that somebody wants to see.
        Some(self.filters.iter().map(needs).collect())
    }

    /// Keeps what is looked at for those who end streams when they come to look further: of the others' needs they know
    /// nothing.
    fn note(&self, needs: &[Needs], cx: &McpContext) {
        let kept = self.filters.iter().zip(needs).filter(|(filter, _)| filter.may_outgrow());
        let _ = cx.set_inspected(kept.map(|(filter, needs)| (filter.name().into(), *needs)).collect());
    }

    /// Adds what the filters want to see because of the target that a filter has put there.
    fn widen(&self, needs: &mut [Needs], target: Option<&str>, cx: &McpContext) {
        let head = Head { target, ..head_of(cx) };
        for (filter, needs) in self.filters.iter().zip(needs) {
            *needs = needs.or(filter.needs(&head));
        }
    }

    fn chosen<'a>(
        &'a self,
        needs: &'a [Needs],
        wants: fn(&Needs) -> bool,
    ) -> impl Iterator<Item = &'a Arc<dyn Filter>> {
        self.filters.iter().zip(needs).filter(move |(_, needs)| wants(needs)).map(|(filter, _)| filter)
    }
}

/// What is known of an exchange before anything of it is read for filters.
pub(crate) fn head_of(cx: &McpContext) -> Head<'_> {
    let message = cx.message();
    Head {
        server: cx.route().map_or("", |route| &route.id),
        method: message.and_then(|message| message.method.as_deref()),
        target: message.and_then(|message| message.target.as_deref()),
        era: message.map_or(Era::Legacy, |message| message.era),
        server_requests: cx.route().map(|route| route.server_requests).unwrap_or_default(),
    }
}

/// What the caller reads when a filter refuses.
fn refused(filter: &dyn Filter, public: String, cx: &McpContext) -> Refusal {
    tracing::info!(filter = filter.name(), request_id = %cx.request_id(), "a filter refuses a message");
    let message: Option<&MessageFacts> = cx.message();
    match message.and_then(|message| message.method.as_deref()) {
        Some("tools/call") => Refusal::tool_result(public),
        _ if message.is_some_and(|message| message.kind == MessageKind::Notification) => {
            Refusal::new(StatusCode::ACCEPTED, public)
        }
        _ => Refusal::new(StatusCode::OK, public).with_code(code::REFUSED_BY_POLICY),
    }
}

/// What takes the place of a refused response in a stream: what the caller reads of a [`refused`] answer. `answers` says
/// whether it answers the request of this exchange.
fn refused_response(id: Option<&[u8]>, answers: bool, public: &str, cx: &McpContext) -> bytes::Bytes {
    match cx.message().filter(|message| answers && message.method.as_deref() == Some("tools/call")) {
        Some(call) => tool_result(call.id_bytes(), public, call.era == Era::Modern),
        None => error_body(id, code::REFUSED_BY_POLICY, public, None),
    }
}

async fn respond(
    chain: Arc<Chain>,
    needs: Vec<Needs>,
    response: Response<Body>,
    cx: &McpContext,
) -> Result<Response<Body>, Refusal> {
    let wanted = needs.iter().any(|needs| needs.response || needs.events);
    if !wanted || cx.refusal().is_some() || http_body::Body::is_end_stream(response.body()) {
        return Ok(response);
    }
    let events = is_event_stream(response.headers());
    if response.headers().contains_key(CONTENT_ENCODING) {
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "The server's answer is encoded and cannot be inspected."));
    }
    // JSON and events are UTF-8 whatever the server says; some readers believe what it says.
    let content_type = response.headers().get(CONTENT_TYPE).map_or(Ok(""), |value| value.to_str());
    if !content_type.is_ok_and(is_utf8) {
        let public = "The server's answer is not UTF-8 and cannot be inspected.";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, public));
    }
    if events {
        let cx = cx.clone();
        return Ok(response.map(|body| Body::new(FilteredBody::new(body, chain, needs, cx))));
    }
    let (parts, body) = response.into_parts();
    let most = chain.options.body_bytes;
    let body = if needs.iter().any(|needs| needs.response) {
        Limited::new(body, most).collect().await.map_err(json::unreadable)?.to_bytes()
    } else {
        // A response is not for them, but an event may come as JSON.
        match json::begin(body, most).await? {
            json::Begun::Response(body) => return Ok(Response::from_parts(parts, body)),
            json::Begun::Whole(body) => body,
        }
    };
    let message = cx.message();
    let Some(Identity { kind, method, id }) = Identity::of(&body) else { return no_message(parts, cx) };
    let asked = message.and_then(MessageFacts::id_bytes);
    // Some clients go by ids alone: what has another one answers another request.
    let answers = id.is_none_or(|id| asked.is_some_and(|asked| same_id(asked, &id)));
    let wants: fn(&Needs) -> bool = match kind {
        Kind::Response => |needs| needs.response,
        _ => |needs| needs.events,
    };
    let mut view = View {
        direction: if kind == Kind::Response { Direction::Response } else { Direction::Event },
        method: match kind {
            Kind::Response => message.filter(|_| answers).and_then(|message| message.method.as_deref()).map(Into::into),
            _ => method,
        },
        target: message.filter(|_| answers).and_then(|message| message.target.clone()),
        body,
    };
    for filter in chain.chosen(&needs, wants) {
        match chain.judge(&**filter, cx, &view, most).await {
            Verdict::Pass => {}
            Verdict::Replace(body) => {
                view.body = body;
                cx.note_response_mutated();
            }
            Verdict::Refuse { public } => return Err(refused(&**filter, public, cx)),
            Verdict::Failed { cause } => return Err(failed(&cause)),
        }
    }
    Ok(Response::from_parts(parts, Body::from(view.body)))
}

/// What is no message cannot be inspected. An error of the server keeps its status, without its text.
fn no_message(parts: http::response::Parts, cx: &McpContext) -> Result<Response<Body>, Refusal> {
    if parts.status.is_success() {
        let public = "The server's answer is not one message and cannot be inspected.";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, public));
    }
    cx.note_response_mutated();
    let public = parts.status.canonical_reason().unwrap_or("The server answered with an error.");
    let id = cx.message().and_then(MessageFacts::id_bytes);
    let body = error_body(id, i64::from(parts.status.as_u16()) * 100, public, None);
    Ok(Response::from_parts(parts, Body::from(body)))
}

#[cfg(test)]
mod tests;
