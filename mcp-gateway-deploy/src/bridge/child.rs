//! A child's two pipes: a bounded queue in, lines out.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::spawn::{ChildControl, Spawned};

/// A child that this bridge talks to. Dropping it closes standard input and stops the child.
pub(super) struct Child {
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    pub(super) life: Life,
}

impl Child {
    pub(super) fn new(spawned: Spawned, queue: usize, max_line: usize) -> Self {
        let (lines, receiver) = mpsc::channel(queue.max(1));
        let task = tokio::spawn(write_lines(spawned.stdin, receiver));
        Self {
            writer: Writer { lines },
            reader: Reader {
                stdout: spawned.stdout,
                buffer: BytesMut::new(),
                searched: 0,
                max_line,
                control: Arc::clone(&spawned.control),
            },
            life: Life { control: spawned.control, writer: task.abort_handle() },
        }
    }
}

/// Ends the child when it is dropped.
pub(super) struct Life {
    control: Arc<dyn ChildControl>,
    writer: AbortHandle,
}

impl Life {
    /// Why it ended, for an owner.
    pub(super) async fn epitaph(&self) -> Option<String> {
        self.control.epitaph().await.detail
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // With its writer goes standard input.
        self.writer.abort();
        self.control.stop();
    }
}

/// The child no longer reads.
#[derive(Debug)]
pub(super) struct Closed;

/// The way to a child's standard input.
#[derive(Clone)]
pub(super) struct Writer {
    lines: mpsc::Sender<Bytes>,
}

impl Writer {
    /// Queues one message; waits while the queue is full.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), Closed> {
        self.lines.send(one_line(message)).await.map_err(|_| Closed)
    }

    /// Queues a message from where nobody can wait: when the queue is full, a task waits instead.
    pub(super) fn send_later(&self, message: Bytes) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.lines.try_send(one_line(message))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let lines = self.lines.clone();
            runtime.spawn(async move {
                let _ = lines.send(message).await;
            });
        }
    }
}

/// Messages on stdio hold no line break. In JSON one can only stand between tokens, where a blank means the same.
pub(super) fn one_line(message: Bytes) -> Bytes {
    if memchr2(b'\n', b'\r', &message).is_none() {
        return message;
    }
    message.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }).collect()
}

async fn write_lines(stdin: Box<dyn AsyncWrite + Send + Unpin>, mut lines: mpsc::Receiver<Bytes>) {
    let mut stdin = BufWriter::with_capacity(16 << 10, stdin);
    while let Some(line) = lines.recv().await {
        let written = async {
            stdin.write_all(&line).await?;
            stdin.write_all(b"\n").await?;
            if lines.is_empty() { stdin.flush().await } else { Ok(()) }
        };
        // The reader sees the end of the child and tells its callers.
        if written.await.is_err() {
            return;
        }
    }
}

/// A child's standard output, line by line.
pub(super) struct Reader {
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line end.
    searched: usize,
    max_line: usize,
    control: Arc<dyn ChildControl>,
}

impl Reader {
    /// The next line that may be a message, or `None` at the end. Cancel safe.
    ///
    /// Lines that do not begin like a JSON object or array go to the log.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            match line.first() {
                None => {}
                Some(b'{' | b'[') => return Ok(Some(line)),
                Some(_) => self.control.stray(&line),
            }
        }
    }

    /// Keeps a line that turned out to be no message.
    pub(super) fn stray(&self, line: &[u8]) {
        self.control.stray(line);
    }

    async fn line(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(end) = memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                if line.len() - 1 > self.max_line {
                    return Err(too_long(self.max_line));
                }
                return Ok(Some(line.slice_ref(line.trim_ascii())));
            }
            self.searched = self.buffer.len();
            if self.searched > self.max_line {
                return Err(too_long(self.max_line));
            }
            self.buffer.reserve(8 << 10);
            if self.stdout.read_buf(&mut self.buffer).await? == 0 {
                // What is left has no line end: the child ended in the middle of a message.
                return Ok(None);
            }
        }
    }
}

fn too_long(max_line: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a line of standard output is longer than {max_line} bytes"))
}
