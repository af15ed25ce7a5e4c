//! The limits and times of a bridge.

use std::time::Duration;

/// Limits and times of a [`Bridge`](super::Bridge). Every queue and buffer in a bridge has its bound here.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BridgeOptions {
    /// Longest body of a POST in bytes; a longer one is 413.
    pub max_body: usize,
    /// Longest id of a message in bytes, as it is written.
    pub max_id: usize,
    /// Longest line that a child may write in bytes. A child that writes a longer one is ended.
    pub max_line: usize,
    /// Most legacy sessions, so most children beside the shared one.
    pub max_sessions: usize,
    /// Most requests in flight of one session, or of the shared child. In a session those whose clients are gone make
    /// room, the one that was left first at first.
    pub max_calls: usize,
    /// Lines that may wait for a child to read them. When it is full, callers wait.
    pub write_queue: usize,
    /// Most events that a session, or one modern stream, keeps for its readers and for resumption.
    pub buffer_events: usize,
    /// Most bytes of such events. The newest event is kept whatever its size, up to `max_line`.
    pub buffer_bytes: usize,
    /// A session ends when for this time no message has passed in either direction and no client waits for an answer. An
    /// open GET stream is not use.
    pub session_idle: Duration,
    /// How long a child may take to answer the probe or `initialize`.
    pub start_timeout: Duration,
    /// How long the probe waits for any answer before it also tries the legacy handshake.
    pub probe_silence: Duration,
    /// How long the head of an event stream waits for the first message, so that an early end of the child is still a
    /// status and not an event.
    pub head_delay: Duration,
    /// The `retry` that legacy streams announce.
    pub retry: Duration,
    /// A comment is sent on a stream that was silent for this long; `None` for never.
    pub keep_alive: Option<Duration>,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            max_body: 4 << 20,
            max_id: mcp_gateway_core::wire::Limits::default().max_id,
            max_line: 16 << 20,
            max_sessions: 50,
            max_calls: 256,
            write_queue: 64,
            buffer_events: 1024,
            buffer_bytes: 4 << 20,
            session_idle: Duration::from_secs(600),
            start_timeout: Duration::from_secs(60),
            probe_silence: Duration::from_secs(10),
            head_delay: Duration::from_millis(250),
            retry: Duration::from_secs(3),
            keep_alive: Some(Duration::from_secs(15)),
        }
    }
}
