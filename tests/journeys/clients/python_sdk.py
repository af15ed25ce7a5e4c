"""Connects with the OAuthClientProvider of the Python SDK.

The argument is a JSON document `{"url", "tool", "expect", "port"?, "client"?, "document"?}`. A line `OPEN URL` asks
for a person at a browser; a line `{"ok", "detail"}` is the end.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata

from callback import Callback

PATIENCE = 240


class Storage:
    def __init__(self, client=None):
        self.tokens, self.client = None, client

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def call(target, provider):
    async with httpx2.AsyncClient(auth=provider, timeout=PATIENCE, follow_redirects=True) as http:
        async with Client(streamable_http_client(target["url"], http_client=http), mode="auto") as client:
            text = (await client.call_tool(target["tool"], {})).model_dump_json()
            if target["expect"] not in text:
                raise RuntimeError(f"{target['expect']!r} is not in {text}")


async def main():
    target = json.loads(sys.argv[1])
    callback = Callback(target.get("port", 0))
    known = None
    if "client" in target:
        more = {"redirect_uris": [callback.url], "token_endpoint_auth_method": "client_secret_post"}
        known = OAuthClientInformationFull.model_validate({**target["client"], **more})
    storage = Storage(known)

    async def redirect(url):
        print(f"OPEN {url}", flush=True)

    async def wait():
        answer = await asyncio.to_thread(callback.wait)
        return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer.get("iss"))

    provider = OAuthClientProvider(
        server_url=target["url"],
        client_metadata=OAuthClientMetadata(client_name="Python SDK", redirect_uris=[callback.url]),
        storage=storage,
        redirect_handler=redirect,
        callback_handler=wait,
        client_metadata_url=target.get("document"),
    )
    await call(target, provider)
    first = storage.tokens
    # As if an hour had passed: the next call renews the token, with nobody at a browser.
    provider.context.token_expiry_time = 1
    await call(target, provider)
    if storage.tokens.access_token == first.access_token or storage.tokens.refresh_token == first.refresh_token:
        raise RuntimeError("the token was not renewed")
    return storage.client.client_id


async def bounded():
    try:
        return True, await asyncio.wait_for(main(), PATIENCE)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return False, f"{type(error).__name__}: {error}"


ok, detail = asyncio.run(bounded())
print(json.dumps({"ok": ok, "detail": detail}), flush=True)
