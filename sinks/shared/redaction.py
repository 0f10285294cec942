"""Removes secrets from what other systems send, before it gets into a log, an error message or a dead letter.

`Secret` in sinks/settings.py says how secrets of the configuration stay hidden elsewhere.
"""

from collections import deque
from typing import Any
from urllib.parse import quote_plus

import msgspec

from sinks.settings import Secret

REDACTED = "***"
TOKENS_KEPT = 2
"""Temporary tokens that are removed: the current one, and the one before, which late replies may repeat."""


class Redactor:
    """Replaces secrets by `***`, whether written plainly, as JSON or URL-encoded."""

    def __init__(self, *secrets: Secret | None) -> None:
        self._secrets = [form for secret in secrets if secret for form in _forms(secret.get_secret_value())]
        self._tokens: deque[list[str]] = deque(maxlen=TOKENS_KEPT)

    def add_token(self, token: str) -> None:
        """Replace this temporary token too. Forgets the oldest if there are more than TOKENS_KEPT."""
        self._tokens.append(_forms(token))

    def text(self, text: str) -> str:
        """`text` without secrets."""
        forms = {*self._secrets, *(form for forms in self._tokens for form in forms)}
        for form in sorted(forms, key=len, reverse=True):  # a secret may contain another
            text = text.replace(form, REDACTED)
        return text

    def value(self, value: Any) -> Any:
        """A decoded JSON value without secrets in its strings. Names of members stay as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {name: self.value(item) for name, item in value.items()}
        return value

    def body(self, body: bytes) -> bytes:
        """The body of a reply without secrets. JSON stays JSON, whatever the secrets are."""
        try:
            return msgspec.json.encode(self.value(msgspec.json.decode(body)))
        except msgspec.DecodeError:
            return self.text(body.decode(errors="replace")).encode()


def _forms(secret: str) -> list[str]:
    """The ways in which a text may contain `secret`."""
    return [secret, msgspec.json.encode(secret).decode()[1:-1], quote_plus(secret)]
