#!/usr/bin/env bash
# Runs the conformance suite against the fixture server with nothing in between: what a proxy must not change.
set -euo pipefail

if (($# < 1)); then
    echo "usage: direct.sh FIXTURE_BINARY [run.sh options]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$1
shift

# The server says on stdout where it listens, once it does.
exec {server}< <(exec "$binary" http --port 0)
pid=$!
trap 'kill "$pid" 2>/dev/null || true' EXIT
read -r -t 10 line <&"$server" || { echo "direct.sh: the fixture did not start" >&2; exit 1; }
port=${line##*:}
port=${port%%/*}

"$here/run.sh" "http://localhost:$port/mcp" "$@"
