//! What clients wrote down, against what is in Postgres.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mcp_gateway_test_postgres::Cluster;

use super::Disturbance;
use super::load::{Called, Outcome};
use crate::support::history::Led;

/// Calls of one client in a row that may fail: the one that was under way, and two that the balancer still sends to a
/// replica that it has not found out about.
const RETRIES: usize = 3;

/// Checks all there is to check, and says what was found.
pub(crate) fn check(
    cluster: &Cluster,
    database: &str,
    called: &[Called],
    done: &[(Disturbance, Instant, Instant)],
) -> String {
    let mut rows: HashMap<String, Vec<(String, String)>> = HashMap::new();
    let all = "SELECT detail::jsonb->>'rpc_id', stream, outcome FROM mcp_gateway.event
               WHERE kind = 'exchange' AND detail::jsonb->>'rpc_id' LIKE '\"c%'";
    for line in cluster.sql(database, all).lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [id, stream, outcome] = fields[..] else { panic!("{line}") };
        rows.entry(id.to_owned()).or_default().push((stream.to_owned(), outcome.to_owned()));
    }
    let twice: Vec<_> = rows.iter().filter(|(_, rows)| rows.len() > 1).take(10).collect();
    assert!(twice.is_empty(), "calls that are in the trail twice: {twice:?}");
    let answered: Vec<&Called> = called.iter().filter(|called| called.outcome == Outcome::Answered).collect();
    let ok = |called: &&&Called| rows.get(&called.id).is_some_and(|rows| rows[0].1 == "ok");
    let lost: Vec<_> =
        answered.iter().filter(|called| !ok(called)).map(|called| (&called.id, rows.get(&called.id))).collect();
    assert!(
        lost.is_empty(),
        "{} answered calls are not in the trail as such: {:?}",
        lost.len(),
        &lost[..lost.len().min(10)]
    );

    // Each life of a process numbers its rows without a gap.
    let gaps = "SELECT stream, count(*), max(seq), count(DISTINCT seq) FROM mcp_gateway.event GROUP BY stream
                HAVING count(*) <> max(seq) OR count(DISTINCT seq) <> count(*)";
    assert_eq!(cluster.sql(database, gaps), "", "streams with gaps, or with a row twice");

    let mut report = String::new();
    let _ = writeln!(report, "- {} calls, {} answered, each of these once in the trail", called.len(), answered.len());
    let mut by_client: BTreeMap<usize, Vec<&Called>> = BTreeMap::new();
    for one in called {
        by_client.entry(one.client).or_default().push(one);
    }
    let mut worst = 0;
    for (client, calls) in &by_client {
        let over: Vec<_> = calls.iter().filter(|called| called.outcome == Outcome::Refused(404)).collect();
        assert!(over.is_empty(), "client {client}: its session was over {} times", over.len());
        let streams: BTreeSet<&str> =
            calls.iter().filter_map(|called| rows.get(&called.id)).map(|rows| &*rows[0].0).collect();
        assert!(streams.len() > 3, "client {client}: one session at every replica, and at those that came after");
        let mut row = 0;
        for call in calls {
            row = if call.outcome == Outcome::Answered { 0 } else { row + 1 };
            worst = worst.max(row);
        }
    }
    let failed: Vec<_> = called.iter().filter(|called| called.outcome != Outcome::Answered).collect();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for call in &failed {
        *kinds.entry(format!("{:?}", call.outcome)).or_default() += 1;
    }
    let _ = writeln!(report, "- {} sessions, none of them lost, each at every replica", by_client.len());
    let _ = writeln!(report, "- failed: {kinds:?}, at most {worst} in a row of one client");
    let mut shown: BTreeMap<&str, (usize, Duration, usize)> = BTreeMap::new();
    for (how, from, until) in done {
        let during = |called: &&&Called| (*from..*until).contains(&called.ended);
        let went_on = answered.iter().filter(during).count();
        assert!(went_on > 0, "no call was answered during {how:?}");
        let name = match how {
            Disturbance::Kill => "a replica killed",
            Disturbance::Hang => "Postgres hung",
            Disturbance::Crash => "Postgres crashed",
            Disturbance::Pause => "the leader paused",
            Disturbance::CutOff => "the leader cut off",
        };
        let entry = shown.entry(name).or_default();
        entry.0 += 1;
        entry.1 = entry.1.max(until.duration_since(*from));
        entry.2 += failed.iter().filter(|called| (*from..*until).contains(&called.ended)).count();
    }
    for (name, (times, longest, failed)) in shown {
        let _ =
            writeln!(report, "- {name}: {times} times, all well after {longest:.1?} at most, {failed} calls failed");
    }
    assert!(worst <= RETRIES, "a client needed more than {RETRIES} retries\n{report}");
    report
}

/// How long leases were nobody's, between two times in which somebody led.
pub(crate) fn takeovers(led: &[Led]) -> Vec<Duration> {
    let mut ended: BTreeMap<&str, i64> = BTreeMap::new();
    let mut times = Vec::new();
    for led in led {
        if let Some(before) = ended.insert(&led.lease, led.until) {
            times.push(Duration::from_micros(u64::try_from(led.from - before).unwrap_or_default()));
        }
    }
    times
}
