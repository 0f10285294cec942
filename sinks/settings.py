"""The base class of every table of the configuration, and the types of sizes, times and secrets."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo, WithJsonSchema


class Settings(BaseModel):
    """A table of the configuration. Rejects unknown keys, and values of another TOML type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"


def _written(pattern: str) -> WithJsonSchema:
    """For editors: the value is a text like this."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


_MAX_SIZE = 2**60
_MAX_SECONDS = 36_500 * 86_400.0


def _size(value: object) -> int:
    match = re.fullmatch(rf"{_NUMBER}\s*([A-Za-z]+)", value) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZES:
        raise ValueError(f'write a size as a string like "64MiB"; units are {", ".join(_SIZES)}')
    size = float(match[1]) * _SIZES[match[2]]
    if size > _MAX_SIZE:
        raise ValueError("a size is at most 1048576TiB")
    return round(size)


def _seconds(value: object) -> float:
    part = rf"{_NUMBER}\s*(ms|[smhd])\s*"
    if not isinstance(value, str) or not re.fullmatch(f"(?:{part})+", value):
        raise ValueError(f'write a time as a string like "500ms" or "23h55m"; units are {", ".join(_TIMES)}')
    seconds = sum(float(number) * _TIMES[unit] for number, unit in re.findall(part, value))
    if seconds > _MAX_SECONDS:
        raise ValueError("a time is at most 36500d")
    return seconds


def size_text(size: int) -> str:
    """A number of bytes as it is written: "64MiB"."""
    units = ((2**30, "GiB"), (2**20, "MiB"))
    unit, name = next(((u, n) for u, n in units if size and size % (u / 2) == 0), (1, "B"))
    return f"{size / unit:.20g}{name}"


def time_text(seconds: float) -> str:
    """A time as it is written: "23h55m"."""
    milliseconds = round(seconds * 1000, 6)
    hours, rest = divmod(milliseconds, 3_600_000)
    if hours and rest and rest % 60_000 == 0:
        return f"{hours:.0f}h{rest / 60_000:.0f}m"
    units = ((3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))
    unit, name = next(((u, n) for u, n in units if milliseconds % u == 0), (1, "ms"))
    return f"{milliseconds / unit:.10g}{name}"


URL_PATTERN = WithJsonSchema({"type": "string", "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^/@?#]+(/|$)"})
"""For editors: the value is the URL of a service, see `ServiceUrl` in sinks/shared/http.py."""


def _not_empty(secret: SecretStr) -> SecretStr:
    if not secret:
        raise ValueError("must not be empty")
    return secret


def _token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", _not_empty(secret).get_secret_value()):
        raise ValueError("must consist of visible ASCII characters, without spaces")
    return secret


def _place(value: str, info: ValidationInfo) -> str:
    if value.startswith("~"):
        raise ValueError(
            "write the absolute path: ~ does not stand for a home directory here (a name with ~ begins with ./)"
        )
    if not value or "\0" in value:
        raise ValueError(
            "must be the name of a file or a directory, without NUL characters; a period is the current directory"
        )
    base = info.context[BASE] if info.context else None
    return str(base / value) if base else value


BASE = "base"
"""Key of the validation context: the Path of the directory where relative paths start."""
Place = Annotated[str, AfterValidator(_place)]
"""The name of a file or a directory. A relative one starts at the directory of the configuration file.

Write a default as `Annotated[Place, Field(validate_default=True)] = "name"`, so that it starts there, too.
"""
Size = Annotated[int, BeforeValidator(_size), _written(rf"^{_NUMBER}\s*({'|'.join(_SIZES)})$")]
"""A number of bytes, written "64MiB"."""
Seconds = Annotated[float, BeforeValidator(_seconds), _written(rf"^({_NUMBER}\s*(ms|[smhd])\s*)+$")]
"""A time in seconds, written "500ms" or "23h55m"."""

Secret = SecretStr
"""A text that must not be shown: its repr and str are asterisks, `get_secret_value()` returns it. In TOML a plain string.

Secrets are kept out of logs and messages in four places: here, in errors of the configuration (`hide_input_in_errors`
and btfeed/faults.py), in URLs, which may not contain any (`check_service_url` in sinks/shared/http.py), and in what other
systems send (sinks/shared/redaction.py). The tests of redaction plant secrets and look for them.
"""
RequiredSecret = Annotated[Secret, AfterValidator(_not_empty)]
"""A secret that is not empty."""
Token = Annotated[Secret, AfterValidator(_token)]
"""A secret that can stand in an HTTP header."""
