"""Addresses to listen on: host:port."""

from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

HOW_TO_WRITE = "write host:port, for example 127.0.0.1:4321 or [::]:4321"


def host_and_port(value: str) -> tuple[str, int]:
    """Split "host:port" or "[host]:port". Raises ValueError."""
    with suppress(ValueError):  # brackets without an end, or a port that is not a number up to 65535
        parts = urlsplit(f"//{value}")
        if parts.hostname and parts.port is not None and parts.netloc == value and "@" not in value:
            return parts.hostname, parts.port
    raise ValueError(f"invalid address {value!r}: {HOW_TO_WRITE}")


def _checked(value: str) -> str:
    try:
        host_and_port(value)
    except ValueError:
        raise ValueError(f"invalid address: {HOW_TO_WRITE}") from None  # the value may come from a secret's variable
    return value


Address = Annotated[str, AfterValidator(_checked)]
"""host:port in the configuration. Port 0 means any free port."""
