//! A stream on its way through the filters, event by event.
//!
//! Clients do not agree on where a line ends. So that what they read is what the filters have seen, an event leaves with
//! the bytes that it came with only if every reader splits it alike; else in [canonical form](super::canonical).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::judge::FAILED;
use super::{Chain, canonical, refused_response};
use crate::context::{McpContext, MessageFacts};
use crate::contract::{Direction, Needs, Verdict, View};
use crate::wire::Kind;
use crate::wire::outcome::Scanner;
use crate::wire::rpc::{code, error_body};
use crate::wire::sse::{Event, Splitter};
use crate::{Body, BoxError, BoxFuture};

/// A stream of which filters see every message. Events that nobody changes, and that can be read in one way only, keep
/// their bytes.
pub struct FilteredBody {
    inner: Body,
    splitter: Option<Splitter>,
    passage: Passage,
    judging: Option<BoxFuture<Bytes>>,
    ended: bool,
}

#[derive(Clone)]
struct Passage {
    chain: Arc<Chain>,
    needs: Arc<[Needs]>,
    cx: McpContext,
}

impl FilteredBody {
    pub(super) fn new(inner: Body, chain: Arc<Chain>, needs: Vec<Needs>, cx: McpContext) -> Self {
        let splitter = Some(Splitter::new(chain.options.event_bytes));
        let passage = Passage { chain, needs: needs.into(), cx };
        Self { inner, splitter, passage, judging: None, ended: false }
    }
}

impl std::fmt::Debug for FilteredBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FilteredBody(..)")
    }
}

impl http_body::Body for FilteredBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(judging) = &mut this.judging {
                let bytes = ready!(judging.as_mut().poll(task));
                this.judging = None;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let Some(splitter) = &mut this.splitter else { return Poll::Ready(None) };
            match splitter.next_event() {
                Ok(Some(event)) if event.data.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(canonical::unchanged(&event, &event.data)))));
                }
                Ok(Some(event)) => {
                    this.judging = Some(Box::pin(this.passage.clone().judge(event)));
                    continue;
                }
                Ok(None) if this.ended => {
                    // No filter has seen an event without an end, and no client may dispatch it; some do.
                    let rest = this.splitter.take().map(Splitter::finish).unwrap_or_default();
                    let harmless = !rest.is_empty() && canonical::is_comment(&rest);
                    return Poll::Ready(harmless.then(|| Ok(Frame::data(rest))));
                }
                Ok(None) => {}
                Err(error) => {
                    this.splitter = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(task)) {
                None => this.ended = true,
                Some(Ok(frame)) => {
                    if let (Ok(data), Some(splitter)) = (frame.into_data(), &mut this.splitter) {
                        splitter.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Passage {
    async fn judge(self, event: Event) -> Bytes {
        let message = self.cx.message();
        let asked = message.and_then(MessageFacts::id_bytes);
        let mut scanner = Scanner::answering(asked);
        // The filters judge what leaves.
        let data = canonical::escaped(&event.data);
        scanner.push(&data);
        if scanner.kind().is_none() || std::str::from_utf8(&data).is_err() {
            self.cx.note_response_mutated();
            // A batch, or what readers may take for different things: no filter could say which.
            tracing::warn!("a message of a stream cannot be read in one way only; it is withheld from the caller");
            let public = "The server's message cannot be inspected.";
            return canonical::event(&event, &error_body(None, code::REFUSED_BY_POLICY, public, None));
        }
        let response = scanner.kind() == Some(Kind::Response);
        let answers = scanner.answers(asked);
        let direction = if response { Direction::Response } else { Direction::Event };
        let mut view = View {
            direction,
            // On a resumed stream nobody knows which method a response answers.
            method: match (response, answers) {
                (true, true) => message.and_then(|message| message.method.as_deref()).map(Into::into),
                (true, false) => None,
                (false, _) => scanner.method().map(Into::into),
            },
            target: message.filter(|_| answers).and_then(|message| message.target.clone()),
            body: data,
        };
        let mut replaced = false;
        for (filter, needs) in self.chain.filters.iter().zip(self.needs.iter()) {
            // Which filters would have asked for what a foreign response answers, nobody knows.
            let asks = if response { needs.response || !answers } else { needs.events };
            if !asks {
                continue;
            }
            match self.chain.judge(&**filter, &self.cx, &view, self.chain.options.event_bytes).await {
                Verdict::Pass => {}
                Verdict::Replace(body) => {
                    view.body = body;
                    replaced = true;
                }
                Verdict::Refuse { public } => {
                    tracing::info!(filter = filter.name(), "a filter refuses a message of a stream");
                    self.cx.note_response_mutated();
                    // A refused response becomes an error or a tool result; anything else leaves nothing but its id.
                    let body = response.then(|| refused_response(scanner.id(), answers, &public, &self.cx));
                    return canonical::event(&event, &body.unwrap_or_default());
                }
                Verdict::Failed { .. } => {
                    self.cx.note_response_mutated();
                    let body = response.then(|| error_body(scanner.id(), code::REFUSED_BY_POLICY, FAILED, None));
                    return canonical::event(&event, &body.unwrap_or_default());
                }
            }
        }
        if replaced {
            self.cx.note_response_mutated();
            canonical::event(&event, &canonical::escaped(&view.body))
        } else {
            canonical::unchanged(&event, &view.body)
        }
    }
}
