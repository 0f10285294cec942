"""The receiver: the listener that AppMon posts to.

`Receiver._receive` is the path of a post, check by check: credentials, path and method, headers, memory, body, validity,
journal. A check that fails raises `Rejected`, whose reasons and statuses are in one table (rejection.py). What remains is
answered 200 once the journal says that the post is durable. `Receiver._take` is the same path for most posts, which have
nothing to wait for but the journal: it costs no task, and leaves to `_receive` whatever it does not take.
"""

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

import structlog

from btfeed.address import listen
from btfeed.http.limits import Limits
from btfeed.http.request import CutOff, Request
from btfeed.http.response import RETRY_AFTER, Response
from btfeed.http.server import HttpServer
from btfeed.journal.base import DeadLetter, Intake, JournalError, JournalFull, PostTooLarge
from btfeed.posts import admission
from btfeed.posts.admission import TooManyOccurrences
from btfeed.posts.post import Malformed, Post
from btfeed.receiving.body import BodyReader, is_gzip
from btfeed.receiving.credentials import Credentials
from btfeed.receiving.memory import MemoryLimiter
from btfeed.receiving.rejection import Rejected
from btfeed.receiving.settings import ReceiverSettings
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

DUPLICATE_WINDOW = 10_000
"""Posts whose digests are remembered, to count duplicates."""
VALIDATED_ON_LOOP = 256 * 2**10
"""Bytes. Longer bodies are validated on a thread, one at a time, so that no other response waits for them."""
OTHER_OPEN_FILES = 256
"""Files that the process may have open besides the receiver's connections: the journal, and the sinks with theirs."""
IDLE_PATIENCE = 2.0
"""Seconds that idle connections stay open when the receiver stops. A client that posts more often than that is told to
connect again with its next response, and loses nothing. If the connection was closed while a post was on its way, Java's
client sends that once more by itself; others may not."""
OK = Response()


