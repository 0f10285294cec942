"""What `make run` does: the server as it is without a configuration, posts of a web shop, and what became of them."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

BTFEED = [sys.executable, "-m", "btfeed.commands.main"]
PORTS = (4321, 4322)  # of posts, and of questions how it is
GENERATE = ["generate", "web-shop", "--since", "1h", "--flows", "100", "--rate", "0.05", "--seed", "1"]
DATA = Path("btfeed-data")
LOG = DATA / "serve.log"
PATIENCE = 20.0


def main() -> int:
    for port in PORTS:
        if not free(port):
            print(f"port {port} is taken, perhaps by another btfeed; stop what listens there", file=sys.stderr)
            return 1
    DATA.mkdir(exist_ok=True)
    print(f"$ btfeed serve    (its log is in {LOG})")
    with LOG.open("w") as log:
        server = subprocess.Popen([*BTFEED, "serve"], stderr=log)
    try:
        show_what_happens(server)
    except RuntimeError as error:
        print(f"{error}; the server's log says:\n{LOG.read_text()}", file=sys.stderr)
        return 1
    finally:
        server.terminate()
        server.wait()
    print("\nThe server is stopped. What it took and delivered stays; docs/operations.md says how to run it for good.")
    return server.returncode


def show_what_happens(server: "subprocess.Popen[bytes]") -> None:
    """Raises RuntimeError where something does not."""
    wait_until(server, "listening", lambda: ask("/readyz") is not None)
    print(f"$ btfeed {' '.join(GENERATE)}")
    if subprocess.run([*BTFEED, *GENERATE], check=False).returncode:
        raise RuntimeError("not every post was taken")
    wait_until(server, "delivered", delivered)

    files = sorted((DATA / "files").glob("*.ndjson*"))
    print("\nEvery occurrence is now a line of JSON in")
    for file in files:
        print(f"    {file}  ({file.stat().st_size:,} bytes)")
    lines = files[-1].read_text().splitlines()
    print("\nOf the last customer who ordered something: the visit as people read it, and its actions as they are:\n")
    visits = (json.loads(line) for line in reversed(lines) if '"appmon.visit.converted":true' in line)
    visit = next(visits)
    mine = [line for line in lines if f'"appmon.visit.id":"{visit["appmon.visit.id"]}"' in line]
    actions = [line for line in mine if '"event.category":"user_action"' in line]
    print("\n\n".join([json.dumps(visit, indent=2), *actions]), end="\n\n")
    print("$ btfeed status")
    subprocess.run([*BTFEED, "status"], check=True)


def delivered() -> bool:
    status = ask("/status")
    return status is not None and json.loads(status)["sinks"]["files"]["backlog_posts"] == 0


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def ask(path: str) -> bytes | None:
    """What the admin listener answers, None where it does not."""
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(f"http://127.0.0.1:4322{path}", timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def wait_until(server: "subprocess.Popen[bytes]", what: str, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server is not {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with what the commands print
    sys.exit(main())
