//! What one filter says of one message.

use std::time::Duration;

use bytes::Bytes;
use ulid::Ulid;

use super::compile::{Compiled, Task};
use super::elicitation;
use super::record::Action;
use super::redact::look;
use crate::contract::{Clock, Direction};
use crate::egress::Fetch;
use crate::record::{FilterVerdict, Label};
use crate::wire::duplicates;

/// Before the first further attempt, doubling.
const RETRY: Duration = Duration::from_millis(100);

/// Which message it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) filter: &'a str,
    pub(super) server: &'a str,
    pub(super) direction: Direction,
    pub(super) method: Option<&'a str>,
}

/// What a filter says, and what it found.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) judged: Judged,
    pub(super) found: Vec<Label>,
}

/// What a filter says.
#[derive(Debug)]
pub(super) enum Judged {
    Pass,
    Flag,
    Replace(Bytes),
    /// The message does not go on; why, for the caller.
    Refuse(Option<String>),
    /// It cannot tell; why, for the log.
    Failed(String),
}

impl Judged {
    /// As it is in the trail.
    pub(super) fn verdict(&self, open: bool) -> FilterVerdict {
        match self {
            Self::Pass => FilterVerdict::Passed,
            Self::Flag => FilterVerdict::Flagged,
            Self::Replace(_) => FilterVerdict::Replaced,
            Self::Refuse(_) => FilterVerdict::Refused,
            Self::Failed(_) if open => FilterVerdict::FailedOpen,
            Self::Failed(_) => FilterVerdict::Failed,
        }
    }
}

impl From<Judged> for Judgement {
    fn from(judged: Judged) -> Self {
        Self { judged, found: Vec::new() }
    }
}

impl Compiled {
    /// Judges in process; `None` where somebody has to be asked.
    pub(super) fn judge_here(&self, body: &[u8]) -> Option<Judgement> {
        Some(match &self.task {
            Task::Webhook(_) => return None,
            Task::Unknown => Judged::Refuse(None).into(),
            Task::Size(most, action) => match u64::try_from(body.len()).is_ok_and(|length| length <= *most) {
                true => Judged::Pass.into(),
                false => self.found(*action, vec!["size".into()], &format!("it has more than {most} bytes")),
            },
            Task::Urls(hosts, action) => match elicitation::problem(body, hosts.as_deref()) {
                None => Judged::Pass.into(),
                Some(problem) => self.found(*action, vec!["elicitation-url".into()], problem),
            },
            Task::Look(detector, action) => match look(body, detector) {
                Ok(looked) if looked.found.is_empty() => Judged::Pass.into(),
                Ok(looked) => match (action, looked.redacted) {
                    (Action::Redact, Some(body)) => Judgement { judged: Judged::Replace(body), found: looked.found },
                    _ => {
                        let because = format!("it holds {}", looked.found.join(", "));
                        self.found(*action, looked.found, &because)
                    }
                },
                // Others may find there what it did not, whatever its fail mode.
                Err(error) => self.refused(&format!("it cannot be read in one way only: {error}")),
            },
        })
    }

    /// Judges, asking whoever has to be asked, again after a failure as often as is set.
    pub(super) async fn judge(
        &self,
        fetch: &dyn Fetch,
        clock: &dyn Clock,
        about: About<'_>,
        body: &Bytes,
    ) -> Judgement {
        if let Some(judgement) = self.judge_here(body) {
            return judgement;
        }
        let Task::Webhook(webhook) = &self.task else { return Judged::Refuse(None).into() };
        if let Err(error) = duplicates(body) {
            return self.refused(&format!("it cannot be read in one way only: {error}"));
        }
        // One message is one delivery, however often it is sent.
        let delivery = format!("msg_{}", Ulid::generate());
        let mut attempt = 0;
        loop {
            let asked = webhook.ask(fetch, about, body, &delivery, clock.now());
            let judged = match tokio::time::timeout(self.timeout, asked).await {
                Ok(judged) => judged,
                Err(_) => Judged::Failed(format!("no answer in {:?}", self.timeout)),
            };
            match judged {
                Judged::Failed(cause) if attempt < self.retries => {
                    tracing::debug!(filter = &*self.id, attempt, cause, "a filter failed; asking again");
                    tokio::time::sleep(RETRY * 2_u32.pow(attempt.into())).await;
                    attempt += 1;
                }
                judged => return judged.into(),
            }
        }
    }

    /// What the caller of a message reads that it refuses.
    pub(super) fn public(&self, because: Option<String>) -> String {
        match (&self.message, because) {
            (Some(message), _) => message.to_string(),
            (None, Some(because)) => because,
            (None, None) => format!("The filter \"{}\" refuses this.", self.name),
        }
    }

    fn found(&self, action: Action, found: Vec<Label>, because: &str) -> Judgement {
        match action {
            Action::Flag => Judgement { judged: Judged::Flag, found },
            Action::Refuse | Action::Redact => Judgement { found, ..self.refused(because) },
        }
    }

    fn refused(&self, because: &str) -> Judgement {
        Judged::Refuse(Some(format!("The filter \"{}\" refuses this: {because}.", self.name))).into()
    }
}
