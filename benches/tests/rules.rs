//! What a decision by access rules costs in allocations. One test in a binary of its own, on one thread: the counter is
//! the process's.

use std::time::Instant;

use mcp_gateway_benches::rules::{PEOPLE, RULES, company, person};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Action, Ask, Authorizer as _, SystemClock, Target};
use mcp_gateway_core::record::Principal;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const DECISIONS: u32 = 10_000;

#[test]
fn a_decision_allocates_nothing() {
    let ruled = company(PEOPLE).unwrap();
    let cx = McpContext::new(&SystemClock);
    let people: Vec<_> = (0..100).map(|number| Principal::new("local", person(number * 997))).collect();
    let servers: Vec<_> = (0..100).map(|number| format!("server-{number}")).collect();
    let mut allowed = 0;
    let mut decide = |number: usize| {
        let target = Target { server: &servers[number % 100], name: Some("read_all") };
        let (principal, action) = (&people[number / 100 % 100], Action::Method("tools/call"));
        match ruled.decide(&Ask { principal, action, target, cx: &cx, arguments: None }) {
            MaybeReady::Ready(decision) => allowed += u32::from(decision.allow),
            MaybeReady::Wait(_) => panic!("nothing to wait for"),
        }
    };
    // The names of decisions that no rule makes are made once.
    (0..100).for_each(&mut decide);
    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get().total_blocks;
    let begun = Instant::now();
    (0..DECISIONS as usize).for_each(&mut decide);
    let each = begun.elapsed() / DECISIONS;
    let allocations = dhat::HeapStats::get().total_blocks - before;
    println!("{RULES} rules, {PEOPLE} people: {each:?} a decision, {allowed} of {DECISIONS} allowed");
    assert!(allowed > 0 && allowed < DECISIONS, "both happen: {allowed}");
    assert_eq!(allocations, 0);
}
