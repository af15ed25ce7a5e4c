# Sourced by the scripts beside it: starts a gateway with one catalog entry in a folder of its own, and stops it and
# whatever else is in "started" when the script ends.

started=()
folder=$(mktemp -d "${TMPDIR:-/tmp}/mcp-gateway.XXXXXX")

stop_all() {
    local status=$? pid
    for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do
        # Its children stop with it; what does not listen within ten seconds is killed.
        for _ in {1..100}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    if ((status != 0)) && [[ -s $folder/log ]]; then
        echo "the gateway's log ends with:" >&2
        tail -n 40 "$folder/log" >&2
    fi
    rm -rf "$folder"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_gateway BINARY < ENTRY: sets gateway_port and gateway_key.
start_gateway() {
    local binary token body
    binary=$(realpath "$1")
    mkdir "$folder/catalog"
    cat >"$folder/catalog/entry.yaml"
    token=conformance-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    gateway_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    (
        cd "$folder"
        export MCP_GATEWAY__LISTEN=127.0.0.1:$gateway_port
        export MCP_GATEWAY__PUBLIC_URL=http://localhost:$gateway_port
        export MCP_GATEWAY__DATA_DIR=$folder/data
        export MCP_GATEWAY__CATALOG__PATHS=$folder/catalog
        export MCP_GATEWAY__EGRESS__ALLOW=127.0.0.0/8
        # The suite opens a session for nearly every scenario and ends few of them.
        export MCP_GATEWAY__LIMITS__CHILDREN__PER_PRINCIPAL=200
        export MCP_GATEWAY__LIMITS__CHILDREN__PER_SERVER=200
        export MCP_GATEWAY__LIMITS__CHILDREN__STARTS_PER_MINUTE=1000
        export MCP_GATEWAY_BOOTSTRAP_TOKEN=$token
        exec "$binary" serve >"$folder/log" 2>&1
    ) &
    started+=("$!")
    for _ in {1..300}; do
        kill -0 "${started[-1]}" 2>/dev/null || { echo "the gateway did not start" >&2; return 1; }
        if curl -fsS -o /dev/null "http://localhost:$gateway_port/readyz" 2>/dev/null; then
            body=$(curl -fsS "http://localhost:$gateway_port/api/v1/api-keys" -H "Authorization: Bearer $token" \
                -H 'Content-Type: application/json' -d '{"name": "conformance", "servers": ["*"]}')
            gateway_key=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["key"])' <<<"$body")
            return
        fi
        sleep 0.1
    done
    echo "the gateway was not ready within 30 seconds" >&2
    return 1
}
