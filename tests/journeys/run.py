"""Whole journeys: clients that others wrote, a browser with a person at it, and the gateway's authorization server.

Each client finds out from a server's 401 where to get a token, is known in one of three ways, sends its person to sign in
with the company and agree, calls a tool, and renews its token. Then what a browser alone can show, and the official suite
about the authorization server. Fails when one of them does.

A document at a client's URL is fetched from public addresses alone. So the journeys run in a network of their own, where
one of those addresses is this machine; where that is not possible (it needs root), there are none by document.
"""

import argparse
import concurrent.futures
import functools
import json
import pathlib
import sys
import tempfile
import time

from world import HERE, NAME, World, free_port, in_own_network  # first: it says where the partners' run.py is
import inspector
import odd
import suite
from person import Browser, journey
from run import Processes, node, npm

# How a client is known, what the table calls it, and what the person is told of it.
WAYS = {
    "registration": ("registers itself", "Nobody has checked who it is"),
    "document": ("by its document", f"{NAME} vouches for it"),
    "administrator": ("made by an administrator", "An administrator"),
}
# Journeys at a time: on two cores more of them make nothing faster.
ABREAST = 3


class Client:
    """A client by its title; `connect(target, way, visit)` takes a journey, and says what the person was asked."""

    def __init__(self, title, callback, connect):
        self.title, self.callback, self.connect = title, callback, connect


def clients(arguments, processes, browser, folder, nodejs, npm_modules):
    python = sys.executable
    environment = {"MODULES": str(arguments.modules)}

    def program(title, *command):
        def connect(target, _, visit):
            return journey(browser, [*map(str, command), json.dumps(target)], environment, **visit)

        return Client(title, "callback", connect)

    def inspect(target, way, visit):
        port = target.get("port") or free_port()
        process, pages = inspector.start(processes, npm_modules, folder / f"inspector-{way}", port, target)
        try:
            return browser.visit(inspector=pages, **{name: target[name] for name in ("tool", "expect")}, **visit)["asked"]
        finally:
            process.terminate()

    return [
        program("Python SDK", python, HERE / "clients/python_sdk.py"),
        program("FastMCP", python, HERE / "clients/fastmcp_client.py"),
        program("TypeScript SDK v1", nodejs, HERE / "clients/typescript.mjs", "v1"),
        program("TypeScript SDK v2", nodejs, HERE / "clients/typescript.mjs", "v2"),
        program("rmcp", arguments.rmcp.resolve(), "journey"),
        Client("Inspector", "oauth/callback", inspect),
    ]


def cell(world, client, way, **visit):
    """A journey of this client, known in this way."""
    target = {"url": f"{world.base}/mcp-connect/fixture", "tool": "test_simple_text", "expect": "simple text"}
    if way != "registration":
        target["port"] = free_port()
        redirect = f"http://127.0.0.1:{target['port']}/{client.callback}"
    if way == "administrator":
        made = world.make_client(redirect)
        target["client"] = {"client_id": made["id"], "client_secret": made["client_secret"]}
    if way == "document":
        target["document"] = world.add_document(client.title, redirect)
    asked = client.connect(target, way, visit)
    told = WAYS[way][1]
    if told not in asked:
        raise RuntimeError(f"the page did not say how the client is known: {told!r} is not in {asked!r}")


def table(titles, results):
    """The cells, as the run found them."""
    lines = [f"| client | {' | '.join(title for title, _ in WAYS.values())} |", f"|---|{'---|' * len(WAYS)}"]
    for title in titles:
        cells = ("✓" if results[title, way] is None else "**fails**" for way in WAYS)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def attempt(function, *arguments):
    """None, or what went wrong; and the seconds."""
    begun = time.monotonic()
    try:
        function(*arguments)
        failure = None
    except Exception as error:  # A defect of a client is a cell that fails, whatever it raises.
        failure = f"{type(error).__name__}: {error}"
    return failure, time.monotonic() - begun


def all_jobs(world, apart, browser, arguments, nodejs, everybody):
    """What there is to do, by title and way: a function and its arguments."""
    shots = str(arguments.shots.resolve()) if arguments.shots else None
    ways = [way for way in WAYS if world.by_document or way != "document"]
    jobs = {(client.title, way): (cell, world, client, way) for client in everybody for way in ways}
    with_password = functools.partial(cell, password=True, shots=shots)
    jobs["Python SDK, with a password of the gateway", None] = with_password, world, everybody[0], "registration"
    for client in everybody[:1] + everybody[3:5]:
        jobs[f"{client.title}, with an issuer for each server", None] = cell, apart, client, "registration"
    for title, function in odd.all_of(world):
        jobs[title, None] = function, browser, world, shots
    for title, function in (("without", suite.public), ("with", suite.secret)):
        jobs[f"the official suite, a client {title} a secret", None] = function, browser, nodejs, world, arguments
    return jobs


def main():
    parser = argparse.ArgumentParser()
    for name in ("gateway", "fixture", "rmcp", "cache", "suite", "modules", "identity"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--table", type=pathlib.Path, help="where the table of clients and ways is written")
    parser.add_argument("--count", type=pathlib.Path, help="file that a line NAME PASSED FAILED is added to")
    parser.add_argument("--only", default="", help="journeys whose titles have this in them")
    parser.add_argument("--shots", type=pathlib.Path, help="keep pictures of the pages here")
    arguments = parser.parse_args()
    npm_modules = npm(arguments.cache)
    by_document = in_own_network()
    processes = Processes()
    with tempfile.TemporaryDirectory(prefix="journeys.") as name:
        folder = pathlib.Path(name)
        try:
            world = World(processes, arguments, folder, by_document)
            apart = World(processes, arguments, folder / "apart", False, OAUTH__ISSUER="per_server")
            nodejs = str(node(arguments.suite))
            browser = Browser(processes, arguments.modules, nodejs, arguments.chromium, folder)
            everybody = clients(arguments, processes, browser, folder, nodejs, npm_modules)
            todo = all_jobs(world, apart, browser, arguments, nodejs, everybody)
            todo = {key: job for key, job in todo.items() if arguments.only in ", ".join(filter(None, key))}
            results = {}
            with concurrent.futures.ThreadPoolExecutor(ABREAST) as pool:
                jobs = {pool.submit(attempt, *job): key for key, job in todo.items()}
                for job in concurrent.futures.as_completed(jobs):
                    key, (failure, seconds) = jobs[job], job.result()
                    results[key] = failure
                    said = f"FAILED: {failure}" if failure else "ok"
                    print(f"{', '.join(filter(None, key))} ({seconds:.1f} s): {said}", flush=True)
            failed = sum(failure is not None for failure in results.values())
            if arguments.shots:
                nobody = f"{world.base}/authorize?client_id=nobody"
                browser.visit(url=nobody, shots=str(arguments.shots.resolve()), expect="Not connected")
            if arguments.table and not arguments.only and by_document:
                arguments.table.write_text(table([client.title for client in everybody], results))
            if failed:
                lines = world.log.read_text().splitlines()
                print("\n".join([line for line in lines if '"WARN"' in line or '"ERROR"' in line][-20:]), file=sys.stderr)
        finally:
            processes.stop()
    passed = len(results) - failed
    print(f"journeys: {passed} as they should be, {failed} not")
    if arguments.count:
        with arguments.count.open("a") as counts:
            counts.write(f"journeys {passed} {failed}\n")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
