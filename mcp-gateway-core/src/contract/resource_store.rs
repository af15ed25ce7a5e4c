//! Every durable object but the audit trail.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::record::TenantId;

/// Keeps every durable object but the audit trail: entries, servers, keys, leases, codes.
///
/// Called by the admin API, by background work, and by the snapshot; never on the path of a call that hits memory.
/// Dropping a future of `commit` leaves the outcome unknown (the batch may be in or not), of every other method does
/// nothing.
///
/// The rules, each a test of the exported suite:
///
/// 1. One strictly increasing revision per store. Commit order = revision order = visibility order: whoever has seen
///    revision *r* never later receives a commit ≤ *r*, and after `commit` returned *r* every `get` and `list` sees *r*.
/// 2. [`watch`](Self::watch) yields whole commits over a set of kinds, in order, deletes included, from a log that
///    covers at least one hour or a million commits; an older position is [`StoreErrorKind::Compacted`] and the
///    consumer lists again. A [`Feed::Bookmark`] comes at least every 250 ms: its absence is how staleness is known.
/// 3. List-then-watch: page through, then watch from the *first* page's `as_of`, and apply a change only if its
///    revision is higher than what is held.
/// 4. A batch is atomic, with a precondition per record. [`Write::Check`] writes nothing: it fences other writes.
/// 5. Time to live is a duration on the store's clock. An expired record is absent in `get`, `list` and
///    preconditions at once; the sweep only frees space, and expiry produces no [`Change`].
/// 6. Kinds are [`Class::Logged`] or [`Class::Quiet`]. Only logged kinds can be watched.
/// 7. Indexes are declared per record (at most 8 terms, equality only) and written in the same transaction.
///    Uniqueness exists only by key.
/// 8. [`StoreLimits`] bound a batch, a record, a page and an id; larger is [`StoreErrorKind::TooLarge`].
/// 9. [`StoreErrorKind::Unknown`] (connection lost during commit): read back before a retry.
#[async_trait]
pub trait ResourceStore: Send + Sync + 'static {
    /// Reads records by key, in the order of `keys`; an absent or expired one is `None`. At most
    /// [`StoreLimits::PAGE`] keys.
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Lists records of one kind in the order of (tenant, id).
    async fn list(&self, query: &Query) -> Result<Page, StoreError>;

    /// Writes a batch, all or nothing, and returns its revision.
    ///
    /// A batch of nothing but checks writes nothing and returns the current revision.
    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError>;

    /// Follows commits of `kinds` (all of them [`Class::Logged`]) later than `after`.
    ///
    /// A consumer that is slower than the log is long gets [`StoreErrorKind::Compacted`] as the last item. An `after`
    /// later than the store's revision is `Compacted` too: the consumer holds a state that this store never had.
    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError>;
}

/// What [`ResourceStore::watch`] returns.
pub type FeedStream = Pin<Box<dyn Stream<Item = Result<Feed, StoreError>> + Send>>;

/// The store's version: one strictly increasing number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether changes of a kind are ordered, logged and watchable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Configuration and revocations: in the feed.
    Logged,
    /// Codes, sessions, leases, counters, last-used times: not in the feed.
    Quiet,
}

/// A kind of record: its name (at most 64 lowercase ASCII letters, digits and `-`) and class.
///
/// Two kinds of one name with different classes are a programming error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// For example `entry` or `api-key`.
    pub name: &'static str,
    /// Whether it is in the feed.
    pub class: Class,
}

impl Kind {
    /// A kind whose changes are in the feed.
    #[must_use]
    pub const fn logged(name: &'static str) -> Self {
        Self { name, class: Class::Logged }
    }

    /// A kind whose changes nobody watches.
    #[must_use]
    pub const fn quiet(name: &'static str) -> Self {
        Self { name, class: Class::Quiet }
    }
}

/// Where a record is. The tenant comes first, so that forgetting it is a type error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose record.
    pub tenant: TenantId,
    /// Of which kind.
    pub kind: Kind,
    /// Unique within tenant and kind; 1 to [`StoreLimits::ID`] bytes.
    pub id: Box<str>,
}

