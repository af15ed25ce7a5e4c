#!/usr/bin/env bash
# Runs the conformance suite against the fixture server as a child of the gateway, behind the stdio bridge. What a
# server on stdin and stdout cannot show is in stdio-exceptions.txt, with the reason.
set -euo pipefail

if (($# < 2)); then
    echo "usage: stdio.sh GATEWAY_BINARY FIXTURE_BINARY [run.sh options]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/gateway.sh"
gateway=$1 fixture=$(realpath "$2")
shift 2

# The suite opens a session for each scenario and closes hardly any: more children than one caller may have.
export MCP_GATEWAY__LIMITS__CHILDREN__PER_PRINCIPAL=500 MCP_GATEWAY__LIMITS__CHILDREN__PER_SERVER=500
export MCP_GATEWAY__LIMITS__CHILDREN__TOTAL=500 MCP_GATEWAY__LIMITS__CHILDREN__STARTS_PER_MINUTE=1000
start_gateway "$gateway" <<ENTRY
entryKey: fixture
name: Fixture
runtime: command
serverUserType: multiUser
command: $fixture
args: [stdio]
ENTRY
"$here/run.sh" "http://localhost:$gateway_port/mcp-connect/fixture" "$gateway_key" \
    --expect 28 30 45 --allow-failures "$here/stdio-exceptions.txt" "$@"
