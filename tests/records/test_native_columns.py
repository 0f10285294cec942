"""The native mapper apart from its records: columns without copies, threads, errors, memory, and which path runs."""

import gc
import os
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from btfeed import _native, native
from btfeed.posts import admission
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.posts.post import Malformed, digest, digests, event_id_prefix
from btfeed.records.mapper import _CATEGORIES, _ROLES, HEAD, NativeMapper, create_mapper
from btfeed.records.plain_mapper import PlainMapper
from btfeed.records.result import Counts, MappingResult
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from sinks.batch import Batch
from sinks.shared.optional import optional
from tests.records.mapping import equal
from tests.support import posts, wire

BTFEED = Path(sys.executable).parent / "btfeed"


def mapper(**validation: str) -> NativeMapper:
    return NativeMapper(RecordSettings(), ValidationSettings.model_validate(validation))


def expected(body: bytes) -> MappingResult:
    return PlainMapper(RecordSettings(), ValidationSettings()).map(body, digest(body))


def mapped(body: bytes, by: NativeMapper | None = None) -> MappingResult:
    return (by or mapper()).map(body, digest(body))


# Columns


def test_texts_are_a_sequence() -> None:
    """Indexing from both ends, slices of slices, comparison, search."""
    ids = mapped(posts.mixed(50)).batch.ids
    plain = list(ids)
    assert (len(ids), ids[0], ids[-1], ids[49]) == (50, plain[0], plain[-1], plain[-1])
    assert ids == plain
    assert ids != plain[1:]
    for start, stop in [(0, 50), (10, 20), (20, 10), (-5, None), (3, -3), (0, 1000)]:
        assert list(ids[start:stop]) == plain[start:stop]
        assert list(ids[5:40][start:stop]) == plain[5:40][start:stop]
    assert list(ids[::2]) == plain[::2]
    assert list(ids[::-1]) == plain[::-1]
    for index in (50, -51):
        with pytest.raises(IndexError):
            ids[index]
    assert bisect_left(ids, 20, key=lambda text: int(text.rpartition("-")[2])) == 20
    assert repr(ids[:1]) == repr(plain[:1])


def test_texts_may_be_in_several_buffers() -> None:
    """Those of a run: the records of larger posts are apart. A slice across them is a sequence, too."""
    bodies = [posts.mixed(count, count) for count in (0, 2, 40, 3, 1, 0, 60, 50)]
    (run,) = mapper().map_all(group_of(*bodies), 2**30)
    assert isinstance(run, MappingResult)
    plain = joined(bodies).batch
    assert len(run.batch.parts) > 3
    for texts, column in ((run.batch.ids, list(plain.ids)), (run.batch.keys, list(plain.keys))):
        for start, stop in [(0, 156), (1, 3), (41, 47), (46, 46), (155, 156), (44, 110)]:
            part = texts[start:stop]
            assert list(part) == [part[index] for index in range(stop - start)] == column[start:stop]
            assert part[1:].packed()[0].decode() == "".join(column[start + 1 : stop])  # type: ignore[attr-defined]


def test_columns_outlive_their_batch() -> None:
    """Their memory is reused only when nothing refers to it any more."""
    one = mapper()
    body = posts.mixed(2_000)
    plain = expected(body).batch
    first = mapped(body, one).batch
    view, ids, keys = first.parts[0][1000:2000], first.ids[:3], first.keys[-3:]
    times, sizes = first.timestamps[5:9], first.sizes[5:9]
    del first
    gc.collect()
    for seed in range(5):
        mapped(posts.mixed(2_000, seed + 1), one)
    assert view == plain.ndjson[1000:2000]
    assert (list(ids), list(keys)) == (list(plain.ids[:3]), list(plain.keys[-3:]))
    assert (list(times), list(sizes)) == (list(plain.timestamps[5:9]), list(plain.sizes[5:9]))
    assert view.readonly


def test_posts_of_all_sizes_use_the_same_memory() -> None:
    """Whatever a buffer held before, the bytes are the same."""
    one = mapper()
    for occurrences in (2_000, 1, 0, 500, 2_000, 1_900, 3_000, 20, 2_000):
        body = posts.mixed(occurrences)
        equal(mapped(body, one), expected(body))


# Threads


def test_threads_may_share_a_mapper() -> None:
    """Each thread gets the records of its own post, also while transactions are compiled."""
    one = mapper()
    bodies = [
        posts.mixed(30, seed) + wire.transaction(b"\x0a\x01" + bytes([65 + seed % 20]) + wire.OCCURRENCE)
        for seed in range(60)
    ]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda body: mapped(body, one), bodies * 3))
    for body, each in zip(bodies * 3, found, strict=True):
        equal(each, expected(body))


