//! Records what is new, and tells the trail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ulid::Ulid;

use super::observe::{Extent, Finding, What};
use super::read::{Observed, Unpinned};
use super::record::{ToolInventory, ToolText};
use super::suspicion::hides;
use super::{PinLimits, PinPolicy, ToolPinning};
use crate::contract::{Revision, StoreError, StoreErrorKind, StoreLimits, When, Write};
use crate::record::{AuditEvent, Category, EventKind, FilterFact, FilterVerdict, Label, Outcome};

/// How often it is tried to record what other replicas record as well.
const ATTEMPTS: usize = 8;
/// How long a list waits until this process has applied what was recorded.
const APPLY: Duration = Duration::from_secs(2);
/// Rows of one list in the trail; what comes beyond is counted in one row.
const ROWS: usize = 100;
/// Bytes of texts in one batch.
const BATCH: usize = StoreLimits::BATCH / 2;

/// What is approved.
#[derive(Debug, Clone, Copy)]
pub enum Approval<'a> {
    /// Whatever waits, as it was seen last.
    All,
    /// One tool.
    Tool {
        /// Its name.
        name: &'a str,
        /// Which definitions are good from now on; the last one that was seen without it.
        digests: Option<&'a [String]>,
    },
}

/// Why nothing is approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// The server has shown no such tool.
    #[error("the server has shown no such tool")]
    Tool,
    /// The tool had no such definition.
    #[error("the tool has no such definition")]
    Digest,
    /// It was changed meanwhile.
    #[error("it was changed meanwhile")]
    Changed,
    /// Those of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ToolPinning {
    /// Takes a page in and returns the inventory with it.
    pub(super) async fn record(
        &self,
        server: &str,
        seen: &Observed,
        extent: &Extent,
        policy: PinPolicy,
    ) -> Result<Arc<ToolInventory>, Unpinned> {
        let _writing = self.0.writing.lock().await;
        let known = self.0.snapshots.load().tools.get(server).cloned();
        if let Some(known) = known.filter(|known| !known.is_news(seen, extent)) {
            return Ok(known);
        }
        for _ in 0..ATTEMPTS {
            let now = self.0.clock.now();
            let (mut inventory, when) = match self.0.kept.get(server).await? {
                Some(stored) => (stored.value, When::At(stored.revision)),
                None => (ToolInventory::new(now), When::Absent),
            };
            if !inventory.is_news(seen, extent) {
                // Another replica was first.
                return Ok(Arc::new(inventory));
            }
            let before: BTreeSet<Box<str>> = digests(&inventory);
            let findings = inventory.observe(seen, extent, policy.first_use, self.0.options.tools, now)?;
            self.keep_texts(server, seen, &before, &inventory).await?;
            match self.0.kept.save(server, &inventory, when).await {
                Ok(revision) => {
                    self.tell(server, &findings).await;
                    self.apply(revision).await;
                    return Ok(Arc::new(inventory));
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::new(StoreErrorKind::Conflict, "commit").because("it changes faster than it is recorded").into())
    }

    /// Approves of what a server shows. `at` is the version that was looked at.
    ///
    /// # Errors
    /// [`ApproveError`]; then nothing is changed.
    pub async fn approve(
        &self,
        server: &str,
        approval: Approval<'_>,
        at: Option<Revision>,
    ) -> Result<Revision, ApproveError> {
        let stored = self.0.kept.get(server).await?.ok_or(ApproveError::Tool)?;
        if at.is_some_and(|at| at != stored.revision) {
            return Err(ApproveError::Changed);
        }
        let mut inventory = stored.value;
        let before = digests(&inventory);
        match approval {
            Approval::Tool { name, digests } => inventory.approve(name, digests)?,
            Approval::All => {
                let waiting = |tool: &super::PinnedTool| tool.waits() || tool.missing_since.is_some();
                let names: Vec<Box<str>> =
                    inventory.tools.iter().filter(|(_, tool)| waiting(tool)).map(|(name, _)| name.clone()).collect();
                names.iter().try_for_each(|name| inventory.approve(name, None))?;
            }
        }
        let saved = self.0.kept.save(server, &inventory, When::At(stored.revision)).await;
        let revision = saved.map_err(|error| match error.kind() {
            StoreErrorKind::Conflict => ApproveError::Changed,
            _ => error.into(),
        })?;
        let after = digests(&inventory);
        for gone in before.difference(&after) {
            // One that is left over is found by nobody and does no harm.
            if let Err(error) = self.0.texts.delete(&text_id(server, gone), When::Any).await {
                tracing::warn!(server, %error, "the text of a tool that nobody needs any more cannot be removed");
            }
        }
        Ok(revision)
    }

    /// The texts of definitions, in the order of the digests.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn texts(&self, server: &str, digests: &[&str]) -> Result<Vec<Option<ToolText>>, StoreError> {
        let ids: Vec<String> = digests.iter().map(|digest| text_id(server, digest)).collect();
        let mut texts = Vec::with_capacity(ids.len());
        for page in ids.chunks(StoreLimits::PAGE) {
            let found = self.0.texts.get_many(page.iter().map(String::as_str)).await?;
            texts.extend(found.into_iter().map(|stored| stored.map(|stored| stored.value)));
        }
        Ok(texts)
    }

    /// Keeps the texts of what is new, before anything refers to them.
    async fn keep_texts(
        &self,
        server: &str,
        seen: &Observed,
        before: &BTreeSet<Box<str>>,
        inventory: &ToolInventory,
    ) -> Result<(), StoreError> {
        let kept = digests(inventory);
        let (mut batch, mut bytes) = (Vec::<Write>::new(), 0);
        for tool in seen.tools.values().filter(|tool| kept.contains(&tool.digest) && !before.contains(&tool.digest)) {
            let text = shown(&tool.definitions, self.0.options.text_bytes);
            // Quotes in it are escaped once more.
            let size = 2 * text.text.len() + 1_024;
            if !batch.is_empty() && (batch.len() == StoreLimits::WRITES || bytes + size > BATCH) {
                self.0.texts.store().commit(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            batch.push(self.0.texts.put(&text_id(server, &tool.digest), &text, None, When::Any)?);
            bytes += size;
        }
        if !batch.is_empty() {
            self.0.texts.store().commit(batch).await?;
        }
        Ok(())
    }

    /// Whoever asks this process again is answered by what was just recorded.
    async fn apply(&self, revision: Revision) {
        if tokio::time::timeout(APPLY, self.0.snapshots.wait_for(revision)).await.is_err() {
            tracing::warn!(%revision, "what was recorded of a server's tools is not applied yet");
        }
    }

    async fn tell(&self, server: &str, findings: &[Finding]) {
        // What is trusted at first sight is one row, unless something is odd about it.
        let is_plain = |finding: &&Finding| finding.what == What::First && finding.flags.is_empty();
        let trusted = findings.iter().filter(|finding| finding.what == What::First).count();
        if trusted > 0 {
            self.row(server, What::First.action(), None, Some(format!("{trusted} tools")), &[]).await;
        }
        let rows: Vec<&Finding> = findings.iter().filter(|finding| !is_plain(finding)).collect();
        for Finding { what, tool, flags } in rows.iter().take(ROWS) {
            let namesakes = match what {
                What::First | What::New => self.namesakes(server, tool),
                _ => Vec::new(),
            };
            let also = (!namesakes.is_empty()).then(|| format!("{} of this name, too", namesakes.join(", ")));
            tracing::warn!(server, tool = %crate::wire::untrusted::Untrusted(tool), action = what.action(), ?flags, "a server's tools are not what they were");
            let action = if *what == What::First { "tool.flag" } else { what.action() };
            self.row(server, action, Some(tool), also, flags).await;
        }
        if rows.len() > ROWS {
            let beyond = Some(format!("{} more, of this list", rows.len() - ROWS));
            self.row(server, What::Changed.action(), None, beyond, &[]).await;
        }
    }

    async fn row(
        &self,
        server: &str,
        action: &'static str,
        tool: Option<&str>,
        note: Option<String>,
        flags: &[super::Flag],
    ) {
        let mut event = AuditEvent::new(self.0.clock.now(), Ulid::generate(), Category::System, EventKind::Act);
        event.method = Some(action.into());
        event.server = Some(server.into());
        event.target = tool.map(Into::into);
        event.error = note.map(Into::into);
        event.outcome = Outcome::Ok;
        if !flags.is_empty() {
            event.filters = vec![FilterFact {
                filter: Self::NAME.into(),
                verdict: FilterVerdict::Flagged,
                messages: 1,
                found: flags.iter().map(|flag| Label::from(*flag)).collect(),
            }];
        }
        if let Err(error) = self.0.sink.record(event).await {
            tracing::error!(%error, server, action, "what a server's tools have become is not in the audit trail");
        }
    }
}

fn digests(inventory: &ToolInventory) -> BTreeSet<Box<str>> {
    inventory.tools.values().flat_map(super::PinnedTool::versions).map(|version| version.digest.clone()).collect()
}

fn text_id(server: &str, digest: &str) -> String {
    format!("{server}/{digest}")
}

/// Definitions as people can read them, at most so many bytes.
pub(super) fn shown(definitions: &[Vec<u8>], most: usize) -> ToolText {
    let most = most.min(PinLimits::TEXT);
    let mut text = String::new();
    for (number, definition) in definitions.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        for c in String::from_utf8_lossy(definition).chars() {
            // Inside strings alone: an escape says the same there.
            if hides(c) || c.is_control() || matches!(c, '\u{200c}' | '\u{200d}') {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
            } else {
                text.push(c);
            }
            if text.len() > most {
                text.truncate(text.floor_char_boundary(most));
                return ToolText { text, whole: false };
            }
        }
    }
    ToolText { text, whole: true }
}
