//! What is signed of the trail.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::link::{Head, hex, unhex};
use super::verifier::Check;
use crate::MaybeReady;
use crate::contract::{KeyRingError, StreamId};

/// Not a writer's stream: what is signed of the trail as a whole. First (number 0) when its chain began, then, by their
/// microseconds since 1970, the times up to which old rows were removed.
pub const MARKS: StreamId = StreamId(Ulid::nil());

const CHECKPOINT: &str = "mcp-gateway-audit-checkpoint+jwt";
const RETENTION: &str = "mcp-gateway-audit-retention+jwt";
const BEGINNING: &str = "mcp-gateway-audit-beginning+jwt";

/// Signs what is said of the trail, with keys that sign nothing else, and knows what it signed.
pub trait Notary: Send + Sync + 'static {
    /// Makes a JWS (RFC 7515, compact) of these claims, whose header has this `typ`. Called once in some seconds.
    fn sign(&self, typ: &'static str, claims: &[u8]) -> MaybeReady<Result<String, KeyRingError>>;

    /// The claims of a JWS of this `typ` that was signed with one of the keys, whenever that was; or why it was not.
    fn check(&self, typ: &'static str, signed: &str) -> Result<Vec<u8>, String>;
}

/// A head that was signed; or a [mark](MARKS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The stream.
    pub stream: StreamId,
    /// The number of the last row that it covers; 0 where a stream begins, one more than its last row where it ended.
    pub seq: u64,
    /// The latest time of the rows that it covers.
    pub newest: Timestamp,
    /// The head as it was signed: a JWS in the compact form (RFC 7515), ES256.
    pub signed: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadClaims {
    stream: Ulid,
    /// How many checkpoints of the stream there were before, and what the last of them said.
    number: u64,
    previous: String,
    /// How many rows, too: they have no gap.
    seq: u64,
    head: String,
    newest: i64,
    /// Nothing comes after it.
    end: bool,
    at: i64,
}

/// What was signed of a stream so far: how many checkpoints, and what the last one said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signed {
    /// How many.
    pub count: u64,
    /// SHA-256 of the last one's claims, without the time that it was signed at: signed again, it says the same.
    pub hash: [u8; 32],
}

/// What a checkpoint says of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It goes on. The first of a stream says that it begins.
    Open,
    /// It has ended.
    End,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkClaims {
    time: i64,
    at: i64,
}

/// Signs a head, as the next of the checkpoints `last` of its stream, and says what there is then.
///
/// # Errors
/// The notary's.
pub async fn sign_head(
    notary: &dyn Notary,
    head: &Head,
    part: Part,
    last: Signed,
    at: Timestamp,
) -> Result<(Checkpoint, Signed), KeyRingError> {
    // Before the first row there is no time but that in the stream's name.
    let newest = if head.seq == 0 { began(head.stream) } else { head.newest };
    let end = part == Part::End;
    let claims = HeadClaims {
        stream: head.stream.0,
        number: last.count,
        previous: hex(&last.hash),
        seq: head.seq,
        head: hex(&head.hash),
        newest: newest.as_microsecond(),
        end,
        at: at.as_microsecond(),
    };
    let signed = sign(notary, CHECKPOINT, &claims).await?;
    let next = claims.next();
    Ok((Checkpoint { stream: head.stream, seq: head.seq + u64::from(end), newest, signed }, next))
}

