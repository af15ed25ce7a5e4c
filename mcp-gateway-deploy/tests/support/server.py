"""A stdio MCP server that does what a test asks: python3 server.py [legacy|modern|fail|silent|slow]."""

import json
import os
import signal
import subprocess
import sys
import time

mode = sys.argv[1] if len(sys.argv) > 1 else "legacy"
if "PIDS" in os.environ:
    with open(os.environ["PIDS"], "a") as pids:
        pids.write(f"{os.getpid()}\n")
print(f"started as {mode} with {os.environ.get('API_KEY', 'no key')}", file=sys.stderr, flush=True)
if mode == "fail":
    print("E404 no such package", file=sys.stderr, flush=True)
    sys.exit(3)
if mode == "slow":
    time.sleep(0.5)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "parent":
    # Like npx: the server is a grandchild, and this process only waits for it.
    sys.exit(subprocess.Popen([sys.executable, __file__, "legacy"]).wait())


def read(path):
    try:
        if os.path.isdir(path):
            return {"entries": os.listdir(path)}
        with open(path, "rb") as file:
            return {"text": file.read(4096).decode("latin-1")}
    except OSError as error:
        return {"refused": error.strerror}


def write(path):
    try:
        with open(path, "w") as file:
            file.write("x")
        return {"written": True}
    except OSError as error:
        return {"refused": error.strerror}


def answer(message):
    method, params = message["method"], message.get("params", {})
    if method == "ping" and mode != "modern":
        return {}
    if method == "initialize" and mode != "modern":
        return {"protocolVersion": params["protocolVersion"], "capabilities": {}, "serverInfo": {"name": "test", "version": "1"}}
    if method == "server/discover" and mode == "modern":
        return {"supportedVersions": ["2026-07-28"]}
    if method != "tools/call":
        return None
    tool, arguments = params["name"], params.get("arguments", {})
    if tool == "crash":
        os._exit(7)
    if tool == "environ":
        return dict(os.environ)
    if tool == "read":
        return read(arguments["path"])
    if tool == "write":
        return write(arguments["path"])
    if tool == "kill":
        try:
            os.kill(arguments["pid"], 0)
            return {"allowed": True}
        except OSError as error:
            return {"refused": error.strerror}
    if tool == "limits":
        import resource

        return {"data": resource.getrlimit(resource.RLIMIT_DATA)[0], "cwd": os.getcwd(), "pgid": os.getpgid(0), "pid": os.getpid()}
    if tool == "privileges":
        with open("/proc/self/status") as status:
            return dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    return {"pid": os.getpid()}


for line in sys.stdin if mode != "silent" else iter(lambda: time.sleep(3600), 0):
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    result = answer(message)
    reply = {"jsonrpc": "2.0", "id": message["id"]}
    if result is None:
        reply["error"] = {"code": -32601, "message": "Method not found"}
    else:
        reply["result"] = result
    print(json.dumps(reply), flush=True)
if mode == "stubborn":
    time.sleep(3600)
