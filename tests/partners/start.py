"""The README's first command, as somebody does it who knows nothing else.

An empty folder, no configuration, the starter catalog. What the gateway prints is pasted into two clients; then each of
their calls is in the audit trail.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

import run

# The port alone is not the default: 8080 may be taken.
TOOLS = {
    "everything": ("echo", {"message": "hi"}, "Echo: hi"),
    "time": ("get_current_time", {"timezone": "UTC"}, "UTC"),
}
CLIENTS = ("Inspector CLI, auto", "Python SDK, auto")


def first_start(processes, binary, folder, path):
    """Starts it; its address and the client configuration that it prints."""
    port = run.free_port()
    base = f"http://127.0.0.1:{port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCP_GATEWAY")}
    environment = {**kept, "PATH": path, "MCP_GATEWAY__LISTEN": f"127.0.0.1:{port}", "MCP_GATEWAY__PUBLIC_URL": base}
    with (folder / "printed").open("w") as printed, (folder / "log").open("w") as log:
        process = processes.start([binary], cwd=folder, env=environment, stdout=printed, stderr=log)
    run.wait("the gateway", lambda: run.is_ready(base), process)

    def configuration():
        found = re.search(r"^\{$.*?^\}$", (folder / "printed").read_text(), re.MULTILINE | re.DOTALL)
        return found and json.loads(found[0])

    run.wait("the client configuration", configuration, process)
    return base, configuration()


def events(base, token, server):
    found = run.http(f"{base}/api/v1/audit-events?server={server}&method=tools/call&limit=100", token)
    return [(event["client_name"], event["target"], event["outcome"]) for event in found["items"]]


def main():
    parser = argparse.ArgumentParser()
    for name in ("gateway", "rmcp", "cache"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=pathlib.Path, help="file that a line NAME PASSED FAILED is added to")
    arguments = parser.parse_args()
    modules = run.npm(arguments.cache)
    processes = run.Processes()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mcp-gateway-start."))
    passed = failed = 0

    def check(what, right, said=""):
        nonlocal passed, failed
        passed, failed = passed + bool(right), failed + (not right)
        print(f"{'ok    ' if right else 'FAILED'} {what}{'' if right else f': {said}'}", flush=True)

    try:
        # uvx is beside the interpreter; npx is the machine's.
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        base, configuration = first_start(processes, arguments.gateway.resolve(), folder, path)
        pasted = configuration["mcpServers"]
        check("the configuration names the starter catalog", sorted(pasted) == ["everything", "memory", "time"], pasted)
        token = (folder / "data/bootstrap-token").read_text().strip()
        callers = [one for one in run.clients(modules, str(arguments.rmcp.resolve())) if one.title in CLIENTS]
        for count, client in enumerate(callers, 1):
            targets = [
                {"name": name, "url": pasted[name]["url"], "tool": tool, "arguments": given, "expect": expected,
                 "token": pasted[name]["headers"]["Authorization"].removeprefix("Bearer ")}
                for name, (tool, given, expected) in TOOLS.items()
            ]
            for name, (ok, detail) in client.run(targets).items():
                check(f"{client.title} calls {name}", ok, detail)
                trail = events(base, token, name)
                check(f"the call is in the trail, {client.title}, {name}",
                      len(trail) == count and all(row[1:] == (TOOLS[name][0], "ok") for row in trail), trail)
        if failed:
            print("the gateway's log ends with:\n" + "".join((folder / "log").open().readlines()[-30:]))
    finally:
        processes.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if arguments.count:
            with arguments.count.open("a") as counts:
                counts.write(f"start {passed} {failed}\n")
    print(f"start: {passed} as they should be, {failed} not")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
