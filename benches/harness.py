"""What the measurements share: processes, and a gateway to measure."""

import contextlib
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A program with its children, on one core if one is named."""

    def __init__(self, name, core, command, env=None, log=None):
        self.name = name
        out = open(log, "ab") if log else subprocess.DEVNULL
        self.popen = subprocess.Popen(
            [*([] if core is None else ["taskset", "-c", str(core)]), *map(str, command)],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})},
        )

    def pids(self):
        found = [self.popen.pid]
        for pid in found:
            try:
                children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except FileNotFoundError:
                continue
            found += map(int, children.split())
        return found

    def cpu(self):
        """Seconds of user and system time so far."""
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def cpu_of(self, names):
        """The same of the threads with these names."""
        ticks = 0
        for task in pathlib.Path(f"/proc/{self.popen.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                name, fields = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
                ticks += sum(map(int, fields.split()[11:13])) if name in names else 0
        return ticks / TICKS

    def rss(self):
        """KiB that are resident, those shared among its processes counted once."""
        total = 0
        for pid in self.pids():
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
        return total

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


def until(what, question, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if question():
                return
        time.sleep(0.002)
    raise SystemExit(f"{what} did not happen within {seconds} s")


def answers(url, headers=None, body=None):
    request = urllib.request.Request(url, data=body, headers=headers or {})
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.status == 200, response.read()


class Gateway:
    """A gateway with a folder of its own, which has `catalog`, `data` and `log`."""

    def __init__(self, program, folder, entries, settings, core=None):
        self.program, self.folder, self.core, self.port = program, folder, core, free_port()
        (folder / "catalog").mkdir(parents=True)
        for name, entry in entries.items():
            (folder / "catalog" / f"{name}.yaml").write_text(entry)
        self.token = "bench-" + secrets.token_hex(24)
        self.environment = {
            "MCP_GATEWAY__LISTEN": f"127.0.0.1:{self.port}",
            "MCP_GATEWAY__PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "MCP_GATEWAY__DATA_DIR": str(folder / "data"),
            "MCP_GATEWAY__CATALOG__PATHS": str(folder / "catalog"),
            "MCP_GATEWAY__EGRESS__ALLOW": "127.0.0.0/8",
            "MCP_GATEWAY__LOG__FILTER": "warn",
            "MCP_GATEWAY_BOOTSTRAP_TOKEN": self.token,
        } | {f"MCP_GATEWAY__{name}": str(value) for name, value in settings.items()}
        self.first_start = self.start()
        request = urllib.request.Request(
            self.url_of("/api/v1/api-keys"), data=json.dumps({"name": "bench", "servers": list(entries)}).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            self.authorization = "Bearer " + json.load(response)["key"]

    def start(self):
        """Starts it; returns the seconds to the first answer."""
        began = time.monotonic()
        self.process = Process("gateway", self.core, [self.program, "serve"], self.environment, self.folder / "log")
        until("the gateway's start", self.is_ready)
        return time.monotonic() - began

    def is_ready(self):
        if self.process.popen.poll() is not None:
            raise SystemExit(f"the gateway ended at its start:\n{(self.folder / 'log').read_text()[-2000:]}")
        return answers(self.url_of("/readyz"))[0]

    def url_of(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def trail(self):
        """The file of its audit trail."""
        (path,) = (self.folder / "data").glob("*-audit.db")
        return path


def remote(name, url):
    """A catalog entry of a remote server."""
    return f"entryKey: {name}\nname: {name}\nruntime: remote\nserverUserType: multiUser\nremoteConfig:\n  fixedURL: {url}\n"