impl Key {
    /// A key.
    pub fn new(tenant: TenantId, kind: Kind, id: impl Into<Box<str>>) -> Self {
        Self { tenant, kind, id: id.into() }
    }
}

/// A term under which a record can be listed: `name = value`, equality only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexTerm {
    /// The index, for example `owner`.
    pub name: &'static str,
    /// At most [`StoreLimits::TERM`] bytes. Several terms of one name make a multi-valued index.
    pub value: Box<str>,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub key: Key,
    /// The revision of the commit that wrote it last; what [`When::At`] compares.
    pub revision: Revision,
    /// What was put, byte for byte.
    pub value: Bytes,
}

/// Which records to list.
#[derive(Debug, Clone)]
pub struct Query {
    /// One tenant, or all of them.
    pub tenant: Option<TenantId>,
    /// The kind.
    pub kind: Kind,
    /// Only records under this term.
    pub term: Option<IndexTerm>,
    /// Where the page before ended; `None` for the first.
    pub after: Option<Cursor>,
    /// At most this many records, 1 to [`StoreLimits::PAGE`]; more is [`StoreErrorKind::TooLarge`].
    pub limit: usize,
}

impl Query {
    /// The first page of everything of a kind.
    #[must_use]
    pub fn all(kind: Kind) -> Self {
        Self { tenant: None, kind, term: None, after: None, limit: StoreLimits::PAGE }
    }
}

/// The position after a record in a list: its tenant and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The tenant of the last record seen.
    pub tenant: TenantId,
    /// The id of the last record seen.
    pub id: Box<str>,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// In the order of (tenant, id).
    pub records: Vec<Record>,
    /// The store's revision when the page was read.
    pub as_of: Revision,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<Cursor>,
}

/// The precondition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// No condition.
    Any,
    /// There is no such record (or it has expired).
    Absent,
    /// The record was written last by exactly this revision.
    At(Revision),
}

/// One write of a batch. A key occurs at most once in a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// Creates or replaces a record.
    Put {
        /// Where.
        key: Key,
        /// What, at most [`StoreLimits::RECORD`] bytes.
        value: Bytes,
        /// The terms it can be listed under, at most [`StoreLimits::TERMS`].
        index: Vec<IndexTerm>,
        /// How long it lives on the store's clock; `None` for ever.
        ttl: Option<Duration>,
        /// Only if.
        when: When,
    },
    /// Removes a record; removing an absent one under [`When::Any`] is fine and produces no change.
    Delete {
        /// Where.
        key: Key,
        /// Only if.
        when: When,
    },
    /// Writes nothing, but fails the batch unless the condition holds.
    Check {
        /// Where.
        key: Key,
        /// Only if.
        when: When,
    },
}

impl Write {
    /// The key this write is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// Its precondition.
    #[must_use]
    pub fn when(&self) -> When {
        match self {
            Self::Put { when, .. } | Self::Delete { when, .. } | Self::Check { when, .. } => *when,
        }
    }
}

/// One item of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// A whole commit, reduced to the kinds that are watched.
    Commit {
        /// Its revision.
        revision: Revision,
        /// What it changed, in the order of the batch.
        changes: Vec<Change>,
    },
    /// The consumer has everything up to here.
    Bookmark(Revision),
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: Key,
    /// Its new value; `None` when it was deleted.
    pub value: Option<Bytes>,
}

/// The bounds of every store.
#[derive(Debug)]
pub struct StoreLimits;

impl StoreLimits {
    /// Writes in a batch.
    pub const WRITES: usize = 256;
    /// Bytes of keys and values in a batch.
    pub const BATCH: usize = 1024 * 1024;
    /// Bytes of a record's value.
    pub const RECORD: usize = 256 * 1024;
    /// Records in a page, keys in a `get`.
    pub const PAGE: usize = 1_000;
    /// Bytes of an id or a tenant.
    pub const ID: usize = 255;
    /// Index terms of a record.
    pub const TERMS: usize = 8;
    /// Bytes of an index term's value.
    pub const TERM: usize = 256;

