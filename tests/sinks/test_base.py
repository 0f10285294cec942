"""What the contract is built on: the laws of Batch, templates, sizes and times."""

import json
from dataclasses import replace
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sinks.batch import Batch, Joined, Transaction
from sinks.settings import Seconds, Settings, Size
from sinks.template import Template, template
from tests.support.fakes import TRANSACTION, batch_of

BODIES = st.lists(st.text(max_size=20).map(lambda text: json.dumps({"t": text}).encode()), max_size=30)


class Values(Settings):
    size: Size = 1
    time: Seconds = 1.0
    text: Annotated[str, template("name", "date")] = ""


def columns(batch: Batch) -> list[tuple[object, ...]]:
    """Each record with its item of each column."""
    rows = zip(batch.ids, batch.keys, batch.timestamps, batch.transactions, batch.bodies, strict=True)
    return [(*row, batch.body(index)) for index, row in enumerate(rows)]


@given(BODIES)
def test_a_batch_says_the_same_in_each_of_its_forms(bodies: list[bytes]) -> None:
    """bodies, body(i), ndjson, nbytes and len agree."""
    batch = batch_of(bodies)
    assert batch.bodies == bodies == [batch.body(i) for i in range(len(batch))]
    assert bytes(batch.ndjson) == b"".join(body + b"\n" for body in bodies)
    assert batch.nbytes == len(batch.ndjson)


@given(BODIES, st.integers(0, 30), st.integers(0, 30))
def test_a_cut_is_a_slice_of_every_column(bodies: list[bytes], start: int, stop: int) -> None:
    """slice(i, j) has the records from i up to j, shares the parts, and can be sliced again."""
    batch = batch_of(bodies)
    start, stop = sorted((min(start, len(batch)), min(stop, len(batch))))
    cut = batch.slice(start, stop)
    assert columns(cut) == columns(batch)[start:stop]
    assert all(part.obj is batch.parts[0].obj for part in cut.parts)
    assert bytes(cut.ndjson) == b"".join(body + b"\n" for body in bodies[start:stop])
    assert columns(cut.slice(1, len(cut))) == columns(cut)[1:]


@given(st.lists(BODIES, max_size=5))
def test_a_join_is_all_records_in_order(parts: list[list[bytes]]) -> None:
    """concat concatenates every column, of sliced batches too."""
    batches = [batch_of(bodies, f"post{number}") for number, bodies in enumerate(parts)]
    batches += [batch.slice(1, max(1, len(batch) - 1)) for batch in batches if len(batch)]
    joined = Batch.concat(batches)
    assert columns(joined) == [row for batch in batches for row in columns(batch)]
    assert joined.nbytes == sum(batch.nbytes for batch in batches)


@given(BODIES, st.data())
def test_a_pick_is_the_records_at_those_indexes(bodies: list[bytes], data: st.DataObject) -> None:
    """take accepts any ascending indexes, of sliced batches too. Without indexes the batch is empty."""
    batch = batch_of([b'{"first":0}', *bodies]).slice(1, 1 + len(bodies))
    indexes = sorted(data.draw(st.sets(st.integers(0, len(bodies) - 1)))) if bodies else []
    assert columns(batch.take(indexes)) == [columns(batch)[index] for index in indexes]


@pytest.mark.parametrize("step", [1, 2, 3, 50])
def test_a_pick_of_many_is_cut_out_of_any_parts(step: int) -> None:
    """Many runs of records, in parts that end within a record or are empty, in a batch that was joined and sliced."""
    bodies = [b'{"n":%d}' % number for number in range(300)]
    batch = batch_of(bodies)
    whole = batch.ndjson
    parts = [memoryview(whole[start : start + 7]) for start in range(0, len(whole), 7)]
    batch = Batch.concat([replace(batch, parts=[memoryview(b""), *parts]), batch_of(bodies, "other")]).slice(5, 595)
    indexes = [index for index in range(len(batch)) if index % (step + 1) < step]
    picked = batch.take(indexes)
    rows = columns(batch)
    assert columns(picked) == [rows[index] for index in indexes]
    assert columns(picked.slice(3, 90)) == columns(picked)[3:90]


