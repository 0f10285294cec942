"""Addresses to listen on: host:port. What they mean is decided here, for the servers and for `btfeed check`."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, WithJsonSchema

log = structlog.get_logger()

BACKLOG = 1024
"""Connections that wait to be accepted. The system may allow fewer: net.core.somaxconn."""
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


_PATTERN = r"^(\[[0-9A-Fa-f:.]+(%[^\]]+)?\]|[^:/@?#\[\]]+):[0-9]{1,5}$"
Address = Annotated[str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": _PATTERN})]
"""host:port in the configuration. Port 0 means any free port."""


async def listen(address: str, inherited: Sequence[socket.socket] = (), key: str = "") -> list[socket.socket]:
    """Sockets that listen there: connections wait in them until they are accepted. Raises OSError.

    inherited  sockets that another process holds (btfeed/inherited.py). If there are any, they are the ones, wherever they
               listen
    key        of the address in the configuration
    """
    if inherited:
        found = ", ".join(map(_written, inherited))
        if await _are_at(address, inherited):
            log.info("using an inherited socket", setting=key, address=found)
        else:
            log.warning(
                "using an inherited socket that is not as configured", setting=key, address=found, configured=address,
                hint=f"make {key} the same, or change what holds the socket and restart that",
            )  # fmt: skip
    sockets = list(inherited) or await bind(address)
    try:
        for each in sockets:
            each.listen(BACKLOG)  # changes the backlog of those that listen already
    except OSError as error:
        place = _written(sockets[0])
        for each in sockets:
            each.close()
        raise OSError(error.errno, f"can't listen on {place}: {os.strerror(error.errno or 0).lower()}") from None
    return sockets


def where(bound: socket.socket) -> tuple[str, int]:
    """The host and port of a socket; of a Unix socket, its path and 0."""
    if bound.family == socket.AF_UNIX:
        return str(bound.getsockname()), 0
    host, port, *_ = bound.getsockname()
    return host, port


def _written(bound: socket.socket) -> str:
    host, port = where(bound)
    if bound.family == socket.AF_UNIX:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _are_at(address: str, sockets: Sequence[socket.socket]) -> bool:
    """Whether these sockets are those that `bind` would make. If the host can't be resolved, they may be. A Unix socket
    stands for any address."""
    if any(each.family == socket.AF_UNIX for each in sockets):
        return True
    any_port = not host_and_port(address)[1]
    try:
        wanted = {place[:2] for _, place in await _places(address)}
    except OSError:
        return True
    found = {each.getsockname()[:2] for each in sockets}
    return {(host, 0) for host, _ in found} == wanted if any_port else found == wanted


async def bind(address: str, beside: Sequence[socket.socket] | None = None) -> list[socket.socket]:
    """Sockets bound to each IP address that the host stands for, to be listened on. Raises OSError.

    "::" is every address of the machine, IPv4 included. With port 0, all get the same free port.

    beside: sockets that are bound there already, and share the port with these (SO_REUSEPORT): the kernel gives each new
    connection to one of them. None: no other sockets may be bound there
    """
    sockets: list[socket.socket] = []
    try:
        for family, place in await _places(address):
            used = [*(beside or ()), *sockets]
            free = used[0].getsockname()[1] if used else place[1]
            sockets.append(socket.socket(family, socket.SOCK_STREAM))
            if beside is not None:
                sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(sockets[-1], (place[0], free, *place[2:]))
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bind(unbound: socket.socket, place: tuple[Any, ...]) -> None:
    unbound.setblocking(False)
    unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if unbound.family == socket.AF_INET6:
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, place[0] != "::")
    try:
        unbound.bind(place)
    except OSError as error:
        raise OSError(error.errno, f"can't listen on {place[:2]}: {os.strerror(error.errno or 0).lower()}") from None


async def check_free(address: str) -> None:
    """Raise OSError if a server could not listen there now. Takes no connection."""
    for bound in await bind(address):
        bound.close()


async def clash(one: str, other: str) -> bool:
    """Whether two servers can't listen on these addresses at the same time. Raises OSError if a host can't be resolved."""
    (_, port), (_, other_port) = host_and_port(one), host_and_port(other)
    if port != other_port or not port:
        return False
    hosts, others = await _resolve(one), await _resolve(other)
    return bool(hosts & others) or any(host.is_unspecified for host in hosts | others)


async def is_exposed(address: str) -> bool:
    """Whether other machines can reach a server that listens there. False if the host can't be resolved."""
    try:
        return not all(host.is_loopback for host in await _resolve(address))
    except OSError:
        return False


async def _resolve(address: str) -> set[IPv4Address | IPv6Address]:
    """The IP addresses that the host stands for. Raises OSError."""
    hosts = {ip_address(str(place[0])) for _, place in await _places(address)}
    return {getattr(host, "ipv4_mapped", None) or host for host in hosts}


async def _places(address: str) -> list[tuple[int, tuple[Any, ...]]]:
    """What the host stands for: the family and the address of each socket. Raises OSError."""
    host, port = host_and_port(address)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"can't resolve {host}: {error.strerror}") from None
    return list(dict.fromkeys((int(family), place) for family, *_, place in found))
