"""A client, and the person whom it sends to a browser."""

import itertools
import json
import os
import queue
import subprocess
import threading

from world import HERE, LOGIN, PASSWORD

PATIENCE = 300


class Browser:
    """The program that is the person at a browser; any number of visits at a time."""

    def __init__(self, processes, modules, nodejs, chromium, folder):
        environment = {
            **os.environ, "MODULES": str(modules), "CHROMIUM": chromium, "LOGIN": LOGIN, "PASSWORD": PASSWORD,
            "HOME": str(folder),
        }
        self.log = folder / "browser.log"
        self.process = subprocess.Popen(
            [nodejs, str(HERE / "browser.mjs")], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(self.log, "w"), text=True, start_new_session=True,
        )
        processes.all.append(self.process)
        self.ids, self.lock, self.waiting = itertools.count(), threading.Lock(), {}
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self.waiting.pop(answer["id"]).put(answer)
        for waiting in self.waiting.values():
            waiting.put({"ok": False, "detail": f"it has ended: {self.log.read_text()[-2000:]}"})

    def visit(self, **visit):
        """What came of it; see browser.mjs."""
        answers = queue.Queue()
        with self.lock:
            visit["id"] = next(self.ids)
            self.waiting[visit["id"]] = answers
            self.process.stdin.write(json.dumps(visit) + "\n")
            self.process.stdin.flush()
        try:
            answer = answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise RuntimeError(f"the browser says nothing: {self.log.read_text()[-2000:]}") from None
        if not answer["ok"]:
            raise RuntimeError(f"browser: {answer['detail']}")
        return answer["detail"]


def journey(browser, command, environment, **visit):
    """Runs a client, and the browser when it asks for one. What the person was asked."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env={**os.environ, **environment},
    )
    lines, errors, asked = queue.Queue(), [], []
    threading.Thread(target=lambda: [*map(lines.put, process.stdout), lines.put(None)], daemon=True).start()
    threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True).start()

    def ask(url):
        try:
            asked.append(browser.visit(url=url, **visit)["asked"])
        except RuntimeError as error:
            lines.put(error)
        else:
            lines.put("ASKED")

    opened, result = 0, None
    try:
        # The person may still be looking at the last page when the client has all that it needs.
        while not (result and asked):
            line = lines.get(timeout=PATIENCE)
            if isinstance(line, RuntimeError):
                raise line
            if line is None and result is None:
                raise RuntimeError("".join(errors).strip()[-600:] or "the client said nothing")
            if line and line.startswith("OPEN "):
                opened += 1
                if opened > 1:
                    raise RuntimeError("the person was asked twice")
                threading.Thread(target=ask, args=(line[5:].strip(),), daemon=True).start()
            elif line and line.startswith("{"):
                result = json.loads(line)
                if not result["ok"]:
                    raise RuntimeError(result["detail"])
                if not opened:
                    raise RuntimeError("nobody was asked")
        return asked[0]
    except queue.Empty:
        raise RuntimeError("no answer in time") from None
    finally:
        process.kill()
        process.wait()
