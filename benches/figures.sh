#!/usr/bin/env bash
# Measures the gateway beside nginx as a plain reverse proxy, all in one run, and writes docs/figures/.
#
#   benches/figures.sh [--quick]
#
# MCP_PROXY_BIN names a built mcp-proxy 0.6 to compare with; without it a full run builds one, a quick run leaves it out.
#
# Core 0 has the gateway or nginx with all their threads, core 1 the server behind them and the load. Needs wrk, nginx
# and Python 3, and a machine that has nothing else to do: the report shows its load. GATEWAY_BIN and BENCHES_BIN name
# a built mcp-gateway and the folder with the built benchmarks, GATEWAY_BUILD says how it was built (for example by
# benches/pgo.sh, as for publication); without them they are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for command in wrk nginx python3 taskset openssl; do
    command -v "$command" >/dev/null || { echo "$command is missing: apt-get install wrk nginx-light python3 util-linux openssl" >&2; exit 1; }
done
(($(nproc) >= 2)) || { echo "two cores are needed: one for what is measured, one for the load" >&2; exit 1; }
if [[ -z ${GATEWAY_BIN-} || -z ${BENCHES_BIN-} ]]; then
    cargo build --release -p mcp-gateway-server -p mcp-gateway-benches
    release=${CARGO_TARGET_DIR:-target}/release
    export GATEWAY_BIN=${GATEWAY_BIN:-$release/mcp-gateway} BENCHES_BIN=${BENCHES_BIN:-$release}
fi
if [[ -z ${MCP_PROXY_BIN-} && ${1-} != --quick ]]; then
    folder=${CARGO_TARGET_DIR:-target}/mcp-proxy
    [[ -x $folder/bin/mcp-proxy ]] ||
        cargo install --quiet --locked --root "$folder" --target-dir "$folder/target" --version 0.6.0 \
            --no-default-features --features oauth mcp-proxy
    export MCP_PROXY_BIN=$folder/bin/mcp-proxy
fi
ulimit -n "$(ulimit -Hn)"
exec python3 benches/figures.py "$@"
