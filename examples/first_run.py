"""The first run (`make run`): starts the server, sends it posts of a web shop, shows records, and what became of visits."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

BTFEED = [sys.executable, "-m", "btfeed"]
RECEIVER_PORT, ADMIN_PORT = 4321, 4322
SEED = str(int(time.time()) % 1_000_000)
"""Another one in each run: with the same, visits would have the ids of those of an earlier run."""
GENERATE = ["generate", "web-shop", "--since", "1h", "--flows", "100", "--rate", "0.05", "--seed", SEED]
DATA = Path("btfeed-data")
LOG = DATA / "serve.log"
CONFIG = DATA / "btfeed.toml"
TEXT = '[journal]\ndirectory = "."\n\n[sinks.files]\ntype = "file"\ndirectory = "files"\n'
"""A configuration of its own: this machine may have one in /etc, for a server that is in use."""
PAGE = DATA / "web-shop.html"
FLOW = ["flow", "report", "web-shop", "--sink", "files", "-c", str(CONFIG), "--open"]
"""Of all records in the files, also of those in the file that is not finished."""
WAIT_TIMEOUT = 20.0
"""Seconds for the server to start, and to deliver the posts."""


def main() -> int:
    for port in (RECEIVER_PORT, ADMIN_PORT):
        if not is_free(port):
            print(f"port {port} is in use, perhaps by another btfeed: stop the program that uses it", file=sys.stderr)
            return 1
    DATA.mkdir(exist_ok=True)
    CONFIG.write_text(TEXT)
    print(f"$ btfeed serve -c {CONFIG}    (log: {LOG})")
    with LOG.open("w") as log:
        server = subprocess.Popen([*BTFEED, "serve", "-c", str(CONFIG)], stderr=log)
    try:
        show_the_feed(server)
    except RuntimeError as error:
        print(f"{error}. The log of the server:\n{LOG.read_text()}", file=sys.stderr)
        return 1
    finally:
        server.terminate()
        server.wait()
    print("\nThe server has stopped. Its journal and its files stay. To run it as a service, see docs/installing.md.")
    return server.returncode


def show_the_feed(server: "subprocess.Popen[bytes]") -> None:
    """Send posts, and show what became of them. Raises RuntimeError."""
    wait_until(server, "start", lambda: ask("/readyz") is not None)
    print(f"$ btfeed {' '.join(GENERATE)}")
    if subprocess.run([*BTFEED, *GENERATE], check=False).returncode:
        raise RuntimeError("the server did not accept every post")
    wait_until(server, "deliver the posts", all_delivered)

    files = sorted((DATA / "files").glob("*.ndjson*"))
    print("\nEvery occurrence is now a line of JSON in:")
    for file in files:
        print(f"    {file}  ({file.stat().st_size:,} bytes)")
    lines = files[-1].read_text().splitlines()
    print("\nThe last visit with an order, indented, and its user actions as they are in the file:\n")
    visits = (json.loads(line) for line in reversed(lines) if '"appmon.visit.converted":true' in line)
    visit = next(visits)
    of_visit = [line for line in lines if f'"appmon.visit.id":"{visit["appmon.visit.id"]}"' in line]
    actions = [line for line in of_visit if '"event.category":"user_action"' in line]
    print("\n\n".join([json.dumps(visit, indent=2), *actions]), end="\n\n")
    print(f"$ btfeed status -c {CONFIG}")
    subprocess.run([*BTFEED, "status", "-c", str(CONFIG)], check=True)
    show_the_flows()


def show_the_flows() -> None:
    """What became of the visits: the funnel, and where the page with pictures is. Raises RuntimeError."""
    print(f"\nHow many visits came how far, of all records in these files:\n\n$ btfeed {' '.join(FLOW)}")
    for more in ([], ["--out", str(PAGE)]):
        if subprocess.run([*BTFEED, *FLOW, *more], stderr=subprocess.DEVNULL, check=False).returncode:
            raise RuntimeError("the flows can't be shown")
    print(f"\nThe same with pictures is a page for the browser: {PAGE.absolute().as_uri()}")


def all_delivered() -> bool:
    status = ask("/status")
    return status is not None and json.loads(status)["sinks"]["files"]["backlog_posts"] == 0


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def ask(path: str) -> bytes | None:
    """The answer of the admin listener; None if it gives no valid one."""
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(f"http://127.0.0.1:{ADMIN_PORT}{path}", timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def wait_until(server: "subprocess.Popen[bytes]", what: str, happened: Callable[[], bool]) -> None:
    """Wait for the server to do something. Raises RuntimeError if it ends, or does not within WAIT_TIMEOUT."""
    deadline = time.monotonic() + WAIT_TIMEOUT
    while not happened():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # keeps the order of output from here and from the commands
    sys.exit(main())
