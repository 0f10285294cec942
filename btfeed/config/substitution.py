"""References in strings of the configuration: `${NAME}` and the other FORMS stand for values that are kept elsewhere.

What they stand for is often a secret. So messages name the variable or the file, and never show a value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btfeed import regular_file
from btfeed.faults import Faults

MAX_FILE_SIZE = 2**20
"""Bytes of a file that `${file:PATH}` or `${credential:NAME}` stands for."""
FORMS = "${NAME}, ${NAME:-default}, ${file:PATH}, ${credential:NAME}, and $${ for a literal ${"
_REFERENCE = re.compile(r"\$(?P<literal>\$\{)|\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)(?::-(?P<default>.*))?", re.DOTALL)


class Malformed(Exception):
    """Why a text with `${` is no reference."""


class Unresolved(Exception):
    """Why a reference stands for nothing."""


class References:
    """Looks up what references stand for.

    environment  the environment variables
    base         where relative paths of files begin; None for the current directory
    padded       the variables found so far that had whitespace at their ends
    """

    def __init__(self, environment: Mapping[str, str], base: Path | None = None) -> None:
        self._environment = environment
        self._base = base or Path()
        self.padded: set[str] = set()

    def expand(self, text: str) -> str:
        """`text` with a value in place of each reference. Raises Malformed and Unresolved."""
        return _REFERENCE.sub(self._value, text)

    def _value(self, match: re.Match[str]) -> str:
        if match["literal"]:
            return match["literal"]
        if not match["end"]:
            raise Malformed("${ without its }: there can be no braces inside, and $${ is a literal ${")
        kind, _, rest = match["inside"].partition(":")
        if kind == "file" and rest.startswith("~"):
            raise Malformed("${file:PATH}: write the absolute path: ~ does not stand for a home directory here")
        if kind == "file" and not rest.startswith("-"):
            return _content(self._base / rest, f"${{file:{rest}}}") if rest else self._unknown_form()
        if kind == "credential" and not rest.startswith("-"):
            return self._credential(rest)
        variable = _VARIABLE.fullmatch(match["inside"])
        return self._variable(variable["name"], variable["default"]) if variable else self._unknown_form()

    def _unknown_form(self) -> str:
        raise Malformed(f"unknown form of ${{...}}: the forms are {FORMS}")

    def _variable(self, name: str, default: str | None) -> str:
        """The value without whitespace at its ends: a secret often gets a newline from the file that it was read from."""
        value = self._environment.get(name)
        if value is None and default is None:
            raise Unresolved(f"environment variable {name} is not set")
        if default is not None and not value:
            return default
        if not value or not value.strip():
            raise Unresolved(f"environment variable {name} is empty; write ${{{name}:-}} if it may be")
        if value != value.strip():
            self.padded.add(name)
        return value.strip()

    def _credential(self, name: str) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise Malformed("${credential:NAME} takes the name of a systemd credential, without slashes")
        directory = self._environment.get("CREDENTIALS_DIRECTORY")
        how = f"add LoadCredential={name}:FILE to the unit"
        if not directory:
            raise Unresolved(f"systemd has passed no credentials, or did not start this process: {how}")
        path = Path(directory, name)
        if not path.exists():
            raise Unresolved(f"systemd has passed no credential {name}: {how}")
        return _content(path, f"${{credential:{name}}}")


@dataclass(slots=True)
class Found:
    """What the references in some tables are, by path.

    malformed   why a text is no reference
    unresolved  why a reference stands for nothing
    origins     the reference that a value comes from, without its default
    """

    malformed: Faults = field(default_factory=Faults)
    unresolved: Faults = field(default_factory=Faults)
    origins: dict[str, str] = field(default_factory=dict)


def substitute(value: Any, references: References, path: tuple[str, ...], found: Found) -> Any:
    """`value` with its references replaced, in all strings of nested tables and lists. A string with one that can't be
    resolved is reported, and left as it is."""
    if isinstance(value, Mapping):
        return {key: substitute(item, references, (*path, key), found) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, references, (*path, str(index)), found) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole and whole["inside"]:
        name, _, default = whole["inside"].partition(":-")
        found.origins[".".join(path)] = f"${{{name}}}" if default else value
    try:
        return references.expand(value)
    except Malformed as error:
        found.malformed.add(path, str(error))
    except Unresolved as error:
        found.unresolved.add(path, str(error))
    return value


def _content(path: Path, reference: str) -> str:
    """The text in a file, without whitespace at its ends. Raises Unresolved."""
    try:
        content = regular_file.read(path, MAX_FILE_SIZE + 1)
    except regular_file.NotRegular:
        raise Unresolved(f"{reference}: {path} is not a regular file") from None
    except (OSError, ValueError) as error:
        raise Unresolved(f"{reference}: can't read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_FILE_SIZE:
        raise Unresolved(f"{reference}: {path} is larger than 1 MiB")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise Unresolved(f"{reference}: {path} is not text in UTF-8") from None
    if not text:
        raise Unresolved(f"{reference}: {path} is empty")
    return text
