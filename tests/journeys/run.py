"""Whole journeys: clients that others wrote, a browser with a person at it, and the gateway's authorization server.

Each client finds out from a server's 401 where to get a token, is known in one of three ways, sends its person to log in
and agree, calls a tool, and renews its token. Then the official suite looks at the authorization server.

A document at a client's URL is fetched from public addresses alone. So the journeys run in a network of their own, where
one of those addresses is this machine; where that is not possible (it needs root), there are none by document.
"""

import argparse
import http.server as http_server
import json
import os
import pathlib
import queue
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "partners"))

from run import Processes, free_port, http, is_ready, listens, node, wait  # noqa: E402

# A public address and a name, for nobody but the processes below.
ADDRESS, NAME = "45.83.91.7", "clients.journeys.example"
FIRST, PASSWORD = "only for the first time", "known to nobody else"
PATIENCE = 90


def in_own_network():
    """Starts this script again where ADDRESS is this machine; returns whether that is the case here."""
    if os.environ.get("JOURNEYS_OWN_NETWORK"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        hosts = pathlib.Path(tempfile.mkdtemp(prefix="journeys.")) / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n::1 localhost\n{ADDRESS} {NAME}\n")
        subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
        return True
    can = os.geteuid() == 0 and shutil.which("ip") and shutil.which("openssl")
    if can and subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode == 0:
        os.environ["JOURNEYS_OWN_NETWORK"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])
    print("SKIPPED: clients known by a document, because this needs root, iproute2 and openssl")
    return False


