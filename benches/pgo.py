"""The calls by which the published server is optimized. Started by pgo.sh, which says how."""

import pathlib
import shutil
import sys
import tempfile

sys.argv[1:] = ["--quick"]
import figures  # noqa: E402 (reads the arguments)


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pgo."))
    running = []
    try:
        upstream = figures.Upstream()
        running.append(upstream.process)
        gateway = figures.Gateway(upstream, folder / "gateway")
        running.append(gateway.process)
        # About as often as they come: small calls of both eras, then large answers, new sessions and silent streams.
        for modern in (False, True):
            figures.closed(folder, gateway, modern=modern, seconds=8)
            figures.open_loop(gateway, 2_000, modern)
        figures.closed(folder, gateway, connections=1)
        for path in figures.BIG:
            figures.closed(folder, gateway, path, seconds=1)
        figures.closed(folder, gateway, "/sessions", seconds=1)
        figures.idle(gateway, 200)
    finally:
        # Ended in peace: the notes are written at the end.
        for process in reversed(running):
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
