"""Replay: where posts come from, when they go out, and what is written of them."""

import asyncio
import base64
import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from btfeed.commands.moments import moment
from btfeed.journal.sqlite.database import FILE
from btfeed.posts import files as postfile
from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions
from btfeed.posts.post import parse
from btfeed.traffic.replay import Files, JournalRange, Plan, Recorded, SourceError, shift
from btfeed.traffic.sending import TRIES, Answer, Latencies, Outgoing, Sender, Summary
from tests.commands.test_main import invoke
from tests.journal.journals import journal
from tests.support import posts, wire
from tests.support.fakes import post as received_post
from tests.support.harness import BTFEED, DEADLINE, Server, until
from tests.traffic.test_replay import EXAMPLES, MALFORMED, free_port

BODIES = [posts.sample_visit(), posts.sample_purepath(), posts.mixed(10)]


class Listed:
    """A source of what is listed."""

    blocking = False

    def __init__(self, *recorded: Recorded) -> None:
        self._recorded = recorded
        self.total: int | None = None
        self.done = 0
        self.broken: list[str] = []

    def posts(self) -> Iterator[Recorded]:
        return iter(self._recorded)


def write(path: Path, bodies: list[bytes] = BODIES) -> Path:
    writer = postfile.Writer(path)
    for body in bodies:
        writer.write(body)
    writer.close()
    return path


def body_at(start: int, end: int | None = None) -> bytes:
    """A post of one occurrence."""
    occurrence = BtOccurrence(startTime=start) if end is None else BtOccurrence(startTime=start, endTime=end)
    transaction = BusinessTransaction(name="n", occurrences=[occurrence])
    return BusinessTransactions(businessTransactions=[transaction]).SerializeToString()


def unknown_fields(message: Any) -> list[Any]:
    fields: Any = UnknownFieldSet(message)  # whose stubs do not say that it can be iterated over
    return list(fields)


# Sources


@pytest.mark.parametrize("name", ["a.btposts", "a.btposts.gz"])
def test_what_is_written_is_read_gzipped_or_not(name: str, tmp_path: Path) -> None:
    """Byte by byte."""
    assert list(postfile.read(write(tmp_path / name))) == BODIES


def test_gzip_of_one_body_and_of_many_is_found_and_read(tmp_path: Path) -> None:
    """In folders, too."""
    (tmp_path / "1.bin.gz").write_bytes(gzip.compress(BODIES[0]))
    write(tmp_path / "2.btposts.gz", BODIES[1:])
    found = postfile.find([tmp_path])
    assert [body for path in found for body in postfile.read(path)] == BODIES


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no gzip" + data, lambda data: data[:30] + b"\0" * 30]
)
def test_broken_gzip_is_told(damage: object, tmp_path: Path) -> None:
    """With the file's name, and no traceback."""
    path = write(tmp_path / "a.btposts.gz")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    source = Files([path])
    list(source.posts())
    assert len(source.broken) == 1
    assert source.broken[0].startswith(f"{path}: ")


@pytest.mark.parametrize("zipped", [False, True])
def test_standard_input_is_a_source_and_standard_output_a_target(zipped: bool, tmp_path: Path) -> None:
    """Posts pass through, and the summary does not get among them."""
    data = write(tmp_path / "a.btposts").read_bytes()
    given = gzip.compress(data) if zipped else data
    passed = subprocess.run(
        [*BTFEED, "replay", "-", "--out", "-"], input=given, capture_output=True, timeout=DEADLINE, check=True
    )
    assert passed.stdout == data
    assert passed.stderr.startswith(b"3 posts, 12 occurrences, 0 refused")


def test_standard_input_can_be_read_twice(tmp_path: Path) -> None:
    """To loop over it, or to find its newest time."""
    data = write(tmp_path / "a.btposts").read_bytes()
    command = [*BTFEED, "replay", "-", "--loop", "2", "--out", str(tmp_path / "b.btposts")]
    subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE, check=True)
    assert list(postfile.read(tmp_path / "b.btposts")) == BODIES * 2


