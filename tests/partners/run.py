"""Every client with every server, through the gateway.

Starts the gateway with one entry for each server, makes a key, lets each client list the tools of each server and call
one, and writes the table. Fails when a cell that must work does not, and when one that cannot work does.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
MODERN = "2026-07-28"
# A package that has to be fetched first takes its time, on a machine that does other things.
PATIENCE = 300


def npm(cache):
    """Installs the packages of the lock file once; the folder they are in."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = cache / f"partners-npm-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        new = pathlib.Path(tempfile.mkdtemp(prefix="install.", dir=cache))
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, new)
        command = ["npm", "ci", "--prefix", str(new), "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        new.rename(folder)
    return folder


def node(folder):
    """Node.js 22, which the Inspector needs; where npm has none for this machine, the one in PATH must do."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    path = folder / f"node_modules/node-linux-{machine}/bin/node"
    return path if path.exists() else pathlib.Path(shutil.which("node"))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A server, as an entry of the catalog, with one call that shows that it works."""

    def __init__(self, id, title, eras, entry, tool, arguments, expect, start=None):
        self.id, self.title, self.eras, self.entry = id, title, eras, entry
        self.tool, self.arguments, self.expect, self.start = tool, arguments, expect, start


class Client:
    """A client in one mode. `era` is what it speaks: `legacy`, `modern`, or `auto` for what the server does."""

    def __init__(self, title, era, run):
        self.title, self.era, self.run = title, era, run


def servers(modules, files):
    python = sys.executable
    version = json.loads((HERE / "package.json").read_text())["dependencies"]
    everything, memory, filesystem = (
        f"@modelcontextprotocol/server-{name}@{version[f'@modelcontextprotocol/server-{name}']}"
        for name in ("everything", "memory", "filesystem")
    )
    ports = [free_port() for _ in range(3)]

    def remote(port):
        return {"runtime": "remote", "remoteConfig": {"fixedURL": f"http://127.0.0.1:{port}/mcp"}}

    def npx(package, *args):
        return {"runtime": "npx", "npxConfig": {"package": package, "args": list(args)}}

    legacy, both = ["legacy"], ["legacy", "modern"]
    echo = ("echo", {"message": "hi"})
    return [
        Server("everything", "server-everything, npx", legacy, npx(everything, "stdio"), *echo, "Echo: hi"),
        Server(
            "everything-http", "server-everything, HTTP", legacy, remote(ports[0]), *echo, "Echo: hi",
            ([str(node(modules)), str(modules / "node_modules/.bin/mcp-server-everything"), "streamableHttp"],
             ports[0], {"PORT": str(ports[0])}),
        ),
        Server(
            "filesystem", "server-filesystem, npx", legacy, npx(filesystem, str(files)),
            "read_text_file", {"path": str(files / "a.txt")}, "text of a file",
        ),
        Server("memory", "server-memory, npx", legacy, npx(memory), "read_graph", {}, "entities"),
        Server(
            "time", "mcp-server-time, uvx", both,
            {"runtime": "uvx", "uvxConfig": {"package": "mcp-server-time==2026.10.19"}},
            "get_current_time", {"timezone": "UTC"}, "UTC",
        ),
        Server(
            "python-stdio", "Python SDK, stdio", both,
            {"runtime": "command", "command": python, "args": [str(HERE / "servers/sdk_server.py"), "stdio"]},
            *echo, "python: hi",
        ),
        Server(
            "python-http", "Python SDK, HTTP", both, remote(ports[1]), *echo, "python: hi",
            ([python, str(HERE / "servers/sdk_server.py"), "http", str(ports[1])], ports[1], {}),
        ),
        Server(
            "fastmcp", "FastMCP, HTTP", both, remote(ports[2]), *echo, "fastmcp: hi",
            ([python, str(HERE / "servers/fastmcp_server.py"), str(ports[2])], ports[2], {}),
        ),
    ]


def batch(command, env=None):
    """A client that takes all targets at once and writes a line for each."""

    def run(targets):
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(
            command, input=json.dumps(targets), capture_output=True, text=True, env=environment,
            timeout=PATIENCE + 60 * len(targets),
        )
        results = {}
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                result = json.loads(line)
                results[result["name"]] = (result["ok"], result["detail"])
        missing = (False, done.stderr.strip()[-400:] or "the client said nothing")
        return {target["name"]: results.get(target["name"], missing) for target in targets}

    return run


def each(command):
    """A client that is started for each target, and shows the result."""

    def run(targets):
        results = {}
        for target in targets:
            try:
                done = subprocess.run(
                    command(target), capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
                )
                ok = done.returncode == 0 and target["expect"] in done.stdout
                detail = "" if ok else (done.stderr + done.stdout).strip()[-400:]
            except subprocess.TimeoutExpired:
                ok, detail = False, f"no answer within {PATIENCE} s"
            results[target["name"]] = (ok, detail)
        return results

    return run


def clients(modules, rmcp):
    python = sys.executable
    bin = pathlib.Path(python).parent

    def inspector(*mode):
        def command(target):
            arguments = [f"{name}={value}" for name, value in target["arguments"].items()]
            return [
                str(node(modules)), str(modules / "node_modules/.bin/mcp-inspector"), "--cli", target["url"],
                "--transport", "http", "--header", f"Authorization: Bearer {target['token']}", *mode,
                "--method", "tools/call", "--tool-name", target["tool"],
                *(["--tool-arg", *arguments] if arguments else []),
            ]

        return each(command)

    def fastmcp(target):
        arguments = [f"{name}={value}" for name, value in target["arguments"].items()]
        return [
            str(bin / "fastmcp"), "call", target["url"], target["tool"], *arguments, "--auth", target["token"],
            "--timeout", str(PATIENCE), "--json",
        ]

    def sdk(mode):
        return batch([python, str(HERE / "clients/python_sdk.py"), mode])

    def typescript(mode):
        command = [str(node(modules)), str(HERE / "clients/typescript.mjs"), mode]
        return batch(command, {"MODULES": str(modules)})

    return [
        Client("Inspector CLI, legacy", "legacy", inspector("--protocol-era", "legacy")),
        Client("Inspector CLI, modern", "modern", inspector("--protocol-era", "modern")),
        Client("Inspector CLI, auto", "auto", inspector("--protocol-era", "auto")),
        Client("Python SDK, legacy", "legacy", sdk("legacy")),
        Client("Python SDK, auto", "auto", sdk("auto")),
        Client(f"Python SDK, {MODERN}", "modern", sdk(MODERN)),
        Client("FastMCP CLI", "auto", each(fastmcp)),
        Client("TypeScript SDK v1", "legacy", typescript("v1")),
        Client("TypeScript SDK v2", "legacy", typescript("v2")),
        Client("TypeScript SDK v2, auto", "auto", typescript("v2-auto")),
        Client("rmcp, Initialize", "legacy", batch([rmcp, "initialize"])),
        Client("rmcp, Auto", "auto", batch([rmcp, "auto"])),
        Client("rmcp, Discover", "modern", batch([rmcp, "discover"])),
    ]


class Processes:
    """Everything that was started; ends with the script."""

    def __init__(self):
        self.all = []

    def start(self, command, **options):
        process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, **options)
        self.all.append(process)
        return process

    def stop(self):
        for process in self.all:
            if process.poll() is None:
                process.terminate()
        for process in self.all:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait(what, ready, process):
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} did not start")
        time.sleep(0.05)


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def http(url, token=None, body=None):
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def is_ready(base):
    try:
        with urllib.request.urlopen(f"{base}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def start_gateway(processes, binary, folder, entries, path, any_port=False):
    """Starts it and makes a key. With `any_port` the Host may name any port, as behind a proxy of the test's own."""
    port, token = free_port(), secrets.token_hex(24)
    catalog = folder / "catalog"
    catalog.mkdir()
    for id, entry in entries.items():
        content = {"entryKey": id, "name": id, "serverUserType": "multiUser", **entry}
        (catalog / f"{id}.json").write_text(json.dumps(content))
    environment = {
        **os.environ,
        "PATH": path,
        "MCP_GATEWAY__LISTEN": f"127.0.0.1:{port}",
        "MCP_GATEWAY__PUBLIC_URL": f"http://127.0.0.1:{port}",
        "MCP_GATEWAY__DATA_DIR": str(folder / "data"),
        "MCP_GATEWAY__CATALOG__PATHS": str(catalog),
        "MCP_GATEWAY__EGRESS__ALLOW": "127.0.0.0/8",
        # Clients that end without closing their sessions leave a child each until it is idle for long enough.
        "MCP_GATEWAY__LIMITS__CHILDREN__PER_PRINCIPAL": "100",
        "MCP_GATEWAY__LIMITS__CHILDREN__STARTS_PER_MINUTE": "200",
        "MCP_GATEWAY__RUNTIME__PROCESS__WRITABLE": str(folder / "files"),
        "MCP_GATEWAY_BOOTSTRAP_TOKEN": token,
    }
    if any_port:
        environment["MCP_GATEWAY__ALLOWED_HOSTS"] = "127.0.0.1"
    log = open(folder / "log", "w")
    process = processes.start([binary, "serve"], cwd=folder, env=environment, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
    wait("the gateway", lambda: is_ready(base), process)
    key = http(f"{base}/api/v1/api-keys", token, {"name": "partners", "servers": ["*"]})["key"]
    return base, token, key


def possible(client, server):
    return client.era == "auto" or client.era in server.eras


def table(clients, servers, cells):
    lines = [
        "# Clients and servers",
        "",
        "Each client lists the tools of each server and calls one, through the gateway. Generated by `./test partners`;",
        "the versions are those of `tests/partners/package-lock.json` and `requirements.txt`.",
        "",
        "| | " + " | ".join(server.title for server in servers) + " |",
        "|---" * (len(servers) + 1) + "|",
    ]
    for client in clients:
        row = []
        for server in servers:
            if possible(client, server):
                row.append("✓" if cells[client.title, server.id][0] else "**fails**")
            else:
                row.append(f"– [^{client.era}]")
        lines.append(f"| {client.title} | " + " | ".join(row) + " |")
    lines += [
        "",
        f"[^modern]: The client speaks {MODERN} alone and the server only revisions before it. The gateway translates",
        "    nothing: a server's era is its own.",
        "[^legacy]: The other way round.",
        "",
    ]
    text = "\n".join(lines)
    if "[^legacy] |" not in text:
        text = text.replace("[^legacy]: The other way round.\n", "")
    return text


LOAD = 500


def load(modules, url, key, era):
    """The Inspector's load test; what went wrong, or nothing."""
    command = [
        str(node(modules)), str(modules / "node_modules/.bin/mcp-inspector"), "--cli", url, "--transport", "http",
        "--header", f"Authorization: Bearer {key}", "--protocol-era", era, "--method", "tools/call", "--tool-name", "echo",
        "--tool-arg", "message=hi", "--load", "--load-requests", str(LOAD), "--load-concurrency", "20",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "no end within 300 s"
    said = done.stdout + done.stderr
    return "" if done.returncode == 0 and re.search(rf'"ok":\s*{LOAD}\b', said) else said.strip()[-600:]


def main():
    parser = argparse.ArgumentParser()
    for name in ("gateway", "rmcp", "cache", "table"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=pathlib.Path, help="file that a line NAME PASSED FAILED is added to")
    parser.add_argument("--only", default="", help="clients and servers whose titles have this in them")
    arguments = parser.parse_args()

    modules = npm(arguments.cache)
    processes = Processes()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mcp-gateway-partners."))
    files = folder / "files"
    files.mkdir()
    (files / "a.txt").write_text("text of a file\n")
    passed, failed = 0, 0
    try:
        matrix = servers(modules, files)
        for server in matrix:
            if server.start:
                command, port, environment = server.start
                log = open(folder / f"{server.id}.log", "w")
                process = processes.start(command, env={**os.environ, **environment}, stdout=log, stderr=log)
                wait(server.title, lambda: listens(port), process)
        # uvx is beside the interpreter; npx is the machine's.
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        entries = {server.id: server.entry for server in matrix}
        base, owner, key = start_gateway(processes, arguments.gateway.resolve(), folder, entries, path)

        cells = {}
        callers = clients(modules, str(arguments.rmcp.resolve()))
        for client in callers:
            if arguments.only not in client.title:
                cells.update({(client.title, server.id): (True, "not run") for server in matrix})
                continue
            targets = [
                {
                    "name": server.id, "url": f"{base}/mcp-connect/{server.id}", "token": key, "tool": server.tool,
                    "arguments": server.arguments, "expect": server.expect,
                }
                for server in matrix
            ]
            begun = time.monotonic()
            results = client.run(targets)
            for server in matrix:
                ok, detail = results[server.id]
                cells[client.title, server.id] = ok, detail
                right = ok == possible(client, server)
                passed, failed = passed + right, failed + (not right)
                if not right:
                    said = detail if not ok else "works although it cannot"
                    print(f"FAILED {client.title} with {server.title}: {said}", flush=True)
            print(f"{client.title:26} {time.monotonic() - begun:6.1f} s", flush=True)

        if not arguments.only:
            arguments.table.parent.mkdir(parents=True, exist_ok=True)
            arguments.table.write_text(table(callers, matrix, cells))
        # The Inspector's load test, in both eras.
        for era, server in (("legacy", "everything-http"), ("modern", "python-http")):
            if arguments.only not in f"Inspector load test, {era}":
                continue
            begun = time.monotonic()
            said = load(modules, f"{base}/mcp-connect/{server}", key, era)
            passed, failed = passed + (not said), failed + bool(said)
            if said:
                print(f"FAILED Inspector load test, {era}, with {server}: {said}", flush=True)
            print(f"{f'Inspector load test, {era}':26} {time.monotonic() - begun:6.1f} s", flush=True)

        # What all of them did is in the trail.
        events = http(f"{base}/api/v1/audit-events?limit=1", owner)
        if not events["items"]:
            failed += 1
            print("FAILED the audit trail is empty")
        if failed:
            print("the gateway's log ends with:\n" + "".join((folder / "log").open().readlines()[-30:]))
    finally:
        processes.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if arguments.count:
            with arguments.count.open("a") as counts:
                counts.write(f"partners {passed} {failed}\n")
    print(f"partners: {passed} as they should be, {failed} not")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
