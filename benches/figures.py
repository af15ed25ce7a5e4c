"""Measures the gateway beside nginx as a plain reverse proxy. Started by figures.sh, which says how."""

import contextlib
import datetime
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import harness
from harness import Process, answers, free_port, remote, until
from rival import McpProxy

QUICK = "--quick" in sys.argv[1:]
SECONDS = 2 if QUICK else 10
RUNS = 3
KEPT = 0.98  # of an open loop's rate, below which its latencies are not valid
IDLE = (0, 1_000, 9_000)
ROOT = pathlib.Path(__file__).resolve().parent.parent
GATEWAY = pathlib.Path(os.environ["GATEWAY_BIN"]).resolve()
BENCHES = pathlib.Path(os.environ["BENCHES_BIN"]).resolve()
# Built as the gateway is, if pgo.sh built it: the layers are a part of it.
MICRO = GATEWAY.parent / "micro" if (GATEWAY.parent / "micro").exists() else BENCHES / "micro"
RIVAL = os.environ.get("MCP_PROXY_BIN")
BUILD = os.environ.get("GATEWAY_BUILD", "cargo build --release")

raw = []  # everything the tools said, in order


def note(text):
    print(text, flush=True)
    raw.append(text)


# ---- what is called --------------------------------------------------------------------------------------------------


class Upstream:
    def __init__(self):
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.process = Process("upstream", 1, [BENCHES / "upstream", "--listen", f"127.0.0.1:{self.port}"])
        until("the upstream's start", lambda: answers(f"{self.base}/mcp", body=b"{}")[0])


class Direct:
    """The upstream with nothing in front."""

    name, process, authorization = "direct", None, None

    def __init__(self, upstream):
        self.upstream = upstream

    def url(self, path):
        return self.upstream.base + path

    def check(self, calls):
        pass


class Nginx:
    name, authorization = "nginx", None

    def __init__(self, upstream, folder):
        self.port = free_port()
        folder.mkdir()
        (folder / "nginx.conf").write_text(f"""
            daemon off;
            worker_processes 1;
            worker_rlimit_nofile 20000;
            pid {folder}/pid;
            error_log {folder}/error.log;
            events {{ worker_connections 19900; }}
            http {{
                access_log off;
                client_max_body_size 5m;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                keepalive_requests 100000000;
                upstream bench {{
                    server 127.0.0.1:{upstream.port};
                    keepalive 128;
                    keepalive_requests 100000000;
                }}
                server {{
                    listen 127.0.0.1:{self.port} backlog=4096;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_read_timeout 3600s;
                    proxy_max_temp_file_size 0;
                    # With its usual buffers of 4 KiB nginx needs twice the time for large answers.
                    proxy_buffer_size 64k;
                    proxy_buffers 16 64k;
                    proxy_busy_buffers_size 128k;
                    location / {{ proxy_pass http://bench; }}
                    # Events go on at once.
                    location /sse {{
                        proxy_pass http://bench;
                        proxy_buffering off;
                    }}
                    # The usual ones again: each stream holds one.
                    location /idle {{
                        proxy_pass http://bench;
                        proxy_buffer_size 4k;
                        proxy_buffers 8 4k;
                        proxy_busy_buffers_size 8k;
                        proxy_buffering off;
                    }}
                }}
            }}
        """)
        self.process = Process("nginx", 0, ["nginx", "-p", folder, "-c", folder / "nginx.conf"], log=folder / "log")
        until("nginx's start", lambda: answers(self.url("/mcp"), body=b"{}")[0])

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def check(self, calls):
        pass


# One entry for each path of the upstream: a call's path ends at the server's id.
ENTRIES = {"/mcp": "small", "/mcp/65536": "json64k", "/mcp/1048576": "json1m",
           "/sse/65536": "sse64k", "/sse/1048576": "sse1m", "/idle": "idle", "/rpc": "rpc", "/sessions": "sessions"}
# What brings events from the spool to the store. Writing them to the spool is part of the call, which waits for it.
INGEST = ("audit-drain", "audit-sqlite")
BIG = [path for path in ENTRIES if path[-1].isdigit()]


