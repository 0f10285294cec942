"""What must not leave the process. How records show it: tests/records/test_mapper.py."""

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from btfeed.records.privacy import PrivacySettings, mask_ip
from btfeed.records.schema import RECORD_FIELDS
from sinks.settings import Secret
from tests.support.strategies import UNHURRIED


def digest(key: str, value: str) -> str:
    return hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()[:32]


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("1.2.3.4", "1.2.3.0"),
        ("255.255.255.255", "255.255.255.0"),
        ("0.0.0.0", "0.0.0.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8:ffff::"),
        ("::1", "::"),
        ("::ffff:1.2.3.4", "::"),
        ("fe80::1234%eth0", "fe80::"),
    ],
)
def test_addresses_are_masked(address: str, masked: str) -> None:
    """The last octet of IPv4, the last 80 bits of IPv6 are zero."""
    assert mask_ip(address) == masked


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "1.2.3.4:80", "1.2.3.4, 5.6.7.8", "1.2.3.04", "[::1]", "�"])
def test_what_is_no_address_is_not_passed_on(address: str) -> None:
    """It may hold one: such a value is left out."""
    with pytest.raises(ValueError, match="address"):
        mask_ip(address)


@UNHURRIED
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_neighbours_can_not_be_told_apart(address: Any) -> None:
    """Every address masks to one that masks to itself, and keeps its network."""
    masked = mask_ip(str(address))
    assert mask_ip(masked) == masked
    assert int(address) >> (8 if address.version == 4 else 80) == int(type(address)(masked)) >> (
        8 if address.version == 4 else 80
    )


def test_hash_is_the_first_half_of_an_hmac_sha_256() -> None:
    """32 hex digits, of the text as UTF-8, under the configured key."""
    hasher = PrivacySettings(hash=["user.name"], key=Secret("k")).converter("user.name")
    assert hasher
    assert hasher("Zoë") == digest("k", "Zoë")
    assert hasher("") == digest("k", "")
    assert len(hasher("x")) == 32


def test_each_text_of_an_array_is_hashed() -> None:
    """The array stays one."""
    hasher = PrivacySettings(hash=["appmon.visit.converted_by"], key=Secret("k")).converter("appmon.visit.converted_by")
    assert hasher
    assert hasher(["a", "b"]) == [digest("k", "a"), digest("k", "b")]
    assert hasher([]) == []


def test_a_masked_address_can_be_hashed() -> None:
    """In that order: neighbours share a hash."""
    converter = PrivacySettings(hash=["client.ip"], key=Secret("k"), mask_ip=True).converter("client.ip")
    assert converter
    assert converter("1.2.3.4") == converter("1.2.3.99") == digest("k", "1.2.3.0")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (PrivacySettings(), "client.ip"),
        (PrivacySettings(mask_ip=True), "user.name"),
        (PrivacySettings(hash=["user.name"], key=Secret("k")), "os.name"),
        (PrivacySettings(drop=["user.name"]), "user.name"),
    ],
)
def test_what_is_not_named_is_not_touched(settings: PrivacySettings, name: str) -> None:
    """No conversion at all; dropping is the mapping's business."""
    assert settings.converter(name) is None


@pytest.mark.parametrize("name", ["event.kind", "event.id", "timestamp"])
@pytest.mark.parametrize("how", ["drop", "hash"])
def test_what_every_record_needs_can_not_be_taken_from_it(how: str, name: str) -> None:
    """No drop, no hash."""
    with pytest.raises(ValidationError, match=f"every record needs {name}"):
        PrivacySettings.model_validate({how: [name], "key": "k"})


@pytest.mark.parametrize(
    "name",
    [
        "",
        "client_ip",
        "clientIP",
        "appmon.measure",
        "appmon.measure.",
        "appmon.dimension.",
        "appmon.dimension.Customer segment",
        "appmon.dimension.page_",
        "appmon.dimension.a__b",
        "appmon.dimension.a.b",
        "appmon.dimension.page\n",
    ],
)
@pytest.mark.parametrize("how", ["drop", "hash"])
def test_a_name_that_no_record_has_is_refused(how: str, name: str) -> None:
    """It would protect nothing, and nobody would notice."""
    with pytest.raises(ValidationError, match=r"is no field of a record|stands one name"):
        PrivacySettings.model_validate({how: [name], "key": "k"})


@pytest.mark.parametrize("name", ["appmon.dimension.page", "appmon.dimension.2", "appmon.dimension.a_2", "event.type"])
def test_dimensions_and_constants_are_hashed(name: str) -> None:
    """By the name that records give them."""
    assert PrivacySettings(hash=[name], key=Secret("k")).converter(name)


@pytest.mark.parametrize(
    "name", [field.name for field in RECORD_FIELDS if field.type not in ("string", "strings")] + ["appmon.measure.revenue"]
)
def test_only_text_is_hashed(name: str) -> None:
    """A hash in the place of a number would break what reads the records."""
    with pytest.raises(ValidationError, match=r"is no text|every record needs"):
        PrivacySettings(hash=[name], key=Secret("k"))


@pytest.mark.parametrize(
    "name", ["duration", "end_time", "appmon.measure.revenue", "appmon.visit.converted_by", "client.ip"]
)
def test_any_other_field_can_be_dropped(name: str) -> None:
    """Whatever its type."""
    assert PrivacySettings(drop=[name]).drop == [name]


def test_hash_needs_a_key() -> None:
    """Without one, anybody could look names up."""
    with pytest.raises(ValidationError, match="hash needs a key"):
        PrivacySettings(hash=["user.name"])