class Receiver:
    """Receives posts until `stop`."""

    def __init__(
        self,
        settings: ReceiverSettings,
        journal: Intake,
        metrics: Metrics,
        *,
        clock: Clock = SYSTEM_CLOCK,
        accept_all: bool = False,
        on_stored: Callable[[Request, bytes], object] = lambda request, body: None,
    ) -> None:
        """accept_all: take posts at any path, whatever they contain. on_stored: called before a post is answered."""
        self._accept_all = accept_all
        self._on_stored = on_stored
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._debug = log.is_enabled_for(logging.DEBUG)
        self._memory = MemoryLimiter(settings.max_in_flight, settings.queue_timeout, metrics, clock=clock)
        self._validating_large = asyncio.Semaphore(1)
        self._recent_digests: OrderedDict[bytes, None] = OrderedDict()
        self._server = HttpServer(self._handle, metrics, _limits(settings), self._take)
        self._use(settings)

    def _use(self, settings: ReceiverSettings) -> None:
        self._settings = settings
        self._path = unquote_to_bytes(settings.path)
        self._credentials = Credentials(settings)
        self._bodies = BodyReader(settings, self._clock)

    async def start(self, sockets: Sequence[socket.socket] = ()) -> tuple[str, int]:
        """Accept connections. Returns the host and port in use. Raises OSError.

        sockets: which listen already; without any, listen where the settings say.
        """
        settings = self._settings
        tls = settings.tls.context() if settings.tls else None
        sockets = sockets or await listen(settings.listen)
        host, port, *_ = sockets[0].getsockname()
        await self._server.listen(sockets, tls)
        return host, port

    def reconfigure(self, settings: ReceiverSettings, tls: ssl.SSLContext | None) -> None:
        """Take requests with other settings from now on. Connections stay open, and requests under way go on with what they
        began with. The address stays, and so does whether it is HTTPS; `tls` is for new connections."""
        self._use(settings)
        self._memory.resize(settings.max_in_flight, settings.queue_timeout)
        self._server.reconfigure(_limits(settings), tls)

    async def stop(self, patience: float = IDLE_PATIENCE) -> None:
        """Finish the requests in progress, take those that still come on open connections, and stop listening. Posts are
        taken until the end. patience: seconds that idle connections stay open."""
        await self._server.stop(self._settings.header_timeout + self._settings.body_timeout, patience)

    def close(self) -> None:
        """Log what is left to be logged of lost posts. To be called after `stop`, when the journal is closed: it may answer
        posts until then."""
        self._server.close()

    async def _handle(self, request: Request) -> Response | None:
        """Answer a request. None: the connection is to be cut off."""
        try:
            await self._receive(request)
        except Exception as error:  # noqa: BLE001 - answered
            return self._failed(request, error)
        return OK

    def _failed(self, request: Request, error: Exception) -> Response | None:
        """The answer to a request that was not taken. None: the connection is to be cut off."""
        match error:
            case Rejected():
                self._refuse(request, error.reason, str(error), kept=error.kept)
                # After a broken body, the start of the next request is unknown. The same holds for a client that was not
                # told to continue: it may send its body or leave it out.
                lost_track = error.reason == "incomplete" or (b"expect" in request.headers and not request.complete)
                return Response(error.status, f"{error}\n", error.headers, close=lost_track)
            case TimeoutError():
                self._refuse(request, "slow_body", "the body took longer than receiver.body_timeout")
            case CutOff():
                self._refuse(request, error.reason, str(error))
            case ConnectionError():
                self._refuse(request, "disconnected", str(error))
            case _:
                self._server.refusals.bug("bug in the receiver; the post was not taken", error)
                self._refuse(request, "bug", str(error))
                return Response(503, headers=RETRY_AFTER)
        return None

    def _refuse(self, request: Request, reason: str, error: str, *, kept: bool = False) -> None:
        refusals = self._server.refusals
        refuse = refusals.kept if kept else refusals.lost if request.carries_post else refusals.harmless
        refuse(reason, error=error, peer=request.peer)

    def _take(self, request: Request, answer: Callable[[Response | None], None]) -> bool:
        """See Shortcut."""
        started = time.perf_counter()
        if request.received > self._bodies.small or not request.received or self._accept_all:
            return False
        try:
            self._check_credentials(request)
            if self._is_connection_test(request) or is_gzip(request) or b"expect" in request.headers:
                return False
            body = request.body()
            occurrences = admission.admit(body, self._settings.max_occurrences)
            post = Post(body, time.time_ns() // 1_000_000, request.peer)
            appending = asyncio.ensure_future(self._journal.append(post))
        except Exception:  # noqa: BLE001 - `_receive` finds out why, and says so
            return False

        def done(appended: asyncio.Future[bytes]) -> None:
            response: Response | None = OK
            try:
                self._count(request, post, occurrences, appended.result())
                self._metrics.ack_seconds.observe(time.perf_counter() - started)
            except JournalError as error:
                response = self._failed(request, _rejected(error))
            except Exception as error:  # noqa: BLE001 - answered
                response = self._failed(request, error)
            answer(response)

        appending.add_done_callback(done)
        return True

    async def _receive(self, request: Request) -> None:
        """Make the post durable. Returns if the answer is 200, else raises Rejected, TimeoutError or ConnectionError."""
        started = time.perf_counter()
        self._check_credentials(request)
        if self._is_connection_test(request):
            self._metrics.empty_requests.inc()
            return
        gzip = is_gzip(request)
        max_memory = self._bodies.max_memory(request, gzip)
        if request.content_length == 0:
            self._metrics.empty_requests.inc()
            return
        _answer_expect(request)
        with self._memory.reservation(max_memory) as reservation:
            try:
                body = await self._bodies.read(request, gzip, reservation)
                if not body:
                    self._metrics.empty_requests.inc()
                    return
                await self._store(request, body)
            except Rejected as rejected:
                if rejected.body:
                    await self._keep(rejected)
                raise
        self._metrics.ack_seconds.observe(time.perf_counter() - started)

    def _check_credentials(self, request: Request) -> None:
        if self._credentials.required and not self._credentials.accept(request.headers.get(b"authorization", b"")):
            raise Rejected(
                "unauthorized", "missing or wrong credentials", {"WWW-Authenticate": self._credentials.challenge}
            )

    def _is_connection_test(self, request: Request) -> bool:
        """GET and HEAD are AppMon's "Test connection". Raises Rejected for other paths and methods."""
        is_test = request.method in ("GET", "HEAD")
        if not self._accept_all and request.path != self._path and not (is_test and request.path == b"/"):
            raise Rejected("not_found", f"no such path: send posts to {self._settings.path} (receiver.path)")
        if not is_test and request.method != "POST":
            raise Rejected("method", f"method {request.method} is not allowed: use POST", {"Allow": "GET, HEAD, POST"})
        return is_test

    async def _store(self, request: Request, body: bytes) -> None:
        """Validate the body and append it to the journal. Raises Rejected."""
        try:
            occurrences = 0 if self._accept_all else await self._admit(body)
            post = Post(body, time.time_ns() // 1_000_000, request.peer)
            digest = await self._journal.append(post)
        except Malformed as error:
            raise Rejected("malformed", str(error), body=body) from None
        except TooManyOccurrences as error:
            raise Rejected("too_many_occurrences", str(error)) from None
        except JournalError as error:
            raise _rejected(error) from None
        self._count(request, post, occurrences, digest)

    def _count(self, request: Request, post: Post, occurrences: int, digest: bytes) -> None:
        """Note that a post is stored."""
        metrics, size = self._metrics, len(post.body)
        metrics.posts.inc()
        metrics.last_post = post.received
        metrics.post_bytes.inc(size)
        metrics.received_occurrences.inc(occurrences)
        self._count_duplicate(digest)
        if self._debug:
            log.debug("post accepted", peer=post.peer, bytes=size, occurrences=occurrences)
        self._on_stored(request, post.body)

    def _count_duplicate(self, digest: bytes) -> None:
        if digest in self._recent_digests:
            self._metrics.duplicate_posts.inc()
        self._recent_digests[digest] = None
        if len(self._recent_digests) > DUPLICATE_WINDOW:
            self._recent_digests.popitem(last=False)

    async def _admit(self, body: bytes) -> int:
        """The number of occurrences. Raises Malformed or TooManyOccurrences."""
        if len(body) <= VALIDATED_ON_LOOP:
            return admission.admit(body, self._settings.max_occurrences)
        async with self._validating_large:
            return await asyncio.to_thread(admission.admit, body, self._settings.max_occurrences)

    async def _keep(self, rejected: Rejected) -> None:
        """Keep the body of a rejected post with the dead letters."""
        reason = f"{rejected.reason}: {rejected}"
        letter = DeadLetter("post", "", reason, time.time_ns() // 1_000_000, rejected.body, cause=rejected.reason)
        try:
            await self._journal.add_dead_letter(letter)
            rejected.kept = True
            self._metrics.dead_letters.labels("", rejected.reason).inc()
        except JournalError as error:
            self._server.refusals.not_kept(rejected.reason, str(error))
            self._metrics.dead_letters_evicted.labels("", rejected.reason).inc()


def _rejected(error: JournalError) -> Rejected:
    """Why the journal did not take a post."""
    if isinstance(error, JournalFull):
        return Rejected("journal_full", str(error))
    if isinstance(error, PostTooLarge):
        return Rejected("too_large", str(error))
    return Rejected("journal_unavailable", str(error))


def _answer_expect(request: Request) -> None:
    """Tell a client that waits for permission to send its body. Raises Rejected for any other expectation."""
    expect = request.headers.get(b"expect")
    if expect is None or request.version == "1.0":
        return
    if expect.lower() != b"100-continue":
        raise Rejected("expectation", f"unsupported Expect header {expect.decode('latin-1')}: use 100-continue")
    request.send_continue()


def _limits(settings: ReceiverSettings) -> Limits:
    return Limits(
        header_timeout=settings.header_timeout,
        write_timeout=settings.body_timeout,
        idle_timeout=settings.idle_timeout,
        max_connections=_connections(settings.max_connections),
    )


def _connections(wanted: int) -> int:
    """How many connections there may be, after the limit on open files was raised as far as it may be. Many systems start a
    process with 1,024; once connections have used them up, neither the journal nor a sink can open a file."""
    needed = wanted + OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return wanted
    found = max(1, min(wanted, allowed - min(OTHER_OPEN_FILES, allowed // 2)))
    log.warning("too few open files allowed for max_connections", needed=needed, allowed=allowed, connections=found)
    return found
