"""A server on FastMCP: `fastmcp_server.py PORT`."""

import sys

from fastmcp import FastMCP

server = FastMCP("fastmcp")


@server.tool
def echo(message: str) -> str:
    """Answers what it is told."""
    return f"fastmcp: {message}"


server.run(transport="http", port=int(sys.argv[1]), show_banner=False)
