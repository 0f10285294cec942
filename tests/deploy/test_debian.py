"""The Debian package, in a short form: a tiny wheel in btfeed's place, without the scripts that need a whole system.

test_packages.py tries the real one.
"""

import shutil
from pathlib import Path

import pytest

from deploy.debian.make import SCRIPTS, make
from tests.deploy.debian import changed, check_contents, run
from tests.deploy.tiny_wheel import tiny_wheel


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("debian")
    entry = "[console_scripts]\nbtfeed = tiny_btfeed:cli\n"
    wheel = tiny_wheel(directory, "btfeed", "9.9", "tiny_btfeed", "def cli():\n    print('btfeed 9.9')\n", entry)
    (directory / "work").mkdir()
    return make(wheel, "", "1", directory / "work", directory)


def without_scripts(package: Path, directory: Path) -> Path:
    run("dpkg-deb", "--raw-extract", package, directory)
    for script in SCRIPTS:
        (directory / "DEBIAN" / script).unlink()
    bare = directory.with_suffix(".deb")
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", directory, bare)
    shutil.rmtree(directory)
    return bare


@pytest.mark.slow
def test_it_says_what_is_in_it(package: Path) -> None:
    """And its version is that of the wheel, with a revision."""
    check_contents(package)
    assert run("dpkg-deb", "--field", package, "Version") == "9.9-1\n"


@pytest.mark.slow
def test_it_is_installed_upgraded_removed_and_purged(package: Path, tmp_path: Path) -> None:
    """An upgrade and removing keep the configuration, purging deletes it."""
    root = tmp_path / "root"
    database = root / "var/lib/dpkg"
    for name in ("info", "updates"):
        (database / name).mkdir(parents=True)
    (database / "status").touch()

    def dpkg(*arguments: str | Path) -> None:
        run("dpkg", f"--root={root}", "--force-not-root,depends,confold,bad-path", "--log=/dev/null", *arguments)

    bare = without_scripts(package, tmp_path / "bare")
    dpkg("--install", bare)
    configuration = root / "etc/btfeed/btfeed.toml"
    unit = root / "usr/lib/systemd/system/btfeed.service"
    assert (root / "usr/bin/btfeed").is_symlink()
    assert (root / "usr/lib/btfeed/bin/btfeed").is_file()
    assert "ExecStart=/usr/bin/btfeed serve" in unit.read_text()

    with configuration.open("a") as file:
        file.write("# mine\n")
    dpkg("--install", changed(bare, tmp_path / "newer"))
    assert configuration.read_text().endswith("# mine\n")
    assert (configuration.parent / "btfeed.toml.dpkg-dist").read_text().endswith("# a newer default\n")

    dpkg("--remove", "btfeed")
    assert configuration.exists()
    assert not unit.exists()
    assert not (root / "usr/lib/btfeed").exists()
    dpkg("--purge", "btfeed")
    assert not configuration.parent.exists()
