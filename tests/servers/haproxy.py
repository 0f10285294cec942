"""A real haproxy with deploy/haproxy.cfg.

with Haproxy(installed.haproxy(), directory, [(port, admin_port), (other_port, other_admin_port)]) as balancer:
    post to balancer.port
"""

import csv
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.servers import installed
from tests.servers.balancer import RECEIVERS, Balancer


class Haproxy(Balancer):
    """In front of receivers at these ports of the loopback, each with that of its admin listener."""

    def __init__(self, program: str, directory: Path, receivers: Sequence[tuple[int, int]]) -> None:
        installed.demand("haproxy")
        self._socket = directory / "haproxy.sock"
        replacements = {
            "^ +(log|user|group) .*\n": "",
            r"/run/haproxy/admin\.sock": str(self._socket),
            "^ +default-server check port 4322": "    default-server check",
        }
        for (port, admin_port), address in zip(receivers, RECEIVERS, strict=True):
            replacements[f"{re.escape(address)}$"] = f"127.0.0.1:{port} port {admin_port}"
        super().__init__(program, directory, "haproxy.cfg", replacements)

    def _arguments(self) -> Sequence[str]:
        return ["-db", "-f", str(self._configuration)]

    def asked_again(self) -> int:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._socket))
            control.sendall(b"show stat\n")
            text = control.makefile().read()
        rows = list(csv.DictReader(text.removeprefix("# ").splitlines()))
        return sum(int(row["wretr"]) for row in rows if row["pxname"] == "receivers" and row["svname"] == "BACKEND")
