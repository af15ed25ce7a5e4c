//! What a filter says of one message, in its time and within its rights.

use http::StatusCode;

use super::Chain;
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Direction, Filter, Verdict, View};
use crate::refusal::Refusal;
use crate::wire::outcome::Scanner;
use crate::wire::rpc::code;
use crate::wire::{Kind, same_id};

/// Told to the caller of a message that a filter failed to judge.
pub(super) const FAILED: &str = "A filter failed.";

impl Chain {
    /// Asks a filter, which may replace the message by one of at most so many bytes. [`Verdict::Failed`] is left only
    /// where it fails closed.
    pub(super) async fn judge(&self, filter: &dyn Filter, cx: &McpContext, view: &View, most: usize) -> Verdict {
        let verdict = match view.direction {
            Direction::Request => filter.request(cx, view),
            Direction::Response => filter.response(cx, view),
            Direction::Event => filter.event(cx, view),
        };
        let verdict = match verdict {
            MaybeReady::Ready(verdict) => verdict,
            MaybeReady::Wait(wait) if filter.keeps_time() => wait.await,
            MaybeReady::Wait(wait) => {
                let time = self.options.filter_time;
                tokio::time::timeout(time, wait)
                    .await
                    .unwrap_or_else(|_| Verdict::failed(format!("no verdict in {time:?}")))
            }
        };
        let cause = match verdict {
            Verdict::Failed { cause } => cause,
            Verdict::Replace(body) if body.len() > most => {
                format!("it replaced a message by one of {} bytes; at most {most} are allowed", body.len())
            }
            // A replaced request is read again when all filters have seen it.
            Verdict::Replace(body) if view.direction != Direction::Request && !is_same(&view.body, &body) => {
                "it replaced a message by none, or by one of another kind, method or id".to_owned()
            }
            verdict => return verdict,
        };
        let open = filter.fail_open();
        tracing::warn!(filter = filter.name(), request_id = %cx.request_id(), cause, open, "a filter failed");
        if open { Verdict::Pass } else { Verdict::Failed { cause } }
    }
}

/// A filter that fails, or answers nonsense, refuses the message: it may have meant to.
pub(super) fn failed(cause: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, FAILED).with_code(code::REFUSED_BY_POLICY).because(cause)
}

/// What of a message no filter can change.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) kind: Kind,
    pub(super) id: Option<Box<[u8]>>,
    pub(super) method: Option<Box<str>>,
}

impl Identity {
    /// `None` of what is not one message that all readers take for the same: a batch, or no JSON.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        let mut scanner = Scanner::answering(Some(body));
        scanner.push(body);
        std::str::from_utf8(body).ok()?;
        Some(Self { kind: scanner.kind()?, id: scanner.id().map(Into::into), method: scanner.method().map(Into::into) })
    }
}

/// Whether one message is another version of the same: its kind, method and id are those of before.
pub(crate) fn is_same(before: &[u8], after: &[u8]) -> bool {
    let (Some(before), Some(after)) = (Identity::of(before), Identity::of(after)) else { return false };
    let ids = match (&before.id, &after.id) {
        (Some(before), Some(after)) => same_id(before, after),
        (before, after) => before == after,
    };
    // A method that is too long to be known may be any other.
    let methods = before.method == after.method && (before.method.is_some() || before.kind == Kind::Response);
    ids && methods && before.kind == after.kind
}
