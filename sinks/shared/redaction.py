"""Removes secrets from what other systems send, before it gets into a log, an error message or a dead letter."""

from collections import deque
from urllib.parse import quote_plus

import msgspec

from sinks.settings import Secret

REDACTED = b"***"
TOKENS_KEPT = 2
"""Temporary tokens that are removed: the current one, and the one before, which late replies may repeat."""


class Redactor:
    """Replaces secrets by `***`, whether written plainly, in JSON or URL-encoded."""

    def __init__(self, *secrets: Secret | None) -> None:
        self._configured = [form for secret in secrets if secret for form in _forms(secret.get_secret_value())]
        self._tokens: deque[list[bytes]] = deque(maxlen=TOKENS_KEPT)

    def add_token(self, token: str) -> None:
        """Replace this temporary token too. Forgets the oldest if there are more than TOKENS_KEPT."""
        self._tokens.append(_forms(token))

    def data(self, data: bytes) -> bytes:
        """`data` without secrets."""
        forms = {*self._configured, *(form for forms in self._tokens for form in forms)}
        for form in sorted(forms, key=len, reverse=True):  # a secret may contain another
            data = data.replace(form, REDACTED)
        return data

    def text(self, text: str) -> str:
        """`text` without secrets."""
        return self.data(text.encode(errors="replace")).decode()


def _forms(secret: str) -> list[bytes]:
    """The ways in which a reply may contain `secret`."""
    return [secret.encode(), msgspec.json.encode(secret)[1:-1], quote_plus(secret).encode()]
