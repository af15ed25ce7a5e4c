"""The pages of the Inspector, which are a client in themselves."""

import json
import os
import subprocess

from run import listens, node, wait


def start(processes, modules, folder, port, target):
    """The Inspector, which knows one server; where its pages are. Its redirect URI is `/oauth/callback` there."""
    folder.mkdir()
    server = {"type": "streamable-http", "url": target["url"]}
    if "client" in target:
        server["oauth"] = {"clientId": target["client"]["client_id"], "clientSecret": target["client"]["client_secret"]}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"fixture": server}}))
    storage = folder / ".mcp-inspector/storage"
    storage.mkdir(parents=True)
    if "document" in target:
        client = {"cimd": {"enabled": True, "clientMetadataUrl": target["document"]}}
        (storage / "client.json").write_text(json.dumps(client))
    program = modules / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    environment = {
        **os.environ, "HOME": str(folder), "CLIENT_PORT": str(port), "MCP_SANDBOX_PORT": "0",
        "MCP_AUTO_OPEN_ENABLED": "false", "DANGEROUSLY_OMIT_AUTH": "true", "MCP_INSPECTOR_SECRET_STORE": "memory",
    }
    process = processes.start(
        [str(node(modules)), str(program), "--web", "--config", str(folder / "mcp.json")],
        env=environment, cwd=folder, stdout=open(folder / "log", "w"), stderr=subprocess.STDOUT,
    )
    wait("the Inspector", lambda: listens(port), process)
    return process, f"http://127.0.0.1:{port}"
