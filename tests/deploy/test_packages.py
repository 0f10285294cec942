"""The real packages, which `make test-packages` has built: each is installed in a place of its own and used there.

They need root, and Debian's debootstrap, buildah and qemu-user.
"""

import json
import os
import platform
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.wheels import BIN, DIST, MACHINES, check
from tests.deploy.debian import changed, check_contents, run

pytestmark = pytest.mark.packages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/installing.md").read_text()
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""Runs a command without network and with all ports free."""
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}


def newest(pattern: str) -> Path:
    found = sorted(DIST.glob(pattern), key=lambda path: path.stat().st_mtime)
    assert found, f"dist has no {pattern}: run make test-packages"
    return found[-1]


def debootstrap(root: Path, packages: str, *options: str) -> None:
    """Make a small Debian of this machine's release, from this machine's archive."""
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    assert release
    targets = ("Created-By: Packages", f"Codename: {release[1]}")
    archive = run("apt-get", "indextargets", "--format", "$(SITE)", *targets).splitlines()[0]
    run("debootstrap", "--variant=minbase", f"--include={packages}", *options, release[1], root, archive)


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_wheel_is_for_its_architecture_and_an_old_glibc(architecture: str) -> None:
    """By what is in its ELF files, not by its name."""
    wheel = newest(f"*_{architecture}.whl")
    check(wheel, architecture, f"manylinux_2_17_{architecture}")


def test_a_wheel_for_the_other_architecture_runs(tmp_path: Path) -> None:
    """Under qemu, with Debian's Python and the locked packages of that architecture: it maps a post natively."""
    (architecture,) = MACHINES.keys() - {platform.machine()}
    root, wheels, site = tmp_path / "root", tmp_path / "wheels", tmp_path / "site"
    debootstrap(root, "python3", "--foreign", f"--arch={DEBIAN[architecture]}")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        run("dpkg-deb", "--extract", package, root)
    (python,) = (root / "usr/bin").glob("python3.[0-9]*")
    platforms = [f"--platform=manylinux_2_{version}_{architecture}" for version in (17, 28)]
    platforms += [f"--platform=manylinux2014_{architecture}", f"--python-version={python.name.removeprefix('python')}"]
    options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", wheels)
    run(BIN / "pip", "download", *options, *platforms, "--requirement", ROOT / "requirements-runtime.txt")
    for wheel in (*wheels.iterdir(), newest(f"*_{architecture}.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    command = (f"qemu-{architecture}", "-L", root, python, ROOT / "tests/system/wheel.py")
    assert "mapping native" in run(*command, ROOT / "examples/posts/mixed.btposts", PYTHONPATH=str(site))
    shutil.rmtree(tmp_path)


def follow(heading: str, place: Path, *prefix: str) -> str:
    """Run the commands below a heading of the page, with /opt and /etc in `place`, and a stand-in for systemctl.
    Returns what they print."""
    section = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{heading}\n"))
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert commands
    commands = re.sub(r"(?<![\w.])/(opt|etc)/", rf"{place}/\1/", commands)
    for directory in ("opt", "etc/systemd/system", "bin"):
        (place / directory).mkdir(parents=True, exist_ok=True)
    systemctl = place / "bin/systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {place}/systemctl.log\n')
    systemctl.chmod(0o755)
    path = f"{systemctl.parent}:{os.environ['PATH']}"
    return run(*prefix, "env", "-C", place, "bash", "-euxc", commands, PATH=path, PYTHONPATH="")


@pytest.mark.parametrize("way", ["Wheel", "Offline bundle"])
def test_the_page_leads_to_a_service_and_back(way: str, tmp_path: Path) -> None:
    """Its commands install a wheel, or a bundle without network, make it a service that runs natively, and remove it."""
    shutil.copy(newest(f"*_{platform.machine()}.whl"), tmp_path)
    shutil.copy(newest(f"*{platform.machine()}.tar.gz"), tmp_path)
    shutil.copy(ROOT / "requirements-runtime.txt", tmp_path)
    follow(way, tmp_path, *(ALONE if way == "Offline bundle" else ()))
    command = tmp_path / "opt/btfeed/bin/btfeed"
    assert "(mapping: native)" in run(command, "--version", PYTHONPATH="")
    assert "purepath" in run(command, "inspect", ROOT / "examples/posts/mixed.btposts", PYTHONPATH="").lower()

    follow("Service", tmp_path)
    assert f"ExecStart={command} serve " in (tmp_path / "etc/systemd/system/btfeed.service").read_text()
    assert (tmp_path / "etc/btfeed/environment").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc/btfeed/btfeed.toml").read_text() == (ROOT / "deploy/btfeed.toml").read_text()

    follow("Remove btfeed", tmp_path)
    assert list((tmp_path / "opt").iterdir()) == []
    assert list((tmp_path / "etc").rglob("btfeed*")) == []
    units = "btfeed.socket btfeed.service"
    assert (tmp_path / "systemctl.log").read_text().splitlines() == [
        "daemon-reload",
        f"enable --now {units}",
        f"disable --now {units}",
        "daemon-reload",
    ]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a small Debian, with what the package needs and what the container is built with."""
    root = tmp_path_factory.mktemp("debian") / "root"
    debootstrap(root, "python3,python3-venv,adduser,gcc,libc6-dev,ca-certificates")
    yield root
    shutil.rmtree(root)


def test_the_debian_package_is_installed_upgraded_removed_and_purged(debian: Path, tmp_path: Path) -> None:
    """An upgrade keeps the configuration and the data, removing keeps both, purging deletes them."""
    root = tmp_path / "root"
    run("cp", "--archive", debian, root)

    def inside(*command: str, **environment: str) -> str:
        return run(
            *ALONE,
            "chroot",
            root,
            *command,
            DEBIAN_FRONTEND="noninteractive",
            PATH="/usr/sbin:/usr/bin:/sbin:/bin",
            **environment,
        )

    def install(package: Path) -> str:
        shutil.copy(package, root / "new.deb")
        return inside("dpkg", "--force-confold", "--install", "/new.deb")

    package = newest("*.deb")
    configuration, data = root / "etc/btfeed/btfeed.toml", root / "var/lib/btfeed"

    assert "edit /etc/btfeed/btfeed.toml" in install(package)
    assert "(mapping: native)" in inside("btfeed", "--version")
    assert inside("stat", "-c", "%U %G %a", "/var/lib/btfeed") == "btfeed btfeed 750\n"
    as_btfeed = ("setpriv", "--reuid=btfeed", "--regid=btfeed", "--clear-groups")
    checked = inside(*as_btfeed, "btfeed", "check", "-c", "/etc/btfeed/btfeed.toml", BTFEED_PASSWORD="x")
    assert "journal.directory: ok" in checked
    unit = (root / "usr/lib/systemd/system/btfeed.service").read_text()
    assert "ExecStart=/usr/bin/btfeed serve" in unit
    assert "/opt/btfeed" not in unit

    with configuration.open("a") as file:
        file.write("# mine\n")
    (data / "journal").mkdir()
    assert "is not running yet" not in install(changed(package, tmp_path / "newer"))
    assert configuration.read_text().endswith("# mine\n")
    assert (root / "etc/btfeed/btfeed.toml.dpkg-dist").read_text().endswith("# a newer default\n")
    assert (data / "journal").is_dir()
    assert "(mapping: native)" in inside("btfeed", "--version")

    inside("dpkg", "--remove", "btfeed")
    assert not (root / "usr/lib/btfeed").exists()
    assert not (root / "usr/bin/btfeed").is_symlink()
    assert configuration.exists()
    assert (data / "journal").is_dir()

    inside("dpkg", "--purge", "btfeed")
    assert not configuration.parent.exists()
    assert not data.exists()
    shutil.rmtree(root)


def test_the_debian_package_says_what_is_in_it() -> None:
    """See check_contents."""
    check_contents(newest("*.deb"))


STORAGE = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
"""How buildah works without a container engine."""
SERVE = """
btfeed serve --supervise -c /etc/btfeed/btfeed.toml & server=$!
for try in $(seq 300); do python3 /opt/btfeed/healthy.py 2>/dev/null && echo healthy && break; sleep 0.1; done
kill $server; wait $server; echo "ended with $?"
"""


@pytest.fixture(scope="module")
def container(debian: Path) -> Iterator[str]:
    """A container of the image that the Containerfile builds. On that Debian, with this machine's Rust."""
    base = run("buildah", "from", "scratch", **STORAGE).strip()
    run("buildah", "add", "--quiet", base, debian, "/", **STORAGE)
    rust = {
        "PATH": "/opt/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "CARGO_HOME": "/opt/cargo",
        "RUSTUP_HOME": "/opt/rustup",
    }
    run("buildah", "config", *(f"--env={name}={value}" for name, value in rust.items()), base, **STORAGE)
    run("buildah", "commit", "--quiet", "--rm", base, "btfeed-test-base", **STORAGE)
    home = Path.home()
    volumes = [f"{home}/.rustup:/opt/rustup:ro", f"{home}/.cargo:/opt/cargo", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    volumes += ["/etc/pip.conf:/etc/pip.conf:ro"] if Path("/etc/pip.conf").exists() else []
    options = [f"--build-arg={name}_IMAGE=localhost/btfeed-test-base" for name in ("PYTHON", "RUST")]
    options += [f"--volume={volume}" for volume in volumes]
    context = ("--file", ROOT / "deploy/container/Containerfile", "--tag", "btfeed-test", ROOT)
    run("buildah", "build", "--format=docker", "--network=host", *options, *context, **STORAGE)
    container = run("buildah", "from", "localhost/btfeed-test", **STORAGE).strip()
    yield container
    run("buildah", "rm", container, **STORAGE)
    run("buildah", "rmi", "--force", "btfeed-test", "btfeed-test-base", **STORAGE)


def test_the_container_serves_as_its_own_user_and_is_healthy(container: str, tmp_path: Path) -> None:
    """With the configuration of deploy/container, natively. SIGTERM ends it."""

    def inside(*command: str) -> str:
        mounts = (
            f"--volume={ROOT}/deploy/container/btfeed.toml:/etc/btfeed/btfeed.toml:ro",
            f"--volume={password}:/run/secrets/btfeed-password:ro",
        )
        return run(*ALONE, "buildah", "run", *mounts, container, "--", *command, **STORAGE)

    password = tmp_path / "password"
    password.write_text("secret\n")
    tmp_path.chmod(0o755)
    assert inside("id", "-u") == "10001\n"
    assert "(mapping: native)" in inside("btfeed", "--version")
    output = inside("sh", "-c", SERVE)
    assert output.splitlines()[-1] == "ended with 0", output
    assert "healthy" in output.splitlines()
    described = json.loads(run("buildah", "inspect", "--type=image", "localhost/btfeed-test", **STORAGE))
    health = described["Docker"]["config"]["Healthcheck"]
    assert health["Test"] == ["CMD", "python3", "/opt/btfeed/healthy.py"]
