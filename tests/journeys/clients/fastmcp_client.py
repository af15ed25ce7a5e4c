"""Connects with FastMCP's client. Argument and lines: see python_sdk.py."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.client.auth import OAuth

PATIENCE = 60


class Told(OAuth):
    """Says what it would open; everything else is FastMCP's own."""

    async def redirect_handler(self, authorization_url):
        print(f"OPEN {authorization_url}", flush=True)


async def main():
    target = json.loads(sys.argv[1])
    options = {"client_name": "FastMCP"}
    if "client" in target:
        options.update(client_id=target["client"]["client_id"], client_secret=target["client"].get("client_secret"))
        options.update(callback_port=target["port"], callback_host="127.0.0.1")
    if "document" in target:
        options.update(client_metadata_url=target["document"], callback_port=target["port"], callback_host="127.0.0.1")
    async with Client(target["url"], auth=Told(**options)) as client:
        text = str(await client.call_tool(target["tool"], {}))
        if target["expect"] not in text:
            raise RuntimeError(f"{target['expect']!r} is not in {text}")
    return "connected"


async def bounded():
    try:
        return True, await asyncio.wait_for(main(), PATIENCE)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return False, f"{type(error).__name__}: {error}"


ok, detail = asyncio.run(bounded())
print(json.dumps({"ok": ok, "detail": detail}), flush=True)
