"""Make btfeed/posts/bt_pb2.py and .pyi from bt.proto; with --check, say whether they are fresh."""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
TARGET = HERE.parent / "btfeed" / "posts"


def generate(target: Path) -> list[Path]:
    """Write the generated files into `target`."""
    include = str(files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{HERE}", f"-I{include}", f"--python_out={target}", f"--pyi_out={target}", "bt.proto"]
    if protoc.main(arguments):
        raise SystemExit("protoc failed")
    return [target / "bt_pb2.py", target / "bt_pb2.pyi"]


def stale() -> list[str]:
    """The generated files that are not what bt.proto makes."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        return [path.name for path in fresh if path.read_bytes() != (TARGET / path.name).read_bytes()]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if found := stale():
            sys.exit(f"not what proto/bt.proto makes: {', '.join(found)}; run `make proto`")
    else:
        generate(TARGET)
