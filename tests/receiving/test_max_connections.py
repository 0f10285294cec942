"""Which connection gives way when there are as many as `receiver.max_connections` allows."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.receiving.settings import ReceiverSettings
from tests.support.harness import until_async
from tests.support.posts import sample_visit
from tests.support.rawhttp import begin, busy, request, site

BODY = sample_visit()
HEAD = request(BODY)[: -len(BODY)]


async def test_refuses_more_connections_than_the_limit(tmp_path: Path) -> None:
    """While all others have a request under way, a further one gets a 503 with Retry-After. The others finish theirs."""
    async with site(tmp_path, max_connections=2) as running, running.connect() as header, running.connect() as body:
        await header.send(HEAD[:-1])
        await body.send(HEAD)
        await running.until(lambda it: busy(it) == 2, "both begun")
        for _ in range(2):
            async with running.connect() as further:
                answer = await further.response()
                assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "5", "close")
                assert await further.rest() == b""
        assert running.refused() == running.lost() == {"too_many_connections": 2}
        await header.send(HEAD[-1:] + BODY)
        await body.send(BODY)
        assert [(await client.response()).status for client in (header, body)] == [200, 200]
        assert (await running.ask(request(BODY))).status == 200


async def test_the_connection_that_is_idle_longest_gives_way(tmp_path: Path) -> None:
    """Silent ones first, so that they neither keep a new one out nor close one that is used. Those with a request under way
    stay."""
    with capture_logs() as logged:
        async with site(tmp_path, max_connections=4) as running, AsyncExitStack() as stack:
            clients = []
            for number in range(4):
                clients.append(await stack.enter_async_context(running.connect()))
                await running.until(lambda it: len(it.connections) == number + 1, "connected")  # noqa: B023
            occupied, used_last, used_first, silent = clients
            await occupied.send(HEAD)
            await begin(used_first)
            await begin(used_last)
            await running.until(lambda it: busy(it) == 1, "a request under way")
            for number, victim in enumerate((silent, used_first, used_last), 2):
                further = await stack.enter_async_context(running.connect())
                await further.send(HEAD)
                assert await victim.rest() == b""
                await running.until(lambda it: busy(it) == number, "its header has arrived")  # noqa: B023
                clients.append(further)
            assert (running.count("evicted_connections_total"), running.refused()) == (3, {})
            for client in (occupied, *clients[4:]):
                await client.send(BODY)
                assert (await client.response()).status == 200
            assert len(running.posts()) == 6
    evicted = [line for line in logged if line["event"] == "idle connection closed to make room"]
    assert (evicted[0]["log_level"], evicted[0]["peer"]) == ("warning", "127.0.0.1")
    assert sum(line["count"] for line in evicted) == 3


async def test_a_lower_limit_closes_idle_connections_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that would give way first. A header that does not end may be that of a post, which this would lose."""
    async with site(tmp_path, max_connections=9) as running, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running.connect()) for _ in range(5)]
        header, body, used_first, used_last, silent = clients
        await running.until(lambda it: len(it.connections) == 5, "connected")
        await header.send(HEAD[:-1])
        await body.send(HEAD)
        await running.until(lambda it: busy(it) == 2, "begun")
        await begin(used_first)
        await begin(used_last)
        monkeypatch.setattr("btfeed.http.state.STALLED_AFTER", 0.0)
        running.receiver.reconfigure(ReceiverSettings.model_validate({"max_connections": 3}), None)
        assert [await client.rest() for client in (silent, used_first)] == [b"", b""]
        running.receiver.reconfigure(ReceiverSettings.model_validate({"max_connections": 1}), None)
        assert await used_last.rest() == b""
        await header.send(HEAD[-1:] + BODY)
        await body.send(BODY)
        assert [(await client.response()).status for client in (header, body)] == [200, 200]
        assert (running.count("evicted_connections_total"), running.refused()) == (3, {})


@pytest.mark.parametrize(("sent", "lost"), [(b"P", 0), (HEAD[:-1], 1)])
async def test_a_header_that_does_not_end_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, lost: int
) -> None:
    """After a while. If it began as a post, that post is lost, and counted."""
    async with site(tmp_path, max_connections=1) as running, running.connect() as client:
        await client.send(sent)
        await running.until(lambda it: busy(it) == 1, "begun")
        assert (await running.ask(request(BODY))).status == 503
        assert running.lost() == {"too_many_connections": 1}
        monkeypatch.setattr("btfeed.http.state.STALLED_AFTER", 0.0)
        assert (await running.ask(request(BODY))).status == 200
        assert await client.rest() == b""
        assert running.lost() == {"too_many_connections": 1 + lost}


async def test_a_connection_with_unread_data_does_not_give_way(tmp_path: Path) -> None:
    """A post that the machine has received is not lost because the event loop was busy."""
    async with site(tmp_path, max_connections=1) as running, running.connect() as client:
        await running.until(lambda it: it.connections, "connected")
        (connection,) = running.connections
        connection._transport.pause_reading()
        await client.send(request(BODY))
        await until_async(connection.has_unread, "the post is in the socket")
        assert (await running.ask(request(BODY))).status == 503
        connection.close_if_idle(connection.loop.time())
        connection._transport.resume_reading()
        assert (await client.response()).status == 200
