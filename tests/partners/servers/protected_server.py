"""A server on FastMCP behind its own authorization server: `protected_server.py PORT SECONDS`, of which an access token lives
so many. Everybody who comes is a new account, and is let in. `GET /counts` tells what was given."""

import sys

from fastmcp import FastMCP
from fastmcp.server.auth.providers import in_memory
from fastmcp.server.dependencies import get_access_token
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions
from starlette.responses import JSONResponse

port, seconds = int(sys.argv[1]), int(sys.argv[2])
in_memory.DEFAULT_ACCESS_TOKEN_EXPIRY_SECONDS = seconds


class Provider(in_memory.InMemoryOAuthProvider):
    """Knows whose a token is, and counts."""

    accounts: dict[str, str] = {}
    refreshes = 0

    async def exchange_authorization_code(self, client, authorization_code):
        tokens = await super().exchange_authorization_code(client, authorization_code)
        account = f"account-{len(set(self.accounts.values())) + 1}"
        self.accounts[tokens.access_token] = self.accounts[tokens.refresh_token] = account
        return tokens

    async def exchange_refresh_token(self, client, refresh_token, scopes):
        account = self.accounts[refresh_token.token]
        tokens = await super().exchange_refresh_token(client, refresh_token, scopes)
        self.refreshes += 1
        self.accounts[tokens.access_token] = self.accounts[tokens.refresh_token] = account
        return tokens


provider = Provider(
    base_url=f"http://127.0.0.1:{port}",
    client_registration_options=ClientRegistrationOptions(enabled=True),
    revocation_options=RevocationOptions(enabled=True),
)
server = FastMCP("protected", auth=provider)


@server.tool
def whoami() -> str:
    """Says whose account the call is made with."""
    return provider.accounts[get_access_token().token]


@server.custom_route("/counts", methods=["GET"])
async def counts(_):
    """What was given."""
    return JSONResponse({"refreshes": provider.refreshes, "live": len(provider.refresh_tokens)})


@server.custom_route("/forget", methods=["POST"])
async def forget(_):
    """Whatever was given is good for nothing any more."""
    provider.access_tokens.clear()
    provider.refresh_tokens.clear()
    return JSONResponse({})


server.run(transport="http", port=port, show_banner=False)
