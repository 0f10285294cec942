"""What must not leave the process: fields dropped, hashed or masked before a record is encoded."""

import hmac
import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from btfeed.records.encoding import Convert
from btfeed.records.schema import CLIENT_IP, MAPS, RECORD_FIELDS, VALUES
from sinks.settings import Secret, Settings

_NEEDED = ("event.kind", "event.id", "timestamp")


def _known_field(name: str) -> str:
    if name in _NEEDED:
        raise ValueError(f"every record needs {name}")
    prefix = next((field.name for field in MAPS if name.startswith(field.name)), None)
    if prefix is None and name not in {field.name for field in RECORD_FIELDS}:
        raise ValueError(f"{name!r} is no field of a record; docs/record.md lists them")
    if prefix and not re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", name.removeprefix(prefix)):
        raise ValueError(f"{name!r}: behind {prefix} stands one name as records have it: a-z, 0-9 and single _")
    return name


def _text_field(name: str) -> str:
    kinds = {field.name: field.type for field in RECORD_FIELDS}
    if kinds.get(name, "string") not in ("string", "strings") or name.startswith(VALUES.record):
        raise ValueError(f"{name} is no text; only text can be hashed, other fields can be dropped")
    return name


class PrivacySettings(Settings):
    """Applied before anything leaves the process.

    drop     record fields to leave out
    hash     text fields of records to replace by the first 32 hex digits of their HMAC-SHA-256
    key      the secret of that HMAC
    mask_ip  set the last octet of an IPv4 client.ip, the last 80 bits of an IPv6 one, to zero
    """

    drop: list[Annotated[str, AfterValidator(_known_field)]] = []
    hash: list[Annotated[str, AfterValidator(_known_field), AfterValidator(_text_field)]] = []
    key: Secret = Secret("")
    mask_ip: bool = False

    @model_validator(mode="after")
    def _key_for_hash(self) -> "PrivacySettings":
        if self.hash and not self.key:
            raise ValueError('hash needs a key, for example key = "${BTFEED_HASH_KEY}"')
        return self

    def converter(self, name: str) -> Convert | None:
        """What is done to the record field `name`, None where nothing is."""
        mask = mask_ip if self.mask_ip and name == CLIENT_IP.record else None
        if name not in self.hash:
            return mask
        hasher = _hasher(self.key.get_secret_value().encode())
        return hasher if mask is None else lambda value: hasher(mask(value))


def mask_ip(address: str) -> str:
    """`address` with the last octet (IPv4) or the last 80 bits (IPv6) zero. ValueError where it is no address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    bits = 8 if parsed.version == 4 else 80
    return str(type(parsed)(int(parsed) >> bits << bits))


def _hasher(key: bytes) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(item) for item in value]
        return hmac.digest(key, str(value).encode(), "sha256").hex()[:32]

    return convert
