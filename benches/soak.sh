#!/usr/bin/env bash
# Loads the gateway for half an hour at 80 % of what it can do, with clients that hang up at random, and kills a child
# every 10 seconds. Fails when a child, task, connection, memory or audit event is left or lost, or a call fails that was
# not in flight to a killed child.
#
#   SOAK_SECONDS=300 benches/soak.sh
#
# SOAK_SECONDS is 1800 by default. GATEWAY_BIN, FIXTURE_BIN and BENCHES_BIN name a built mcp-gateway, the built fixture
# and the folder with the built benchmarks; without them they are built. With SOAK_KEEP=1 the folder with data, log and the
# list of calls stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v python3 >/dev/null || { echo "python3 is missing: apt-get install python3" >&2; exit 1; }
if [[ -z ${GATEWAY_BIN-} || -z ${BENCHES_BIN-} || -z ${FIXTURE_BIN-} ]]; then
    cargo build --locked --release -p mcp-gateway-server -p mcp-gateway-benches -p mcp-gateway-fixture
    release=${CARGO_TARGET_DIR:-target}/release
    export GATEWAY_BIN=${GATEWAY_BIN:-$release/mcp-gateway} BENCHES_BIN=${BENCHES_BIN:-$release}
    export FIXTURE_BIN=${FIXTURE_BIN:-$release/mcp-gateway-fixture}
fi
ulimit -n "$(ulimit -Hn)"
exec python3 benches/soak.py
