#!/usr/bin/env bash
# Half an hour of what the test `chaos` does in a minute: three replicas over one Postgres, behind a balancer, under steady
# load. In random order the leader is killed, Postgres hangs for 60 s or crashes, the leader is paused for 30 s, or
# cut off from Postgres for 30 s; each once at least, however few the seconds. Fails when a session is lost, an answered call is not in the audit trail or twice, two
# lead at a time, or a client needs more than three retries.
#
#   CHAOS_SECONDS=600 tests/chaos.sh [REPORT]
#
# CHAOS_SECONDS is 1800 by default. What was found goes to REPORT, docs/figures/chaos.md by default.
set -euo pipefail
report=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../docs/figures/chaos.md}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One set of features for everything that is built, so that nothing is built twice.
all=(--workspace --all-features --locked)
cargo test "${all[@]}" --bins --test chaos --no-run
MCP_GATEWAY_CHAOS_SECONDS=${CHAOS_SECONDS:-1800} MCP_GATEWAY_CHAOS_REPORT=$report \
    cargo test "${all[@]}" --test chaos -- --nocapture
