//! Clients that call without a pause, each in its session, and write down what they were told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::Key;
use crate::support::mcp::Session;

const CLIENTS: usize = 6;
/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A call, as its client saw it.
pub(crate) struct Called {
    /// Its id, as the trail writes it.
    pub(crate) id: String,
    pub(crate) client: usize,
    pub(crate) ended: Instant,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole result has arrived.
    Answered,
    /// Another status.
    Refused(u16),
    /// No answer, or not all of it.
    Broken,
}

/// What clients have written down.
pub(crate) type Log = Arc<Mutex<Vec<Called>>>;

pub(crate) struct Load {
    pub(crate) log: Log,
    over: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Opens the sessions, and begins.
    pub(crate) async fn begin(address: SocketAddr, key: &Key) -> Self {
        let (log, over) = (Log::default(), watch::Sender::new(false));
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let session = Session::open_at(address, "fixture", key).await;
            clients.push(tokio::spawn(run(client, session, address, Arc::clone(&log), over.subscribe())));
        }
        Self { log, over, clients }
    }

    /// Lets every call come to its end.
    pub(crate) async fn end(self) -> Vec<Called> {
        self.over.send_replace(true);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

async fn run(client: usize, session: Session, address: SocketAddr, log: Log, over: watch::Receiver<bool>) {
    for number in 0.. {
        if *over.borrow() {
            return;
        }
        let id = format!("c{client}-{number}");
        let call = session.call(id.as_str(), "test_simple_text", &json!({}));
        let outcome = match timeout(PATIENCE, ask(call, address, &id)).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Outcome::Broken,
        };
        let called = Called { id: format!("\"{id}\""), client, ended: Instant::now(), outcome };
        log.lock().unwrap().push(called);
        sleep(PAUSE).await;
    }
}

async fn ask(call: crate::support::Call, address: SocketAddr, id: &str) -> Option<Outcome> {
    let answer = call.try_open(address).await.ok()?.finish().await;
    let whole = answer.text().contains(&format!("\"id\":\"{id}\"")) && answer.text().contains("\"result\"");
    match answer.status.as_u16() {
        200 => whole.then_some(Outcome::Answered),
        status => Some(Outcome::Refused(status)),
    }
}
