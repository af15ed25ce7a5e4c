"""A server on the Python SDK: `sdk_server.py stdio`, or `sdk_server.py http PORT`."""

import sys

from mcp.server import MCPServer

server = MCPServer("python-sdk")


@server.tool()
def echo(message: str) -> str:
    """Answers what it is told."""
    return f"python: {message}"


if sys.argv[1] == "http":
    server.run(transport="streamable-http", port=int(sys.argv[2]))
else:
    server.run()