class Gateway(harness.Gateway):
    name = "gateway"

    def __init__(self, upstream, folder):
        entries = {entry: remote(entry, upstream.base + path) for path, entry in ENTRIES.items()}
        super().__init__(GATEWAY, folder, entries, {"LIMITS__STREAMS_PER_PRINCIPAL": 20_000, "LIMITS__CALLS_PER_PRINCIPAL": 1_000}, core=0)
        self.recorded = 0
        self.lost = 0

    def url(self, path):
        return self.url_of("/mcp-connect/" + ENTRIES[path])

    def rows(self):
        database = sqlite3.connect(f"file:{self.trail()}?mode=ro", uri=True)
        with contextlib.closing(database):
            return database.execute("SELECT count(*) FROM event WHERE kind = 'exchange'").fetchone()[0]

    def check(self, calls):
        """Every call that was answered has its row; wrk does not count those it broke off at the end."""
        end, before = time.monotonic() + 60, -1
        rows = self.rows()
        while rows != before and time.monotonic() < end:
            before = rows
            time.sleep(1)
            rows = self.rows()
        new, self.recorded = rows - self.recorded, rows
        note(f"audit rows: {new} for {calls} calls answered")
        if new < calls:
            self.lost += calls - new


# ---- loads -----------------------------------------------------------------------------------------------------------

HEAD = '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"message":"'
META = (',"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},'
        '"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}')


def script(folder, target, modern):
    tool = getattr(target, "tool", "echo")
    head = HEAD.replace("echo", tool)
    tail = '"}' + (META if modern else "") + "}}"
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
               "MCP-Protocol-Version": "2026-07-28" if modern else "2025-11-25"}
    if modern:
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "echo"}
    if target.authorization:
        headers["Authorization"] = target.authorization
    headers |= getattr(target, "headers", {})
    path = folder / f"{target.name}-{'modern' if modern else 'legacy'}.lua"
    lines = ['wrk.method = "POST"', f"wrk.body = [[{head + 'x' * (1024 - len(head) - len(tail)) + tail}]]"]
    lines += [f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in headers.items()]
    # Microseconds, whole numbers: wrk's own summary rounds.
    lines.append("""done = function(summary, latency, requests)
        local e = summary.errors
        io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, summary.bytes,
            e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
    end""")
    path.write_text("\n".join(lines))
    return path


