//! Revisions with a handshake: one child a session, streams that can be resumed.

mod session;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{UpstreamError, UpstreamErrorKind};
use mcp_gateway_core::wire::method::Method;
use mcp_gateway_core::wire::version::Claim;
use mcp_gateway_core::wire::{Kind, Message, rpc};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use self::session::{Session, parts};
use super::calls::NotTaken;
use super::child::Child;
use super::options::BridgeOptions;
use super::respond::{self, Accepts};
use super::stream::{End, Pace, Stream, cursor};
use super::{broken, stopped};

/// `Mcp-Session-Id`.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// `Last-Event-ID`.
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// JSON-RPC's range for servers; SDKs answer faults of the session with it.
const SESSION_FAULT: i64 = -32000;

/// The legacy sessions of a bridge.
#[derive(Clone)]
pub(super) struct Sessions(Arc<Inner>);

struct Inner {
    options: Arc<BridgeOptions>,
    dropped: Arc<AtomicU64>,
    table: Mutex<Table>,
    /// No session is opened any more. Set with the table locked.
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<Arc<str>, Arc<Session>>,
    /// Handshakes under way.
    opening: usize,
}

impl Sessions {
    pub(super) fn new(options: Arc<BridgeOptions>, dropped: Arc<AtomicU64>) -> Self {
        Self(Arc::new(Inner { options, dropped, table: Mutex::default(), ended: watch::Sender::new(false) }))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions, requests in flight, and the last use of any.
    pub(super) fn usage(&self) -> (usize, usize, Option<Instant>) {
        let sessions: Vec<_> = self.lock().sessions.values().cloned().collect();
        let usages = sessions.iter().map(|session| session.usage());
        let (calls, last) = usages.fold((0, None), |(calls, last), usage| (calls + usage.0, last.max(Some(usage.1))));
        (sessions.len(), calls, last)
    }

    /// Ends every session, and opens no more.
    pub(super) fn end_all(&self) {
        let sessions: Vec<_> = {
            let table = self.lock();
            self.0.ended.send_replace(true);
            table.sessions.values().cloned().collect()
        };
        for session in sessions {
            session.end();
        }
    }

    /// Makes room for one session more, held until the value is dropped or turned into a session.
    pub(super) fn reserve(&self) -> Result<Opening, UpstreamError> {
        let mut table = self.lock();
        if self.has_ended() {
            return Err(stopped());
        }
        if table.sessions.len() + table.opening >= self.0.options.max_sessions {
            let public = "The server has as many sessions as it may have. Try again later.";
            return Err(UpstreamError::new(UpstreamErrorKind::Exhausted, public));
        }
        table.opening += 1;
        Ok(Opening(self.clone()))
    }

    fn has_ended(&self) -> bool {
        *self.0.ended.borrow()
    }

    /// Waits until no session is opened any more; then those that are being opened are to be dropped.
    pub(super) async fn until_end(&self) {
        // The sender is here, so there is no other outcome.
        let _ = self.0.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn find(&self, headers: &HeaderMap) -> Result<Arc<Session>, NoSession> {
        let mut values = headers.get_all(SESSION).iter();
        let (Some(id), None) = (values.next(), values.next()) else { return Err(NoSession::Missing) };
        let session = id.to_str().ok().and_then(|id| self.lock().sessions.get(id).cloned());
        session.filter(|session| !session.is_ended()).ok_or(NoSession::Unknown)
    }

    /// `initialize` without a session: a new child, a new session.
    pub(super) async fn initialize(
        &self,
        child: Child,
        opening: Opening,
        headers: &HeaderMap,
        body: Bytes,
        message: &Message<'_>,
    ) -> Result<Response<Body>, UpstreamError> {
        let accepts = Accepts::of(headers);
        if !accepts.json && !accepts.events {
            return Ok(not_acceptable());
        }
        let (writer, reader, life) = parts(child);
        let id: Arc<str> = format!("{:032x}", rand::rng().random::<u128>()).into();
        let session = Session::new(Arc::clone(&id), writer, Arc::clone(&self.0.options), Arc::clone(&self.0.dropped));
        // From here on the session's task owns the child, and this guard the session.
        let mut guard = Guard(Some(Arc::clone(&session)));
        let stream = session.ask(message).map_err(|_| broken(None))?;
        let _waiting = stream.attach(None, self.pace());
        tokio::spawn(self.clone().serve(Arc::clone(&session), reader, life));
        if session.send(body).await.is_err() {
            session.end();
        }
        if tokio::time::timeout(self.0.options.start_timeout, stream.ready(0)).await.is_err() {
            return Err(UpstreamError::new(UpstreamErrorKind::Timeout, "The server did not start in time."));
        }
        let (answer, end) = only(&stream)?;
        if let End::Error(code) = end {
            // A server that knows no handshake says so in its own words, with the status of its revision.
            let status = match code {
                rpc::code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
                rpc::code::UNSUPPORTED_PROTOCOL_VERSION => StatusCode::BAD_REQUEST,
                _ => StatusCode::OK,
            };
            return Ok(respond::json(status, answer));
        }
        session.negotiated(&answer);
        opening.open(session)?;
        guard.0 = None;
        let mut response = if accepts.json {
            respond::json(StatusCode::OK, answer)
        } else {
            let stream = Stream::once();
            stream.finish(answer, End::Done);
            respond::events(stream.attach(None, self.pace()))
        };
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(SESSION, id);
        }
        Ok(response)
    }

    async fn serve(self, session: Arc<Session>, reader: super::child::Reader, life: super::child::Life) {
        let id = Arc::clone(session.id());
        session.run(reader, life).await;
        self.lock().sessions.remove(&id);
    }

    /// Any other message of a session.
    pub(super) async fn post(
        &self,
        headers: &HeaderMap,
        claim: Claim,
        body: Bytes,
        message: &Message<'_>,
    ) -> Result<Response<Body>, UpstreamError> {
        let id = message.id.map(mcp_gateway_core::wire::Id::raw);
        if claim == Claim::Unknown {
            return Ok(respond::error(StatusCode::BAD_REQUEST, id, SESSION_FAULT, UNKNOWN_VERSION, None));
        }
        let session = match self.find(headers) {
            Ok(session) => session,
            Err(reason) => return Ok(reason.into()),
        };
        if message.kind != Kind::Request {
            return self.notify(&session, body, message).await;
        }
        let accepts = Accepts::of(headers);
        // By the revision that was agreed: some clients name an older one in the header.
        let prime = session.primes();
        if accepts.events {
            let stream = match session.open(message, prime) {
                Ok(stream) => stream,
                Err(reason) => return refuse(&reason, id),
            };
            // Its client waits from here on, until it hangs up.
            let events = stream.attach(None, self.pace());
            let known = usize::from(prime);
            if session.send(body).await.is_err() {
                // It no longer reads, whether or not it has ended.
                session.end();
                stream.ready(known).await;
            }
            // A little later than at once, so that an early end of the child is still a status.
            let _ = tokio::time::timeout(self.0.options.head_delay, stream.ready(known)).await;
            if let End::Failed(why) = stream.end() {
                return Err(broken(why));
            }
            return Ok(respond::events(events));
        }
        if !accepts.json {
            return Ok(not_acceptable());
        }
        let stream = match session.ask(message) {
            Ok(stream) => stream,
            Err(reason) => return refuse(&reason, id),
        };
        let _waiting = stream.attach(None, self.pace());
        if session.send(body).await.is_err() {
            session.end();
        }
        stream.ready(0).await;
        Ok(respond::json(StatusCode::OK, only(&stream)?.0))
    }

    async fn notify(
        &self,
        session: &Session,
        body: Bytes,
        message: &Message<'_>,
    ) -> Result<Response<Body>, UpstreamError> {
        if session.send(body).await.is_err() {
            return Ok(unknown_session());
        }
        if message.method() == Method::Cancelled.as_str()
            && let Some(id) = message.params.as_ref().and_then(|params| params.request_id)
        {
            session.cancelled(id.raw());
        }
        Ok(respond::empty(StatusCode::ACCEPTED))
    }

    /// GET: the standalone stream, or with a cursor the stream that it names.
    pub(super) fn listen(&self, headers: &HeaderMap) -> Response<Body> {
        if !Accepts::of(headers).events {
            return not_acceptable();
        }
        let session = match self.find(headers) {
            Ok(session) => session,
            Err(reason) => return reason.into(),
        };
        let mut cursors = headers.get_all(LAST_EVENT).iter();
        let body = match (cursors.next(), cursors.next()) {
            (None, _) => session.standalone().attach(None, self.pace()),
            (Some(text), None) => {
                let cursor = text.to_str().ok().and_then(cursor);
                let Some((cursor, stream)) = cursor.and_then(|cursor| Some((cursor, session.resumed(cursor)?))) else {
                    return respond::error(StatusCode::BAD_REQUEST, None, SESSION_FAULT, UNKNOWN_EVENT, None);
                };
                stream.attach(Some(cursor.1), self.pace())
            }
            _ => return respond::error(StatusCode::BAD_REQUEST, None, SESSION_FAULT, UNKNOWN_EVENT, None),
        };
        respond::events(body)
    }

    /// DELETE: ends the session.
    pub(super) fn delete(&self, headers: &HeaderMap) -> Response<Body> {
        match self.find(headers) {
            Ok(session) => {
                session.end();
                // Some SDKs warn about 202.
                respond::empty(StatusCode::NO_CONTENT)
            }
            Err(reason) => reason.into(),
        }
    }

    fn pace(&self) -> Pace {
        Pace { retry: self.0.options.retry, keep_alive: self.0.options.keep_alive }
    }
}

/// The answer on the stream of a client that reads nothing else.
fn only(stream: &Stream) -> Result<(Bytes, End), UpstreamError> {
    match (stream.end(), stream.only()) {
        (End::Failed(why), _) => Err(broken(why)),
        (end, Some(message)) => Ok((message, end)),
        (_, None) => Err(broken(None)),
    }
}

/// Room for a session that is being opened.
pub(super) struct Opening(Sessions);

impl Opening {
    fn open(self, session: Arc<Session>) -> Result<(), UpstreamError> {
        // One that has ended by now has also left the table.
        let mut table = self.0.lock();
        if self.0.has_ended() {
            return Err(stopped());
        }
        if !session.is_ended() {
            table.sessions.insert(Arc::clone(session.id()), session);
        }
        Ok(())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.lock().opening -= 1;
    }
}

/// Ends a session whose client hung up before it heard of it.
struct Guard(Option<Arc<Session>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.end();
        }
    }
}

