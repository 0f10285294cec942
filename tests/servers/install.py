"""`make servers`: installs the servers and tools of the tests. Run again, it checks what is there and takes a second.

Maven fetches Kafka and Elasticsearch into tests/servers/.cache. Maven, the JDKs, strace, systemd-analyze, Prometheus,
haproxy, nginx and Chromium are Debian packages, which are installed if this runs as root; otherwise a message says what to
install.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.servers import installed
from tests.servers.installed import CACHE, ELASTICSEARCH, KAFKA, KAFKA_JAVA, NotInstalled

T = TypeVar("T")

HERE = Path(__file__).parent
UNITS = [Path(f"/{place}/systemd/system") for place in ("etc", "lib", "usr/lib")]
"""Where a package's unit is, and before them the place of the link that masks it."""
DISTRIBUTION = "org.elasticsearch.distribution.integ-test-zip:elasticsearch:{}:zip"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
ANALYSIS = "org.elasticsearch.plugin.analysis"
COMPONENTS = f"""{{
  "{ANALYSIS}.TokenFilterFactory": {{
    "pattern_capture": "btfeed.tests.SecurityIndex$PatternCapture",
    "unique": "btfeed.tests.SecurityIndex$Unique"
  }},
  "{ANALYSIS}.TokenizerFactory": {{"uax_url_email": "btfeed.tests.SecurityIndex$Words"}}
}}
"""
DESCRIPTOR = """name=security-index
version=1
description=Analysis for the index of API keys
java.version=17
elasticsearch.version={}
"""


def main() -> int:
    """The exit status."""
    try:
        _ensure(installed.strace, "strace")
        _ensure(installed.systemd_analyze, "systemd")
        _ensure_without_service("prometheus", installed.prometheus)
        _ensure_without_service("haproxy", installed.haproxy)
        _ensure_without_service("nginx", installed.nginx)
        _ensure(installed.chromium, "chromium")
        _ensure(partial(installed.jdk, KAFKA_JAVA), "default-jdk-headless")
        _ensure_kafka()
        for version, oldest in ELASTICSEARCH.items():
            packages = (f"openjdk-{java}-jdk-headless" for java in sorted({oldest, 21, 25}))
            _ensure(partial(installed.jdk, oldest), *packages, "default-jdk-headless")
            _ensure_elasticsearch(version)
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _ensure(find: Callable[[], T], *packages: str) -> T:
    """What `find` finds, after installing the first of these Debian packages that is available, if need be."""
    try:
        return find()
    except NotInstalled as error:
        _apt_install(packages)
        try:
            return find()
        except NotInstalled:
            what = str(error).partition(":")[0]
            raise NotInstalled(f"{what}: install it (Debian: apt-get install {packages[0]})") from None


def _ensure_without_service(name: str, find: Callable[[], object]) -> None:
    """A package without its service, which would start at once and at each boot: tests start their own servers."""
    if (
        installed.missing(name)
        and _can_install()
        and not any(os.path.lexists(place / f"{name}.service") for place in UNITS)
    ):
        UNITS[0].mkdir(parents=True, exist_ok=True)
        (UNITS[0] / f"{name}.service").symlink_to("/dev/null")  # as systemctl mask does
    _ensure(find, name)


def _apt_install(packages: Sequence[str]) -> None:
    if not _can_install():
        return
    for package in packages:
        _say(f"installing {package}")
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", package]
        if _run(command) or (_run(["apt-get", "update", "--quiet"]) and _run(command)):
            return


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _run(command: Sequence[str]) -> bool:
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode == 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _mvn(*arguments: str) -> None:
    command = [_ensure(_find_maven, "maven"), "--quiet", "--batch-mode", "-Dstyle.color=never", *arguments]
    if not _run(command):
        raise NotInstalled(f"Maven failed: {' '.join(command)}")


def _find_maven() -> str:
    path = shutil.which("mvn")
    if path is None:
        raise NotInstalled("Apache Maven is not installed: it fetches the servers")
    return path


def _ensure_kafka() -> None:
    """Kafka's server and command line tools, with what they depend on."""
    libs = CACHE / f"kafka-{KAFKA}"
    if libs.exists():
        return
    _say(f"fetching Kafka {KAFKA}")
    new = _new_directory(libs)
    pom = ("--file", str(HERE / "kafka-pom.xml"), f"-Dkafka.version={KAFKA}")
    _mvn(*pom, "dependency:copy-dependencies", f"-DoutputDirectory={new}")
    new.rename(libs)


def _ensure_elasticsearch(version: str) -> None:
    home = CACHE / "elasticsearch" / version
    if not home.exists():
        _say(f"fetching Elasticsearch {version}")
        new = _new_directory(home)
        _mvn(COPY, f"-Dartifact={DISTRIBUTION.format(version)}", f"-DoutputDirectory={new}")
        _unzip(new / f"elasticsearch-{version}.zip", new)
        (new / f"elasticsearch-{version}").rename(home)
        shutil.rmtree(new)
    if not (home / "ready").exists():
        _add_plugin(home, version)
        (home / "ready").touch()


def _new_directory(target: Path) -> Path:
    """An empty directory beside `target`, so that a download that was cut off is not taken for a complete one."""
    new = target.with_name(f"new-{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def _unzip(path: Path, directory: Path) -> None:
    """With rights for the other user that runs the server; zipfile drops those in the archive."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(directory)
    for found in directory.rglob("*"):
        found.chmod(0o755 if found.is_dir() or found.parent.name == "bin" else 0o644)


def _add_plugin(home: Path, version: str) -> None:
    """API keys are kept in an index whose analyzer this distribution lacks; the plugin provides the analyzer's parts."""
    bin_directory = installed.jdk(ELASTICSEARCH[version]) / "bin"
    plugin, classes = home / "plugins" / "security-index", CACHE / f"classes-{version}"
    for directory in (plugin, classes):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    source = HERE.parent / "java" / "SecurityIndex.java"
    subprocess.run(
        [bin_directory / "javac", "--class-path", f"{home}/lib/*", "-d", classes, source], check=True, stdout=sys.stderr
    )
    subprocess.run(
        [bin_directory / "jar", "--create", "--file", plugin / "security-index.jar", "-C", classes, "."], check=True
    )
    (plugin / "named_components.json").write_text(COMPONENTS)
    (plugin / "stable-plugin-descriptor.properties").write_text(DESCRIPTOR.format(version))
    shutil.rmtree(classes)
    plugin.parent.chmod(0o755)
    plugin.chmod(0o755)
    for path in plugin.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main())
