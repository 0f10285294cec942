"""Why a request is rejected, and the status of its response."""

from btfeed.http.response import RETRY_AFTER

STATUS = {
    "unauthorized": 401,
    "not_found": 404,
    "method": 405,
    "encoding": 415,
    "expectation": 417,
    "too_large": 413,
    "too_many_occurrences": 413,
    "malformed": 400,
    "bad_gzip": 400,
    "incomplete": 400,
    "journal_full": 503,
    "journal_unavailable": 503,
    "overloaded": 503,
}
"""By the label `reason` of btfeed_refused_posts_total. The receiver also counts its own bugs (503) and connections that it
closes; http/connection counts connections over the limit (503). docs/logs.md lists all reasons."""


class Rejected(Exception):
    """A request that gets another response than 200.

    reason   a key of STATUS
    message  the text of the response
    headers  further headers of the response
    body     a body to keep with the dead letters; empty for none
    kept     the body is kept
    """

    def __init__(self, reason: str, message: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.status = STATUS[reason]
        self.headers = dict(headers or {})
        self.body = body
        self.kept = False
        if self.status == 503:
            self.headers |= RETRY_AFTER
