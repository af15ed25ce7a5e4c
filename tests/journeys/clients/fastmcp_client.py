"""Connects with FastMCP's client. Argument and lines: see python_sdk.py."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.client.auth import OAuth

PATIENCE = 240


class Told(OAuth):
    """Says what it would open; everything else is FastMCP's own."""

    async def redirect_handler(self, authorization_url):
        print(f"OPEN {authorization_url}", flush=True)


async def call(client, target):
    text = str(await client.call_tool(target["tool"], {}))
    if target["expect"] not in text:
        raise RuntimeError(f"{target['expect']!r} is not in {text}")


async def main():
    target = json.loads(sys.argv[1])
    options = {"client_name": "FastMCP"}
    if "client" in target:
        options.update(client_id=target["client"]["client_id"], client_secret=target["client"].get("client_secret"))
        options.update(callback_port=target["port"], callback_host="127.0.0.1")
    if "document" in target:
        options.update(client_metadata_url=target["document"], callback_port=target["port"], callback_host="127.0.0.1")
    auth = Told(**options)
    async with Client(target["url"], auth=auth) as client:
        await call(client, target)
        first = auth.context.current_tokens
        # As if an hour had passed: the next call renews the token, with nobody at a browser.
        auth.context.token_expiry_time = 1
        await call(client, target)
    last = auth.context.current_tokens
    if last.access_token == first.access_token or last.refresh_token == first.refresh_token:
        raise RuntimeError("the token was not renewed")
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
