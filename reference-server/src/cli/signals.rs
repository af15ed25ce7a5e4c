//! What ends a server.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The first, and the second.
    pub(super) fn split(mut self) -> (impl Future<Output = ()>, impl Future<Output = ()>) {
        let (first, stopped) = tokio::sync::oneshot::channel::<()>();
        let (second, cut) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            for sender in [first, second] {
                tokio::select! {
                    _ = self.term.recv() => {}
                    _ = self.interrupt.recv() => {}
                }
                // Whoever waited may have ended.
                let _ = sender.send(());
            }
        });
        let wait = |receiver: tokio::sync::oneshot::Receiver<()>| async move {
            // A sender that is gone means that the runtime ends.
            let _ = receiver.await;
        };
        (wait(stopped), wait(cut))
    }
}
