"""The gateway reads a stream of events as its clients do.

What it takes for a comment, no client may take for a message: rules and the audit trail would not have seen it. Random
streams, made of what readers have been seen to disagree on, go through the gateway's reader, the one of the TypeScript SDK
(eventsource-parser) and the one of the Python SDK (httpx2).
"""

import argparse
import json
import os
import pathlib
import random
import subprocess

import httpx2

import run

PIECES = [
    "data", "data:", "data: ", "data:  ", "event: x", "event", "id: 1", "id", "retry: 5", ":", ": data: {}", "dat", "Data: x",
    "{}", '{"jsonrpc":"2.0"}', "a", " ", "\t", "\0", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\ufeff",
    "é", "\r", "\n", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\n\r",
]
STREAMS = 20_000


def streams(seed):
    """Each ends with a blank line, as what is unfinished is judged by itself, and begins without a byte order mark, as the
    gateway leaves these out."""
    random.seed(seed)
    for _ in range(STREAMS):
        yield "".join(random.choices(PIECES, k=random.randrange(1, 16))).lstrip("\ufeff") + "\n\n"


def through(command, text, **options):
    ran = subprocess.run(command, input=text.encode(), capture_output=True, **options)
    if ran.returncode:
        raise SystemExit(f"{command[0]}: {ran.stderr.decode()}")
    return [json.loads(line) for line in ran.stdout.split(b"\n")[:-1]]


def messages(events):
    """Those with data: httpx2 also reports events that have none, which carry no message."""
    return [event for event in events if event[1]]


def python(stream):
    headers, request = {"content-type": "text/event-stream"}, httpx2.Request("GET", "http://x")
    response = httpx2.Response(200, headers=headers, content=stream.encode(), request=request)
    return [[event.event or "message", event.data] for event in httpx2.EventSource(response)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reader", required=True, help="the built example sse_events")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), help="that of a run that failed")
    arguments = parser.parse_args()
    print(f"streams of --seed {arguments.seed}")
    modules = run.npm(pathlib.Path(arguments.cache))
    texts = list(streams(arguments.seed))
    lines = "".join(text.encode().hex() + "\n" for text in texts)
    ours = through([arguments.reader], lines)
    theirs = {
        "eventsource-parser": through(
            [run.node(modules), run.HERE / "clients/sse.mjs"], lines, env={**os.environ, "MODULES": str(modules)}
        ),
        "httpx2": [python(text) for text in texts],
    }
    failed = 0
    for name, found in theirs.items():
        pairs = zip(texts, map(messages, ours), map(messages, found), strict=True)
        differ = [(text, mine, other) for text, mine, other in pairs if mine != other]
        failed += bool(differ)
        print(f"{'FAILED' if differ else 'ok    '} {STREAMS} streams read as {name} reads them")
        for text, mine, other in differ[:5]:
            print(f"       {text!r}: {mine} here, {other} there")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
