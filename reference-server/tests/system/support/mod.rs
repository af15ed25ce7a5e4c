//! What the tests have in common: processes, a client that hides nothing, and an upstream that does as it is told.

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod gateway;
#[cfg(feature = "postgres")]
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod mcp;
pub(crate) mod process;
pub(crate) mod upstream;
#[cfg(feature = "postgres")]
pub(crate) mod wire;

use std::future::Future;
use std::time::{Duration, Instant};

pub(crate) use gateway::{Gateway, Key};
pub(crate) use http::{Answer, Call, Open};
pub(crate) use process::Fixture;
pub(crate) use upstream::Upstream;

/// How long anything may take that has no time of its own: far more than it needs, so that a busy machine fails no
/// test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
///
/// # Panics
/// After [`PATIENCE`], naming what did not come.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
