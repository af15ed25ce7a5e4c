//! What one filter says of one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ulid::Ulid;

use super::compile::{Compiled, Task};
use super::detect::{Bounds, Detector};
use super::elicitation;
use super::record::{Action, FilterLimits};
use super::redact::{Look, LookError, Looked};
use crate::contract::{Clock, Direction};
use crate::egress::Fetch;
use crate::record::{FilterVerdict, Label};
use crate::wire::duplicates;
use crate::wire::version::Era;

/// Before the first further attempt, doubling.
const RETRY: Duration = Duration::from_millis(100);

/// Which message it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) filter: &'a str,
    pub(super) server: &'a str,
    pub(super) direction: Direction,
    pub(super) method: Option<&'a str>,
    /// Of the exchange.
    pub(super) era: Era,
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
    /// Judges at once; `None` where somebody has to be asked, or it would keep others waiting.
    pub(super) fn judge_here(&self, era: Era, body: &[u8]) -> Option<Judgement> {
        Some(match &self.task {
            Task::Webhook(_) => return None,
            Task::Look(..) if body.len() > FilterLimits::AT_ONCE => return None,
            Task::Unknown => Judged::Refuse(None).into(),
            Task::Size(most, action) => match u64::try_from(body.len()).is_ok_and(|length| length <= *most) {
                true => Judged::Pass.into(),
                false => self.found(*action, vec!["size".into()], &format!("it has more than {most} bytes")),
            },
            Task::Urls(hosts, action) => match elicitation::problem(body, hosts.as_deref()) {
                None => Judged::Pass.into(),
                Some(problem) => self.found(*action, vec!["elicitation-url".into()], problem),
            },
            Task::Look(detector, action) => {
                self.looked(*action, look(detector, era, *action, body, &AtomicBool::new(false)))
            }
        })
    }

    fn looked(&self, action: Action, looked: Result<Looked, LookError>) -> Judgement {
        match looked {
            Ok(Looked { found, .. }) if found.is_empty() => Judged::Pass.into(),
            Ok(Looked { found, redacted: Some(body) }) => Judgement { judged: Judged::Replace(body), found },
            Ok(Looked { found, redacted: None }) => {
                let because = format!("it holds {}", found.join(", "));
                self.found(action, found, &because)
            }
            // Others may find there what it did not, whatever its fail mode.
            Err(error) => self.refused(&error.to_string()),
        }
    }

    /// Looks through a large message on a thread of its own, in the filter's time.
    async fn look_aside(&self, detector: &Arc<Detector>, action: Action, era: Era, body: &Bytes) -> Judgement {
        let stop = StopOnDrop::default();
        let (detector, body, stopped) = (Arc::clone(detector), body.clone(), Arc::clone(&stop.0));
        let looking = tokio::task::spawn_blocking(move || look(&detector, era, action, &body, &stopped));
        match tokio::time::timeout(self.timeout, looking).await {
            Ok(Ok(looked)) => self.looked(action, looked),
            Ok(Err(error)) => Judged::Failed(error.to_string()).into(),
            Err(_) => Judged::Failed(format!("not looked through in {:?}", self.timeout)).into(),
        }
    }

    /// Judges, asking whoever has to be asked, after a failure so many times more.
    pub(super) async fn judge(
        &self,
        fetch: &dyn Fetch,
        clock: &dyn Clock,
        about: About<'_>,
        body: &Bytes,
        retries: u8,
    ) -> Judgement {
        if let Some(judgement) = self.judge_here(about.era, body) {
            return judgement;
        }
        let webhook = match &self.task {
            Task::Webhook(webhook) => webhook,
            Task::Look(detector, action) => return self.look_aside(detector, *action, about.era, body).await,
            _ => return Judged::Refuse(None).into(),
        };
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
                Judged::Failed(cause) if attempt < retries => {
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

fn look(detector: &Detector, era: Era, action: Action, body: &[u8], stop: &AtomicBool) -> Result<Looked, LookError> {
    let redact = action == Action::Redact;
    Look { detector, era, redact, bounds: Bounds::default(), stop }.through(body)
}

/// Ends what nobody waits for any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Compiled {
    /// Judges arbitrary bytes: for fuzzing.
    ///
    /// # Panics
    /// When what is put in their place is no JSON, another message, or holds what was looked for.
    pub(super) fn check(&self, body: &[u8]) {
        use crate::layer::filter::is_same;

        let judged = self.judge_here(Era::Modern, body).map(|judgement| judgement.judged);
        let Some(Judged::Replace(after)) = judged else { return };
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&after).is_ok(), "it is JSON");
        assert!(!is_same(body, body) || is_same(body, &after), "it is the same message");
        // Expressions may fit the names that are put in the place of what they fit.
        if matches!(&self.task, Task::Look(detector, _) if !matches!(**detector, Detector::Regex(_))) {
            let again = self.judge_here(Era::Modern, &after).map(|judgement| judgement.judged);
            assert!(matches!(again, Some(Judged::Pass) | None), "nothing is left: {again:?}");
        }
    }
}
