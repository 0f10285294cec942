"""`make wheels`: builds wheels with the native modules, for any Linux with the given glibc or a later one, and checks them.

zig is the linker: it links to an old glibc, and for other architectures than this machine's.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
BIN = Path(sys.executable).parent
GLIBC = "2.17"
"""The oldest that Rust's standard library supports."""
MACHINES = {"x86_64": 62, "aarch64": 183}
"""Architecture -> its number in an ELF header."""
NATIVE_MODULES = ("btfeed/_native.abi3.so", "sinks/_messages.abi3.so")


class BuildError(Exception):
    """A package can't be built, or is not what it should be."""


def main(architectures: list[str]) -> int:
    """The exit status."""
    try:
        for architecture in architectures:
            print(f"{build(architecture).relative_to(ROOT)}: checked")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(architecture: str) -> Path:
    """Build and check the wheel of one architecture. Raises BuildError."""
    if architecture not in MACHINES:
        raise BuildError(f"no wheels are built for {architecture}, only for {', '.join(MACHINES)}")
    target = f"{architecture}-unknown-linux-gnu"
    ensure_target(target)
    for leftover in (ROOT / "build").glob("*linux*"):
        shutil.rmtree(leftover)
    for old in DIST.glob(f"btfeed-*{architecture}.whl"):
        old.unlink()
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # where cargo-zigbuild finds zig
        "CARGO": str(BIN / "cargo-zigbuild"),
        "CARGO_BUILD_TARGET": f"{target}.{GLIBC}",
    }
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{architecture}"
    options = ("--no-build-isolation", "--no-deps", f"--config-settings=--build-option=--plat-name={tag}")
    run([str(BIN / "pip"), "wheel", "--quiet", *options, "--wheel-dir", str(DIST), str(ROOT)], environment)
    (wheel,) = DIST.glob(f"btfeed-*{tag}.whl")
    check(wheel, architecture, tag)
    return wheel


def ensure_target(target: str) -> None:
    """Fetch Rust's standard library for a target, if it is not there."""
    libraries = run(["rustc", "--print", "target-libdir", "--target", target]).strip()
    if Path(libraries).is_dir():
        return
    try:
        run(["rustup", "target", "add", target])
    except BuildError as error:
        raise BuildError(f"Rust's standard library for {target} is missing. {error}") from None


def check(wheel: Path, architecture: str, tag: str) -> None:
    """Check that both native modules are there, of this architecture, and need no later glibc than the tag says."""
    with zipfile.ZipFile(wheel) as archive:
        missing = set(NATIVE_MODULES) - set(archive.namelist())
        if missing:
            raise BuildError(
                f"{wheel.name}: without {', '.join(sorted(missing))}. Is cargo installed? Its errors are above"
            )
        for name in NATIVE_MODULES:
            machine = int.from_bytes(archive.read(name)[18:20], "little")
            if machine != MACHINES[architecture]:
                raise BuildError(f"{wheel.name}: {name} is for machine {machine}, not for {architecture}")
    found = json.loads(run([sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]))
    if found["overall_tag"] != tag:
        raise BuildError(f"{wheel.name}: auditwheel finds it unfit for {tag}: {found}")


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """The output of a command. Raises BuildError."""
    environment = dict(environment or os.environ)
    environment.pop("PYTHONPATH", None)  # else pip takes what is there for installed
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise BuildError(f"failed with status {done.returncode}: {' '.join(command)}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
