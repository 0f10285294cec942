"""What tests do with Debian packages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from deploy.debian.make import SCRIPTS


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command that must succeed, both streams."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def changed(package: Path, directory: Path) -> Path:
    """The same package as a newer version, with another default configuration."""
    run("dpkg-deb", "--raw-extract", package, directory)
    control = directory / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1.1", control.read_text(), flags=re.MULTILINE))
    with (directory / "etc/btfeed/btfeed.toml").open("a") as configuration:
        configuration.write("# a newer default\n")
    newer = directory.with_suffix(".deb")
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", directory, newer)
    shutil.rmtree(directory)
    return newer


def check_contents(package: Path) -> None:
    """Its configuration is a configuration file for dpkg, its scripts are scripts, and nothing is of this machine."""
    listed = run("dpkg-deb", "--contents", package)
    owners = {line.split()[1] for line in listed.splitlines()}
    assert owners == {"root/root"}
    assert run("dpkg-deb", "--info", package, "conffiles") == "/etc/btfeed/btfeed.toml\n"
    for script in SCRIPTS:
        text = run("dpkg-deb", "--info", package, script)
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        assert "@" not in text
    assert "direct_url.json" not in listed
