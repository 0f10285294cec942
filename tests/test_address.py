"""What addresses to listen on mean: to the servers, and to those who ask beforehand."""

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from btfeed.address import bind, check_free, clash, is_exposed, listen


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"])
async def test_a_loopback_address_is_not_exposed(address: str) -> None:
    """Nor is a name for one."""
    assert not await is_exposed(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"])
async def test_every_other_address_is_exposed(address: str) -> None:
    """A wildcard address stands for all addresses of the machine."""
    assert await is_exposed(address)


async def test_a_host_name_is_exposed_as_its_addresses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of them is not a loopback address. A host that can't be resolved is not exposed: nothing listens there."""
    known = {"one.example": ["127.0.0.1", "192.0.2.1"], "two.example": ["127.0.0.1", "::1"]}
    resolve_to(monkeypatch, known)
    assert await is_exposed("one.example:1")
    assert not await is_exposed("two.example:1")
    assert not await is_exposed("three.example:1")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("[::1]:1", "[::]:1", True),
        ("localhost:1", "127.0.0.1:1", True),
        ("[0:0:0:0:0:0:0:1]:1", "[::1]:1", True),
    ],
)
async def test_two_servers_clash_on_one_address(one: str, other: str, expected: bool) -> None:
    """However it is written. A wildcard address includes the others; port 0 is another one each time."""
    assert await clash(one, other) == expected
    assert await clash(other, one) == expected


async def test_a_port_is_free_or_not_as_for_a_server() -> None:
    """Asking takes no connection, and the port is free afterwards. The same holds for the ports of connections that were
    closed a moment ago."""
    (server,) = await bind("127.0.0.1:0")
    server.listen()
    address = "{}:{}".format(*server.getsockname())
    with pytest.raises(OSError, match="address already in use"):
        await check_free(address)
    connection = await asyncio.open_connection(*address.split(":"))
    server.close()
    connection[1].close()
    await check_free(address)
    await check_free(address)
    for again in await bind(address):
        again.listen()
        again.close()


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:1"])
async def test_an_address_of_another_machine_is_not_free(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a host that can't be resolved, which is named."""
    resolve_to(monkeypatch, {})
    for attempt in (check_free(address), bind(address)):
        with pytest.raises(OSError, match=r"192\.0\.2\.1|can't resolve no-such-host\.invalid: unknown"):
            await attempt


def resolve_to(monkeypatch: pytest.MonkeyPatch, known: dict[str, list[str]]) -> None:
    """Let these names be known, and no others."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: object, **options: object) -> list[object]:
        hosts = known.get(host, [] if host[0].isalpha() else [host])
        if not hosts:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [found for each in hosts for found in resolve(each, port, *arguments, **options)]  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_inherited_sockets_win_and_get_the_backlog() -> None:
    """They listen already, with a backlog of the holder's choice."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as held:
        with capture_logs() as logged:
            assert await listen("127.0.0.1:0", [held]) == [held]
        assert [(line["event"], line["address"]) for line in logged] == [("using an inherited socket", written(held))]
        waiting = [socket.create_connection(held.getsockname(), timeout=1) for _ in range(20)]  # more than its backlog was
        for each in waiting:
            each.close()


@pytest.mark.parametrize("configured", ["127.0.0.1:1", "127.0.0.2:0", "localhost:1"])
async def test_an_inherited_socket_elsewhere_is_told(configured: str) -> None:
    """With both addresses, and the key of the configuration."""
    with socket.create_server(("127.0.0.1", 0)) as held, capture_logs() as logged:
        assert await listen(configured, [held], "receiver.listen") == [held]
        (line,) = logged
        assert (line["event"], line["log_level"]) == ("using an inherited socket that is not as configured", "warning")
        assert (line["setting"], line["address"], line["configured"]) == ("receiver.listen", written(held), configured)


def written(bound: socket.socket) -> str:
    return "{}:{}".format(*bound.getsockname())


async def test_what_listens_is_ready_for_connections() -> None:
    """Before anything accepts them."""
    (listening,) = await listen("127.0.0.1:0")
    with listening, socket.create_connection(listening.getsockname(), timeout=1):
        pass
