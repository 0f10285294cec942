"""The record fields of measures and dimensions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btfeed.records.names import field_names, normalize
from tests.support.strategies import UNHURRIED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("revenue", "revenue"),
        ("Revenue (EUR)", "revenue_eur"),
        ("com.example.Foo#bar()", "com_example_foo_bar"),
        ("a_b", "a_b"),
        ("__a - _b__", "a_b"),
        ("2nd", "2nd"),
        ("Größe", "gr_e"),
        ("ÄÖÜ", ""),
        ("\N{KELVIN SIGN}m", "km"),
        ("line\nbreak", "line_break"),
        ("...", ""),
        ("", ""),
    ],
)
def test_names_are_normalized(name: str, expected: str) -> None:
    """Lower case, `_` for each run of other characters than a-z0-9, and no `_` at the ends."""
    assert normalize(name) == expected


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (["A", "b c"], 2, ["a", "b_c"]),
        (["a", "b"], 1, ["a"]),
        (["a", "b"], 0, []),
        (["a"], 3, ["a", "2", "3"]),
        ([], 2, ["1", "2"]),
        (["", "a", "()"], 3, ["1", "a", "3"]),
        (["a", "A", " a "], 3, ["a", "a_2", "a_3"]),
        (["a", "b", "a", "b", "a"], 5, ["a", "b", "a_2", "b_2", "a_3"]),
    ],
)
def test_each_value_gets_a_field(names: list[str], count: int, expected: list[str]) -> None:
    """Equal names are numbered from the second on. A value without a name is called by its position, from 1."""
    assert field_names("p.", names, count) == tuple("p." + name for name in expected)


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (["a", "a_2", "a"], 3, ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], 3, ["a", "a_2", "a_2_2"]),
        (["a_3", "a", "a", "a"], 4, ["a_3", "a", "a_2", "a_4"]),
        (["2"], 2, ["2", "2_2"]),
        (["", "1"], 2, ["1", "1_2"]),
    ],
)
def test_a_name_that_is_taken_is_not_given_again(names: list[str], count: int, expected: list[str]) -> None:
    """If a numbered name or a position is taken by another name, the next free number is used."""
    assert field_names("p.", names, count) == tuple("p." + name for name in expected)


@UNHURRIED
@given(st.lists(st.text(alphabet="aA2_ .", max_size=4), max_size=12), st.integers(0, 16))
def test_every_value_has_a_different_name(names: list[str], count: int) -> None:
    """As many names as values, all different, all in the documented form."""
    found = field_names("", names, count)
    assert len(found) == len(set(found)) == count
    assert all(re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", name) for name in found)


@UNHURRIED
@given(st.lists(st.text(alphabet="aA2_ .", max_size=4), max_size=12), st.integers(0, 16))
def test_names_do_not_depend_on_later_values(names: list[str], count: int) -> None:
    """The names of the first values do not depend on how many values follow."""
    assert field_names("", names, count) == field_names("", names, 16)[:count]


def test_many_equal_names_take_no_longer_than_others() -> None:
    """Numbers are remembered for each name. A search from 2 would take minutes."""
    found = field_names("", ["a"] * 100_000, 100_000)
    assert (found[0], found[-1]) == ("a", "a_100000")
