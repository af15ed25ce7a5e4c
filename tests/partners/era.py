"""No error that the gateway makes itself moves a client to another era.

A client of both eras asks in the modern way first and takes some errors for "this is an older server". Between client
and gateway sits a recorder: a client that gives the modern era up shows it by sending `initialize`.
"""

import argparse
import asyncio
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import run

INITIALIZE = re.compile(rb'"method"\s*:\s*"initialize"')


class Recorder:
    """Passes connections on, and keeps what the client said.

    `alter` changes what goes on from the client, piece by piece: faults that no client makes by itself.
    """

    def __init__(self, port):
        self.target, self.said, self.alter = port, bytearray(), None
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.socket.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.copy, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, client, False), daemon=True).start()

    def copy(self, source, sink, record):
        try:
            while data := source.recv(65536):
                if record:
                    self.said += data
                    data = self.alter(data) if self.alter else data
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def initialized(self):
        return bool(INITIALIZE.search(bytes(self.said)))

    def forget(self):
        self.said.clear()


class Legacy(http.server.BaseHTTPRequestHandler):
    """A server of before: it understands `initialize` alone, which is enough to be recognised."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if message.get("method") == "initialize":
            result = {
                "protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "legacy", "version": "1"},
            }
            status, body = 200, {"jsonrpc": "2.0", "id": message["id"], "result": result}
        elif message.get("method") == "tools/list":
            status, body = 200, {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}}
        elif "id" not in message:
            status, body = 202, None
        else:
            error = {"code": -32000, "message": "Bad Request: Server not initialized"}
            status, body = 400, {"jsonrpc": "2.0", "id": None, "error": error}
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if content:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.send_response(405)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Gateway:
    """A gateway with its recorder in front."""

    def __init__(self, processes, binary, folder, entries, settings):
        folder.mkdir()
        (folder / "files").mkdir()
        before = dict(os.environ)
        os.environ.update({f"MCP_GATEWAY__{name}": value for name, value in settings.items()})
        try:
            self.base, self.owner, self.key = run.start_gateway(
                processes, binary, folder, entries, os.environ["PATH"], any_port=True
            )
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.recorder = Recorder(int(self.base.rsplit(":", 1)[1]))

    def url(self, server):
        return f"http://127.0.0.1:{self.recorder.port}/mcp-connect/{server}"

    def new_key(self, servers):
        made = run.http(f"{self.base}/api/v1/api-keys", self.owner, {"name": "era", "servers": servers})
        return made["id"], made["key"]

    def revoke(self, id):
        request = urllib.request.Request(f"{self.base}/api/v1/api-keys/{id}", method="DELETE")
        request.add_header("Authorization", f"Bearer {self.owner}")
        urllib.request.urlopen(request, timeout=60).read()


def with_field(field):
    """Requests get one more header field."""
    return lambda data: re.sub(rb"^(POST [^\r]*\r\n)", rb"\1" + field + b"\r\n", data)


def without_body(data):
    """Of a request only the head arrives."""
    head, end, _ = data.partition(b"\r\n\r\n")
    return head + end if data.startswith(b"POST ") else b""


def ambiguous(data):
    """The path can be read in two ways."""
    return re.sub(rb"^(POST /mcp-connect/[a-z]+)", rb"\1/%2e%2e/x", data)


FAULTS = {
    "400, ambiguous path,": ambiguous,
    "408": without_body,
    "415": with_field(b"content-encoding: gzip"),
    "431": with_field(b"x-filling: " + b"x" * 40_000),
}
# Statuses that no call to a gateway gets: 405 answers GET and DELETE, 421 every call to a process that is no gateway,
# whatever its era (a system test), and 500 a stack that lacks a layer.
OTHERS = {"405", "421", "500"}


class Results:
    def __init__(self):
        self.passed = self.failed = 0
        self.met = set()

    def check(self, what, right, said=""):
        self.met.add(what[:3])
        self.passed, self.failed = self.passed + right, self.failed + (not right)
        print(f"{'ok    ' if right else 'FAILED'} {what}{'' if right else f': {said}'}", flush=True)


def client_of(url, key):
    http_client = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30)
    return http_client, Client(streamable_http_client(url, http_client=http_client), mode="auto")


async def python_connects(url, key):
    """Connects, lists tools; whether that worked."""
    http_client, client = client_of(url, key)
    try:
        async with http_client, client:
            await asyncio.wait_for(client.list_tools(), 60)
        return True
    except BaseException:
        return False


class Program:
    """A client that is a program of its own and takes targets, as `run.py` has them."""

    def __init__(self, command, env=None):
        self.command, self.env = command, {**os.environ, **(env or {})}

    def connects(self, url, key):
        target = {"name": "x", "url": url, "token": key, "tool": "-", "arguments": {}, "expect": ""}
        done = subprocess.run(self.command, input=json.dumps([target]), capture_output=True, text=True, timeout=120, env=self.env)
        return "is not among" in done.stdout


async def connects(client, url, key):
    return await python_connects(url, key) if client is None else client.connects(url, key)


async def at_the_probe(results, gateway, clients, what, server, key, tries=()):
    """A client that meets the error with its first request fails.

    The Python SDK takes any HTTP error there for an older server and tries `initialize`, which meets the same error: it
    must not end up with a legacy session. The others can tell and must not even try, but for what `tries` names.
    """
    for name, client in clients.items():
        gateway.recorder.forget()
        connected = await connects(client, gateway.url(server), key)
        results.check(f"{what} at the first request, {name}", not connected, "the client connected")
        if client is not None and name not in tries:
            results.check(f"{what} at the first request, {name} does not try initialize",
                          not gateway.recorder.initialized(), "initialize was sent")


async def in_between(results, gateway, what, server, key, provoke, after):
    """A client that meets the error later goes on in its era."""
    gateway.recorder.forget()
    http_client, client = client_of(gateway.url(server), key)
    said = ""
    try:
        async with http_client, client:
            await client.list_tools()
            try:
                answer = await asyncio.wait_for(provoke(client), 60)
                said = f"no error came: {answer}"
            except Exception:
                await asyncio.wait_for(after(client), 60)
    except BaseException as error:
        said = f"afterwards: {error!r}"
    kept = not gateway.recorder.initialized()
    results.check(f"{what} in between, Python SDK", kept and not said, said or "initialize was sent")


async def scenarios(results, processes, binary, clients, fixture, folder):
    legacy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Legacy)
    threading.Thread(target=legacy.serve_forever, daemon=True).start()
    silent = socket.create_server(("127.0.0.1", 0))

    def remote(port):
        return {"runtime": "remote", "remoteConfig": {"fixedURL": f"http://127.0.0.1:{port}/mcp"}}

    entries = {
        "legacy": remote(legacy.server_port),
        "down": remote(run.free_port()),
        "silent": remote(silent.getsockname()[1]),
        "child": {"runtime": "command", "command": str(fixture), "args": ["stdio"]},
        "broken": {"runtime": "command", "command": "/bin/false"},
    }
    settings = {
        "LIMITS__CALL_MAX_DURATION_SECONDS": "2", "LIMITS__BODY_BYTES": "4000", "LIMITS__CALLS": "2",
        "LIMITS__CALLS_PER_PRINCIPAL": "2", "LIMITS__BODY_FIRST_BYTE_SECONDS": "1",
        "LIMITS__RATE__TOOL__LIMIT": "3", "LIMITS__RATE__TOOL__SECONDS": "3600",
    }
    gateway = Gateway(processes, binary, folder / "one", entries, settings)

    # The measure itself: a server of before is recognised through the gateway.
    for name, client in clients.items():
        gateway.recorder.forget()
        connected = await connects(client, gateway.url("legacy"), gateway.key)
        results.check(f"an older server is recognised, {name}", connected and gateway.recorder.initialized())

    for what, server in (("502, server down,", "down"), ("504, server silent,", "silent"), ("503, no start,", "broken")):
        await at_the_probe(results, gateway, clients, what, server, gateway.key)
    await at_the_probe(results, gateway, clients, "401", "child", "mcpgw_wrong")
    _, narrow = gateway.new_key(["legacy"])
    await at_the_probe(results, gateway, clients, "403", "child", narrow)
    # By the protocol a 404 is how an older server answers, and there is none whose era could change.
    tries = ("rmcp", "TypeScript SDK v2")
    await at_the_probe(results, gateway, clients, "404, no such server,", "absent", gateway.key, tries)

    async def fine(client):
        await client.call_tool("cancelled_count", {})

    async def large(client):
        return await client.call_tool("echo_sha256", {"filling": "x" * 8000})

    await in_between(results, gateway, "413", "child", gateway.key, large, fine)

    async def often(client):
        for _ in range(4):
            answer = await client.call_tool("test_simple_text", {})
        return answer

    async def listed(client):
        await client.list_tools()

    await in_between(results, gateway, "429", "child", gateway.key, often, listed)
    await in_between(
        results, gateway, "502, crash,", "child", gateway.key, lambda client: client.call_tool("crash", {}), listed
    )

    async def crowded(client):
        calls = [asyncio.ensure_future(client.call_tool("stream_events", {"count": 10, "interval_ms": 150})) for _ in range(3)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors:
            raise errors[0]
        return answers

    await in_between(results, gateway, "503, busy,", "child", gateway.key, crowded, listed)

    id, key = gateway.new_key(["*"])

    async def revoked(client):
        gateway.revoke(id)
        return await client.list_tools()

    async def nothing(_):
        pass

    await in_between(results, gateway, "401", "child", key, revoked, nothing)

    async def faulty(client):
        gateway.recorder.alter = fault
        try:
            return await client.list_tools()
        finally:
            gateway.recorder.alter = None

    for what, fault in FAULTS.items():
        await in_between(results, gateway, what, "child", gateway.key, faulty, listed)
        gateway.recorder.alter = fault
        # The TypeScript SDK takes every 4xx but 401 and 403 for an older server's, and meets the same answer again.
        await at_the_probe(results, gateway, clients, what, "child", gateway.key, ("rmcp", "TypeScript SDK v2"))
        gateway.recorder.alter = None

    strict = {"LIMITS__RATE__PRINCIPAL__LIMIT": "1", "LIMITS__RATE__PRINCIPAL__SECONDS": "36000"}
    busy = Gateway(processes, binary, folder / "two", {"legacy": entries["legacy"]}, strict)
    await python_connects(busy.url("legacy"), busy.key)
    # The TypeScript SDK takes every 4xx but 401 and 403 for an older server's, and meets the same answer again.
    await at_the_probe(results, busy, clients, "429", "legacy", busy.key, ("TypeScript SDK v2",))

    table = (run.HERE / "../../docs/src/reference/answers.md").read_text().split("\n## ")[0]
    errors = {status for status in re.findall(r"^\| (\d{3}) \|", table, re.M) if status >= "400"}
    missing = errors - OTHERS - results.met
    results.check("every error of the documentation was met", not missing, f"not {', '.join(sorted(missing))}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("gateway", "rmcp", "fixture", "cache"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=pathlib.Path, help="file that a line NAME PASSED FAILED is added to")
    arguments = parser.parse_args()
    results, processes = Results(), run.Processes()
    modules = run.npm(arguments.cache)
    typescript = [str(run.node(modules)), str(run.HERE / "clients/typescript.mjs"), "v2-auto"]
    clients = {
        "Python SDK": None,
        "rmcp": Program([str(arguments.rmcp.resolve()), "auto"]),
        "TypeScript SDK v2": Program(typescript, {"MODULES": str(modules)}),
    }
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mcp-gateway-era."))
    try:
        asyncio.run(
            scenarios(
                results, processes, arguments.gateway.resolve(), clients, arguments.fixture.resolve(), folder,
            )
        )
    finally:
        processes.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if arguments.count:
            with arguments.count.open("a") as counts:
                counts.write(f"era {results.passed} {results.failed}\n")
    print(f"era: {results.passed} as they should be, {results.failed} not")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
