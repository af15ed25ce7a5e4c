"""Calls servers with the client of the Python SDK.

The argument is the mode: `legacy`, `auto`, or a version to be pinned. Targets come as one JSON document on stdin, each
`{"name", "url", "token", "tool", "arguments", "expect"}`; a line `{"name", "ok", "detail"}` goes out for each.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

PATIENCE = 120


async def call(target, mode):
    headers = {"Authorization": f"Bearer {target['token']}"}
    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http:
        async with Client(streamable_http_client(target["url"], http_client=http), mode=mode) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            if target["tool"] not in tools:
                raise RuntimeError(f"{target['tool']} is not among {tools}")
            result = await client.call_tool(target["tool"], target["arguments"])
            text = result.model_dump_json()
            if target["expect"] not in text:
                raise RuntimeError(f"{target['expect']!r} is not in {text}")
            return str(client.protocol_version)


def cause(error):
    """The first leaf of an exception group, which is what went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def main():
    for target in json.load(sys.stdin):
        try:
            detail, ok = await asyncio.wait_for(call(target, sys.argv[1]), PATIENCE), True
        except BaseException as error:
            detail, ok = cause(error), False
        print(json.dumps({"name": target["name"], "ok": ok, "detail": detail}), flush=True)


asyncio.run(main())