fn began(stream: StreamId) -> Timestamp {
    let millis = i64::try_from(stream.0.timestamp_ms()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

impl HeadClaims {
    /// What is signed with this one.
    fn next(&self) -> Signed {
        let Self { stream, number, previous, seq, head, newest, end, .. } = self;
        let said = format!("mcp-gateway checkpoint v1 {stream} {number} {previous} {seq} {head} {newest} {end}");
        Signed { count: number.saturating_add(1), hash: Sha256::digest(said).into() }
    }
}

/// Signs that rows before a time will be removed; kept before they are.
///
/// # Errors
/// The notary's.
pub async fn sign_retention(notary: &dyn Notary, before: Timestamp, at: Timestamp) -> Result<Checkpoint, KeyRingError> {
    let signed = sign(notary, RETENTION, &mark(before, at)).await?;
    Ok(Checkpoint { stream: MARKS, seq: number(before), newest: before, signed })
}

/// Signs that streams which begin from now on are chained from their first row.
///
/// # Errors
/// The notary's.
pub async fn sign_beginning(notary: &dyn Notary, at: Timestamp) -> Result<Checkpoint, KeyRingError> {
    let signed = sign(notary, BEGINNING, &mark(at, at)).await?;
    Ok(Checkpoint { stream: MARKS, seq: 0, newest: at, signed })
}

/// The mark of the chain's beginning that this is, as a JWS.
///
/// # Errors
/// It is none of these keys, in words.
pub fn beginning(check: Check<'_>, signed: &str) -> Result<Checkpoint, String> {
    let mut mark = Checkpoint { stream: MARKS, seq: 0, newest: Timestamp::MIN, signed: signed.to_owned() };
    if let Mark::Beginning(time) = mark.open_mark(check)? {
        mark.newest = time;
    }
    Ok(mark)
}

fn mark(time: Timestamp, at: Timestamp) -> MarkClaims {
    MarkClaims { time: time.as_microsecond(), at: at.as_microsecond() }
}

fn number(before: Timestamp) -> u64 {
    u64::try_from(before.as_microsecond()).unwrap_or(0).max(1)
}

async fn sign(notary: &dyn Notary, typ: &'static str, claims: &impl Serialize) -> Result<String, KeyRingError> {
    let claims = serde_json::to_vec(claims)
        .map_err(|error| KeyRingError { issuer: "this gateway".into(), source: error.into() })?;
    notary.sign(typ, &claims).await
}

/// A mark that was verified.
pub(super) enum Mark {
    /// Streams that begin from here on are chained.
    Beginning(Timestamp),
    /// Rows before this were removed.
    Retention(Timestamp),
}

/// A checkpoint that was verified.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) head: Head,
    pub(super) end: bool,
    pub(super) at: Timestamp,
    /// What there was before.
    pub(super) previous: Signed,
    /// What there is with it.
    pub(super) signed: Signed,
}

impl Checkpoint {
    /// What was signed, if this says the same.
    pub(super) fn open(&self, check: Check<'_>) -> Result<Opened, String> {
        let claims: HeadClaims = parse(&check(CHECKPOINT, &self.signed)?)?;
        let hash = unhex(&claims.head).ok_or("the head is not one")?;
        let previous = unhex(&claims.previous).ok_or("what it follows is no digest")?;
        let newest = time(claims.newest)?;
        let head = Head { stream: StreamId(claims.stream), seq: claims.seq, hash, newest };
        let seq = claims.seq.saturating_add(u64::from(claims.end));
        if (head.stream, seq) != (self.stream, self.seq) || newest.as_microsecond() != self.newest.as_microsecond() {
            return Err("it was signed for another place".to_owned());
        }
        let previous = Signed { count: claims.number, hash: previous };
        Ok(Opened { head, end: claims.end, at: time(claims.at)?, previous, signed: claims.next() })
    }

    /// The mark that was signed, if this says the same.
    pub(super) fn open_mark(&self, check: Check<'_>) -> Result<Mark, String> {
        let typ = if self.seq == 0 { BEGINNING } else { RETENTION };
        let claims: MarkClaims = parse(&check(typ, &self.signed)?)?;
        let signed = time(claims.time)?;
        if self.seq == 0 {
            return Ok(Mark::Beginning(signed));
        }
        if self.seq != number(signed) {
            return Err("it was signed for another place".to_owned());
        }
        Ok(Mark::Retention(signed))
    }
}

fn parse<'de, T: Deserialize<'de>>(claims: &'de [u8]) -> Result<T, String> {
    serde_json::from_slice(claims).map_err(|error| error.to_string())
}

fn time(micros: i64) -> Result<Timestamp, String> {
    Timestamp::from_microsecond(micros).map_err(|error| error.to_string())
}
