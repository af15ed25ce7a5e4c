//! Records what is new, and tells the trail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use super::observe::{Extent, Finding, What};
use super::read::{Observed, Unpinned};
use super::record::{ToolInventory, ToolText};
use super::recorder::Slot;
use super::suspicion::hides;
use super::{PinLimits, PinPolicy, ToolPinning};
use crate::contract::{Revision, StoreError, StoreErrorKind, StoreLimits, When, Write};
use crate::record::{AuditEvent, Category, EventKind, FilterFact, FilterVerdict, Label, Outcome};

/// How often it is tried to record what other replicas record as well.
const ATTEMPTS: usize = 8;
/// How long a list waits until this process has applied what was recorded.
const APPLY: Duration = Duration::from_secs(2);
/// For how long texts are kept that nothing refers to any more.
const RETIRED: Duration = Duration::from_secs(24 * 60 * 60);
/// Rows of one list in the trail; what comes beyond is counted in one row.
const ROWS: usize = 100;
/// Bytes of texts in one batch.
const BATCH: usize = StoreLimits::BATCH / 2;

/// What is approved.
#[derive(Debug, Clone, Copy)]
pub enum Approval<'a> {
    /// Every tool of which one definition waits. Where several wait they have to be named; what is gone is not forgotten.
    All,
    /// One tool.
    Tool {
        /// Its name.
        name: &'a str,
        /// Which definitions are good from now on, too; the one that waits without it.
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
    /// Several definitions of the tool wait, or more than are kept.
    #[error("several definitions of the tool wait: say which are meant")]
    Several,
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
        slot: &Slot,
    ) -> Result<Arc<ToolInventory>, Unpinned> {
        if let Some(known) = self.known(server).filter(|known| !known.is_news(seen, extent)) {
            return Ok(known);
        }
        for _ in 0..ATTEMPTS {
            let (now, origin) = (self.0.clock.now(), self.origin(server));
            let begin = || ToolInventory { origin: origin.clone(), ..ToolInventory::new(now) };
            let (stored, when) = match self.0.kept.get(server).await? {
                Some(stored) => (Some(stored.value), When::At(stored.revision)),
                None => (None, When::Absent),
            };
            let moved = stored.as_ref().is_some_and(|stored| !stored.is_of(origin.as_deref()));
            let known = stored.clone().filter(|_| !moved).unwrap_or_else(begin);
            if !known.is_news(seen, extent) {
                // Another replica was first, or there is nothing.
                return Ok(Arc::new(known));
            }
            let mut inventory = known.clone();
            let (findings, fits) = inventory.observe(seen, extent, policy.first_use, self.0.options.tools, now);
            if inventory != known {
                let texts = self.new_texts(server, seen, &digests(&known), &inventory)?;
                let first = self.0.kept.put(server, &inventory, None, when)?;
                match self.save(first, texts).await {
                    Ok(revision) => {
                        if let Some(before) = stored.as_ref().filter(|_| moved) {
                            tracing::warn!(server, "the server is another one; its tools are compared from now on");
                            self.row(server, "tool.reset", None, before.origin.as_deref().map(Into::into), &[]).await;
                            self.retire(server, digests(before).difference(&digests(&inventory))).await;
                        }
                        self.tell(server, &findings).await;
                        self.apply(revision).await;
                    }
                    Err(error) if error.kind() == StoreErrorKind::Conflict => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            if let Err(why) = fits {
                slot.fail(seen.fingerprint(), self.known(server), why);
                return Err(why.into());
            }
            return Ok(Arc::new(inventory));
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
            Approval::All => inventory.approve_all()?,
        }
        let saved = self.0.kept.save(server, &inventory, When::At(stored.revision)).await;
        let revision = saved.map_err(|error| match error.kind() {
            StoreErrorKind::Conflict => ApproveError::Changed,
            _ => error.into(),
        })?;
        self.retire(server, before.difference(&digests(&inventory))).await;
        Ok(revision)
    }

    /// Forgets what tools a server has shown: its next list is seen for the first time. `at` is the version that is meant.
    ///
    /// # Errors
    /// [`ApproveError`]; then nothing is changed.
    pub async fn reset(&self, server: &str, at: Option<Revision>) -> Result<Revision, ApproveError> {
        let stored = self.0.kept.get(server).await?.ok_or(ApproveError::Tool)?;
        if at.is_some_and(|at| at != stored.revision) {
            return Err(ApproveError::Changed);
        }
        let deleted = self.0.kept.delete(server, When::At(stored.revision)).await;
        let revision = deleted.map_err(|error| match error.kind() {
            StoreErrorKind::Conflict => ApproveError::Changed,
            _ => error.into(),
        })?;
        self.retire(server, digests(&stored.value).iter()).await;
        Ok(revision)
    }

    /// Keeps texts that nothing refers to for a while only: they may be needed again.
    async fn retire(&self, server: &str, gone: impl Iterator<Item = &Box<str>>) {
        for digest in gone {
            let id = text_id(server, digest);
            let retired = async {
                let Some(text) = self.0.texts.get(&id).await? else { return Ok(()) };
                let write = self.0.texts.put(&id, &text.value, Some(RETIRED), When::At(text.revision))?;
                self.0.texts.store().commit(vec![write]).await.map(drop)
            };
            // One that is left over is found by nobody and does no harm.
            let retired: Result<(), StoreError> = retired.await;
            if let Err(error) = retired {
                tracing::warn!(server, %error, "the text of a tool that nobody needs any more cannot be retired");
            }
        }
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

    /// The texts of what is new, each with its size.
    fn new_texts(
        &self,
        server: &str,
        seen: &Observed,
        before: &BTreeSet<Box<str>>,
        inventory: &ToolInventory,
    ) -> Result<Vec<(Write, usize)>, StoreError> {
        let kept = digests(inventory);
        let new = seen.tools.values().filter(|tool| kept.contains(&tool.digest) && !before.contains(&tool.digest));
        new.map(|tool| {
            let text = shown(&tool.definitions, self.0.options.text_bytes);
            // Quotes in it are escaped once more.
            let members = text.members.as_ref().map_or(0, |members| members.len() * (2 * PinLimits::NAME + 64));
            let size = 2 * text.text.len() + members + 1_024;
            Ok((self.0.texts.put(&text_id(server, &tool.digest), &text, None, When::Any)?, size))
        })
        .collect()
    }

    /// Writes an inventory with as many texts as one batch takes, and then the others: none is kept without an inventory
    /// that refers to it.
    async fn save(&self, inventory: Write, texts: Vec<(Write, usize)>) -> Result<Revision, StoreError> {
        let (mut batches, mut bytes) = (vec![vec![inventory]], StoreLimits::RECORD);
        for (text, size) in texts {
            let full = batches.last().is_none_or(|batch| batch.len() == StoreLimits::WRITES) || bytes + size > BATCH;
            if full {
                batches.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(batch) = batches.last_mut() {
                batch.push(text);
            }
        }
        let mut batches = batches.into_iter();
        let revision = self.0.texts.store().commit(batches.next().unwrap_or_default()).await?;
        for batch in batches {
            if let Err(error) = self.0.texts.store().commit(batch).await {
                tracing::warn!(%error, "the texts of tools cannot be kept; their digests are");
                break;
            }
        }
        Ok(revision)
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
    let members = match definitions {
        [one] => serde_json::from_slice::<BTreeMap<Box<str>, &RawValue>>(one).ok(),
        _ => None,
    };
    let (mut text, digests) = (String::new(), members.as_ref().and_then(digests_of));
    let whole = match &members {
        Some(members) => append(&mut text, &in_order(members), most),
        None => definitions.iter().enumerate().all(|(number, definition)| {
            let line = String::from_utf8_lossy(definition);
            (number == 0 || append(&mut text, "\n", most)) && append(&mut text, &line, most)
        }),
    };
    ToolText { text, whole, members: digests }
}

/// Adds a text with escapes in the place of what cannot be seen, and says whether all of it has room.
fn append(text: &mut String, more: &str, most: usize) -> bool {
    for c in more.chars() {
        // Inside strings alone: an escape says the same there.
        if c != '\n' && (hides(c) || c.is_control() || matches!(c, '\u{200c}' | '\u{200d}')) {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
        if text.len() > most {
            text.truncate(text.floor_char_boundary(most));
            return false;
        }
    }
    true
}

/// What a model reads comes first: what is cut off at the end is not that.
fn in_order(members: &BTreeMap<Box<str>, &RawValue>) -> String {
    const FIRST: [&str; 3] = ["name", "description", "inputSchema"];
    let first = FIRST.iter().filter_map(|name| members.get_key_value(*name));
    let rest = members.iter().filter(|(name, _)| !FIRST.contains(&&***name));
    let all = first.chain(rest).map(|(name, value)| format!("{}:{}", serde_json::Value::from(&**name), value.get()));
    format!("{{{}}}", all.collect::<Vec<_>>().join(","))
}

fn digests_of(members: &BTreeMap<Box<str>, &RawValue>) -> Option<BTreeMap<Box<str>, Box<str>>> {
    let are_few = members.len() <= PinLimits::MEMBERS && members.keys().all(|name| name.len() <= PinLimits::NAME);
    let digest = |value: &&RawValue| URL_SAFE_NO_PAD.encode(Sha256::digest(value.get())).into();
    are_few.then(|| members.iter().map(|(name, value)| (name.clone(), digest(value))).collect())
}
