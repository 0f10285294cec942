"""Why posts and other requests are refused: what each reason means, and what to do about it.

docs/logs.md has the table that is generated from this one, and /status shows of it what has happened.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for which a request is not answered with 200. Texts are Markdown without links.

    answer   the status of the response, and "closed" if the connection is closed without one
    meaning  what was wrong
    lost     whether a post is lost: "yes", "no", "kept", or in what case
    remedy   what to do
    section  where docs/ say more: a page and a heading's anchor
    """

    answer: str
    meaning: str
    lost: str
    remedy: str
    section: str = ""


REASONS = {
    "unauthorized": Reason(
        "401",
        "the credentials are wrong or missing",
        "yes",
        "enter those of `receiver.basic_auth` or `bearer_tokens` in AppMon",
    ),
    "not_found": Reason(
        "404", "the path is not `receiver.path`", "yes", "make the path in AppMon's URL and `receiver.path` the same"
    ),
    "method": Reason("405", "the method is not POST, GET or HEAD", "no", "nothing, it is not AppMon"),
    "encoding": Reason(
        "415", "the Content-Encoding is not identity or gzip", "yes", "turn that compression off in the client or proxy"
    ),
    "expectation": Reason("417", "the Expect header is not 100-continue", "yes", "repair the client or proxy"),
    "too_large": Reason(
        "413",
        "the body exceeds `receiver.max_body`, before or after decompression, or what the journal's topic takes",
        "yes",
        "lower AppMon's bulk size, or raise the limit that the log names",
    ),
    "too_many_occurrences": Reason(
        "413",
        ("the post has more occurrences than `receiver.max_occurrences`, or far too many names and values for that limit"),
        "yes",
        "lower AppMon's bulk size, or raise the limit",
    ),
    "malformed": Reason(
        "400",
        "the body is not a `BusinessTransactions` message",
        "kept",
        "look at it: `btfeed dead-letters export --posts` and `btfeed inspect`",
    ),
    "bad_gzip": Reason("400", "the gzip stream is broken", "kept", "repair the client or proxy"),
    "bad_http": Reason(
        "400",
        "the request is not HTTP, or its header exceeds 16 KiB or 128 fields",
        "if it began as a POST, or as TLS",
        "read the error. For TLS: use `http://` in AppMon's URL, or set `receiver.tls`",
    ),
    "bad_tls": Reason(
        "closed",
        (
            "a TLS handshake failed: plain HTTP, an old version of TLS, a certificate that one side does not "
            "trust or that is missing, or a client that went away. Connections on which nothing was sent do not "
            "count"
        ),
        "yes",
        "read the error and the hint in the log",
    ),
    "transfer_encoding": Reason("501", "the Transfer-Encoding is not `chunked` alone", "yes", "repair the client or proxy"),
    "length_required": Reason(
        "411", "an HTTP/1.0 POST without Content-Length", "yes", "let the client or proxy send the length, or use HTTP/1.1"
    ),
    "incomplete": Reason("400", "the framing of the body is broken", "yes", "repair the client or proxy"),
    "journal_full": Reason(
        "503",
        "the journal has reached `journal.max_size`, or with Kafka as the journal the spill its own",
        "yes",
        "repair the sink that is behind or, for a spill, Kafka; or give the journal more room",
        section="operations.md#size-the-disk",
    ),
    "journal_unavailable": Reason(
        "503",
        "the journal's disk failed or, without a spill, Kafka took no posts",
        "yes",
        "repair the disk or Kafka; btfeed goes on by itself then",
        section="operations.md#when-the-journals-disk-fails",
    ),
    "shutting_down": Reason(
        "closed",
        "the post was still arriving when btfeed stopped",
        "yes",
        "look at the network and the client: it has at least 5 seconds",
    ),
    "overloaded": Reason(
        "503",
        "`receiver.max_in_flight` was used up, and no room became free within `receiver.queue_timeout`",
        "yes",
        "raise `max_in_flight`",
    ),
    "too_many_connections": Reason(
        "503, with TLS closed",
        "`receiver.max_connections` are open, all with a request under way",
        "yes",
        "raise the limit, or find out who opens them",
    ),
    "bug": Reason("503 or closed", "a bug in btfeed; the log has its traceback", "yes", "report it"),
    "slow_header": Reason(
        "closed",
        "the header took longer than `receiver.header_timeout`",
        "if it began as a POST",
        "look at the network and the client",
    ),
    "slow_body": Reason(
        "closed", "the body took longer than `receiver.body_timeout`", "yes", "look at the network and the client"
    ),
    "slow_reader": Reason(
        "closed",
        "the client did not read its answers",
        "only posts sent ahead of them",
        "repair the client; AppMon reads its answers",
    ),
    "cut_off": Reason(
        "closed",
        "a post was sent ahead of an answer on a connection that then had to be closed",
        "yes",
        "see the lines before; AppMon sends nothing ahead",
    ),
    "disconnected": Reason(
        "",
        "the client closed the connection before its post had arrived",
        "yes",
        "look at the network. AppMon gives up after 10 seconds",
    ),
}
"""By the label `reason` of btfeed_refused_posts_total."""


def status_of(reason: str) -> int:
    """The status of the response."""
    return int(REASONS[reason].answer[:3])