const NO_SESSION: &str = "Bad Request: No valid session ID provided";
const UNKNOWN_VERSION: &str = "Bad Request: Unsupported protocol version";
const UNKNOWN_EVENT: &str = "Bad Request: The event ID is not one of this session, or its stream is gone";

/// Why a request has no session.
#[derive(Debug, Clone, Copy)]
enum NoSession {
    /// No session header, or several.
    Missing,
    /// None of this bridge, or one that has ended.
    Unknown,
}

impl From<NoSession> for Response<Body> {
    fn from(reason: NoSession) -> Self {
        match reason {
            NoSession::Missing => respond::error(StatusCode::BAD_REQUEST, None, SESSION_FAULT, NO_SESSION, None),
            // Clients initialize again when they read this status.
            NoSession::Unknown => respond::error(StatusCode::NOT_FOUND, None, -32001, "Session not found", None),
        }
    }
}

fn unknown_session() -> Response<Body> {
    NoSession::Unknown.into()
}

fn not_acceptable() -> Response<Body> {
    let message = "Not Acceptable: Client must accept application/json or text/event-stream";
    respond::error(StatusCode::NOT_ACCEPTABLE, None, SESSION_FAULT, message, None)
}

fn refuse(reason: &NotTaken, id: Option<&[u8]>) -> Result<Response<Body>, UpstreamError> {
    match reason {
        NotTaken::IdInUse => {
            let message = "Invalid Request: a request with this id is still in flight";
            Ok(respond::error(StatusCode::BAD_REQUEST, id, rpc::code::INVALID_REQUEST, message, None))
        }
        NotTaken::Full => {
            let public = "The session has as many requests in flight as it may have. Try again later.";
            Err(UpstreamError::new(UpstreamErrorKind::Exhausted, public))
        }
        NotTaken::Ended(_) => Ok(unknown_session()),
    }
}
