"""`make deb`: builds the Debian package for this machine's Debian: its Python, its architecture."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from btfeed.commands import units
from deploy.bundle.make import newest_wheel
from deploy.wheels import BIN, DIST, ROOT, BuildError, run

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
HOME = Path("usr/lib/btfeed")
SCRIPTS = ("postinst", "prerm", "postrm")


def main(revision: str = "1") -> int:
    """The exit status."""
    try:
        wheel = newest_wheel()
        lock = (ROOT / "requirements-runtime.txt").read_text()
        with tempfile.TemporaryDirectory() as directory:
            package = make(wheel, lock, revision, Path(directory), DIST)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(package.relative_to(ROOT))
    return 0


def make(wheel: Path, lock: str, revision: str, work: Path, out: Path) -> Path:
    """Build the package in `work` from btfeed's wheel and the packages that the text `lock` names. Raises BuildError."""
    root = work / "root"
    install_environment(wheel, lock, work, root / HOME)
    install_files(root)
    version = f"{wheel.name.split('-')[1]}-{revision}"
    architecture = run(["dpkg", "--print-architecture"]).strip()
    write_control(root, version, architecture, work)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    package = out / f"btfeed_{version}_{architecture}.deb"
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(package)])
    return package


def install_environment(wheel: Path, lock: str, work: Path, home: Path) -> None:
    """Make a virtual environment that works at /usr/lib/btfeed, with locked packages and btfeed."""
    run([PYTHON, "-m", "venv", "--without-pip", "--symlinks", str(home)])
    python = home / "bin" / "python3"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    own = f"btfeed=={wheel.name.split('-')[1]} --hash=sha256:{digest}\n"
    for text, options in ((lock, ()), (own, ("--no-index", "--find-links", str(wheel.parent)))):
        requirements = work / "requirements.txt"
        requirements.write_text(text)
        pip = [
            str(BIN / "pip"),
            "--quiet",
            "--disable-pip-version-check",
            "--python",
            str(python),
            "install",
            "--no-compile",
        ]
        run([*pip, "--no-deps", "--require-hashes", *options, "--requirement", str(requirements)])
    for path in (home / "bin").iterdir():
        if path.name not in ("btfeed", "python", "python3"):
            path.unlink()
    command = home / "bin" / "btfeed"
    command.write_text(command.read_text().replace(str(home), f"/{HOME}"))
    settings = home / "pyvenv.cfg"
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if not line.startswith("command")))
    for caller in home.rglob("RECORD"):  # the scripts that are gone now
        lines = caller.read_text().splitlines(keepends=True)
        caller.write_text("".join(line for line in lines if not line.startswith("../../../bin/") or "bin/btfeed" in line))
    compile_all = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run([str(python), *compile_all, "-s", str(home.parents[2]), "-p", "/", str(home)])


def install_files(root: Path) -> None:
    """The command, the units, the configuration and the documentation."""
    (root / "usr/bin").mkdir()
    (root / "usr/bin/btfeed").symlink_to(f"../lib/{HOME.name}/bin/btfeed")
    documentation = root / "usr/share/doc/btfeed"
    shutil.copytree(ROOT / "docs", documentation / "docs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, documentation)
    shutil.copy(ROOT / "LICENSE", documentation / "copyright")
    with gzip.open(documentation / "changelog.gz", "wb") as changelog:
        changelog.write((ROOT / "CHANGELOG.md").read_bytes())
    for name, text in units.render("/usr/bin/btfeed", documentation="/usr/share/doc/btfeed/docs/operations.md").items():
        is_unit = not name.endswith(".toml")
        target = root / ("usr/lib/systemd/system" if is_unit else "etc/btfeed") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("DynamicUser=yes\n", ""))  # the package makes the user


def write_control(root: Path, version: str, architecture: str, work: Path) -> None:
    """DEBIAN/: what the package is, what it needs, and what runs when it is installed and removed."""
    python = run([PYTHON, "-c", "import sys; print(*sys.version_info[:2])"]).split()
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "SIZE": str(sum(path.lstat().st_size for path in root.rglob("*")) // 1024),
        "PYTHON": ".".join(python),
        "NEXT_PYTHON": f"{python[0]}.{int(python[1]) + 1}",
        "LIBRARIES": libraries(root, work),
        "UNITS": " ".join(sorted(name for name in units.NAMES if not name.endswith(".toml"))),
    }
    directory = root / "DEBIAN"
    directory.mkdir()
    for name in ("control", *SCRIPTS):
        text = (HERE / name).read_text()
        for word, value in values.items():
            text = text.replace(f"@{word}@", value)
        (directory / name).write_text(text)
        (directory / name).chmod(0o644 if name == "control" else 0o755)
    (directory / "conffiles").write_text("/etc/btfeed/btfeed.toml\n")


def libraries(root: Path, work: Path) -> str:
    """The Debian packages whose shared libraries the native modules need."""
    modules = [str(path) for path in root.rglob("*.so") if ".libs/" not in str(path)]
    (work / "debian").mkdir()
    (work / "debian/control").write_text("Source: btfeed\n\nPackage: btfeed\nArchitecture: any\n")
    command = ["dpkg-shlibdeps", "-O", "--ignore-missing-info", *(f"-e{module}" for module in modules)]
    if not modules:
        return "libc6"
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        raise BuildError(f"dpkg-shlibdeps: {done.stderr}")
    return done.stdout.strip().removeprefix("shlibs:Depends=")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
