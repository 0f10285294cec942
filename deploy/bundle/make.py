"""`make bundle`: one archive that installs btfeed without network, for this Python and this architecture."""

import gzip
import hashlib
import io
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from deploy.wheels import BIN, DIST, ROOT, BuildError, run

INSTALL = Path(__file__).with_name("install.sh")
LOCK = ROOT / "requirements-runtime.txt"
OLDEST_GLIBC = (2, 17)


def main() -> int:
    """The exit status."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            wheels = Path(directory)
            download(LOCK, wheels)
            bundle = make(wheels, newest_wheel(), LOCK, DIST)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(bundle.relative_to(ROOT))
    return 0


def download(lock: Path, wheels: Path) -> None:
    """Fetch the wheels of a lock file. Raises BuildError."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:")
    run([str(BIN / "pip"), "download", *options, "--dest", str(wheels), "--requirement", str(lock)])


def newest_wheel() -> Path:
    """btfeed's own wheel for this machine. Raises BuildError."""
    found = sorted(DIST.glob(f"btfeed-*_{platform.machine()}.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BuildError("there is no wheel of btfeed: run make wheel")
    return found[-1]


def make(wheels: Path, own: Path, lock: Path, out: Path) -> Path:
    """Write the archive into the directory `out`, from the wheels that `lock` names, and btfeed's `own`."""
    version = own.name.split("-")[1]
    python = ".".join(platform.python_version_tuple()[:2])
    name = f"btfeed-{version}-py{python}-{platform.machine()}"
    shutil.copy(own, wheels)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    glibc = ".".join(map(str, oldest_glibc(path.name for path in wheels.iterdir())))
    script = INSTALL.read_text()
    for word, value in {"VERSION": version, "PYTHON": python, "MACHINE": platform.machine(), "GLIBC": glibc}.items():
        script = script.replace(f"@{word}@", value)
    files = {
        "install.sh": script.encode(),
        "requirements.txt": f"{lock.read_text()}btfeed=={version} --hash=sha256:{digest}\n".encode(),
        **{f"wheels/{path.name}": path.read_bytes() for path in sorted(wheels.iterdir())},
    }
    out.mkdir(exist_ok=True)
    return write(out / f"{name}.tar.gz", {f"{name}/{path}": content for path, content in files.items()})


def oldest_glibc(wheels: Iterable[str]) -> tuple[int, ...]:
    """The oldest glibc that all of these wheels run with, by their names."""
    oldest: tuple[int, ...] = OLDEST_GLIBC
    for wheel in wheels:
        tags = wheel.removesuffix(".whl").split("-")[-1].split(".")
        versions = [tuple(map(int, tag.split("_")[1:3])) for tag in tags if tag.startswith("manylinux_")]
        if versions:
            oldest = max(oldest, min(versions))
    return oldest


def write(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive that depends on nothing but these files, and SOURCE_DATE_EPOCH."""
    when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), when, 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(buffer.getvalue(), compresslevel=1, mtime=when))  # wheels are compressed already
    return path


if __name__ == "__main__":
    sys.exit(main())
