"""What the journeys happen in: a network of their own, the gateway, a server behind it, and the company's identity provider."""

import http.server as http_server
import itertools
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "partners"))

from run import http, is_ready, listens, wait  # noqa: E402

# A public address and a name, for nobody but the processes below.
ADDRESS, NAME = "45.83.91.7", "clients.journeys.example"
# Below those that connections take for themselves: what is free now stays so.
PORTS = itertools.count(20_000)
LOGIN, FIRST, PASSWORD = "ada", "only for the first time", "known to nobody else"


def in_own_network():
    """Starts this script again where ADDRESS is this machine; returns whether that is the case here."""
    if os.environ.get("JOURNEYS_OWN_NETWORK"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        with tempfile.NamedTemporaryFile("w", prefix="journeys.", suffix=".hosts") as hosts:
            hosts.write(f"127.0.0.1 localhost\n::1 localhost\n{ADDRESS} {NAME}\n")
            hosts.flush()
            os.chmod(hosts.name, 0o644)
            subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)
        return True
    can = os.geteuid() == 0 and shutil.which("ip") and shutil.which("openssl")
    if can and subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode == 0:
        os.environ["JOURNEYS_OWN_NETWORK"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])
    print("SKIPPED: clients known by a document, because this needs root, iproute2 and openssl")
    return False


