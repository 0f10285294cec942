"""Privacy: fields that are hashed or masked before a record is written. The mappers leave out those to drop.

native/transcoder/src/privacy.rs does the same.
"""

import hmac
import ipaddress
from typing import Any

from btfeed.records.schema import CLIENT_IP
from btfeed.records.settings import PrivacySettings


class Privacy:
    """Protects the values of records as `settings` say."""

    def __init__(self, settings: PrivacySettings) -> None:
        self.dropped = frozenset(settings.drop)
        self._masked = frozenset([CLIENT_IP.record] if settings.mask_ip else [])
        self._hashed = frozenset(settings.hash)
        self.protected = self._masked | self._hashed
        self._key = settings.key.get_secret_value().encode()

    def protect(self, name: str, value: Any) -> Any:
        """Masks, then hashes the value of the record field `name`, if configured.

        Raises ValueError if a value to mask is not an IP address: it may contain one.
        """
        if name in self._masked:
            value = mask_ip(value)
        if name in self._hashed:
            value = [self._hash(item) for item in value] if isinstance(value, list) else self._hash(value)
        return value

    def _hash(self, value: str) -> str:
        return hmac.digest(self._key, value.encode(), "sha256").hex()[:32]


def mask_ip(address: str) -> str:
    """Sets the last octet (IPv4) or the last 80 bits (IPv6) to zero. Raises ValueError if this is not an IP address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    bits = 8 if parsed.version == 4 else 80
    return str(type(parsed)(int(parsed) >> bits << bits))