async def test_a_journal_gives_the_posts_of_a_time(tmp_path: Path) -> None:
    """By when they were received: from the one moment on, to before the other."""
    async with journal(tmp_path) as opened:
        for number, body in enumerate(BODIES):
            await opened.append(received_post(body, received=1000 + number))
        found = list(JournalRange(tmp_path, 1_001_000, 1_002_000).posts())
        assert found == [Recorded(BODIES[1], 1_001_000)]
        assert [recorded.body for recorded in JournalRange(tmp_path).posts()] == BODIES
        assert JournalRange(tmp_path).total == 3


def test_a_running_servers_journal_is_read_and_left_as_it_is(server: Server, tmp_path: Path) -> None:
    """What was posted comes out; the server goes on, and nobody writes to its file but itself."""
    for body in BODIES:
        server.post(body)
    server.delivered(12)
    until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "the cursor is saved")
    directory = server.directory / "journal"
    before = (directory / FILE).read_bytes(), (directory / f"{FILE}-wal").read_bytes()
    result = invoke("replay", "--journal", directory, "--from", "1h", "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stderr) == (0, "")
    assert list(postfile.read(tmp_path / "a.btposts")) == BODIES
    assert ((directory / FILE).read_bytes(), (directory / f"{FILE}-wal").read_bytes()) == before
    assert server.post(BODIES[0])[0] == 200


def test_a_journal_is_read_when_no_server_runs(server: Server, tmp_path: Path) -> None:
    """And left without a trace."""
    server.post(BODIES[0])
    server.delivered(1)
    server.stop()
    directory = server.directory / "journal"
    before = (directory / FILE).read_bytes()
    result = invoke("replay", "--journal", directory, "--out", tmp_path / "a.btposts")
    assert (result.exit_code, list(postfile.read(tmp_path / "a.btposts"))) == (0, [BODIES[0]])
    assert (directory / FILE).read_bytes() == before


def test_a_journal_without_such_posts_is_told(server: Server, tmp_path: Path) -> None:
    """Nor is one where none is."""
    server.post(BODIES[0])
    with pytest.raises(SourceError, match="has no post of that time"):
        JournalRange(server.directory / "journal", 0, 1)
    with pytest.raises(SourceError, match="no journal in"):
        JournalRange(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1970-01-01T00:01", 60_000), ("1970-01-01T01:00:00.5+01:00", 500), ("2m", 880_000), ("1970-01-02", 86_400_000)],
)
def test_moments_are_dates_or_ago(text: str, expected: int) -> None:
    """UTC where nothing else is said."""
    assert moment(text, 1_000_000) == expected


# Pace


def due(plan: Plan, *recorded: Recorded) -> list[float]:
    return [round(outgoing.due, 6) for outgoing in plan.outgoing(Listed(*recorded))]


def test_a_rate_of_occurrences_waits_for_those_that_went() -> None:
    """A post of ten holds up the next for ten times as long."""
    recorded = [Recorded(body) for body in (posts.mixed(10), posts.sample_visit(), posts.mixed(20), posts.sample_visit())]
    assert due(Plan(rate=10, unit="occurrences"), *recorded) == [0.0, 1.0, 1.1, 3.1]
    assert due(Plan(rate=10), *recorded) == [0.0, 0.1, 0.2, 0.3]


def test_a_speed_is_after_the_times_of_receipt_or_else_of_the_posts() -> None:
    """What comes earlier than the one before goes out at once."""
    times = (1000, 3000, 2000, 5000)
    assert due(Plan(speed=1), *(Recorded(b"", time) for time in times)) == [0.0, 2.0, 2.0, 4.0]
    assert due(Plan(speed=10), *(Recorded(b"", time) for time in times)) == [0.0, 0.2, 0.2, 0.4]
    in_posts = (Recorded(body_at(1000)), Recorded(body_at(500, 3000)), Recorded(body_at(4000)), Recorded(MALFORMED))
    assert due(Plan(speed=2), *in_posts) == [0.0, 1.0, 1.5, 1.5]


def test_a_loop_goes_on_where_the_last_turn_ended() -> None:
    """With rate and speed."""
    recorded = [Recorded(b"", 1000), Recorded(b"", 3000)]
    assert due(Plan(speed=1, loops=2), *recorded) == [0.0, 2.0, 2.0, 4.0]
    assert due(Plan(rate=1, loops=2), *recorded) == [0.0, 1.0, 2.0, 3.0]
    assert due(Plan(loops=0)) == []


async def test_no_post_goes_out_before_it_is_due() -> None:
    """And none at all once it is to stop."""
    target, stop = Told(), asyncio.Event()
    sender = Sender(target, stop=stop)
    sending = asyncio.create_task(sender.send(iter([Outgoing(b"1"), Outgoing(b"2", due=3600.0)])))
    await asyncio.wait_for(target.called.wait(), DEADLINE)
    stop.set()
    assert (await sending).posts == 1
    assert target.bodies == [b"1"]


# Times


def test_shift_to_now_moves_all_times_by_one_offset() -> None:
    """The newest startTime or endTime is now, over all posts."""
    recorded = [Recorded(body_at(1000, 9000)), Recorded(body_at(5000)), Recorded(MALFORMED)]
    sent = [out.body for out in Plan(shift_to_now=lambda: 100_000).outgoing(Listed(*recorded))]
    assert sent == [body_at(92_000, 100_000), body_at(96_000), MALFORMED]


def test_shift_keeps_everything_else() -> None:
    """Fields that nobody knows, in each message, and what is not UTF-8."""
    unknown = wire.varint(2000 << 3 | 2) + wire.varint(3) + b"new"
    occurrence = BtOccurrence(startTime=1000, endTime=2000, visitId=2**40, dimensions=["d"]).SerializeToString()
    occurrence += b"\x42\x02\xff\xfe" + unknown
    transaction = BusinessTransaction(name="n", type="VISIT").SerializeToString()
    transaction += b"\x32" + wire.varint(len(occurrence)) + occurrence + unknown
    body = b"\x0a" + wire.varint(len(transaction)) + transaction + unknown
    moved = parse(shift(parse(body), 500))
    (one,) = moved.businessTransactions[0].occurrences
    assert (one.startTime, one.endTime) == (1500, 2500)
    for message in (moved, moved.businessTransactions[0], one):
        assert [(field.field_number, field.data) for field in unknown_fields(message)] == [(2000, b"new")]
    one.startTime, one.endTime = 1000, 2000
    assert moved.SerializeToString() == parse(body).SerializeToString()
    assert len(shift(parse(body), 500)) == len(body)


def test_what_is_no_time_is_not_moved() -> None:
    """Nor does it say when the newest was."""
    recorded = [Recorded(body_at(2**62)), Recorded(body_at(1000))]
    sent = [out.body for out in Plan(shift_to_now=lambda: 5000).outgoing(Listed(*recorded))]
    assert sent == [body_at(2**62), body_at(5000)]


# Outcomes


class Told:
    """A target that answers what it is told to."""

    timed = True

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.called = asyncio.Event()

    async def __aenter__(self) -> "Told":
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def send(self, body: bytes) -> Answer:
        self.called.set()
        self.bodies.append(body)
        return self.answers.pop(0) if self.answers else Answer(200)


UNKNOWN, AWAY, REFUSED = Answer(None, "no answer: x"), Answer(None, "no answer: y", sent=False), Answer(400, "400 Bad")


async def test_a_post_without_an_answer_is_unknown_and_not_sent_again() -> None:
    """Nobody knows whether it was taken; where no connection was made, it was not."""
    target = Told(UNKNOWN, AWAY, REFUSED)
    rejected: list[tuple[bytes, Answer]] = []
    sender = Sender(target, rejected=lambda body, answer: rejected.append((body, answer)))
    summary = await sender.send(map(Outgoing, [b"1", b"2", b"3", b"4"]))
    assert target.bodies == [b"1", b"2", b"3", b"4"]
    assert (summary.posts, summary.unknown) == (1, {"no answer: x": 1})
    assert summary.refused == {"no answer: y": 1, "400 Bad": 1}
    assert rejected == [(b"2", AWAY), (b"3", REFUSED)]


async def test_with_retry_it_is_sent_again_until_it_is_answered() -> None:
    """A refusal is an answer."""
    target = Told(UNKNOWN, AWAY, Answer(200), REFUSED)
    summary = await Sender(target, retry=True).send(map(Outgoing, [b"1", b"2"]))
    assert target.bodies == [b"1", b"1", b"1", b"2"]
    assert (summary.posts, summary.unknowns, summary.refusals, summary.retried) == (1, 0, 1, 2)


async def test_what_may_have_been_taken_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where later there is not even a connection."""
    monkeypatch.setattr("btfeed.traffic.sending.FIRST_WAIT", 0.0)
    target = Told(UNKNOWN, *[AWAY] * 20)
    summary = await Sender(target, retry=True).send(map(Outgoing, [b"1"]))
    assert len(target.bodies) == TRIES
    assert (summary.unknown, summary.refused) == ({"no answer: x": 1}, {})


def test_rejects_has_the_refused_posts_with_their_answers(server: Server, tmp_path: Path) -> None:
    """A line of JSON each, the body in base64."""
    write(tmp_path / "a.btposts", [MALFORMED, BODIES[0]])
    result = invoke("replay", tmp_path / "a.btposts", server.url, "--rejects", tmp_path / "rejects.ndjson")
    assert result.exit_code == 1
    (rejected,) = map(json.loads, (tmp_path / "rejects.ndjson").read_text().splitlines())
    assert rejected["status"] == 400
    assert rejected["answer"].startswith("400 Bad Request: not a BusinessTransactions message")
    assert base64.b64decode(rejected["body"]) == MALFORMED


def test_the_summary_as_json(server: Server) -> None:
    """With latencies; answers other than 200 are listed."""
    result = invoke("replay", EXAMPLES, server.url, "--json")
    summary = json.loads(result.stdout)
    assert (summary["posts"], summary["occurrences"], summary["refused"], summary["unknown"]) == (13, 503, 0, 0)
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    away = json.loads(invoke("replay", EXAMPLES, f"http://127.0.0.1:{free_port()}/", "--json").stdout)
    assert (away["posts"], away["refused"], away["latency_ms"]["p50"]) == (0, 13, None)
    assert list(away["answers"].values()) == [13]


def test_latencies_are_right_to_two_percent() -> None:
    """Of a million as of ten; none gives none."""
    latencies = Latencies()
    assert latencies.quantile(0.5) is None
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.02)
    assert latencies.quantile(0.99) == pytest.approx(0.99, rel=0.02)


def test_a_summary_lists_unknown_outcomes() -> None:
    """Beside the refused ones."""
    summary = Summary(unknown={"no answer: x": 2}, retried=3, seconds=1.0)
    assert list(summary.lines())[1:] == ["unknown 2: no answer: x", "posted again 3"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--journal", "x", "y.bin"], "either files or a journal"),
        (["y.bin", "--from", "1h"], "only the posts of a --journal"),
        (["y.bin", "--speed", "fast"], "'fast' is no speed"),
        (["y.bin", "--speed", "1x", "--rate", "3"], "either a --rate or a --speed"),
        (["--journal", "x", "--from", "nonsense"], "invalid time 'nonsense': write"),
        ([], "name files or folders"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], what: str) -> None:
    """Before anything is sent."""
    result = invoke("replay", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in " ".join(result.stderr.split())


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Exit 1 and one line."""
    (tmp_path / "a.btposts").symlink_to("/dev/full")
    result = invoke("replay", EXAMPLES, "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("a.btposts: No space left on device\n")
