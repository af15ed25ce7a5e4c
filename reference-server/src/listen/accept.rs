//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::connection::Protocols;
use super::{Dispatch, TlsReloader};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1_024;
/// How long to wait when the process has run out of descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The limits of a listener.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// Connections at once; more wait in the kernel.
    pub connections: usize,
    /// How long a TLS handshake, and the head of a connection's first request, may take.
    pub head_timeout: Duration,
    /// How long a connection may be idle, and the head of a further request may take.
    pub keep_alive: Duration,
    /// How long bytes may be on their way to a client that takes none of them.
    pub write_timeout: Duration,
    /// Header fields of a request.
    pub header_count: usize,
    /// Bytes of a request's header fields.
    pub header_bytes: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
}

impl Default for ListenerOptions {
    /// 10,000 connections, 10 s, 75 s, 120 s, 100 fields, 32 KiB, 250 requests.
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(120),
            header_count: 100,
            header_bytes: 32 << 10,
            streams_per_connection: 250,
        }
    }
}

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// When the address is in use or is none of this machine's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the last connections of the process before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address; with the port that the system chose, where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the drain begins, then closes the socket: whoever comes later is refused by the kernel.
    pub async fn serve(self, dispatch: Dispatch, options: ListenerOptions, tls: Option<TlsReloader>) {
        let protocols = Arc::new(Protocols::new(&options));
        let room = Arc::new(Semaphore::new(options.connections.min(Semaphore::MAX_PERMITS)));
        let drain = dispatch.drain().clone();
        loop {
            let accepted = tokio::select! {
                () = drain.begun.cancelled() => return,
                accepted = self.accept(&room, options.write_timeout) => accepted,
            };
            let Some((socket, peer, permit)) = accepted else { continue };
            let (protocols, dispatch) = (Arc::clone(&protocols), dispatch.clone());
            match &tls {
                None => drain.connections.spawn(async move {
                    protocols.serve_plain(socket, peer, dispatch).await;
                    drop(permit);
                }),
                Some(tls) => {
                    let acceptor = TlsAcceptor::from(tls.current());
                    drain.connections.spawn(async move {
                        protocols.serve_tls(acceptor, socket, peer, dispatch).await;
                        drop(permit);
                    })
                }
            };
        }
    }

    async fn accept(
        &self,
        room: &Arc<Semaphore>,
        write_timeout: Duration,
    ) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(room).acquire_owned().await.ok()?;
        match self.socket.accept().await {
            Ok((socket, peer)) => {
                // Events are small and must leave at once. A client that takes none of them must not hold its stream,
                // and what sends it, for ever; nor must one that is gone without a word.
                let millis = u32::try_from(write_timeout.as_millis()).unwrap_or(u32::MAX);
                let set = set_tcp_user_timeout(&socket, millis).map_err(io::Error::from);
                if let Err(error) = socket.set_nodelay(true).and(set) {
                    tracing::debug!(%peer, %error, "a connection ended while it was accepted");
                    return None;
                }
                Some((socket, peer, permit))
            }
            // The peer has gone again.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
                None
            }
            Err(error) => {
                tracing::warn!(%error, "connections cannot be accepted; is the limit of open files reached?");
                tokio::time::sleep(EXHAUSTED).await;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = TcpStream::connect(listener.address()).await.unwrap();
        let room = Arc::new(Semaphore::new(1));
        let (mut socket, ..) = listener.accept(&room, Duration::from_millis(500)).await.unwrap();
        let sent = async { while socket.write_all(&[b'x'; 64 << 10]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(60), sent).await.expect("it is cut in time");
        drop(client);
    }
}
