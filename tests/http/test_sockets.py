"""Listening sockets."""

import asyncio
import socket
from pathlib import Path

import pytest

from btfeed.address import bind
from btfeed.http.sockets import host_of
from tests.support.posts import sample_visit
from tests.support.rawhttp import RawClient, request, site

BODY = sample_visit()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("listen", ["[::]:0", "[0:0:0:0:0:0:0:0]:0"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_the_ipv6_wildcard_takes_ipv4_too(tmp_path: Path, listen: str, address: str) -> None:
    """As in most servers. An IPv4 client is known by its IPv4 address."""
    async with site(tmp_path, listen=listen) as running:
        client = RawClient(*await asyncio.open_connection(address, running.port))
        await client.send(request(BODY))
        assert (await client.response()).status == 200
        assert [connection.peer for connection in running.connections] == [address]
        await client.close()


@needs_ipv6
async def test_one_ipv6_address_is_only_that() -> None:
    """Its port is free for IPv4."""
    (bound,) = await bind("[::1]:0")
    with bound:
        (other,) = await bind(f"127.0.0.1:{bound.getsockname()[1]}")
        other.close()


async def test_all_addresses_of_a_name_get_one_port() -> None:
    """Also if any free one is asked for."""
    sockets = await bind("localhost:0")
    assert len({bound.getsockname()[1] for bound in sockets}) == 1
    for bound in sockets:
        bound.close()


async def test_a_taken_port_is_named() -> None:
    """Nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"can't listen on \('127.0.0.1', {port}\): address already in use"):
            await bind(f"127.0.0.1:{port}")


def test_hosts_of_peers() -> None:
    """Of IPv4 clients of a socket on "::" the IPv4 address; "" without one."""
    assert [host_of(name) for name in (("::ffff:10.0.0.1", 1, 0, 0), ("::1", 1), ("10.0.0.1", 1), ())] == [
        "10.0.0.1", "::1", "10.0.0.1", "",
    ]  # fmt: skip
