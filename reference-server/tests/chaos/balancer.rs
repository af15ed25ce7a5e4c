//! A plain TCP balancer: each connection to the next replica that is ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::Call;

/// How often it asks, and how long an answer may take.
const ASK: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(1);

struct Target {
    address: SocketAddr,
    ready: watch::Sender<bool>,
}

/// Ends with its owner.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Balancer {
    pub(crate) async fn of(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets: Arc<[Target]> =
            targets.into_iter().map(|address| Target { address, ready: watch::Sender::new(true) }).collect();
        let mut tasks = JoinSet::new();
        for number in 0..targets.len() {
            let targets = Arc::clone(&targets);
            tasks.spawn(async move {
                loop {
                    let asked = timeout(ANSWER, Call::get("/readyz").try_open(targets[number].address)).await;
                    let ready = matches!(asked, Ok(Ok(answer)) if answer.status == 200);
                    targets[number].ready.send_replace(ready);
                    sleep(ASK).await;
                }
            });
        }
        tasks.spawn(async move {
            let turn = Arc::new(AtomicUsize::new(0));
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(connect(near, Arc::clone(&targets), turn.fetch_add(1, Ordering::Relaxed)));
            }
        });
        Self { address, _tasks: tasks }
    }
}

/// Passes a connection on, until an end closes it or the replica is not ready any more.
async fn connect(mut near: TcpStream, targets: Arc<[Target]>, turn: usize) {
    for target in targets.iter().cycle().skip(turn % targets.len()).take(targets.len()) {
        let mut ready = target.ready.subscribe();
        if !*ready.borrow() {
            continue;
        }
        let Ok(Ok(mut far)) = timeout(ANSWER, TcpStream::connect(target.address)).await else { continue };
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = ready.wait_for(|ready| !ready) => {}
        }
        return;
    }
}
