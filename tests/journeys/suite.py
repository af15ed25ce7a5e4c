"""The official suite about authorization servers."""

import json
import pathlib
import re
import subprocess
import tempfile

from world import free_port

GOOD = ("SUCCESS", "INFO", "SKIPPED")


def scenarios(browser, nodejs, world, arguments, secret):
    """Runs it with a client of an administrator's: the checks of each scenario, and what it said."""
    port = free_port()
    client = world.make_client(f"http://127.0.0.1:{port}/callback", secret=secret)
    program = arguments.suite / "node_modules/conformance-0.2/dist/index.js"
    with tempfile.TemporaryDirectory(dir=world.folder) as name:
        command = [
            nodejs, str(program), "authorization", "--url", world.base, "--client-id", client["id"],
            *(["--client-secret", client["client_secret"]] if secret else []),
            "--resource", f"{world.base}/mcp-connect/fixture", "-p", str(port), "-o", name,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if url := re.search(rf"{re.escape(world.base)}/authorize\S+", line):
                    browser.visit(url=url.group())
        finally:
            process.kill()
            process.wait()
        checks = [json.loads(path.read_text()) for path in pathlib.Path(name).rglob("checks.json")]
    return checks, "".join(said)


def bad(checks):
    return [check for scenario in checks for check in scenario if check["status"] not in GOOD]


def public(browser, nodejs, world, arguments):
    """Both scenarios pass, without a warning."""
    checks, said = scenarios(browser, nodejs, world, arguments, secret=False)
    if len(checks) != 2 or bad(checks):
        raise RuntimeError(f"{json.dumps(bad(checks), indent=1)[-3000:]}\n{said[-2000:]}")


def secret(browser, nodejs, world, arguments):
    """The suite sends no secret to a server that lists `none` beside the methods with one (`selectTokenAuthMethod` in
    its 0.2.0-alpha.12): it is refused, and must be."""
    checks, said = scenarios(browser, nodejs, world, arguments, secret=True)
    wrong = bad(checks)
    if [check.get("errorMessage") for check in wrong] != ["Invalid status code: 401"]:
        raise RuntimeError(f"it was not refused for the secret alone: {json.dumps(wrong, indent=1)[-3000:]}\n{said[-2000:]}")
