"""The crate `mcp-proxy` 0.6 with its JWT on, behind the same harness."""

import base64
import http.server
import json
import pathlib
import secrets
import subprocess
import threading
import time
import urllib.request


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_token(folder, issuer, audience):
    """A key of its own; the JWKS document and an RS256 token of an hour."""
    key = folder / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    modulus = subprocess.run(["openssl", "rsa", "-in", key, "-noout", "-modulus"], check=True, capture_output=True).stdout
    n = bytes.fromhex(modulus.decode().strip().split("=")[1])
    jwks = {"keys": [{"kty": "RSA", "kid": "k", "use": "sig", "alg": "RS256", "e": "AQAB", "n": base64url(n)}]}
    head = {"alg": "RS256", "typ": "JWT", "kid": "k"}
    claims = {"iss": issuer, "aud": audience, "sub": "bench", "iat": int(time.time()), "exp": int(time.time()) + 3600}
    text = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), check=True, capture_output=True)
    return jwks, f"{text}.{base64url(signature.stdout)}"


def serve(document):
    """The JWKS document on a port of this process; asked for seldom."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class McpProxy:
    """One backend, JWT by JWKS, no rule, no audit log."""

    name, tool = "mcp-proxy", "bench/echo"

    def __init__(self, binary, upstream, folder, port, start):
        folder.mkdir()
        self.folder = folder
        # It wants tokens for the address that it listens on.
        issuer, audience = "https://issuer.example", f"http://127.0.0.1:{port}"
        jwks, token = signed_token(folder, issuer, audience)
        self.authorization, self.port = f"Bearer {token}", port
        (folder / "proxy.toml").write_text(f"""
[proxy]
name = "bench"
[proxy.listen]
host = "127.0.0.1"
port = {port}
[[backends]]
name = "bench"
transport = "http"
url = "{upstream.base}/rpc"
[observability]
log_level = "warn"
[security]
admin_token = "{secrets.token_hex(24)}"
[auth]
type = "jwt"
issuer = "{issuer}"
audience = "{audience}"
jwks_uri = "http://127.0.0.1:{serve(jwks)}/jwks"
""")
        self.process = start([pathlib.Path(binary), "--config", folder / "proxy.toml"], folder / "log")
        self.headers = self.session()

    def url(self, _path):
        return f"http://127.0.0.1:{self.port}/"

    def check(self, calls):
        pass

    def post(self, message, headers):
        request = urllib.request.Request(self.url(""), data=json.dumps(message).encode(), headers={
            "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
            "Authorization": self.authorization, **headers})
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.headers, response.read()

    def session(self):
        """Initializes; the headers of its calls. A call must come through before anything is measured."""
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}}
        end = time.monotonic() + 30
        while True:
            try:
                answered, _ = self.post(hello, {})
                break
            except OSError as error:
                if time.monotonic() > end:
                    log = (self.folder / "log").read_text()[-2000:]
                    raise SystemExit(f"mcp-proxy does not answer: {error}\n{log}") from error
                time.sleep(0.05)
        headers = {"MCP-Protocol-Version": "2025-11-25"}
        if session := answered.get("mcp-session-id"):
            headers["Mcp-Session-Id"] = session
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": self.tool, "arguments": {"message": "x"}}}
        _, body = self.post(call, headers)
        if b'"result"' not in body or b"xxxx" not in body:
            raise SystemExit(f"mcp-proxy does not pass calls on: {body[:500]!r}")
        return headers
