"""The record fields of measures and dimensions."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btfeed.records.names import field_names, normalize


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("revenue", "revenue"),
        ("Revenue (EUR)", "revenue_eur"),
        ("com.example.Foo#bar()", "com_example_foo_bar"),
        ("a_b", "a_b"),
        ("__a - _b__", "a_b"),
        ("2nd", "2nd"),
        ("Größe (€)", "größe"),
        ("売上", "売上"),
        ("売上・本日", "売上_本日"),
        ("قیمت", "قیمت"),
        ("वज़न", "वज\u093cन"),
        ("ราคา ๒", "ราคา_๒"),
        ("Ⅳ ² ٤", "ⅳ_²_٤"),
        ("\N{KELVIN SIGN}m", "km"),
        ("ΟΔΟΣ ΣΑΣ", "οδος_σας"),
        ("STRASSE/Straße", "strasse_straße"),
        ("ÇA\N{ZERO WIDTH JOINER}ÇA", "ça_ça"),
        ("line\nbreak", "line_break"),
        ("...", ""),
        ("", ""),
    ],
)
def test_names_are_normalized(name: str, expected: str) -> None:
    """Lower case, `_` for each run of characters other than letters, marks and digits of any script, none at the ends."""
    assert normalize(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["größe", "gro\u0308ße", "GRÖẞE", "GRO\u0308ẞE"], "größe"),
        (["İ", "I\u0307"], "i\u0307"),
        (["h\u0331", "H\u0331", "ẖ"], "ẖ"),  # only the small letter exists in one piece
        (["한글", "\u1112\u1161\u11ab\u1100\u1173\u11af"], "한글"),
        (["Ω", "\N{OHM SIGN}"], "ω"),
        (["a≠b", "a=\u0338b"], "a_b"),
    ],
)
def test_equal_texts_have_equal_names(names: list[str], expected: str) -> None:
    """However they are encoded: names are in NFC, before and after they are put in lower case."""
    assert {normalize(name) for name in names} == {expected}


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_follows_the_same_rule(name: str) -> None:
    """Such names have a faster way, which any other letter in the name turns off."""
    assert normalize(f"{name} é") == f"{normalize(name)}_é".lstrip("_")


def test_every_character_of_unicode_is_kept_or_separates(quick: bool) -> None:
    """By its category, once it is composed and in lower case. A name stays as it is, is in NFC and in lower case."""
    for code in range(0, sys.maxunicode + 1, 17 if quick else 1):
        found = normalize(chr(code))
        assert normalize(found) == found == unicodedata.normalize("NFC", found).lower(), hex(code)
        lower = unicodedata.normalize("NFC", chr(code)).lower()
        kept = "".join(char for char in lower if unicodedata.category(char)[0] not in "CPSZ")
        assert found == unicodedata.normalize("NFC", kept), hex(code)


@given(st.text(st.one_of(st.characters(categories=["L", "M", "N"]), st.sampled_from(" _-Σσ\u0301\u0323"))))
def test_a_normal_name_stays_as_it_is(name: str) -> None:
    """names(names(x)) == names(x), in NFC, whatever marks follow each other."""
    found = normalize(name)
    assert normalize(found) == found == unicodedata.normalize("NFC", found)
    assert normalize(unicodedata.normalize("NFD", name)) == found


@pytest.mark.parametrize("count", [30, 31, 1_000_000])
def test_marks_without_end_take_no_longer_than_others(count: int) -> None:
    """Putting a million marks in order would block the process for an hour. Up to 30 in a row are put in order."""
    name = "Größe".replace("ö", "o" + "\u0315\u0300" * (count // 2) + "\u0315" * (count % 2))
    found = normalize(name)
    assert normalize(found) == found
    assert unicodedata.is_normalized("NFC", found) == (count <= 30)


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


@given(st.lists(st.text(alphabet="aA2äÄ売\u0308_ .", max_size=4), max_size=12), st.integers(0, 16))
def test_every_value_has_a_different_name(names: list[str], count: int) -> None:
    """As many names as values, all different, all in the documented form."""
    found = field_names("", names, count)
    assert len(found) == len(set(found)) == count
    assert all(name and name == normalize(name) for name in found)
    assert field_names("", found, count) == found


@given(st.lists(st.text(alphabet="aA2_ .", max_size=4), max_size=12), st.integers(0, 16))
def test_names_do_not_depend_on_later_values(names: list[str], count: int) -> None:
    """The names of the first values do not depend on how many values follow."""
    assert field_names("", names, count) == field_names("", names, 16)[:count]


def test_many_equal_names_take_no_longer_than_others() -> None:
    """Numbers are remembered for each name. A search from 2 would take minutes."""
    found = field_names("", ["a"] * 100_000, 100_000)
    assert (found[0], found[-1]) == ("a", "a_100000")