@given(BODIES, st.integers(0, 30))
def test_halves_joined_are_the_whole(bodies: list[bytes], middle: int) -> None:
    """Slicing anywhere and concatenating again neither loses nor duplicates a record."""
    batch = batch_of(bodies)
    middle = min(middle, len(batch))
    assert columns(Batch.concat([batch.slice(0, middle), batch.slice(middle, len(batch))])) == columns(batch)


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=5), st.data())
def test_joined_columns_are_one_sequence(columns: list[list[int]], data: st.DataObject) -> None:
    """They have the length, items, slices and order of one list, and can be joined and sliced again."""
    whole = [value for column in columns for value in column]
    joined = Joined([Joined(columns[:2]), *columns[2:]])
    assert (len(joined), list(joined)) == (len(whole), whole)
    cut = data.draw(st.slices(len(whole)))
    assert [*joined[cut]] == whole[cut]
    assert [joined[index] for index in range(-len(whole), len(whole))] == [*whole, *whole]
    with pytest.raises(IndexError):
        joined[len(whole)]


def test_an_empty_batch_is_a_batch() -> None:
    """Batch() has no records and no bytes, and can be sliced and concatenated."""
    empty = Batch()
    assert (len(empty), empty.nbytes, empty.bodies, bytes(empty.ndjson)) == (0, 0, [], b"")
    assert len(empty.slice(0, 0)) == len(empty.take([])) == len(Batch.concat([])) == len(Batch.concat([empty, empty])) == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 2**26), ("4.5MiB", 4_718_592), ("1B", 1), ("10 GiB", 10 * 2**30), ("1kB", 1000), ("0B", 0), ("1TiB", 2**40)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    """A size is a number, possibly with a fraction, and a unit."""
    assert Values.model_validate({"size": text}).size == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("23h55m", 86_100.0), ("1.5h", 5400.0), ("1d 2h", 93_600.0), ("0s", 0.0), ("1m30s", 90.0)],
)
def test_times_have_units(text: str, seconds: float) -> None:
    """A time is one or more numbers, each with a unit."""
    assert Values.model_validate({"time": text}).time == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["64", "", "MiB", "-1MiB", "1e3MiB", "64 mib", "1MiB2MiB", 64, True, None, "٣MiB", "nanB"]
)
def test_a_wrong_size_is_refused_with_an_example(value: object) -> None:
    """The message shows how to write a size, and the units."""
    with pytest.raises(ValidationError, match=r'write a size as a string like "64MiB"; units are B, KiB'):
        Values.model_validate({"size": value})


@pytest.mark.parametrize("value", ["5", "", "h", "-1s", "1e3s", "5 min", "1h2", 5, 1.5, True, None, "infs"])
def test_a_wrong_time_is_refused_with_an_example(value: object) -> None:
    """The message shows how to write a time, and the units."""
    with pytest.raises(ValidationError, match=r'write a time as a string like "500ms" or "23h55m"; units are ms, s'):
        Values.model_validate({"time": value})


@pytest.mark.parametrize(("key", "value"), [("size", "9" * 400 + "B"), ("size", "2000000TiB"), ("time", "9" * 400 + "d")])
def test_an_absurd_size_or_time_is_refused(key: str, value: str) -> None:
    """Values that no machine could use are rejected instead of becoming infinity."""
    with pytest.raises(ValidationError, match="is at most"):
        Values.model_validate({key: value})


def test_a_template_is_filled_from_the_transaction_and_by_the_caller() -> None:
    """Placeholders are attributes of the transaction, or values from the caller, which may be empty."""
    text = Template("{name}/{application}-{date}{rest}")
    assert text.names() == {"name", "application", "date", "rest"}
    assert text.fill(TRANSACTION, date="2026.01.31", rest="") == "Checkout/easyTravel-2026.01.31"


def test_a_template_does_not_fill_what_it_filled_in() -> None:
    """A value that looks like a placeholder stays as it is."""
    odd = Transaction("{application}", "a", "", "", "visit")
    assert Template("{name}|{{application}}|{").fill(odd) == "{application}|{a}|{"


@pytest.mark.parametrize("text", ["{nam}", "{}", "{name}{Date}", "{name }"])
def test_a_template_with_an_unknown_placeholder_is_refused(text: str) -> None:
    """The message names it, and the known ones."""
    with pytest.raises(ValidationError, match=r"unknown placeholder \{.*\}; known are \{name\}, \{date\}"):
        Values.model_validate({"text": text})
