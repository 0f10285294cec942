"""SIGHUP under load: a client that sends no post twice notices nothing, and every record is delivered once."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from btfeed.posts.post import digest, event_id_prefix
from tests.support.certificates import Authority
from tests.support.harness import BTFEED, DEADLINE, Server, until, until_async
from tests.support.never_retries import ANSWERED_WITHIN, OCCURRENCES, RATE, Client

BETWEEN = RATE // 4
"""Posts from one reload to the next."""
RELOADED, REFUSED = "configuration reloaded", "configuration not reloaded, btfeed goes on as before"


class Changing:
    """The configuration of a server, which changes from one reload to the next. Some of its versions are wrong."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = Authority(directory / "authority")
        self.certificate, self._key = directory / "server.pem", directory / "server.key"
        self.renew(0)
        self._tokens = ["clients-token"]
        self._limits = self._attributes = self._journal = self._files = ""
        self._extra = False
        self.right: list[Callable[[int], None]] = [
            self._toggle_extra,
            self._change_files,
            self._change_attributes,
            self.renew,
            self._change_tokens,
            self._change_limits,
            self._toggle_extra,
            self._change_journal,
            self._change_privacy,
        ]
        self.wrong = ["[receiver.tls]", "[journal]\nmax_sice = 1", "[sinks.new]\ntype = 'flie'", "= no TOML"]

    @property
    def client_context(self) -> Any:
        return self._authority.client()

    def receiver(self) -> str:
        tls = f'{{ certificate = "{self.certificate}", key = "{self._key}" }}'
        return f"bearer_tokens = {self._tokens}\ntls = {tls}\n{self._limits}"

    def text(self, server: Server) -> str:
        extra = f'[sinks.extra]\ntype = "file"\ndirectory = "{self._directory / "extra"}"\n' if self._extra else ""
        return (
            f'[receiver]\nlisten = "127.0.0.1:0"\n{self.receiver()}\n[admin]\nlisten = "127.0.0.1:0"\n'
            f'[journal]\ndirectory = "{server.directory / "journal"}"\n{self._journal}\n{self._attributes}\n'
            f'[sinks.files]\ntype = "file"\ndirectory = "{server.files}"\n{self._files}\n{extra}'
        )

    def renew(self, number: int) -> None:
        """The certificate, under the same name."""
        for source, place in zip(self._authority.sign(f"server-{number}"), (self.certificate, self._key), strict=True):
            place.write_bytes(source.read_bytes())

    def want_extra(self) -> None:
        self._extra = True

    def _toggle_extra(self, number: int) -> None:
        self._extra = not self._extra

    def _change_files(self, number: int) -> None:
        self._files = f'rotate_size = "{number + 1}MiB"\ndelivery = {{ linger = "{number + 1}ms" }}'

    def _change_attributes(self, number: int) -> None:
        self._attributes = f'[record.attributes]\ngeneration = "{number}"'

    def _change_privacy(self, number: int) -> None:
        self._attributes = "[record.privacy]\nmask_ip = true"

    def _change_tokens(self, number: int) -> None:
        self._tokens = ["clients-token", f"another-{number}"]

    def _change_limits(self, number: int) -> None:
        self._limits = (
            f'max_connections = {1_000 + number}\nmax_in_flight = "{32 + number}MiB"\nheader_timeout = "{5 + number}s"'
        )

    def _change_journal(self, number: int) -> None:
        self._journal = f'max_size = "{number + 1}GiB"\nretention = "{number + 1}h"'


