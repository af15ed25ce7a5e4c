//! Tells those who wait for changes that nobody can tell any more.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;

/// How soon it is noticed that the store is heard again.
const AGAIN: Duration = Duration::from_secs(1);

/// Wakes whoever follows the snapshot when it begins to refuse: the store that is away sends no change that would.
///
/// Ends when nobody has the snapshot any more. Holds it only while it looks.
pub(super) async fn announce(shared: Weak<Shared>) {
    let mut refusing = false;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let (staleness, most) = (shared.staleness(), shared.max_staleness);
        let refuses = staleness > most;
        if refuses && !refusing {
            tracing::warn!(?staleness, "the store was not heard from for too long: calls are refused and streams end");
            shared.swapped.send_modify(|_| {});
        }
        drop(shared);
        refusing = refuses;
        // A snapshot refuses behind the edge, not at it.
        let left = if refuses { AGAIN.min(most) } else { most.saturating_sub(staleness) };
        sleep(left + Duration::from_millis(1)).await;
    }
}
