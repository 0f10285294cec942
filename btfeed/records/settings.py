"""The [record] table of the configuration: templates, attributes and privacy. [validation] is declared in validation.py."""

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from btfeed.faults import most_similar
from btfeed.records.attributes import flat_attributes
from btfeed.records.names import MOST_MARKS, has_too_many_marks, normalize
from btfeed.records.schema import MAPS, RECORD_FIELDS, TRANSACTION_FIELDS, VALUES
from sinks.settings import Secret, Settings
from sinks.template import template

_NEEDED = ("event.kind", "event.id", "timestamp")
_TYPES = {field.name: field.type for field in RECORD_FIELDS}
_MAP_PREFIXES = tuple(prefix.name for prefix in MAPS)
_TEMPLATE = template(*TRANSACTION_FIELDS)


def _known_field(name: str) -> str:
    if name in _NEEDED:
        raise ValueError(f"every record needs {name}: remove it from this list")
    prefix = next((prefix for prefix in _MAP_PREFIXES if name.startswith(prefix)), None)
    if prefix is None and name not in _TYPES:
        meant = most_similar(name, _TYPES)
        question = f"did you mean {meant}? " if meant else ""
        raise ValueError(f"unknown record field; {question}docs/record.md lists the fields")
    return _named_field(prefix, name.removeprefix(prefix)) if prefix else name


def _named_field(prefix: str, name: str) -> str:
    """The record field of a measure or dimension. Records have names in NFC; an editor may write them in another form."""
    normal = normalize(name)
    if not normal:
        raise ValueError(f"no record has {prefix + name!r}: write {prefix}NAME, as docs/record.md describes")
    if has_too_many_marks(name):
        raise ValueError(f"a name with more than {MOST_MARKS} combining marks in a row can't be protected")
    if unicodedata.normalize("NFC", name) != normal:
        raise ValueError(f"no record has {prefix + name!r}: write {prefix + normal}, as records do")
    return prefix + normal


def _text_field(name: str) -> str:
    if _TYPES.get(name, "string") not in ("string", "strings") or name.startswith(VALUES.record):
        raise ValueError(f"{name} is not a text field: only text can be hashed; use drop instead")
    return name


class PrivacySettings(Settings):
    """Applied before anything leaves the process. Templates and filters get the protected values: nothing if a field is
    dropped, the hash if it is hashed.

    drop     record fields to leave out
    hash     text fields to replace by the first 32 hex digits of their HMAC-SHA-256
    key      secret key of the HMAC
    mask_ip  set the last octet of an IPv4 client.ip, or the last 80 bits of an IPv6 one, to zero
    """

    drop: list[Annotated[str, AfterValidator(_known_field)]] = []
    hash: list[Annotated[str, AfterValidator(_known_field), AfterValidator(_text_field)]] = []
    key: Secret = Secret("")
    mask_ip: bool = False

    @model_validator(mode="after")
    def _key_for_hash(self) -> "PrivacySettings":
        if self.hash and not self.key:
            raise ValueError('hash needs a key: set for example key = "${BTFEED_HASH_KEY}"')
        return self


class RecordSettings(Settings):
    """What records say.

    provider    template of event.provider, with {name}, {application}, {system_profile}, {server} and {category};
                an empty text becomes `appmon`
    type        template of event.type, with the same placeholders
    attributes  constants to add to every record, such as { environment = "production" }
    privacy     what to drop, hash or mask
    """

    provider: Annotated[str, _TEMPLATE] = "{application}"
    type: Annotated[str, _TEMPLATE] = "{name}"
    attributes: Annotated[dict[str, Any], BeforeValidator(flat_attributes)] = {}
    privacy: PrivacySettings = PrivacySettings()
