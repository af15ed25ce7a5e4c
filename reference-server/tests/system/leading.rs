//! What one replica does for all: by one at a time, whatever becomes of it.

use std::path::Path;
use std::time::Duration;

use mcp_gateway_test_postgres::Cluster;
use tempfile::TempDir;

use crate::postgres::folder;
use crate::support::gateway::remote;
use crate::support::history::{History, Led};
use crate::support::{Fixture, Gateway, until};

/// Changes an entry for ever: there is always something to do for whoever leads, or thinks so.
async fn change(catalog: &Path, url: &str) {
    for number in 0.. {
        let entry = format!("{}description: {number}\n", remote("busy", url));
        std::fs::write(catalog.join("busy.yaml"), entry).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How long a lease was nobody's before a time in which somebody led.
fn without(times: &[Led], next: &Led) -> Duration {
    let before = times.iter().rfind(|led| led.lease == next.lease && led.from < next.from).unwrap();
    Duration::from_micros(u64::try_from(next.from - before.until).unwrap())
}

#[tokio::test]
async fn one_leads_at_a_time_whoever_is_paused_or_killed() {
    let fixture = Fixture::start();
    let cluster = Cluster::shared();
    let database = cluster.database();
    let catalog = TempDir::new().unwrap();
    let first = folder(None, &database);
    let history = History::begin(cluster, &database);
    let start = async |name: &str, folder: TempDir| {
        let (url, paths) = (format!("{database}?application_name={name}"), catalog.path().to_str().unwrap());
        let settings = [("DATABASE", &*url), ("CATALOG__PATHS", paths), ("CATALOG__POLL_SECONDS", "1")];
        Gateway::start_in(folder, &[], &settings).await
    };
    let url = fixture.url();
    let changing = change(catalog.path(), &url);
    let work = async {
        let a = start("a", first).await;
        let mut b = start("b", folder(Some(&a), &database)).await;
        assert_eq!(history.leader("catalog").as_deref(), Some("a"));

        // Stopped for so long that it is not the leader any more when it goes on.
        a.process.signal(rustix::process::Signal::STOP);
        until("another leader", async || (history.leader("catalog")? == "b").then_some(())).await;
        a.process.signal(rustix::process::Signal::CONT);
        until("what the first one says", async || a.log().contains("leads no longer").then_some(())).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(history.leader("catalog").as_deref(), Some("b"), "it does not take back what is another one's");

        b.kill();
        until("the first one again", async || (history.leader("catalog")? == "a").then_some(())).await;
        // Something is written by it.
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tokio::select! {
        () = changing => {}
        () = work => {}
    }
    let times = history.check();
    let of_catalog: Vec<&str> = times.iter().filter(|led| led.lease == "catalog").map(|led| &*led.who).collect();
    assert_eq!(of_catalog, ["a", "b", "a"], "{times:?}");
    for led in times.iter().filter(|led| led.lease == "catalog").skip(1) {
        println!("without a leader for {:?} after the last lease ended", without(&times, led));
    }
    for lease in ["audit-retention", "catalog", "expiry", "keys"] {
        assert!(times.iter().any(|led| led.lease == lease), "nobody led in {lease}");
    }
}
