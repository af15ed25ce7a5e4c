"""What a browser alone can show, with clients that do no more than to send somebody there."""

import json
import time
import urllib.error
import urllib.parse

from world import NAME, serve

DONE = "Done."


def by_scheme(browser, world, shots):
    """A program that has claimed a scheme and names no server: the person chooses one, and stays at a page of ours."""
    redirect = "cursor://anysphere.cursor-mcp/oauth/callback"
    url = world.authorization_url(world.register("Cursor", redirect), redirect, resource=False)
    to = browser.visit(url=url, server="Fixture", end="Connected", shots=shots)["end"]
    if not (to.startswith(f"{redirect}?code=") and "state=s" in to):
        raise RuntimeError(f"the program was not called back: {to}")


def goes_on_elsewhere(browser, world, _):
    """A program that sends the browser on to a page of its maker's: no page's policy is in the way."""
    end = serve(lambda page: page.answer(DONE))
    program = serve(lambda page: page.answer("", status=302, headers=[("Location", f"{end}/welcome")]))
    redirect = f"{program}/callback"
    url = world.authorization_url(world.register("Sends on", redirect), redirect)
    browser.visit(url=url, ends=f"{end}/welcome")


def turned_away(browser, world, _):
    """A client learns that the person may not, although a form of ours began the way back to it."""
    redirect = f"{serve(lambda page: page.answer(DONE))}/callback"
    client = world.make_client(redirect)["id"]
    url = world.authorization_url(client, redirect).replace("mcp-connect%2Ffixture", "mcp-connect%2Fabsent")
    end = browser.visit(url=url, password=True, silent=True)["end"]
    if urllib.parse.parse_qs(urllib.parse.urlsplit(end).query).get("error") != ["access_denied"]:
        raise RuntimeError(f"the client was told something else: {end}")


def remembered(browser, world, _):
    """Whoever has agreed to a web client that its host vouches for is not asked again, in another browser either."""
    redirect = f"https://{NAME}/callback"
    url = world.authorization_url(world.add_document("Web", redirect), redirect)
    # No company here: the form of the login page is what leads on.
    first = browser.visit(url=url, password=True)
    if f"{NAME} vouches for it" not in first["asked"]:
        raise RuntimeError(f"the page did not say how the client is known: {first['asked']}")
    browser.visit(url=url, password=True, silent=True)


def links(browser, world, shots):
    """Somebody with a password adds the company's account, and is the same person by it."""
    world.make_person("grace", "Grace Hopper")
    world.hire("grace", "G. Hopper")
    seen = browser.visit(url=f"{world.base}/login", login="grace", password=True, link=True, shots=shots)
    if not all(f"{way} as grace" in seen for way in ("Company", "Password")):
        raise RuntimeError(f"somebody else was signed in: {seen}")


def device(browser, world, shots):
    """A program without a browser: the person types its code, is told to compare it, and the program has its token."""
    begun, asks = world.begin_device()
    try:
        world.post("/token", asks)
        raise RuntimeError("there is a token before anybody agreed")
    except urllib.error.HTTPError as refused:
        if json.load(refused)["error"] != "authorization_pending":
            raise
    seen = browser.visit(url=begun["verification_uri"], code=begun["user_code"], end="Connected", shots=shots)
    if begun["user_code"] not in seen["asked"] or "Did somebody send you the code" not in seen["asked"]:
        raise RuntimeError(f"the page did not warn: {seen['asked']}")
    time.sleep(begun["interval"])
    token = world.post("/token", asks)["access_token"]
    world.initialize(token)


def all_of(world):
    """Titles and functions."""
    yield "a program with a scheme, which names no server", by_scheme
    yield "a program that sends the browser on", goes_on_elsewhere
    yield "a person who may not", turned_away
    yield "a program without a browser", device
    yield "a person who adds the company's account", links
    if world.by_document:
        yield "a web client, for the second time", remembered