class Browser:
    """The person's browser, and the lines that go to it and come back."""

    def __init__(self, processes, modules, nodejs, chromium, folder):
        environment = {
            **os.environ, "MODULES": str(modules), "CHROMIUM": chromium, "LOGIN": "ada", "PASSWORD": PASSWORD,
            "HOME": str(folder),
        }
        self.log = folder / "browser.log"
        log = open(self.log, "w")
        self.process = subprocess.Popen(
            [nodejs, str(HERE / "browser.mjs")], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True, start_new_session=True,
        )
        processes.all.append(self.process)

    def visit(self, url, **more):
        try:
            self.process.stdin.write(json.dumps({"url": url, **more}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise SystemExit(f"the browser has ended: {self.log.read_text()[-2000:]}") from None
        if not answer["ok"]:
            raise RuntimeError(f"browser: {answer['detail']}")
        return answer["detail"]


def journey(browser, command, environment, shots=None):
    """Runs a client, and the browser when it asks for one. What the person was asked, and what the client says."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env={**os.environ, **environment},
    )
    lines, errors = queue.Queue(), []
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout] + [lines.put(None)]).start()
    threading.Thread(target=lambda: errors.extend(process.stderr)).start()
    asked = None
    try:
        while (line := lines.get(timeout=PATIENCE)) is not None:
            if line.startswith("OPEN "):
                if asked is not None:
                    raise RuntimeError("the person was asked twice")
                asked = browser.visit(line[5:].strip(), shots=shots)
            elif line.startswith("{"):
                result = json.loads(line)
                if not result["ok"]:
                    raise RuntimeError(result["detail"])
                if asked is None:
                    raise RuntimeError("nobody was asked")
                return asked, result["detail"]
        raise RuntimeError("".join(errors).strip()[-600:] or "the client said nothing")
    except queue.Empty:
        raise RuntimeError("no answer in time") from None
    finally:
        process.kill()
        process.wait()


def clients(modules, nodejs):
    python = sys.executable
    typescript = [nodejs, str(HERE / "clients/typescript.mjs")]
    return {
        "Python SDK": [python, str(HERE / "clients/python_sdk.py")],
        "FastMCP": [python, str(HERE / "clients/fastmcp_client.py")],
        "TypeScript SDK v1": [*typescript, "v1"],
        "TypeScript SDK v2": [*typescript, "v2"],
    }


def serve_documents(folder, documents):
    """The clients' documents at https://NAME; returns the authority that its certificate is from."""
    authority, key, request, certificate = (folder / name for name in ("ca.pem", "key.pem", "csr.pem", "cert.pem"))
    run = lambda *command: subprocess.run(["openssl", *command], check=True, capture_output=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("req", "-x509", *curve, "-keyout", str(folder / "ca.key"), "-out", str(authority), "-subj", "/CN=journeys")
    run("req", *curve, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={NAME}")
    names = folder / "names"
    names.write_text(f"subjectAltName=DNS:{NAME}\n")
    run("x509", "-req", "-in", str(request), "-CA", str(authority), "-CAkey", str(folder / "ca.key"), "-out",
        str(certificate), "-extfile", str(names), "-days", "2")

    class Handler(http_server.BaseHTTPRequestHandler):
        def do_GET(self):
            document = documents.get(self.path)
            body = json.dumps(document).encode()
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http_server.ThreadingHTTPServer((ADDRESS, 443), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return authority


def post(opener, url, fields):
    body = urllib.parse.urlencode(fields).encode()
    return opener.open(urllib.request.Request(url, body), timeout=30).read().decode()


def make_person(base, token):
    """Ada, who has chosen her password."""
    person = {"name": "Ada Lovelace", "login": "ada", "password": FIRST, "roles": ["basic"]}
    http(f"{base}/api/v1/users", token, person)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    page = opener.open(f"{base}/login").read().decode()
    csrf = re.search(r'name="csrf" value="([^"]+)"', page).group(1)
    post(opener, f"{base}/login", {"csrf": csrf, "next": "/login", "login": "ada", "password": FIRST})
    post(opener, f"{base}/login/password",
         {"csrf": csrf, "next": "/login", "login": "ada", "password": FIRST, "new_password": PASSWORD})


def make_client(base, token, redirect, secret=True):
    new = {"name": "Made by an administrator", "redirect_uris": [redirect], "secret": secret}
    return http(f"{base}/api/v1/oauth/clients", token, new)


def by_scheme(browser, base, shots):
    """A program that has claimed a scheme and names no server: the person chooses one, and stays at a page of ours."""
    redirect = "cursor://anysphere.cursor-mcp/oauth/callback"
    client = http(f"{base}/register", None, {"client_name": "Cursor", "redirect_uris": [redirect]})
    # RFC 7636, appendix B.
    query = {"response_type": "code", "client_id": client["client_id"], "redirect_uri": redirect, "state": "s",
             "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"}
    url = f"{base}/authorize?{urllib.parse.urlencode(query)}"
    to = browser.visit(url, server="Fixture", end="Connected", shots=shots)
    if not (to.startswith(redirect + "?code=") and "state=s" in to):
        raise RuntimeError(f"the program was not called back: {to}")


def suite(browser, nodejs, folder, suite_modules, base, client, port):
    """The official suite about the authorization server: passed and failed scenarios, and warnings."""
    program = suite_modules / "node_modules/conformance-0.2/dist/index.js"
    command = [
        nodejs, str(program), "authorization", "--url", base, "--client-id", client["id"], "--resource", f"{base}/mcp-connect/fixture", "-p", str(port), "-o", str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, opened = [], False
    for line in process.stdout:
        said.append(line)
        url = re.search(rf"({re.escape(base)}/authorize\S+)", line)
        if url and not opened:
            opened = True
            browser.visit(url.group(1))
    process.wait(PATIENCE)
    checks = [json.loads(path.read_text()) for path in folder.rglob("checks.json")]
    good = sum(all(check["status"] in ("SUCCESS", "INFO", "SKIPPED") for check in scenario) for scenario in checks)
    warnings = [check for scenario in checks for check in scenario if check["status"] == "WARNING"]
    ok = process.returncode == 0 and good == len(checks) == 2 and not warnings
    bad = [check for scenario in checks for check in scenario if check["status"] not in ("SUCCESS", "INFO", "SKIPPED")]
    return ok, f"{good}/{len(checks)}" + ("" if ok else "\n" + json.dumps(bad, indent=1)[-3000:] + "".join(said)[-2000:])


def main():
    parser = argparse.ArgumentParser()
    for name in ("gateway", "fixture", "cache", "suite"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--modules", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=pathlib.Path)
    parser.add_argument("--only", help="clients whose title begins so")
    parser.add_argument("--shots", type=pathlib.Path, help="keep pictures of the pages here")
    arguments = parser.parse_args()
    by_document = in_own_network()
    nodejs = str(node(arguments.suite))
    processes, passed, failed = Processes(), 0, 0
    with tempfile.TemporaryDirectory(prefix="journeys.") as name:
        folder = pathlib.Path(name)
        try:
            (folder / "catalog").mkdir()
            fixture_port, port, token = free_port(), free_port(), secrets.token_hex(24)
            fixture = processes.start([str(arguments.fixture), "http", "--port", str(fixture_port)],
                                      stdout=open(folder / "fixture.log", "w"), stderr=subprocess.STDOUT)
            wait("the fixture", lambda: listens(fixture_port), fixture)
            entry = {"entryKey": "fixture", "name": "Fixture", "runtime": "remote", "serverUserType": "multiUser",
                     "remoteConfig": {"fixedURL": f"http://127.0.0.1:{fixture_port}/mcp"}}
            (folder / "catalog/fixture.json").write_text(json.dumps(entry))
            base = f"http://127.0.0.1:{port}"
            ports = {title: free_port() for title in clients(None, nodejs)}
            documents = {}
            for title, callback in ports.items():
                path = f"/{title.lower().replace(' ', '-')}.json"
                documents[path] = {
                    "client_id": f"https://{NAME}{path}", "client_name": title,
                    "redirect_uris": [f"http://127.0.0.1:{callback}/callback"],
                    "grant_types": ["authorization_code", "refresh_token"], "token_endpoint_auth_method": "none",
                }
            environment = {
                **os.environ, "MCP_GATEWAY__LISTEN": f"127.0.0.1:{port}", "MCP_GATEWAY__PUBLIC_URL": base,
                "MCP_GATEWAY__DATA_DIR": str(folder / "data"), "MCP_GATEWAY__CATALOG__PATHS": str(folder / "catalog"),
                "MCP_GATEWAY__EGRESS__ALLOW": "127.0.0.0/8", "MCP_GATEWAY_BOOTSTRAP_TOKEN": token,
                "MCP_GATEWAY__OAUTH__REGISTRATIONS_PER_MINUTE": "100", "MCP_GATEWAY__RUNTIME__PROCESS__ENABLED": "false",
            }
            if by_document:
                environment["MCP_GATEWAY__EGRESS__CA_BUNDLE"] = str(serve_documents(folder, documents))
            log = open(folder / "log", "w")
            gateway = processes.start([str(arguments.gateway), "serve"], cwd=folder, env=environment, stdout=log, stderr=log)
            wait("the gateway", lambda: is_ready(base), gateway)
            make_person(base, token)
            browser = Browser(processes, arguments.modules, nodejs, arguments.chromium, folder)
            ways = ["registration", "administrator", *(["document"] if by_document else [])]
            shots = arguments.shots and str(arguments.shots)
            for title, command in clients(arguments.modules, nodejs).items():
                if arguments.only and not title.startswith(arguments.only):
                    continue
                for way in ways:
                    target = {"url": f"{base}/mcp-connect/fixture", "tool": "test_simple_text", "expect": "simple text"}
                    if way != "registration":
                        target["port"] = ports[title]
                    if way == "administrator":
                        made = make_client(base, token, f"http://127.0.0.1:{ports[title]}/callback")
                        target["client"] = {"client_id": made["id"], "client_secret": made["client_secret"]}
                    if way == "document":
                        target["document"] = f"https://{NAME}/{title.lower().replace(' ', '-')}.json"
                    known = {"registration": "Nobody has checked who it is", "administrator": "An administrator",
                             "document": f"{NAME} vouches for it"}[way]
                    try:
                        asked, _ = journey(browser, [*command, json.dumps(target)], {"MODULES": str(arguments.modules)}, shots)
                        shots = None
                        if known not in asked:
                            raise RuntimeError(f"the page did not say how the client is known: {asked}")
                        passed += 1
                        print(f"{title}, {way}: ok", flush=True)
                    except RuntimeError as error:
                        failed += 1
                        print(f"{title}, {way}: FAILED: {error}", flush=True)
            try:
                by_scheme(browser, base, arguments.shots and str(arguments.shots))
                passed += 1
                print("a program with a scheme: ok", flush=True)
            except RuntimeError as error:
                failed += 1
                print(f"a program with a scheme: FAILED: {error}", flush=True)
            if arguments.shots:
                browser.visit(f"{base}/authorize?client_id=nobody", shots=str(arguments.shots), expect="Not connected")
            callback = free_port()
            made = make_client(base, token, f"http://127.0.0.1:{callback}/callback", secret=False)
            ok, said = suite(browser, nodejs, folder / "suite", arguments.suite, base, made, callback)
            passed, failed = passed + ok, failed + (not ok)
            print(f"conformance authorization {said}", flush=True)
            if failed:
                logged = [line for line in (folder / "log").read_text().splitlines() if '"WARN"' in line or '"ERROR"' in line]
                print("\n".join(logged[-20:]), file=sys.stderr)
        finally:
            processes.stop()
    if arguments.count:
        with open(arguments.count, "a") as counts:
            counts.write(f"journeys {passed} {failed}\n")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
