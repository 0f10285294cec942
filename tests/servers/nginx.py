"""A real nginx with deploy/nginx.conf.

with Nginx(installed.nginx(), directory, [port, other_port]) as balancer:
    post to balancer.port
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tests.servers import installed
from tests.servers.balancer import RECEIVERS, Balancer

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Each has a directory for temporary files, which only root may write where Debian has them."""


class Nginx(Balancer):
    """In front of receivers at these ports of the loopback."""

    def __init__(self, program: str, directory: Path, receivers: Sequence[int]) -> None:
        installed.demand("nginx")
        self._access = directory / "access.log"
        paths = "".join(f"    {name}_temp_path {directory / name};\n" for name in TEMPORARY)
        replacements = {
            "^user .*": "user root;",  # it writes into a directory of the test; ignored if that is not root's
            r"/run/nginx\.pid": str(directory / "nginx.pid"),
            "^error_log .*": f"error_log {directory / 'error.log'} warn;",
            r"^ +access_log .*": f"    access_log {self._access} receivers;",
            "^http {\n": f"http {{\n{paths}",
        }
        for port, address in zip(receivers, RECEIVERS, strict=True):
            replacements[re.escape(address)] = f"127.0.0.1:{port}"
        super().__init__(program, directory, "nginx.conf", replacements)

    def _arguments(self) -> Sequence[str]:
        return ["-c", str(self._configuration), "-e", str(self._directory / "error.log"), "-g", "daemon off;"]

    def asked_again(self) -> int:
        return sum("," in line for line in self._access.read_text().splitlines())
