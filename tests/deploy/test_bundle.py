"""The offline bundle, in a short form: a bundle of tiny wheels in btfeed's place. test_packages.py tries the real one."""

import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.bundle.make import make, oldest_glibc
from tests.deploy.tiny_wheel import tiny_wheel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAIN = "import tiny_dependency\n\ndef cli():\n    print('btfeed 9.9 for the test', tiny_dependency.WORD)\n"


def make_bundle(directory: Path) -> Path:
    """A bundle with a tiny btfeed that needs a tiny package."""
    wheels, out = directory / "wheels", directory / "out"
    wheels.mkdir()
    dependency = tiny_wheel(wheels, "tiny_dependency", "1.0", "tiny_dependency", "WORD = 'with its dependency'\n")
    own = tiny_wheel(directory, "btfeed", "9.9", "tiny_btfeed", MAIN, "[console_scripts]\nbtfeed = tiny_btfeed:cli\n")
    lock = directory / "lock.txt"
    digest = hashlib.sha256(dependency.read_bytes()).hexdigest()
    lock.write_text(f"tiny-dependency==1.0 \\\n    --hash=sha256:{digest}\n")
    return make(wheels, own, lock, out)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The directory of an unpacked bundle."""
    with tarfile.open(make_bundle(tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (directory,) = (tmp_path / "unpacked").iterdir()
    return directory


def install(bundle: Path, *arguments: str, python: str = sys.executable) -> "subprocess.CompletedProcess[str]":
    """Run its script, where the network can't help: pip has no index that answers."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python, "PIP_INDEX_URL": "http://127.0.0.1:9/"}
    environment["PYTHONPATH"] = str(ROOT)  # where another btfeed is
    command = ["sh", str(bundle / "install.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_it_installs_into_a_new_directory(bundle: Path, tmp_path: Path) -> None:
    """With its dependency, at the path with which it was called. A second time is refused, and leaves it as it is."""
    target = tmp_path / "installed"
    result = install(bundle, str(target))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{target}/bin/btfeed: btfeed 9.9 for the test with its dependency\n"
    again = install(bundle, str(target))
    assert (again.returncode, again.stderr) == (
        1,
        f"{target} exists. Name a new directory: each version has one of its own\n",
    )
    assert (target / "bin" / "btfeed").exists()


def test_a_changed_wheel_is_refused(bundle: Path, tmp_path: Path) -> None:
    """By its hash in the lock, and nothing stays."""
    (wheel,) = (bundle / "wheels").glob("tiny*")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more.py", "")
    result = install(bundle, str(tmp_path / "installed"))
    assert result.returncode == 1
    assert "HASHES" in result.stderr.upper()
    assert result.stderr.endswith("nothing was installed\n")
    assert not (tmp_path / "installed").exists()


def test_another_python_is_refused(bundle: Path, tmp_path: Path) -> None:
    """With what is needed and what is there, and how to name another."""
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho Python 3 9 x86_64\n")
    other.chmod(0o755)
    result = install(bundle, str(tmp_path / "installed"), python=str(other))
    wanted = " ".join(("Python", *platform.python_version_tuple()[:2], platform.machine()))
    assert result.returncode == 1
    assert result.stderr == (
        f"this bundle is for '{wanted}', and {other} is 'Python 3 9 x86_64'. "
        "Name another one with PYTHON=, or make a bundle for this one\n"
    )


def test_how_to_call_it(bundle: Path) -> None:
    """Without a directory."""
    result = install(bundle)
    assert (result.returncode, result.stderr) == (
        1,
        "usage: sh install.sh DIRECTORY, for example: sh install.sh /opt/btfeed-9.9\n",
    )


def test_it_is_the_same_from_the_same_files(tmp_path: Path) -> None:
    """Byte for byte, so that two people can compare theirs."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    make_bundle(first)
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("out"))
    (own,) = second.glob("btfeed*.whl")
    again = make(second / "wheels", own, second / "lock.txt", second / "out")
    (bundle,) = (first / "out").iterdir()
    assert again.read_bytes() == bundle.read_bytes()


def test_the_oldest_glibc_is_that_of_the_most_demanding_wheel() -> None:
    """Of several tags of one wheel, the least counts. pip has names for some of them."""
    assert oldest_glibc(["a-1-py3-none-any.whl", "b-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"]) == (
        2,
        17,
    )
    assert oldest_glibc(["c-1-cp311-cp311-manylinux_2_28_x86_64.whl", "d-1-cp311-cp311-manylinux_2_12_x86_64.whl"]) == (
        2,
        28,
    )
    assert oldest_glibc(["e-1-cp311-cp311-manylinux1_x86_64.manylinux_2_28_x86_64.manylinux_2_5_x86_64.whl"]) == (2, 17)