    /// Checks a batch against every bound; stores call it before anything else.
    ///
    /// # Errors
    /// [`StoreErrorKind::TooLarge`] names the bound; a key that occurs twice is [`StoreErrorKind::Invalid`].
    pub fn check(writes: &[Write]) -> Result<(), StoreError> {
        let too_large = |what: &'static str| Err(StoreError::new(StoreErrorKind::TooLarge, "commit").because(what));
        if writes.len() > Self::WRITES {
            return too_large("more than 256 writes in a batch");
        }
        let mut seen = std::collections::HashSet::with_capacity(writes.len());
        let mut total = 0;
        for write in writes {
            let key = write.key();
            if key.id.is_empty() || key.id.len() > Self::ID || key.tenant.as_str().len() > Self::ID {
                return too_large("an id or tenant is empty or longer than 255 bytes");
            }
            if !seen.insert(key) {
                return Err(StoreError::new(StoreErrorKind::Invalid, "commit").because("a key occurs twice in a batch"));
            }
            total += key.id.len() + key.tenant.as_str().len();
            if let Write::Put { value, index, .. } = write {
                if value.len() > Self::RECORD {
                    return too_large("a record is larger than 256 KiB");
                }
                if index.len() > Self::TERMS || index.iter().any(|term| term.value.len() > Self::TERM) {
                    return too_large("a record has more than 8 index terms, or one over 256 bytes");
                }
                total += value.len();
            }
        }
        if total > Self::BATCH {
            return too_large("a batch is larger than 1 MiB");
        }
        Ok(())
    }
}

/// Why a store failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A precondition did not hold; [`StoreError::conflict`] says which. Retried after a fresh read. HTTP 409 or 412.
    Conflict,
    /// The feed no longer reaches back that far. Retried by listing again.
    Compacted,
    /// A bound of [`StoreLimits`] is exceeded. Not retried. HTTP 413.
    TooLarge,
    /// The request itself is wrong (a quiet kind watched, a key twice in a batch). Not retried. HTTP 500: our mistake.
    Invalid,
    /// The store cannot be reached, nothing was written. Retried later. HTTP 503.
    Unavailable,
    /// The connection was lost during a commit: it may be in or not. Read back before a retry. HTTP 503.
    Unknown,
    /// What is stored cannot be read. Not retried. HTTP 500.
    Corrupt,
}

/// A failure of a [`ResourceStore`] or an audit store.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    op: &'static str,
    conflict: Option<Box<Conflict>>,
    source: Option<crate::BoxError>,
}

/// The first precondition that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The record.
    pub key: Key,
    /// Its revision now; `None` when it is absent.
    pub current: Option<Revision>,
}

impl StoreError {
    /// An error of this kind in this operation (`get`, `list`, `commit`, `watch`, `append`, …).
    #[must_use]
    pub fn new(kind: StoreErrorKind, op: &'static str) -> Self {
        Self { kind, op, conflict: None, source: None }
    }

    /// A precondition that did not hold.
    #[must_use]
    pub fn conflicting(key: Key, current: Option<Revision>) -> Self {
        Self {
            kind: StoreErrorKind::Conflict,
            op: "commit",
            conflict: Some(Box::new(Conflict { key, current })),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<crate::BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The error of a later step, after a commit that is there: [`StoreErrorKind::Unavailable`] would say that nothing was
    /// written, so it becomes [`StoreErrorKind::Unknown`].
    #[must_use]
    pub fn halfway(mut self) -> Self {
        if self.kind == StoreErrorKind::Unavailable {
            self.kind = StoreErrorKind::Unknown;
        }
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The precondition that failed, for [`StoreErrorKind::Conflict`].
    #[must_use]
    pub fn conflict(&self) -> Option<&Conflict> {
        self.conflict.as_deref()
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            StoreErrorKind::Conflict => "a precondition did not hold",
            StoreErrorKind::Compacted => "the change log no longer reaches back that far",
            StoreErrorKind::TooLarge => "a limit is exceeded",
            StoreErrorKind::Invalid => "the request is not valid",
            StoreErrorKind::Unavailable => "the store cannot be reached",
            StoreErrorKind::Unknown => "the outcome of the commit is unknown",
            StoreErrorKind::Corrupt => "a stored record cannot be read",
        };
        write!(f, "store {}: {what}", self.op)?;
        if let Some(conflict) = &self.conflict {
            write!(f, " ({} {:?})", conflict.key.kind.name, conflict.key.id)?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
