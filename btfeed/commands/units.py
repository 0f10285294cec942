"""The systemd units and the example configuration for them, with the paths of an installation.

Their source is deploy/; btfeed/commands/systemd links to it, so that they are in the wheel.
"""

import sys
from importlib.resources import files
from pathlib import Path

_FILES = {path.name: path for path in files("btfeed.commands").joinpath("systemd").iterdir()}
NAMES = sorted(_FILES)
"""The names of the files."""
_COMMAND = "/opt/btfeed/.venv/bin/btfeed"
_DOCUMENTATION = "file:/opt/btfeed/docs/operations.md"


def render(command: str, documentation: str | None = None) -> dict[str, str]:
    """Name -> text of each file.

    command        absolute path of the btfeed command that the service starts
    documentation  absolute path of docs/operations.md, if it is installed
    """
    texts = {name: _FILES[name].read_text(encoding="utf-8") for name in NAMES}
    for name, text in texts.items():
        lines = text.replace(_COMMAND, command).splitlines(keepends=True)
        if documentation is None:
            lines = [line for line in lines if _DOCUMENTATION not in line]
        texts[name] = "".join(lines).replace(_DOCUMENTATION, f"file:{documentation}")
    return texts


def this_command() -> str:
    """The absolute path of the running btfeed command. Symbolic links stay: a service then follows them to newer ones."""
    called = Path(sys.argv[0])
    if called.name != "btfeed":  # such as python -m btfeed
        called = Path(sys.prefix) / "bin" / "btfeed"
    return str(called.absolute())
