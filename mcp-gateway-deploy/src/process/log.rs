//! The last lines that a workload's children wrote to standard error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use mcp_gateway_core::contract::LogLine;
use mcp_gateway_core::record::Secret;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::broadcast;

/// Longest line that is kept, in bytes; longer ones are cut.
pub const MAX_LINE: usize = 8 << 10;

/// Shortest secret that is looked for: shorter ones stand in every text.
const MIN_SECRET: usize = 6;

const REDACTED: &str = "(..)";

/// A bounded log in memory. Known secrets are replaced before a line is kept.
#[derive(Clone)]
pub struct RingLog(Arc<Inner>);

struct Inner {
    capacity: usize,
    secrets: Vec<Secret>,
    lines: Mutex<VecDeque<LogLine>>,
    news: broadcast::Sender<LogLine>,
}

impl RingLog {
    /// Keeps the last `capacity` lines, without these secrets.
    #[must_use]
    pub fn new(capacity: usize, secrets: Vec<Secret>) -> Self {
        let capacity = capacity.max(1);
        let mut secrets: Vec<_> = secrets.into_iter().filter(|secret| secret.expose().len() >= MIN_SECRET).collect();
        // A secret may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        let (news, _) = broadcast::channel(capacity.min(1024));
        Self(Arc::new(Inner { capacity, secrets, lines: Mutex::default(), news }))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<LogLine>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a line.
    pub fn push(&self, child: Option<u32>, text: &[u8]) {
        let mut text = String::from_utf8_lossy(text).into_owned();
        for secret in &self.0.secrets {
            if text.contains(secret.expose()) {
                text = text.replace(secret.expose(), REDACTED);
            }
        }
        text.truncate(text.floor_char_boundary(MAX_LINE));
        let line = LogLine { at: Timestamp::now(), child, text };
        let mut lines = self.lock();
        if lines.len() >= self.0.capacity {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        // Within the lock, so that a follower misses none and sees none twice. Nobody may be listening.
        let _ = self.0.news.send(line);
    }

    /// The last `count` lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<LogLine> {
        let lines = self.lock();
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    /// The last `count` lines of one child.
    #[must_use]
    pub fn tail_of(&self, child: u32, count: usize) -> Vec<LogLine> {
        let lines = self.lock();
        let mut tail: Vec<_> = lines.iter().rev().filter(|line| line.child == Some(child)).take(count).cloned().collect();
        tail.reverse();
        tail
    }

    /// The last `count` lines, then new ones as they come. A reader that falls behind by more than the log's capacity
    /// misses some.
    pub fn follow(&self, count: usize) -> impl Stream<Item = LogLine> + Send + 'static {
        let (tail, news) = {
            let lines = self.lock();
            let tail: Vec<_> = lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect();
            (tail, self.0.news.subscribe())
        };
        let news = futures_util::stream::unfold(news, |mut news| async move {
            loop {
                match news.recv().await {
                    Ok(line) => return Some((line, news)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        futures_util::stream::iter(tail).chain(news)
    }

    /// Reads a child's standard error to its end. Never waits for anybody, so the child never does either.
    pub(super) async fn drain(self, child: u32, mut from: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 8 << 10];
        let mut line = Vec::new();
        // The rest of a line that was cut is passed over.
        let mut cut = false;
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            for part in chunk[..read].split_inclusive(|&byte| byte == b'\n') {
                let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
                if !cut {
                    // A little more than is kept, so that a secret across the cut is still found.
                    line.extend_from_slice(&text[..text.len().min((2 * MAX_LINE).saturating_sub(line.len()))]);
                }
                if ended || line.len() >= 2 * MAX_LINE {
                    if !cut {
                        self.push(Some(child), line.strip_suffix(b"\r").unwrap_or(&line));
                    }
                    line.clear();
                    cut = !ended;
                }
            }
        }
        if !line.is_empty() {
            self.push(Some(child), &line);
        }
    }
}

impl std::fmt::Debug for RingLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingLog").field("capacity", &self.0.capacity).finish_non_exhaustive()
    }
}