def joined(bodies: Sequence[bytes]) -> MappingResult:
    """What the plain mapper makes of each, as one result."""
    results = [expected(body) for body in bodies]
    counts = Counts()
    for result in results:
        assert not result.refused
        counts.add(result.counts)
    ends = [*accumulate(len(result.batch) for result in results)]
    return MappingResult(Batch.concat([result.batch for result in results]), [], counts, ends)


def group_of(*bodies: bytes) -> list[tuple[bytes, bytes]]:
    return [(body, digest(body)) for body in bodies]


def test_a_malformed_post_does_not_harm_its_neighbors() -> None:
    """Those that follow it are one result."""
    sound, other = posts.mixed(3), posts.mixed(4, 1)
    first, second, third = mapper().map_all(group_of(sound, b"no post", other, sound), 2**30)
    assert isinstance(second, Malformed)
    for found, wanted in ((first, expected(sound)), (third, joined([other, sound]))):
        assert isinstance(found, MappingResult)
        equal(found, wanted)
        assert list(found.ends) == list(wanted.ends)


def test_a_group_ends_after_the_post_that_exceeds_max_bytes() -> None:
    """The rest has no result."""
    one, body = mapper(), posts.mixed(3)
    nbytes = expected(body).batch.nbytes
    for max_bytes, ends in ((0, ()), (nbytes * 2, (3, 6, 9))):
        (found,) = one.map_all(group_of(*[body] * 5), max_bytes)
        assert isinstance(found, MappingResult)
        assert tuple(found.ends) == ends


def _lost(number: int) -> bytes:
    return posts.mixed(2) + BusinessTransactions(lostTransactions=number).SerializePartialToString()


def test_posts_in_a_row_are_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all their records and counts, and the end of each post, up to RUN_BYTES."""
    monkeypatch.setattr("btfeed.records.mapper.RUN_BYTES", limit := 2**18)
    bodies = [posts.mixed(seed % 4, seed) for seed in range(12)] + [posts.mixed(300), *[posts.mixed(12, 1)] * 40]
    bodies[5:5] = [_lost(number) for number in (3, 4, 2**31 - 1, -1, 5)]
    place = 0
    runs = mapper().map_all(group_of(*bodies), 2**30)
    for found in runs:
        assert isinstance(found, MappingResult)
        count = len(found.ends) or 1
        wanted = joined(bodies[place : place + count]) if count > 1 else expected(bodies[place])
        equal(found, wanted)
        assert list(found.ends) == list(wanted.ends)
        assert count == 1 or found.batch.nbytes <= limit
        place += count
    assert place == len(bodies)
    assert 1 < len(runs) < len(bodies) / 2


def test_a_post_with_refused_records_is_a_result_of_its_own() -> None:
    """So that its dead letters go with it."""
    sound, broken = posts.sample_visit(), posts.sample_purepath()
    found = mapper(unexpected="dead-letter").map_all(group_of(sound, sound, broken, broken, sound), 2**30)
    results = [result for result in found if isinstance(result, MappingResult)]
    assert [(len(result.ends) or 1, len(result.refused)) for result in results] == [(2, 0), (1, 1), (1, 1), (1, 0)]


def test_a_bug_in_compiling_is_that_post_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of that post is the exception."""
    bodies = [posts.mixed(3), posts.mixed(3).replace(b"easyTravel", b"easyFlight")]
    compiled = NativeMapper._compile

    def compile_or_fail(self: NativeMapper, server: bytes | None, head: bytes) -> Any:
        if b"easyFlight" in head:
            raise ZeroDivisionError("a bug")
        return compiled(self, server, head)

    monkeypatch.setattr(NativeMapper, "_compile", compile_or_fail)
    first, second, third = mapper().map_all([(body, digest(body)) for body in (*bodies, bodies[0])], 2**30)
    assert isinstance(second, ZeroDivisionError)
    for found in (first, third):
        assert isinstance(found, MappingResult)
        equal(found, expected(bodies[0]))


@pytest.mark.parametrize("work", ["map", "digests"])
def test_others_run_while_a_large_post_is_worked_on(work: str) -> None:
    """The native module releases the interpreter's lock: the main thread runs meanwhile, although Python itself would not
    switch threads for a thousand seconds."""
    body = posts.mixed(20_000)
    one, prefix = mapper(), event_id_prefix(digest(body))
    mapped(body, one)
    works = {"map": lambda: one._native.transcode([(body, prefix)], 0), "digests": lambda: digests([body])}
    what: Any = works[work]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1_000)
    try:
        assert any(overtakes(what) for _ in range(50))
    finally:
        sys.setswitchinterval(interval)


