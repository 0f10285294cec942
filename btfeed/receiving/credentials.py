"""Who may post: HTTP Basic credentials and bearer tokens."""

import base64
import hmac
from contextlib import suppress

from btfeed.receiving.settings import ReceiverSettings


class Credentials:
    """The credentials that a request must carry: any one of those configured.

    required   False if none are configured
    challenge  the WWW-Authenticate header of a 401
    """

    def __init__(self, settings: ReceiverSettings) -> None:
        self._accepted = [b"bearer " + token.get_secret_value().encode() for token in settings.bearer_tokens]
        if settings.basic_auth:
            pair = f"{settings.basic_auth.username}:{settings.basic_auth.password.get_secret_value()}"
            self._accepted.append(b"basic " + base64.b64encode(pair.encode()))
            with suppress(UnicodeEncodeError):  # old Java clients use Latin-1
                self._accepted.append(b"basic " + base64.b64encode(pair.encode("latin-1")))
        self.required = bool(self._accepted)
        schemes = ['Basic realm="btfeed"'] if settings.basic_auth else []
        schemes += ["Bearer"] if settings.bearer_tokens else []
        self.challenge = ", ".join(schemes)

    def accept(self, authorization: bytes) -> bool:
        """Whether the value of an Authorization header (empty if there is none) is one of them."""
        scheme, _, value = authorization.partition(b" ")
        given = scheme.lower() + b" " + value.strip()
        return any(hmac.compare_digest(given, accepted) for accepted in self._accepted)
