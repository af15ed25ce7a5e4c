#!/usr/bin/env bash
# Runs the conformance suite against the fixture server behind the gateway: the same counts as with nothing in between.
set -euo pipefail

if (($# < 2)); then
    echo "usage: through.sh GATEWAY_BINARY FIXTURE_BINARY [run.sh options]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/gateway.sh"
gateway=$1 fixture=$2
shift 2

exec {server}< <(exec "$fixture" http --port 0)
started+=("$!")
read -r -t 10 line <&"$server" || { echo "through.sh: the fixture did not start" >&2; exit 1; }
address=${line#listening on }

start_gateway "$gateway" <<ENTRY
entryKey: fixture
name: Fixture
runtime: remote
serverUserType: multiUser
remoteConfig:
  fixedURL: $address
ENTRY
"$here/run.sh" "http://localhost:$gateway_port/mcp-connect/fixture" "$gateway_key" "$@"