def free_port():
    """One that nobody has, and that is given once."""
    for port in PORTS:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class World:
    """Everything that a journey meets. `base` is the gateway's origin, `token` an administrator's."""

    def __init__(self, processes, arguments, folder, by_document, **settings):
        folder.mkdir(exist_ok=True)
        self.processes, self.folder, self.token = processes, folder, secrets.token_hex(24)
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.documents, self.by_document = {}, by_document
        self.log = folder / "log"
        upstream = free_port()
        fixture = processes.start([str(arguments.fixture), "http", "--port", str(upstream)],
                                  stdout=subprocess.DEVNULL, stderr=open(folder / "fixture.log", "w"))
        issuer = self.identity_provider(arguments.identity)
        wait("the fixture", lambda: listens(upstream), fixture)
        entry = {"entryKey": "fixture", "name": "Fixture", "runtime": "remote", "serverUserType": "multiUser",
                 "remoteConfig": {"fixedURL": f"http://127.0.0.1:{upstream}/mcp"}}
        (folder / "catalog").mkdir()
        (folder / "catalog/fixture.json").write_text(json.dumps(entry))
        (folder / "secret").write_text("not a secret\n")
        provider = {"name": "company", "title": "Company", "issuer": issuer, "client_id": "gateway",
                    "client_secret_file": str(folder / "secret"), "scopes": ["openid", "profile", "email"],
                    "email_domains": ["a.example"]}
        environment = {
            **os.environ, "MCP_GATEWAY__LISTEN": f"127.0.0.1:{self.port}", "MCP_GATEWAY__PUBLIC_URL": self.base,
            "MCP_GATEWAY__DATA_DIR": str(folder / "data"), "MCP_GATEWAY__CATALOG__PATHS": str(folder / "catalog"),
            "MCP_GATEWAY__EGRESS__ALLOW": "127.0.0.0/8", "MCP_GATEWAY_BOOTSTRAP_TOKEN": self.token,
            "MCP_GATEWAY__EGRESS__IDENTITY__ALLOW": "127.0.0.0/8,::1/128",
            "MCP_GATEWAY__LOGIN__PROVIDERS": json.dumps([provider]),
            "MCP_GATEWAY__OAUTH__REGISTRATIONS_PER_MINUTE": "100", "MCP_GATEWAY__RUNTIME__PROCESS__ENABLED": "false",
        }
        environment.update({f"MCP_GATEWAY__{name}": value for name, value in settings.items()})
        if by_document:
            environment["MCP_GATEWAY__OAUTH__REDIRECT_HOSTS"] = NAME
            environment["MCP_GATEWAY__EGRESS__CA_BUNDLE"] = str(self.serve_documents())
        log = open(self.log, "w")
        gateway = processes.start([str(arguments.gateway), "serve"], cwd=folder, env=environment, stdout=log, stderr=log)
        wait("the gateway", lambda: is_ready(self.base), gateway)
        self.make_person(LOGIN, "Ada Lovelace")

    def identity_provider(self, script):
        """The company's, where people type who they are; its issuer, which is another site than the gateway's."""
        process = subprocess.Popen(
            [str(script)], env={**os.environ, "IDENTITY_HOST": "localhost"}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=open(self.folder / "identity.log", "w"), text=True, start_new_session=True,
        )
        self.processes.all.append(process)
        issuer = process.stdout.readline().strip()
        self.company = f"http://127.0.0.1:{urllib.parse.urlsplit(issuer).port}/_test"
        http(self.company, None, {"client": self.base, "ask": True})
        self.hire(LOGIN, "Ada Lovelace")
        return issuer

    def hire(self, login, name):
        """Somebody whom the company knows."""
        claims = {"name": name, "email": f"{login}@a.example", "email_verified": True}
        http(self.company, None, {"account": {"sub": login, **claims}})

    def make_person(self, login, name):
        """Somebody who has a password of the gateway, and has chosen it."""
        http(f"{self.base}/api/v1/users", self.token,
             {"name": name, "login": login, "password": FIRST, "roles": ["basic"]})
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = opener.open(f"{self.base}/login").read().decode()
        csrf = re.search(r'name="csrf" value="([^"]+)"', page).group(1)
        fields = {"csrf": csrf, "next": "/login", "login": login, "password": FIRST}
        for path, more in (("/login", {}), ("/login/password", {"new_password": PASSWORD})):
            body = urllib.parse.urlencode({**fields, **more}).encode()
            opener.open(f"{self.base}{path}", body, timeout=30).read()

    def make_client(self, redirect, secret=True):
        """A client of an administrator's."""
        new = {"name": "Made by an administrator", "redirect_uris": [redirect], "secret": secret}
        return http(f"{self.base}/api/v1/oauth/clients", self.token, new)

    def register(self, name, redirect):
        """The id of a client that registers itself."""
        return http(f"{self.base}/register", None, {"client_name": name, "redirect_uris": [redirect]})["client_id"]

    def begin_device(self):
        """What a program without a browser is told when it begins, and with what it asks for its token."""
        grant = "urn:ietf:params:oauth:grant-type:device_code"
        made = http(f"{self.base}/api/v1/oauth/clients", self.token, {"name": "Command line", "grant_types": [grant]})
        wanted = {"client_id": made["id"], "scope": "mcp", "resource": f"{self.base}/mcp-connect/fixture"}
        begun = self.post("/device_authorization", wanted)
        return begun, {"client_id": made["id"], "grant_type": grant, "device_code": begun["device_code"]}

    def initialize(self, token):
        """Begins a session; fails unless the server answers."""
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "journeys", "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
        request = urllib.request.Request(f"{self.base}/mcp-connect/fixture", json.dumps(message).encode(), {
            "Authorization": f"Bearer {token}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            if b'"serverInfo"' not in answer.read():
                raise RuntimeError("the server did not answer")

    def post(self, path, fields):
        """The answer to a form."""
        with urllib.request.urlopen(f"{self.base}{path}", urllib.parse.urlencode(fields).encode(), timeout=30) as answer:
            return json.load(answer)

    def add_document(self, name, redirect):
        """The URL of a client's document."""
        path = f"/{name.lower().replace(' ', '-')}.json"
        url = f"https://{NAME}{path}"
        self.documents[path] = {
            "client_id": url, "client_name": name, "redirect_uris": [redirect],
            "grant_types": ["authorization_code", "refresh_token"], "token_endpoint_auth_method": "none",
        }
        return url

    def authorization_url(self, client, redirect, resource=True):
        """What a client would open that does no more; nobody redeems its code."""
        # RFC 7636, appendix B.
        query = {"response_type": "code", "client_id": client, "redirect_uri": redirect, "state": "s",
                 "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"}
        if resource:
            query["resource"] = f"{self.base}/mcp-connect/fixture"
        return f"{self.base}/authorize?{urllib.parse.urlencode(query)}"

    def serve_documents(self):
        """What is at https://NAME: clients' documents, and a page for all else; the authority of its certificate."""
        names = ("ca.pem", "key.pem", "csr.pem", "cert.pem")
        authority, key, request, certificate = (self.folder / name for name in names)
        run = lambda *command: subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run("req", "-x509", *curve, "-keyout", self.folder / "ca.key", "-out", authority, "-subj", "/CN=journeys")
        run("req", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={NAME}")
        names = self.folder / "names"
        names.write_text(f"subjectAltName=DNS:{NAME}\n")
        run("x509", "-req", "-in", request, "-CA", authority, "-CAkey", self.folder / "ca.key", "-out", certificate,
            "-extfile", names, "-days", "2")
        documents = self.documents

        class Handler(Page):
            def do_GET(self):
                document = documents.get(self.path)
                if document:
                    self.answer(json.dumps(document), "application/json")
                else:
                    self.answer("Done.")

        server = Server((ADDRESS, 443), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        # A handshake in the thread of its connection: browsers open connections that they may never use.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return authority


class Server(http_server.ThreadingHTTPServer):
    """Says nothing of browsers that hang up."""

    def handle_error(self, request, address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, address)


class Page(http_server.BaseHTTPRequestHandler):
    """Answers a browser."""

    def answer(self, text, kind="text/plain", status=200, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def serve(get):
    """A page on loopback by `get(handler)`; its origin."""
    handler = type("Handler", (Page,), {"do_GET": get})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
