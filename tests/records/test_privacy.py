"""Privacy: masking, hashing, and which fields the settings accept. Records show it in tests/records/test_settings.py."""

import hashlib
import hmac
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from btfeed.records.privacy import Privacy, mask_ip
from btfeed.records.schema import RECORD_FIELDS
from btfeed.records.settings import PrivacySettings
from sinks.settings import Secret


def hmac_of(key: str, value: str) -> str:
    return hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()[:32]


def protect(name: str, value: Any, **settings: Any) -> Any:
    return Privacy(PrivacySettings.model_validate(settings)).protect(name, value)


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
    """The last octet of IPv4 and the last 80 bits of IPv6 become zero."""
    assert mask_ip(address) == masked


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "1.2.3.4:80", "1.2.3.4, 5.6.7.8", "1.2.3.04", "[::1]", "�"])
def test_text_that_is_not_an_address_is_rejected(address: str) -> None:
    """It may contain an address, so the mappers leave it out."""
    with pytest.raises(ValueError, match="address"):
        mask_ip(address)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_masking_keeps_the_network(address: Any) -> None:
    """Masking twice changes nothing more."""
    masked = mask_ip(str(address))
    assert mask_ip(masked) == masked
    bits = 8 if address.version == 4 else 80
    assert int(address) >> bits == int(type(address)(masked)) >> bits


def test_hash_is_the_first_half_of_an_hmac_sha_256() -> None:
    """32 hex digits, of the text as UTF-8, with the configured key."""
    for text in ("Zoë", "", "x"):
        assert protect("user.name", text, hash=["user.name"], key="k") == hmac_of("k", text)
    assert len(hmac_of("k", "x")) == 32


def test_each_text_of_an_array_is_hashed() -> None:
    """The result is an array too."""
    name = "appmon.visit.converted_by"
    assert protect(name, ["a", "b"], hash=[name], key="k") == [hmac_of("k", "a"), hmac_of("k", "b")]
    assert protect(name, [], hash=[name], key="k") == []


def test_a_masked_address_can_be_hashed() -> None:
    """Masking comes first, so that neighbors have the same hash."""
    settings = {"hash": ["client.ip"], "key": "k", "mask_ip": True}
    for address in ("1.2.3.4", "1.2.3.99"):
        assert protect("client.ip", address, **settings) == hmac_of("k", "1.2.3.0")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "client.ip"),
        ({"mask_ip": True}, "user.name"),
        ({"hash": ["user.name"], "key": "k"}, "os.name"),
        ({"drop": ["user.name"]}, "user.name"),
    ],
)
def test_other_fields_stay_as_they_are(settings: dict[str, Any], name: str) -> None:
    """The mappers leave out fields to drop; `protect` does not."""
    assert protect(name, "1.2.3.4", **settings) == "1.2.3.4"
    assert name not in Privacy(PrivacySettings.model_validate(settings)).protected


@pytest.mark.parametrize("name", ["event.kind", "event.id", "timestamp"])
@pytest.mark.parametrize("how", ["drop", "hash"])
def test_a_field_that_every_record_needs_cannot_be_removed(how: str, name: str) -> None:
    """Sinks rely on it."""
    with pytest.raises(ValidationError, match=f"every record needs {name}: remove it from this list"):
        PrivacySettings.model_validate({how: [name], "key": "k"})


@pytest.mark.parametrize("name", ["", "client_ip", "clientIP", "appmon.measure"])
@pytest.mark.parametrize("how", ["drop", "hash"])
def test_an_unknown_field_is_rejected(how: str, name: str) -> None:
    """It would protect nothing, and the mistake would go unnoticed."""
    with pytest.raises(ValidationError, match=r"unknown record field; .*docs/record.md lists the fields"):
        PrivacySettings.model_validate({how: [name], "key": "k"})


@pytest.mark.parametrize(
    ("name", "instead"),
    [("", "NAME"), ("...", "NAME"), ("Customer segment", "customer_segment"), ("page_", "page"), ("a__b", "a_b"),
     ("a.b", "a_b"), ("page\n", "page"), ("Größe", "größe"), ("売 上", "売_上")],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["appmon.measure.", "appmon.dimension."])
def test_a_name_that_no_measure_or_dimension_has_is_rejected(prefix: str, name: str, instead: str) -> None:
    """Names are given as records have them, not as AppMon's users wrote them. The message says how records write it."""
    with pytest.raises(ValidationError, match=rf"no record has .*: write {prefix}{instead}, as "):
        PrivacySettings(drop=[prefix + name])


@pytest.mark.parametrize("name", ["a" + 40 * "\u0301", "\xe1" + 39 * "\u0301"])
def test_a_name_with_marks_without_end_is_rejected(name: str) -> None:
    """Records have it as it was sent, and it can be sent in several forms."""
    with pytest.raises(ValidationError, match="more than 30 combining marks in a row can't be protected"):
        PrivacySettings(drop=["appmon.dimension." + name])


@pytest.mark.parametrize("name", ["größe", "売上", "ราคา", "٤٢", "größe_2"])
def test_names_of_any_script_are_protected(name: str) -> None:
    """In whichever Unicode form an editor wrote them: records have NFC."""
    for written in (name, unicodedata.normalize("NFD", name)):
        fields = {"drop": ["appmon.measure." + written], "hash": ["appmon.dimension." + written]}
        settings = PrivacySettings.model_validate(fields | {"key": "k"})
        assert (settings.drop, settings.hash) == (["appmon.measure." + name], ["appmon.dimension." + name])


@pytest.mark.parametrize("name", ["appmon.dimension.page", "appmon.dimension.2", "appmon.dimension.a_2", "event.type"])
def test_dimensions_and_constants_are_hashed(name: str) -> None:
    """By the name that records give them."""
    assert protect(name, "x", hash=[name], key="k") == hmac_of("k", "x")


@pytest.mark.parametrize(
    "name", [field.name for field in RECORD_FIELDS if field.type not in ("string", "strings")] + ["appmon.measure.revenue"]
)
def test_only_text_is_hashed(name: str) -> None:
    """A hash instead of a number would break the readers of records."""
    with pytest.raises(ValidationError, match=r"only text can be hashed; use drop instead|every record needs"):
        PrivacySettings(hash=[name], key=Secret("k"))


@pytest.mark.parametrize(
    "name", ["duration", "end_time", "appmon.measure.revenue", "appmon.visit.converted_by", "client.ip"]
)
def test_any_other_field_can_be_dropped(name: str) -> None:
    """Of whatever type."""
    assert PrivacySettings(drop=[name]).drop == [name]


def test_hash_needs_a_key() -> None:
    """Without a key, hashes of names could be looked up in a table."""
    with pytest.raises(ValidationError, match="hash needs a key: set for example"):
        PrivacySettings(hash=["user.name"])


def test_messages_do_not_show_the_key() -> None:
    """Neither the settings as text nor the error for a wrong value."""
    settings = PrivacySettings(hash=["user.name"], key=Secret("hush"))
    assert "hush" not in f"{settings!r} {settings} {Privacy(settings)!r}"
    for wrong in ({"key": ["hush"]}, {"key": "hush", "hash": ["duration"]}, {"key": "hush", "extra": 1}):
        with pytest.raises(ValidationError) as error:
            PrivacySettings.model_validate(wrong)
        assert "hush" not in str(error.value)
