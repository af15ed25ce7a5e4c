#!/usr/bin/env bash
# Builds the server for publication, optimized by a profile of calls that it served.
#
#   benches/pgo.sh
#
# First an instrumented server is built and loaded (benches/pgo.py), then the `dist` profile is built with what it noted.
# Prints the path of the program; beside it is the micro benchmark, built alike. Needs wrk, Python 3 and `rustup component add llvm-tools`. Which code runs often
# is in the program for good: a profile of anything but usual calls makes it slower. BENCHES_BIN names the folder with the
# built benchmarks; without it they are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc --print host-tuple)
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[[ -x $profdata ]] || { echo "llvm-profdata is missing: rustup component add llvm-tools" >&2; exit 1; }
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/pgo
export CARGO_TARGET_DIR=$target

# With --target, build scripts and macros stay as they are.
build=(cargo build --locked --target "$host" -p mcp-gateway-server --bin mcp-gateway)

rm -rf "$target/notes"
# The profile does not depend on how the program is linked, so this build is the quick one.
RUSTFLAGS="-Cprofile-generate=$target/notes" "${build[@]}" --release \
    --config 'profile.release.lto=false' --config 'profile.release.codegen-units=16' >&2
if [[ -z ${BENCHES_BIN-} ]]; then
    cargo build --locked --release -p mcp-gateway-benches >&2
    export BENCHES_BIN=$target/release
fi
ulimit -n "$(ulimit -Hn)"
GATEWAY_BIN=$target/$host/release/mcp-gateway python3 benches/pgo.py >&2
"$profdata" merge -o "$target/served.profdata" "$target/notes"
RUSTFLAGS="-Cprofile-use=$target/served.profdata" "${build[@]}" -p mcp-gateway-benches --bin micro --profile dist >&2
echo "$target/$host/dist/mcp-gateway"