def overtakes(work: Any) -> bool:
    """Whether the calling thread runs while another thread is at `work`."""
    began, done = threading.Event(), []

    def run() -> None:
        began.set()
        work()
        done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    began.wait()
    overtook = not done
    thread.join()
    return overtook and bool(done)


# Errors


def test_an_error_in_compiling_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged. The next post is mapped."""
    one = mapper()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("btfeed.records.transaction.TransactionCompiler.compile", broken)
        with pytest.raises(ZeroDivisionError, match="a bug"):
            mapped(posts.mixed(5), one)
    equal(mapped(posts.mixed(5), one), expected(posts.mixed(5)))


def test_a_panic_leaves_the_post_to_the_plain_path(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The bug is reported on stderr, no record is lost, and the next post is mapped natively."""
    one = mapper()
    body = posts.mixed(5)
    with monkeypatch.context() as patch:
        patch.setattr("btfeed.records.mapper._CATEGORIES", ("?",) * 7 + _CATEGORIES)  # a place that no table has
        assert one._native.transcode([(body, "id-")], 0) == [None]
        equal(mapped(body, one), expected(body))
    assert "panicked at" in capfd.readouterr().err
    other = posts.mixed(5, 1).replace(b"easyTravel", b"easyFlight")
    equal(mapped(other, one), expected(other))
    assert one._native.transcode([(other, "id-")], 0) != [None]


FIELD = (1, "startTime", "int64", "YYY", "timestamp", "timestamp")
LISTS = [(6, "v", "double", "YYY", "m.", "measures"), (7, "d", "string", "YYY", "d.", "dimensions"),
         (36, "s", "string", "NNY", "s", "strings")]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([FIELD], "not one field of encoding Measures"),
        ([FIELD, FIELD, *LISTS], "ascend"),
        ([*LISTS, (64, "x", "bool", "YYY", "x", "boolean")], "below 64"),
        ([FIELD, *LISTS, (40, "x", "bool", "YYY", "x", "number")], "field x: bool can't be Number"),
        ([FIELD, *LISTS, (40, "x", "bool", "YYY", "x", "bools")], "no encoding is called bools"),
    ],
)
def test_a_field_table_that_makes_no_sense_is_refused(fields: list[Any], error: str) -> None:
    """The message says what is wrong, so that no change of the schema goes unnoticed."""
    settings = {"head": HEAD, "missing": "report", "unexpected": "report", "drop": [], "hash": [], "key": b"", "mask": []}
    with pytest.raises(ValueError, match=error):
        _native.Transcoder(fields, _ROLES, settings, print, print)  # type: ignore[arg-type]


# Memory


@pytest.mark.slow
def test_plans_do_not_fill_the_memory() -> None:
    """Senders choose how many business transactions there are, and their names."""
    script = """if True:
        from tests.support.harness import peak_memory
        from tests.records.test_native_columns import mapped, mapper
        from tests.support.wire import OCCURRENCE, field, transaction
        one = mapper()
        for number in range(150):
            names = [transaction(field(1, b"%d-%d" % (number, place)) + OCCURRENCE) for place in range(1_000)]
            assert len(mapped(b"".join(names), one).batch) == 1_000
        print(peak_memory("self") // 2**20)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 350


# Which path runs


@pytest.mark.slow
@pytest.mark.parametrize(("plain", "path"), [("", "native"), ("0", "native"), ("1", "plain")])
def test_the_environment_may_ask_for_the_plain_path(plain: str, path: str) -> None:
    """`btfeed --version` says which path runs."""
    environment = os.environ | {"BTFEED_PLAIN": plain}
    ran = subprocess.run([BTFEED, "--version"], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.endswith(f"(mapping: {path})\n")


@pytest.mark.parametrize("found", [None, SimpleNamespace(INTERFACE=native.INTERFACE + 1)])
def test_without_a_module_that_fits_the_plain_path_runs(found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was not built, or built for another version."""
    import btfeed

    monkeypatch.setitem(sys.modules, "btfeed._native", found)  # None: it can't be imported
    monkeypatch.delattr(btfeed, "_native")
    if found is not None:
        monkeypatch.setattr(btfeed, "_native", found, raising=False)
    monkeypatch.setattr("sinks.shared.optional.unusable", {})
    assert optional("btfeed._native", native.INTERFACE) is None


def test_the_plain_path_does_all_of_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapping, admission and digests work without the native module."""
    body = posts.mixed(20)
    found = admission.admit(body, 100), digests([body])
    monkeypatch.setattr(native, "module", None)
    assert (admission.admit(body, 100), digests([body])) == found
    assert isinstance(create_mapper(RecordSettings(), ValidationSettings()), PlainMapper)
