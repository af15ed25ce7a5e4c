//! Work that one process does for all, and that none does.

use std::collections::BTreeMap;
use std::time::Duration;

use mcp_gateway_core::lease::Leases;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How often every process looks who leads.
const LOOK: Duration = Duration::from_secs(15);
/// For how long work may be nobody's: a leader that dies is replaced within 13 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Notes, for ever, which of these leases have been nobody's for too long.
pub(super) async fn watch_leases(
    leases: Leases,
    names: &'static [&'static str],
    unled: watch::Sender<Vec<&'static str>>,
) {
    let mut since: BTreeMap<&'static str, Instant> = BTreeMap::new();
    loop {
        sleep(LOOK).await;
        // Of a store that is away nobody knows who leads, and `/readyz` says that it is.
        let Ok(vacant) = leases.vacant(names).await else { continue };
        since.retain(|name, _| vacant.contains(name));
        for name in vacant {
            since.entry(name).or_insert_with(Instant::now);
        }
        let now: Vec<_> =
            since.iter().filter(|(_, since)| since.elapsed() >= PATIENCE).map(|(name, _)| *name).collect();
        if *unled.borrow() != now {
            if now.is_empty() {
                tracing::info!("some process does all that one does for the others again");
            } else {
                let text = "no process does this for the others: at least one must have worker in process.roles";
                tracing::warn!(leases = ?now, "{text}");
            }
            unled.send_replace(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mcp_gateway_core::contract::SystemClock;
    use mcp_gateway_core::memory::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_does_for_a_minute_is_told_until_somebody_does_it() {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let (sender, unled) = watch::channel(Vec::new());
        tokio::spawn(watch_leases(Leases::new(store.clone()), &["a", "b"], sender));
        let leader = Leases::new(store);
        tokio::spawn({
            let leader = leader.clone();
            async move { leader.lead("a", |_| std::future::pending()).await }
        });
        sleep(PATIENCE).await;
        assert!(unled.borrow().is_empty());
        sleep(2 * LOOK).await;
        assert_eq!(*unled.borrow(), ["b"]);
        tokio::spawn(async move { leader.lead("b", |_| std::future::pending()).await });
        sleep(2 * LOOK).await;
        assert!(unled.borrow().is_empty());
    }
}
