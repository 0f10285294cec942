"""Why a request is rejected, and the status of its response."""

from btfeed.http.reasons import status_of
from btfeed.http.response import RETRY_AFTER


class Rejected(Exception):
    """A request that gets another response than 200.

    reason   a key of REASONS (btfeed/http/reasons.py), one with a status
    message  the text of the response
    headers  further headers of the response
    body     a body to keep with the dead letters; empty for none
    kept     the body is kept
    """

    def __init__(self, reason: str, message: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status_of(reason)
        self.headers = dict(headers or {})
        self.body = body
        self.kept = False
        if self.status == 503:
            self.headers |= RETRY_AFTER
