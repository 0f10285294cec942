"""What real load balancers have in common: each runs on free ports of the loopback, with the configuration of deploy/.

Only addresses, paths and the user are replaced: what a balancer does with a post is what the committed file says.
"""

import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.harness import DEADLINE, until
from tests.support.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
LISTENS = r"(bind|listen) :?4321\b"
"""How the committed configurations say where they listen."""
RECEIVERS = ("192.0.2.11:4321", "192.0.2.12:4321")
"""The receivers that they name."""


class Balancer:
    """A program that runs until the block ends. Its configuration and its log are in `directory`, which must exist.

    program       its path
    template      the name of its configuration in deploy/
    replacements  by regular expression, in the configuration; each must be found
    port          where it takes posts
    """

    def __init__(self, program: str, directory: Path, template: str, replacements: Mapping[str, str]) -> None:
        self._program = program
        self._directory = directory
        self.port = free_port()
        self._configuration = directory / template
        text = (DEPLOY / template).read_text()
        here = {LISTENS: rf"\1 127.0.0.1:{self.port}"}
        for pattern, new in (here | dict(replacements)).items():
            text, found = re.subn(pattern, new, text, flags=re.MULTILINE)
            assert found, f"{template} has no {pattern}"
        self._configuration.write_text(text)

    def _arguments(self) -> Sequence[str]:
        """Those with which it stays in the foreground."""
        raise NotImplementedError

    def asked_again(self) -> int:
        """How many posts were given to a further receiver until now."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        log = self._directory / "balancer.log"
        # It ends with the process that started it.
        command = ["setpriv", "--pdeathsig", "TERM", self._program, *self._arguments()]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        until(self._listens, f"a balancer that listens, see {log}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self._directory / "balancer.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
