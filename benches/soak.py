"""Loads the gateway for long while its children are killed, and checks that nothing is left behind or lost.

Started by soak.sh, which says how.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import harness
from harness import Process, free_port, remote, until

SECONDS = float(os.environ.get("SOAK_SECONDS", 1_800))
GATEWAY = pathlib.Path(os.environ["GATEWAY_BIN"]).resolve()
BENCHES = pathlib.Path(os.environ["BENCHES_BIN"]).resolve()
FIXTURE = pathlib.Path(os.environ["FIXTURE_BIN"]).resolve()

LOAD = 0.8  # of what the gateway can do
KILL_EVERY = 10  # seconds
HANG_UPS = 0.03  # of the calls
CLIENTS = {"sessions": 4, "callers": 4, "streams": 4}
IDLE = 10  # seconds until an idle child and an idle session end; the least that an entry may say
WARM_UP = 0.2  # of the time, before which memory may grow
# What the allocator may keep between the tenth of the time after the warm-up and the last one, in MiB.
MEMORY = 24
# How long after a kill a call may still be taken for the dead child: until its pipe's end has been read.
UNNOTICED = 1.0
# How long after a kill the last of its calls may end: exit status, last words, and a client that was not scheduled.
LAST_WORDS = 5.0
SEGMENTS = 2  # files of the spool that may be open
RUN = secrets.token_hex(8)  # in the environment of each child, so that one that left its group is found too

failures = []


def check(right, what):
    print(f"{'ok    ' if right else 'FAILED'}  {what}", flush=True)
    if not right:
        failures.append(what)


def stdio(name):
    return (f"entryKey: {name}\nname: {name}\nruntime: command\nserverUserType: multiUser\ncommand: {FIXTURE}\n"
            f"args: [stdio]\nidleTimeoutSeconds: {IDLE}\nenv:\n"
            f"  - {{key: SOAK_RUN, name: run, value: {RUN}}}\n  - {{key: SOAK_SERVER, name: server, value: {name}}}\n")


# ---- what is watched -------------------------------------------------------------------------------------------------


def environment(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(variable.split("=", 1) for variable in text.split("\0") if "=" in variable)


def children():
    """The processes of this run's children, whoever their parent is: pid to environment."""
    found = {int(entry.name): environment(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()}
    return {pid: variables for pid, variables in found.items() if variables.get("SOAK_RUN") == RUN}


class Watch(threading.Thread):
    """Looks at the gateway each second, and kills a child now and then."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.over = pid, threading.Event()
        self.kills = []  # time, server, mark
        self.rss = []  # MiB, one a second

    def run(self):
        killed = time.monotonic()
        while not self.over.wait(1):
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
            self.rss.append(int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1]) / 1024)
            if time.monotonic() - killed >= KILL_EVERY and (alive := children()):
                killed = time.monotonic()
                pid, variables = random.choice(list(alive.items()))
                # The time before: a call may fail sooner than this thread goes on.
                when = time.time()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills.append((when, variables["SOAK_SERVER"], variables.get("MCP_GATEWAY_CHILD")))


def metrics(gateway):
    """The gauges and counters, summed over their labels."""
    with urllib.request.urlopen(gateway.url_of("/metrics"), timeout=5) as response:
        lines = response.read().decode().splitlines()
    values = collections.Counter()
    for line in lines:
        if match := re.fullmatch(r"mcp_gateway_(\w+)(?:\{.*\})? ([0-9.e+-]+)", line):
            values[match[1]] += float(match[2])
    return values


def open_files(pid):
    """What is open, by kind or path, and how often."""
    found = collections.Counter()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[re.sub(r":\[\d+\]$", "", os.readlink(entry))] += 1
    # The one that is written, and the one that is read into the store, which is now and then the same or none.
    segments = [name for name in found if name.endswith(".segment")]
    if sum(found[name] for name in segments) <= SEGMENTS:
        for name in segments:
            del found[name]
    return found


def quiet(gateway, seconds):
    """Waits until no child runs and everything is recorded; returns tasks and open files, which have then come to rest."""
    end, last = time.monotonic() + seconds, None
    while True:
        # Before the question, whose own connection would count.
        files = open_files(gateway.process.popen.pid)
        now = metrics(gateway)
        rest = now["tasks"], files
        still = not children() and not now["children"] and not now["calls_in_flight"] and not now["spool_rows"]
        if still and rest == last or time.monotonic() > end:
            return rest
        last = rest
        # Longer than idle connections to remote servers are kept.
        time.sleep(3)


# ---- the load --------------------------------------------------------------------------------------------------------


class Clients:
    """One run of the clients."""

    def __init__(self, gateway, calls, seconds, **options):
        self.calls = calls
        arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        result = subprocess.run(
            [BENCHES / "soak", "--url", gateway.url_of("/mcp-connect"), "--calls", calls, "--seconds", str(seconds), *arguments],
            env={**os.environ, "BENCH_AUTHORIZATION": gateway.authorization}, stdout=subprocess.PIPE, text=True, check=True)
        self.result = json.loads(result.stdout)

    def lines(self):
        with open(self.calls) as lines:
            for line in lines:
                server, number, child, began, ended, status, end = line.split()
                yield server, number, child, int(began) / 1e6, int(ended) / 1e6, int(status), end


def check_answers(clients, kills):
    """Failures are of calls in flight to a killed child; what was answered at all was answered well."""
    bad, excused = [], 0
    for server, number, child, began, ended, status, end in clients.lines():
        fine = status in (0, 200, 202, 204) and end in ("answered", "hung-up")
        if fine or server == "silent" and end == "hung-up" and status in (0, 200):
            continue
        hit = [when for when, of, mark in kills if of == server and child in ("-", mark)]
        in_flight = any(began <= when + UNNOTICED and ended >= when and ended - when <= LAST_WORDS for when in hit)
        # A session whose child is gone is unknown from then on, and its client begins anew.
        ended_session = server == "legacy" and status == 404 and any(when <= ended for when in hit)
        if in_flight or ended_session:
            excused += 1
        else:
            bad.append((server, number, child, round(began, 3), round(ended - began, 3), status, end))
    check(not bad, f"no failure but of calls in flight to a killed child ({excused} of those, {len(kills)} kills)")
    for line in bad[:10]:
        print("       ", *line)


def events(gateway):
    """The whole trail, newest first."""
    cursor = ""
    while cursor is not None:
        url = gateway.url_of(f"/api/v1/audit-events?limit=1000{cursor and '&cursor=' + cursor}")
        page = json.loads(harness.answers(url, {"Authorization": f"Bearer {gateway.token}"})[1])
        yield from page["items"]
        cursor = page["next_cursor"]


def check_trail(gateway, runs):
    """One row for each call that was answered, never two for any."""
    rows, streams, unknown = collections.Counter(), collections.Counter(), 0
    for event in events(gateway):
        streams[event["kind"]] += event["kind"] in ("opened", "closed")
        unknown += event["outcome"] == "unknown"
        if event["category"] == "mcp" and event["kind"] in ("exchange", "refused") and event["rpc_id"] is not None:
            rows[event["rpc_id"].strip('"')] += 1
    answered = hung_up = 0
    lost, twice = [], []
    for clients in runs:
        for server, number, _, _, _, status, end in clients.lines():
            if number == "-":
                continue
            count = rows.pop(number, 0)
            # A whole head was answered, too: its row was due with the answer's end or the hang-up.
            due = end in ("answered", "error") or status != 0
            answered, hung_up = answered + (end != "hung-up"), hung_up + (end == "hung-up")
            if due and count == 0:
                lost.append((server, number, status, end))
            if count > 1:
                twice.append((server, number, status, end, count))
    check(not lost, f"each of {answered} answered calls has its audit row ({len(lost)} lost)")
    check(not twice, f"no call has two rows ({len(twice)} have; {hung_up} clients hung up)")
    check(not rows, f"no row without its call ({len(rows)} are)")
    check(not unknown, f"no call ended unknown ({unknown} did)")
    check(streams.get("opened") == streams.get("closed"), f"each stream that opened was closed ({streams})")
    for line in [*lost[:5], *twice[:5], *list(rows)[:5]]:
        print("       ", line)


def check_memory(rss):
    tenth = max(1, len(rss) // 10)
    begin = int(len(rss) * WARM_UP)
    before, after = statistics.median(rss[begin:begin + tenth]), statistics.median(rss[-tenth:])
    check(after - before <= MEMORY,
          f"memory grew by at most {MEMORY} MiB after the warm-up: {before:.1f} to {after:.1f} MiB, at most {max(rss):.1f}")


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak."))
    running, watch = [], None
    try:
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        running.append(Process("upstream", None, [BENCHES / "upstream", "--listen", f"127.0.0.1:{port}"]))
        until("the upstream's start", lambda: harness.answers(f"{base}/mcp", body=b"{}")[0])
        entries = {"fast": remote("fast", f"{base}/mcp"), "large": remote("large", f"{base}/mcp/1048576"),
                   "silent": remote("silent", f"{base}/idle"), "legacy": stdio("legacy"), "modern": stdio("modern")}
        gateway = harness.Gateway(GATEWAY, folder / "gateway", entries, {
            "LIMITS__CHILDREN__PER_PRINCIPAL": 200, "LIMITS__CHILDREN__PER_SERVER": 200,
            "LIMITS__CHILDREN__STARTS_PER_MINUTE": 10_000, "LIMITS__POOL_IDLE_SECONDS": 2,
        })
        running.append(gateway.process)
        pid = gateway.process.popen.pid

        runs = [Clients(gateway, folder / "most", min(10, SECONDS / 10), rate=0)]
        most = runs[0].result["fast_per_second"]
        # Once of everything, so that what is made once is there.
        runs.append(Clients(gateway, folder / "warm", 5, rate=most / 4, hang_ups=HANG_UPS, **CLIENTS))
        tasks, files = quiet(gateway, 60)
        print(f"at most {most:.0f} calls/s; at rest {tasks:.0f} tasks, {files.total()} open files", flush=True)

        watch = Watch(pid)
        watch.start()
        main_run = Clients(gateway, folder / "calls", SECONDS, rate=LOAD * most, hang_ups=HANG_UPS, **CLIENTS)
        watch.over.set()
        watch.join()
        runs.append(main_run)
        done = main_run.result["fast_per_second"]
        print(f"{SECONDS:.0f} s: {done:.0f} calls/s of the fast server ({done / most:.0%}), "
              f"all requests {main_run.result['ends']}, {len(watch.kills)} children killed", flush=True)
        check(len(watch.kills) >= SECONDS / KILL_EVERY / 2, f"children were killed ({len(watch.kills)})")

        tasks_after, files_after = quiet(gateway, 120)
        after = metrics(gateway)
        left = children()
        check(not left and not after["children"], f"no child is left once all are idle ({len(left)} processes)")
        check(tasks_after <= tasks, f"no task is left ({tasks:.0f} before, {tasks_after:.0f} after)")
        more = files_after - files
        check(not more, f"no connection or file is left ({files.total()} open before, {files_after.total()} after)")
        for name, count in more.items():
            print(f"        {count} more of {name}")
        for name in ("calls_in_flight", "streams_open", "spool_rows", "spool_open_intents"):
            check(not after[name], f"{name} is 0 ({after[name]:.0f})")
        for name in ("audit_lost_events_total", "audit_refused_events_total"):
            check(not after[name], f"{name} is 0 ({after[name]:.0f})")
        check_memory(watch.rss)

        # With a session and a shared child that end with it.
        runs.append(Clients(gateway, folder / "last", 2, rate=most / 4, sessions=2, callers=2))
        check(bool(children()), "children run before the end")
        gateway.process.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.process.popen.wait(60)
        check(gateway.process.popen.poll() == 0, f"the gateway ended in peace ({gateway.process.popen.poll()})")
        check(not children(), f"no process outlives the gateway ({len(children())})")
        check_answers(main_run, watch.kills)
        # Whatever was left in the spool is in the trail after the next start.
        gateway.start()
        running.append(gateway.process)
        check_trail(gateway, runs)
        if failures:
            # Beside the log's lines the first start's key is there.
            lines = (folder / "gateway" / "log").read_text().splitlines()
            print("\n".join([line for line in lines if line.startswith('{"')][-30:]), file=sys.stderr)
    finally:
        if watch:
            watch.over.set()
        for process in reversed(running):
            process.stop()
        if os.environ.get("SOAK_KEEP"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(failures)} checks failed" if failures else "the soak passed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