@pytest.mark.slow
async def test_reloads_under_load_refuse_and_lose_nothing(tmp_path: Path, quick: bool) -> None:
    """Sinks come, go and change, and so do privacy, credentials, certificates and limits. Every fourth configuration is
    wrong. Each post on a new or a kept connection is answered 200, and each record is in the files once."""
    reloads = 8 if quick else 24
    changing = Changing(tmp_path)
    server = Server(tmp_path / "server", receiver=changing.receiver())
    server.config.write_text(changing.text(server))
    with server:
        client = Client(server.port, seed=3, tls=changing.client_context, fields=b"Authorization: Bearer clients-token\r\n")
        posting = asyncio.create_task(client.run())
        outcomes: Counter[str] = Counter()

        async def reload(text: str, outcome: str) -> None:
            server.config.write_text(text)
            os.kill(server.pid, signal.SIGHUP)
            outcomes[outcome] += 1
            await until_async(lambda: told(server) == outcomes, f"{outcomes}, not {told(server)}")
            enough = len(client.sent) + BETWEEN
            await until_async(lambda: len(client.sent) >= enough, f"{BETWEEN} posts after a reload")

        for number in range(reloads):
            if number % 4 == 3:
                await reload(f"{changing.text(server)}\n{changing.wrong[number // 4 % len(changing.wrong)]}\n", REFUSED)
            else:
                changing.right[(number - number // 4) % len(changing.right)](number)
                await reload(changing.text(server), RELOADED)
        changing.want_extra()
        await reload(changing.text(server), RELOADED)
        client.stop()
        await posting
        sys.stdout.write(f"{outcomes}: {len(client.sent)} posts, the longest took {client.longest:.2f} s\n")
        assert client.failures == []
        assert client.longest < ANSWERED_WITHIN
        await asyncio.to_thread(server.delivered, len(client.sent) * OCCURRENCES)
        await asyncio.to_thread(server.delivered, len(client.sent) * OCCURRENCES, tmp_path / "extra")
        assert server.status()["counts"]["lost_posts"] == {}
        assert server.stop() == 0
    expected = [f"{event_id_prefix(digest(body))}{each}" for body in client.answered for each in range(OCCURRENCES)]
    for directory in (server.files, tmp_path / "extra"):
        assert sorted(record["event.id"] for record in server.records(directory)) == sorted(expected)
    assert {record.get("generation") for record in server.records()} > {None}


def told(server: Server) -> Counter[str]:
    """How each reload ended."""
    return Counter(event["event"] for event in server.events() if event["event"] in (RELOADED, REFUSED))


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--supervise"]])
def test_sighup_while_it_starts_and_stops_does_not_end_it(tmp_path: Path, options: list[str]) -> None:
    """From its first lines, before anything slow is imported, to its very end. One that came during the start causes a
    reload, or comes before the supervisor has a server, which reads the file then."""
    server = Server(tmp_path / "server")
    log = tmp_path / "log"
    command = [*BTFEED, "serve", *options, "-c", str(server.config)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output)
    try:
        until(lambda: has_signal(process.pid, signal.SIGHUP, "SigBlk"), "SIGHUP is held")
        until(lambda: hang_up(process) and b'"listening"' in log.read_bytes(), "listening")
        until(lambda: RELOADED.encode() in log.read_bytes(), "reloaded once it had started")
        process.terminate()
        until(lambda: not hang_up(process), "ended")
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait(DEADLINE)


def test_a_terminal_that_is_closed_stops_it(tmp_path: Path) -> None:
    """As it would any program: its SIGHUP is no request for a reload."""
    server = Server(tmp_path / "server")
    terminal, theirs = os.openpty()
    process = subprocess.Popen(
        [*BTFEED, "serve", "-c", str(server.config)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=become_controlled,
    )
    os.close(theirs)
    try:
        shown = b""
        while b"listening" not in shown:
            shown += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait(DEADLINE)


def become_controlled() -> None:
    """Make the terminal on standard input the controlling one: it sends SIGHUP when it is closed."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def hang_up(process: "subprocess.Popen[bytes]") -> bool:
    """Send SIGHUP. False if the process has ended."""
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGHUP)
    return True


def has_signal(pid: int, number: signal.Signals, mask: str) -> bool:
    """mask: the name of one in /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line.split()[1] for line in lines if line.startswith(mask))
    return bool(int(found, 16) >> (number - 1) & 1)
