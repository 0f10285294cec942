"""Real Elasticsearch servers: nodes that one test may freeze and kill, and one shared node of each kind.

A node must not run as root, and another user can't read pytest's directories, so each node has a directory in the system's
temporary one.
"""

import atexit
import base64
import hashlib
import json
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tests.servers import installed
from tests.support.certificates import Authority
from tests.support.harness import freeze, until
from tests.support.ports import free_port

NINE, EIGHT = installed.ELASTICSEARCH
USER, PASSWORD = "admin", "SECRETPASSWORD"
START = 120.0
"""Seconds that a node may take to start."""
PAGE = 10_000
"""The most documents that a search returns."""
JVM = ("-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.io.tmpdir=${ES_TMPDIR}")
"""For a small heap and a quick start."""
SETTINGS = {
    # low limits, which tests can reach
    "http.max_content_length": "16mb",
    "indexing_pressure.memory.limit": "24mb",
    # a single node, on this machine only
    "discovery.type": "single-node",
    "http.host": "127.0.0.1",
    "transport.host": "127.0.0.1",
    "action.destructive_requires_name": "false",
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}


class Document(msgspec.Struct):
    """A document. source: its bytes as they were sent."""

    index: str = msgspec.field(name="_index")
    id: str = msgspec.field(name="_id")
    source: msgspec.Raw = msgspec.field(name="_source")
    sort: list[Any]


class _Hits(msgspec.Struct):
    hits: list[Document]


class _Page(msgspec.Struct):
    hits: _Hits


_pages = msgspec.json.Decoder(_Page)


