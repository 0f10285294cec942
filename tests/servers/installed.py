"""The programs that tests need besides Python packages, and where they are on this machine.

`make servers` (install.py) installs them. Tests install nothing: a test whose program is missing is skipped, or fails under
--require-all. A test says with markers what it needs (tests/conftest.py).
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"
KAFKA = "4.1.1"
ELASTICSEARCH = {"9.2.0": 21, "8.19.7": 17}
"""Each version, and the oldest Java that runs it."""
KAFKA_JAVA = 17
CLIENT_JAVA = 11
"""The oldest Java that compiles and runs tests/java/PostClient.java."""


markers: Collection[str] | None = None
"""What the running test says that it needs. None: no test runs."""


class NotInstalled(Exception):
    """A program is not installed. The message says which, and how to install it."""


@dataclass(frozen=True)
class Distribution:
    """A version of Elasticsearch: its directory, and the JDK that runs it."""

    home: Path
    java_home: Path


@dataclass(frozen=True)
class Prometheus:
    """The paths of Prometheus' programs. tool: promtool."""

    server: str
    tool: str


def jdk(oldest: int) -> Path:
    """The home of a JDK of at least this version: the oldest of those in JAVA_HOME, on the path, and beside these."""
    found = {version: home for home in _java_homes() if (version := _jdk_version(home)) >= oldest}
    if not found:
        raise NotInstalled(f"JDK {oldest} or later is not installed: run make servers, or set JAVA_HOME")
    return found[min(found)]


def _java_homes() -> Iterator[Path]:
    java = shutil.which("java")
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    homes += [Path(java).resolve().parents[1]] if java else []
    for home in homes:
        yield from sorted(path.resolve() for path in home.parent.iterdir())
        yield home


def _jdk_version(home: Path) -> int:
    """0 if `home` is not that of a JDK."""
    try:
        release = (home / "release").read_text()
    except OSError:
        return 0
    version = release.partition('JAVA_VERSION="')[2]
    major = version.split('"')[0].split(".")[0]
    return int(major) if major.isdigit() and os.access(home / "bin" / "javac", os.X_OK) else 0


def kafka() -> Path:
    """The directory of Kafka's jars."""
    libs = CACHE / f"kafka-{KAFKA}"
    if not libs.is_dir():
        raise NotInstalled(f"Kafka {KAFKA} is not installed: run make servers")
    return libs


def elasticsearch(version: str) -> Distribution:
    """An installed version of Elasticsearch."""
    home = CACHE / "elasticsearch" / version
    if not (home / "ready").exists():
        raise NotInstalled(f"Elasticsearch {version} is not installed: run make servers")
    return Distribution(home, jdk(ELASTICSEARCH[version]))


def strace() -> str:
    """The path of strace."""
    path = shutil.which("strace")
    if path is None:
        raise NotInstalled("strace is not installed: run make servers")
    return path


def systemd_analyze() -> str:
    """The path of systemd-analyze."""
    path = shutil.which("systemd-analyze")
    if path is None:
        raise NotInstalled("systemd-analyze is not installed: run make servers")
    return path


def prometheus() -> Prometheus:
    """The programs of Prometheus."""
    server, tool = shutil.which("prometheus"), shutil.which("promtool")
    if server is None or tool is None:
        raise NotInstalled("Prometheus is not installed: run make servers")
    return Prometheus(server, tool)


def haproxy() -> str:
    """The path of haproxy."""
    return _daemon("haproxy")


def nginx() -> str:
    """The path of nginx."""
    return _daemon("nginx")


def _daemon(name: str) -> str:
    """The path of a program that Debian keeps out of the path of users."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise NotInstalled(f"{name} is not installed: run make servers")
    return path


def chromium() -> str:
    """The path of Chromium."""
    path = shutil.which("chromium")
    if path is None:
        raise NotInstalled("Chromium is not installed: run make servers")
    return path


NEEDS: Mapping[str, Callable[[], object]] = {
    "kafka": lambda: (kafka(), jdk(KAFKA_JAVA)),
    "elasticsearch": lambda: [elasticsearch(version) for version in ELASTICSEARCH],
    "java": lambda: jdk(CLIENT_JAVA),
    "strace": strace,
    "systemd": systemd_analyze,
    "prometheus": prometheus,
    "haproxy": haproxy,
    "nginx": nginx,
    "browser": chromium,
}
"""What a test may need, by the name of its marker."""


def missing(need: str) -> str | None:
    """Why this need can't be met on this machine, or None if it can."""
    try:
        NEEDS[need]()
    except NotInstalled as error:
        return str(error)
    return None


def demand(need: str) -> None:
    """Fail in a test that uses this without its marker: on a machine without it, that test would not be skipped."""
    assert markers is None or need in markers, f"this test needs the marker {need}"
