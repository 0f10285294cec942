"""Addresses to listen on, as the configuration writes them."""

from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def host_and_port(value: str) -> tuple[str, int]:
    """From "host:port" or "[host]:port". ValueError where it is neither."""
    parts = urlsplit(f"//{value}")
    with suppress(ValueError):  # of a port that is none; said better below
        if parts.hostname and parts.port is not None and parts.netloc == value and "@" not in value:
            return parts.hostname, parts.port
    raise ValueError('write an address as "host:port", for example "127.0.0.1:4321" or "[::]:4321"')


def _checked(value: str) -> str:
    host_and_port(value)
    return value


Address = Annotated[str, AfterValidator(_checked)]
"""host:port; port 0 takes a free one."""
