"""Where a client on a person's machine waits for the browser."""

import http.server
import threading
import urllib.parse


class Callback:
    """Listens on loopback; on any port when none is given."""

    def __init__(self, port=0):
        self.answer, self.came = None, threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                if "code" in query or "error" in query:
                    outer.answer = {name: values[0] for name, values in query.items()}
                    outer.came.set()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"Done.")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/callback"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self):
        if not self.came.wait(240):
            raise TimeoutError("no browser came")
        return self.answer