class Elasticsearch:
    """One node. It keeps its data and ports when it is stopped or killed and started again.

    secured   with TLS and users; USER may do everything
    settings  additional settings of elasticsearch.yml
    jvm       options of the Java virtual machine
    """

    def __init__(
        self,
        version: str = NINE,
        secured: bool = False,
        settings: Mapping[str, str] | None = None,
        jvm: Sequence[str] = JVM,
    ) -> None:
        installed.demand("elasticsearch")
        self.version = version
        self._distribution = installed.elasticsearch(version)
        self.secured = secured
        self.port = free_port()
        self.url = f"{'https' if secured else 'http'}://127.0.0.1:{self.port}"
        self.directory = Path(tempfile.mkdtemp(prefix="btfeed-es-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = SETTINGS | dict(settings or {})
        self._settings |= {"http.port": str(self.port), "transport.port": str(free_port())}
        self._tls: ssl.SSLContext | None = None
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._prepare(jvm)

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the node's certificate."""
        return self.directory / "ca" / "ca.pem"

    def _prepare(self, jvm: Sequence[str]) -> None:
        self._home = self._readable(self._distribution.home)
        config = self.directory / "config"
        shutil.copytree(self._distribution.home / "config", config)
        (config / "jvm.options").write_text("\n".join(jvm) + "\n")
        (config / "elasticsearch.yml").write_text("")
        for name in ("data", "logs", "tmp"):
            (self.directory / name).mkdir()
        self._settings |= {"path.data": f"{self.directory / 'data'}", "path.logs": f"{self.directory / 'logs'}"}
        self._settings["xpack.security.enabled"] = str(self.secured).lower()
        if self.secured:
            self._secure(config)
        if self._user:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self.directory.chmod(0o755)

    def _readable(self, home: Path) -> Path:
        """`home`, or a copy of it if the other user can't read that."""
        if self._user is None or all(parent.stat().st_mode & 0o001 for parent in home.parents):
            return home
        shutil.copytree(home, self.directory / "home", symlinks=True)
        return self.directory / "home"

    def _secure(self, config: Path) -> None:
        certificate, key = Authority(self.directory / "ca").sign("server")
        shutil.copy(certificate, config / "server.pem")
        shutil.copy(key, config / "server.key")
        self._tls = ssl.create_default_context(cafile=str(self.ca))
        self._settings |= {
            "xpack.security.http.ssl.enabled": "true",
            "xpack.security.http.ssl.certificate": "server.pem",
            "xpack.security.http.ssl.key": "server.key",
            "xpack.security.autoconfiguration.enabled": "false",
        }
        hashed = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
        (config / "users").write_text(f"{USER}:{{SHA}}{hashed}\n")
        (config / "users_roles").write_text(f"superuser:{USER}\n")

    # Life cycle

    def start(self) -> "Elasticsearch":
        """Start, and wait until it takes requests."""
        self.launch()
        until(self._up, f"Elasticsearch {self.version} up", START)
        if self.secured:  # the first API key creates the security index, which takes a while
            until(lambda: self.ask("POST", "/_security/api_key", {"name": "first"})[0] == 200, "API keys", START)
        return self

    def launch(self) -> None:
        """Start without waiting."""
        options = [part for name, value in self._settings.items() for part in ("-E", f"{name}={value}")]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "ES_JAVA_HOME": str(self._distribution.java_home),
            "ES_PATH_CONF": str(self.directory / "config"),
            "ES_TMPDIR": str(self.directory / "tmp"),
            "CLI_JAVA_OPTS": "-XX:TieredStopAtLevel=1",
        }
        prefix = ["setpriv", "--pdeathsig", "KILL"]  # it ends with the tests, even if they are killed
        if self._user:
            prefix += ["--reuid", str(self._user.pw_uid), "--regid", str(self._user.pw_gid), "--clear-groups"]
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, self._home / "bin" / "elasticsearch", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
            )
        atexit.register(self.remove)

    def _up(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"Elasticsearch ended:\n{(self.directory / 'output.log').read_text()[-5000:]}")
        try:
            return self.ask("GET", "/_cluster/health")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Send SIGTERM, and wait for the end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open, and requests are not answered."""
        assert self.process
        freeze(self.process.pid, group=True)

    def thaw(self) -> None:
        assert self.process
        os.killpg(self.process.pid, signal.SIGCONT)

    def remove(self) -> None:
        """Kill it, and remove its directory."""
        atexit.unregister(self.remove)
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        """The first process starts the server as its child, so wait for the whole process group."""
        if self.process is None:
            return
        process, self.process = self.process, None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(60)
        until(lambda: not _alive(process.pid), "the server ended", 60)

    # Requests, without the client that is tested

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer. A body that is not bytes is sent as JSON."""
        status, answer = self.fetch(method, path, body)
        return status, msgspec.json.decode(answer or b"null")

    def fetch(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and raw answer, with all rights."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        if self.secured:
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)]
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def must(self, method: str, path: str, body: object = None) -> Any:
        """The decoded answer of a request that must succeed."""
        status, answer = self.ask(method, path, body)
        assert status in (200, 201), answer
        return answer

    def documents(self, pattern: str) -> list["Document"]:
        """All documents of the indexes that match `pattern`."""
        self.must("POST", f"/{pattern}/_refresh?ignore_unavailable=true")
        pit = until(lambda: self._point_in_time(pattern), f"shards of {pattern} are there", START)
        query: dict[str, Any] = {"size": PAGE, "sort": ["_shard_doc"], "pit": {"id": pit, "keep_alive": "1m"}}
        found: list[Document] = []
        while True:
            status, answer = self.fetch("POST", "/_search", query)
            assert status == 200, answer
            hits = _pages.decode(answer).hits.hits
            found += hits
            if len(hits) < PAGE:
                self.must("DELETE", "/_pit", {"id": pit})
                return found
            query["search_after"] = hits[-1].sort

    def _point_in_time(self, pattern: str) -> str | None:
        """Its id, or None if the shard of a new index has not started."""
        status, answer = self.ask("POST", f"/{pattern}/_pit?keep_alive=1m&ignore_unavailable=true")
        assert status in (200, 503), answer
        return answer["id"] if status == 200 else None

    def api_key(self, index: str = "*", *privileges: str, cluster: Sequence[str] = ()) -> str:
        """An API key with only these privileges, for the indexes that match `index` and for the cluster."""
        role = {"cluster": list(cluster), "indices": [{"names": [index], "privileges": list(privileges)}]}
        made = self.must("POST", "/_security/api_key", {"name": "btfeed", "role_descriptors": {"btfeed": role}})
        encoded: str = made["encoded"]
        return encoded


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


_shared: dict[tuple[str, bool], Elasticsearch] = {}


def shared(version: str = NINE, secured: bool = False) -> Elasticsearch:
    """A node for all tests of this process. A test uses its own index names, and deletes its indexes."""
    installed.demand("elasticsearch")
    if (version, secured) not in _shared:
        _shared[version, secured] = Elasticsearch(version, secured).start()
    return _shared[version, secured]