def closed(folder, target, path="/mcp", connections=16, modern=False, seconds=SECONDS, check=True):
    """One closed-loop run: calls a second, bytes a second, p50 and p99 in µs, CPU in µs a call."""
    before = target.process.cpu() if target.process else 0
    ingest = target.process.cpu_of(INGEST) if target.process else 0
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s",
               str(script(folder, target, modern)), target.url(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise SystemExit(f"wrk said nothing of its result:\n{output}")
    calls, microseconds, size, errors, p50, p99 = map(int, result.split()[1:])
    if errors or not calls:
        raise SystemExit(f"{errors} calls of {calls} to {target.name} failed:\n{output}")
    if check:
        target.check(calls)
    # Once the trail has caught up: what brings it to the store gives way to calls, and does most of its work after them.
    cpu = (target.process.cpu() if target.process else 0) - before
    ingest = (target.process.cpu_of(INGEST) if target.process else 0) - ingest
    note(f"wrk {target.name} {path} c={connections}{' modern' if modern else ''}: {result}; cpu {cpu:.2f} s, of it ingest {ingest:.2f} s")
    return {"calls": calls, "calls_s": calls * 1e6 / microseconds, "bytes_s": size * 1e6 / microseconds,
            "p50": p50, "p99": p99, "cpu": cpu * 1e6 / calls, "ingest": ingest * 1e6 / calls}


def open_loop(target, rate, modern=False):
    command = ["taskset", "-c", "1", str(BENCHES / "load"), "--url", target.url("/mcp"), "--rate", f"{rate:.0f}",
               "--seconds", str(SECONDS), "--era", "modern" if modern else "legacy"]
    environment = dict(os.environ)
    if target.authorization:
        environment["BENCH_AUTHORIZATION"] = target.authorization
    before, ingest = target.process.cpu(), target.process.cpu_of(INGEST)
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    result = json.loads(output)
    if result["failed"]:
        raise SystemExit(f"{result['failed']} calls to {target.name} failed")
    target.check(result["planned"])
    cpu, ingest = target.process.cpu() - before, target.process.cpu_of(INGEST) - ingest
    note(f"open loop {target.name}: {output.strip()}; cpu {cpu:.2f} s, of it ingest {ingest:.2f} s")
    # Where core 1 cannot send so many, latency is the generator's own queue.
    return {"p50": result["p50_us"], "p99": result["p99_us"], "calls_s": result["done_per_second"],
            "kept": result["done_per_second"] / rate, "cpu": cpu * 1e6 / result["planned"],
            "ingest": ingest * 1e6 / result["planned"]}


def idle(target, streams):
    """KiB that the target holds with so many streams open, and after they are closed."""
    environment = dict(os.environ)
    if target.authorization:
        environment["BENCH_AUTHORIZATION"] = target.authorization
    command = ["taskset", "-c", "1", str(BENCHES / "idle"), "--url", target.url("/idle"), "--streams", str(streams)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as opener:
        line = opener.stdout.readline()
        if not line.startswith(f"{streams} streams"):
            raise SystemExit(f"{target.name}: the streams did not open")
        time.sleep(1)
        rss = target.process.rss()
        opener.stdin.close()
    time.sleep(1)
    after = target.process.rss()
    note(f"idle {target.name}: {streams} streams {rss} KiB, closed {after} KiB")
    return {"open": rss, "closed": after}


def sessions(folder, gateway):
    """KiB that the gateway holds before and after runs in which every call begins a legacy session and leaves it idle."""
    closed(folder, gateway, "/sessions")
    rss, begun = [gateway.process.rss()], 0
    for _ in range(RUNS):
        begun += closed(folder, gateway, "/sessions")["calls"]
        rss.append(gateway.process.rss())
    note(f"idle sessions: KiB before and after: {rss}; {begun} sessions")
    return {"growth": (rss[-1] - rss[0]) * 1024 / begun, "begun": begun}


def own_layers():
    """µs that a legacy call takes from its request in memory to its answer in memory, no socket and no spool."""
    calls, took = 20_000 if QUICK else 200_000, []
    for _ in range(RUNS):
        spent = []
        for count in (calls, 2 * calls):
            begun = time.monotonic()
            subprocess.run(["taskset", "-c", "0", MICRO, "stack-legacy-1k", str(count)], check=True)
            spent.append(time.monotonic() - begun)
        took.append((spent[1] - spent[0]) * 1e6 / calls)
    note("own layers, µs a call: " + " ".join(f"{each:.2f}" for each in took))
    return statistics.median(took)


def store_away(folder, gateway):
    """KiB that the gateway holds before, and after each of some runs, while the audit store takes nothing."""
    rss, calls = [gateway.process.rss()], 0
    with contextlib.closing(sqlite3.connect(gateway.trail(), isolation_level=None, timeout=60)) as database:
        database.execute("BEGIN IMMEDIATE")
        before = gateway.rows()
        for _ in range(RUNS):
            calls += closed(folder, gateway, check=False)["calls"]
            rss.append(gateway.process.rss())
        if gateway.rows() != before:
            raise SystemExit("the audit store was written to while it was locked")
        database.execute("ROLLBACK")
    gateway.check(calls)
    note(f"audit store away: KiB before and after runs of {SECONDS} s: {rss}; {calls} calls")
    return rss


def medians(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def eras(targets, measure):
    """The same for both eras, in the same turns."""
    runs = {(target.name, modern): [] for target in targets for modern in (False, True)}
    for _ in range(RUNS):
        for target in targets:
            for modern in (False, True):
                runs[target.name, modern].append(measure(target, modern))
    return [{target.name: medians(runs[target.name, modern]) for target in targets} for modern in (False, True)]


def each(targets, measure):
    """The median of RUNS for each target, taken in turns so that a busy minute hits all alike."""
    runs = {target.name: [] for target in targets}
    for _ in range(RUNS):
        for target in targets:
            runs[target.name].append(measure(target))
    return {name: medians(found) for name, found in runs.items()}


# ---- the report ------------------------------------------------------------------------------------------------------


def verdict(value, goal, at_most=True):
    return "met" if (value <= goal if at_most else value >= goal) else "**missed**"


def report(found, commit, load):
    call, one, modern, paced = found["call"], found["one"], found["modern"], found["paced"]
    gateway, nginx, direct = call["gateway"], call["nginx"], call["direct"]
    rows = [
        ("CPU a call", f"{gateway['cpu']:.1f} µs", "≤ 50 µs", verdict(gateway["cpu"], 50)),
        ("CPU a call, to nginx's", f"{gateway['cpu'] / nginx['cpu']:.2f} ×", "≤ 3 ×", verdict(gateway["cpu"] / nginx["cpu"], 3)),
        ("of it the request path, spool included", f"{gateway['cpu'] - gateway['ingest']:.1f} µs", "≤ 35 µs",
         verdict(gateway["cpu"] - gateway["ingest"], 35)),
        ("the request path, to nginx's", f"{(gateway['cpu'] - gateway['ingest']) / nginx['cpu']:.2f} ×", "≤ 2.2 ×",
         verdict((gateway["cpu"] - gateway["ingest"]) / nginx["cpu"], 2.2)),
        ("of it audit ingest, an event", f"{gateway['ingest']:.1f} µs", "≤ 15 µs", verdict(gateway["ingest"], 15)),
        ("own layers, in memory", f"{found['own']:.1f} µs", "< 5 µs", verdict(found["own"], 5)),
        ("CPU a call at the same rate, to nginx's", f"{paced['gateway']['cpu'] / paced['nginx']['cpu']:.2f} ×", "≤ 3 ×",
         verdict(paced["gateway"]["cpu"] / paced["nginx"]["cpu"], 3)),
        ("the request path at the same rate, to nginx's",
         f"{(paced['gateway']['cpu'] - paced['gateway']['ingest']) / paced['nginx']['cpu']:.2f} ×", "≤ 2.2 ×",
         verdict((paced["gateway"]["cpu"] - paced["gateway"]["ingest"]) / paced["nginx"]["cpu"], 2.2)),
        ("throughput, to nginx's", f"{gateway['calls_s'] / nginx['calls_s']:.2f} ×", "≥ 0.35 ×",
         verdict(gateway["calls_s"] / nginx["calls_s"], 0.35, False)),
        ("throughput, to direct", f"{gateway['calls_s'] / direct['calls_s']:.2f} ×", "", ""),
        ("p99 at 70 % of its maximum, open loop", f"{paced['gateway']['p99'] / 1000:.2f} ms", "< 3 ms",
         verdict(paced["gateway"]["p99"], 3_000) if paced["gateway"]["kept"] > KEPT else "not valid: the rate was not kept"),
        ("the same of nginx at this rate", f"{paced['nginx']['p99'] / 1000:.2f} ms", "", ""),
        ("added p50 at 1 connection", f"{one['gateway']['p50'] - one['direct']['p50']:.0f} µs", "< 150 µs",
         verdict(one["gateway"]["p50"] - one["direct"]["p50"], 150)),
        ("2026-07-28, throughput to 2025-11-25's", f"{modern['gateway']['calls_s'] / gateway['calls_s']:.2f} ×", "≥ 1 ×",
         verdict(modern["gateway"]["calls_s"] / gateway["calls_s"], 1, False)),
    ]
    for path, bandwidth in found["bandwidth"].items():
        ratio = bandwidth["gateway"]["bytes_s"] / bandwidth["nginx"]["bytes_s"]
        rows.append((f"bytes a second of `{path}`, to nginx's", f"{ratio:.2f} ×", "≥ 0.6 ×", verdict(ratio, 0.6, False)))
    rows.append(("memory after the start", f"{found['fresh'] / 1024:.1f} MiB", "< 25 MiB", verdict(found["fresh"], 25 * 1024)))
    most = max(IDLE)
    ratio = found["idle"]["gateway"][most]["open"] / found["idle"]["nginx"][most]["open"]
    rows.append((f"memory with {most:,} idle streams, to nginx's", f"{ratio:.2f} ×", "≤ 1.6 × at 9,000",
                 verdict(ratio, 1.6) if most == 9_000 else "not measured"))
    growth = found["again"]["open"] - found["idle"]["gateway"][most]["open"]
    rows.append(("more memory when as many are opened again", f"{growth / 1024:.1f} MiB", "≤ 2 MiB", verdict(growth, 2 * 1024)))
    kept = found["sessions"]
    rows.append((f"kept for each of {kept['begun']:,} idle legacy sessions", f"{kept['growth']:.1f} B", "nothing (< 8 B)",
                 verdict(kept["growth"], 8)))
    growth = found["away"][-1] - found["away"][1]
    rows.append(("growth in later runs while the audit store is away", f"{growth / 1024:.1f} MiB", "≤ 2 MiB",
                 verdict(growth, 2 * 1024)))
    if "rival" in found:
        ratio = found["rival"]["gateway"]["calls_s"] / found["rival"]["mcp-proxy"]["calls_s"]
        rows.append(("throughput, to `mcp-proxy` 0.6's with JWT", f"{ratio:.2f} ×", "≥ 3.5 ×", verdict(ratio, 3.5, False)))
    rows.append(("start to first answer, empty data folder", f"{found['first_start'] * 1000:.0f} ms", "< 150 ms",
                 verdict(found["first_start"], 0.15)))
    rows.append(("start to first answer, later", f"{found['start'] * 1000:.0f} ms", "< 150 ms", verdict(found["start"], 0.15)))
    rows.append(("answered calls without an audit row", str(found["lost"]), "0", verdict(found["lost"], 0)))

    lines = [
        "# Figures", "",
        f"Commit `{commit}`, {datetime.date.today()}, {'a quick try' if QUICK else 'a full run'}: medians of {RUNS} runs "
        f"of {SECONDS} s, in turns. The gateway was built by `{BUILD}`. Raw output: [raw.txt](raw.txt).", "",
        f"Load of the machine: {load}. Figures of a machine that does other work too are worse than they should be, and "
        "ratios within one run say more than times do.", "",
        "Core 0 had the gateway or nginx with all their threads, core 1 the server behind them and the load. A call is a "
        "`tools/call` of 1 KB answered with 1 KB, keep-alive, 16 connections, with an API key for a list of servers and an "
        "audit row written to SQLite. nginx: one worker, kept-alive connections to the server, no access log, buffers of "
        "64 KiB, none for events.",
        "", "| what | measured | goal | |", "| --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]

    def table(title, names, columns):
        out = ["", f"## {title}", "", "| | " + " | ".join(name for name, _, _ in columns) + " |",
               "| --- |" + " --- |" * len(columns)]
        for name, values in names.items():
            out.append(f"| {name} | " + " | ".join(f"{values[key]:{form}}" if values[key] else "–" for _, key, form in columns) + " |")
        return out

    full = [("calls/s", "calls_s", ",.0f"), ("CPU µs a call", "cpu", ".1f"), ("p50 µs", "p50", ",.0f"), ("p99 µs", "p99", ",.0f")]
    lines += table("Closed loop, 16 connections", call, full)
    lines += table("Closed loop, 16 connections, 2026-07-28", modern, full)
    lines += table("Closed loop, 1 connection", one, full)
    lines += table("Open loop at 70 % of the gateway's maximum", paced, [full[0], ("of the rate", "kept", ".1%"), *full[1:]])
    lines += ["", "Both are sent the same calls at the same times. In the closed loop nginx answers so many calls that core 1 "
              "never sleeps, and waking it costs nginx nothing; here both wake it. Latency counts from when a call was meant "
              "to start; the server and the generator share core 1, which is a part of it for both. Where less than "
              f"{KEPT:.0%} of the rate was kept, core 1 could not send so many, and latencies say nothing of what is measured."]
    for path, bandwidth in found["bandwidth"].items():
        megabytes = {name: {**values, "mb": values["bytes_s"] / 1e6} for name, values in bandwidth.items()}
        lines += table(f"Results of `{path}`", megabytes, [("MB/s", "mb", ",.0f"), *full])
    lines += ["", "## Memory with idle streams", "", "| | " + " | ".join(f"{n:,} streams, MiB" for n in IDLE) + " |",
              "| --- |" + " --- |" * len(IDLE)]
    for name, values in found["idle"].items():
        lines.append(f"| {name} | " + " | ".join(f"{values[n]['open'] / 1024:.1f}" for n in IDLE) + " |")
    lines += ["", "Memory is the proportional set size of all processes, so that pages which nginx's two processes share "
              "count once. Closed again, they hold " + " and ".join(
                  f"{found['idle'][name][most]['closed'] / 1024:.1f} MiB ({name})" for name in found["idle"])
              + ". The C library keeps what the gateway gave back, in pieces between what is in use, and hands it out again: "
              "opened a second time, as many streams take no more."]
    away = ", ".join(f"{rss / 1024:.1f}" for rss in found["away"])
    lines += ["", "## While the audit store takes nothing", "",
              f"Memory before and after each of {RUNS} runs of calls, in MiB: {away}. The trail waits in the spool; afterwards "
              "every call had its row."]
    if "rival" in found:
        lines += table("Beside the crate `mcp-proxy` 0.6", found["rival"], full)
        lines += ["", "Legacy calls to a server that reads them; `mcp-proxy` checks an RS256 token by a JWKS, has no rule and no "
                  "audit log. The gateway checks an API key, has its rule and writes its audit rows."]
    else:
        lines += ["", "The crate `mcp-proxy` is not in this run (`MCP_PROXY_BIN`)."]
    lines.append("")
    return "\n".join(lines)


def main():
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    if subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True, text=True).stdout:
        commit += " with changes"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="figures."))
    loads = [os.getloadavg()[0]]
    running = []
    found = {}
    note(f"commit {commit}; {os.cpu_count()} cores; load {os.getloadavg()}; "
         f"{subprocess.run(['nginx', '-v'], capture_output=True, text=True).stderr.strip()}")
    try:
        upstream = Upstream()
        running.append(upstream.process)
        direct, nginx = Direct(upstream), Nginx(upstream, folder / "nginx")
        running.append(nginx.process)
        gateway = Gateway(upstream, folder / "gateway")
        starts = []
        for _ in range(RUNS):
            gateway.process.stop()
            starts.append(gateway.start())
        running.append(gateway.process)
        found["start"] = statistics.median(starts)
        found["first_start"] = gateway.first_start
        note(f"start to first answer, s: with an empty data folder {gateway.first_start:.3f}, later " + " ".join(f"{start:.3f}" for start in starts))
        time.sleep(2)
        found["fresh"] = gateway.process.rss()
        note(f"gateway after its start: {found['fresh']} KiB")

        # Before the loads: what they leave in the allocators would count as the streams'.
        found["idle"] = {target.name: {} for target in (nginx, gateway)}
        for target in (nginx, gateway):
            for streams in IDLE:
                found["idle"][target.name][streams] = (
                    idle(target, streams) if streams else {"open": target.process.rss(), "closed": None})
        found["again"] = idle(gateway, max(IDLE))
        gateway.recorded = gateway.rows()

        everyone, proxies = (direct, nginx, gateway), (nginx, gateway)
        for target in everyone:
            closed(folder, target, seconds=1)
        found["call"], found["modern"] = eras(everyone, lambda target, modern: closed(folder, target, modern=modern))
        found["own"] = own_layers()
        loads.append(os.getloadavg()[0])
        found["one"] = each(everyone, lambda target: closed(folder, target, connections=1))
        rate = 0.7 * found["call"]["gateway"]["calls_s"]
        found["paced"] = each(proxies, lambda target: open_loop(target, rate))
        loads.append(os.getloadavg()[0])
        found["bandwidth"] = {path: each(proxies, lambda target, path=path: closed(folder, target, path)) for path in BIG}
        if RIVAL:
            def start(command, log):
                process = Process("mcp-proxy", 0, command, log=log)
                running.append(process)
                return process

            rival = McpProxy(RIVAL, upstream, folder / "mcp-proxy", free_port(), start)
            found["rival"] = each((gateway, rival), lambda target: closed(folder, target, "/rpc"))
            rival.process.stop()
        found["sessions"] = sessions(folder, gateway)
        found["away"] = store_away(folder, gateway)
        found["lost"] = gateway.lost
        loads.append(os.getloadavg()[0])
    except BaseException:
        with contextlib.suppress(OSError):
            print((folder / "gateway" / "log").read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        for process in reversed(running):
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)
    load = "before, between and after: " + ", ".join(f"{value:.1f}" for value in loads) + " (about 2 are the measurement itself)"
    target = ROOT / "docs" / "figures"
    target.mkdir(parents=True, exist_ok=True)
    text = report(found, commit, load)
    (target / "README.md").write_text(text)
    (target / "raw.txt").write_text("\n".join(raw) + "\n")
    print(text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
