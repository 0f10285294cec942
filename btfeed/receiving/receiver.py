"""The receiver: takes posts over HTTP, refuses what is none, and answers 200 once a post is durable.

The way of a request: credentials, path and method, headers, then a reservation of memory, the body, its decompression
(each under its limit while it grows, not after), the look at the message, the journal, the answer. Whatever goes wrong on
that way is a `_Refusal`, whose status and reason are in one table. HTTP itself is in btfeed/http/connection.py.
"""

import asyncio
import base64
import hmac
import resource
import ssl
import time
import zlib
from collections import OrderedDict
from contextlib import suppress
from typing import Annotated

import structlog
from pydantic import AfterValidator, Field

from btfeed.address import Address, host_and_port
from btfeed.http.connection import RETRY_AFTER, Server
from btfeed.http.gunzip import Gunzip, TooLong
from btfeed.http.request import Answer, Incomplete, Request
from btfeed.journal.base import DeadLetter, Intake, JournalError, JournalFull
from btfeed.posts import admission
from btfeed.posts.admission import TooManyOccurrences
from btfeed.posts.post import Malformed, Post
from btfeed.receiving.memory import MemoryLimiter, Overloaded, Reservation
from btfeed.telemetry.metrics import Metrics
from sinks.settings import Seconds, Settings, Size

log = structlog.get_logger()

DUPLICATES_SEEN = 10_000
"""Posts whose digests are remembered, to count duplicates."""
OFF_LOOP = 256 * 2**10
"""Bodies longer than this are looked at on a thread, one at a time, so that no other answer waits for them."""
OK = Answer()
OTHER_FILES = 256
"""What the process may have open besides its connections: the journal, sinks and their connections."""


def _path(value: str) -> str:
    if not value.startswith("/") or "?" in value or "#" in value:
        raise ValueError("a path starts with / and has neither ? nor #")
    return value


class BasicAuth(Settings):
    username: str
    password: str


class TlsSettings(Settings):
    """certificate, key: PEM files. client_ca: PEM file of who signs clients' certificates; where set, clients need one."""

    certificate: str
    key: str
    client_ca: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError where a file can't be read or is none."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
        except OSError as error:
            raise OSError(f"client_ca {self.client_ca}: {error}") from None
        try:
            context.load_cert_chain(self.certificate, self.key, password="")  # else OpenSSL asks at the terminal
        except OSError as error:
            raise OSError(f"certificate {self.certificate}, key {self.key}: {error}") from None
        if self.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class ReceiverSettings(Settings):
    """Where AppMon posts to.

    listen           address and port
    path             of the url
    max_body         of a post, as sent and after gzip
    max_occurrences  in one post
    basic_auth       username and password that a post must have, where set
    bearer_tokens    any of them will do; with basic_auth, either will
    tls              HTTPS instead of HTTP
    header_timeout   from a connection's or a request's first byte to the end of its header
    body_timeout     from there to the end of its body
    idle_timeout     a connection without a request is closed
    max_connections  more are answered 503 and closed
    max_in_flight    bytes of bodies being received; more wait, and are answered 503 after `queue_timeout`
    queue_timeout    below AppMon's own patience of 10 seconds
    """

    listen: Address = "127.0.0.1:4321"
    path: Annotated[str, AfterValidator(_path)] = "/"
    max_body: Size = 16 * 2**20
    max_occurrences: Annotated[int, Field(ge=1)] = 100_000
    basic_auth: BasicAuth | None = None
    bearer_tokens: list[Annotated[str, Field(min_length=1)]] = []
    tls: TlsSettings | None = None
    header_timeout: Seconds = 5.0
    body_timeout: Seconds = 30.0
    idle_timeout: Seconds = 75.0
    max_connections: Annotated[int, Field(ge=1)] = 1_000
    max_in_flight: Size = 64 * 2**20
    queue_timeout: Seconds = 5.0


class _Refusal(Exception):
    """A request that is not answered with 200. `reason` is the metric's label, the message is for the client."""

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
        "bad_http": 400,
        "incomplete": 400,
        "journal_full": 503,
        "journal_unavailable": 503,
        "shutting_down": 503,
        "overloaded": 503,
    }

    def __init__(self, reason: str, message: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.status = self.STATUS[reason]
        self.headers = dict(headers or {})
        self.body = body
        if self.status == 503:
            self.headers["Retry-After"] = str(RETRY_AFTER)


class Receiver:
    """The listener that AppMon posts to."""

    def __init__(self, settings: ReceiverSettings, journal: Intake, metrics: Metrics) -> None:
        self._settings = settings
        self._path = settings.path.encode()
        self._journal = journal
        self._metrics = metrics
        self._credentials = _credentials(settings)
        self._budget = MemoryLimiter(settings.max_in_flight, settings.queue_timeout, metrics)
        self._small = min(settings.max_body, MemoryLimiter.SMALL)
        self._large = asyncio.Semaphore(1)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._server = Server(
            self._handle,
            metrics,
            header_timeout=settings.header_timeout,
            answer_timeout=settings.body_timeout,
            idle_timeout=settings.idle_timeout,
            max_connections=settings.max_connections,
        )
        self._listener: asyncio.Server | None = None
        self.stopping = False

    async def start(self) -> tuple[str, int]:
        """Listen; returns the host and port taken. Raises OSError."""
        settings = self._settings
        _allow_open_files(settings.max_connections + OTHER_FILES)
        host, port = host_and_port(settings.listen)
        tls = settings.tls.context() if settings.tls else None
        self._listener = await asyncio.get_running_loop().create_server(
            self._server,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=settings.header_timeout if tls else None,
            ssl_shutdown_timeout=settings.header_timeout if tls else None,
            backlog=1024,
        )
        host, port, *_ = self._listener.sockets[0].getsockname()
        return host, port

    async def stop(self) -> None:
        """Close the listener and idle connections, finish the requests that are under way."""
        self.stopping = True
        if self._listener:
            self._listener.close()
        await asyncio.sleep(0)  # what has arrived counts as under way
        await self._server.drain(self._settings.header_timeout + self._settings.body_timeout)

    async def _handle(self, request: Request) -> Answer | None:
        try:
            await self._take(request)
            return OK
        except _Refusal as refusal:
            self._metrics.refused_posts.labels(refusal.reason).inc()
            log.info("refused", reason=refusal.reason, error=str(refusal), peer=request.peer)
            # where the next request would begin is unknown; who is not told to go on may send its body or not
            unknown = refusal.reason == "incomplete" or (b"expect" in request.headers and not request.whole)
            return Answer(refusal.status, f"{refusal}\n", refusal.headers, close=unknown)
        except TimeoutError:
            self._metrics.refused_posts.labels("slow_body").inc()
            log.info("closed", reason="slow_body", peer=request.peer)
        except ConnectionError:
            self._metrics.refused_posts.labels("disconnected").inc()
        except Exception:
            log.exception("a bug in the receiver; the post was not taken")
            self._metrics.refused_posts.labels("bug").inc()
            return Answer(503, headers={"Retry-After": str(RETRY_AFTER)})
        return None

    async def _take(self, request: Request) -> None:
        """Return once there is nothing left to do for a 200."""
        started = time.perf_counter()
        self._authorize(request)
        if not self._expects_post(request):
            self._metrics.empty_requests.inc()
            return
        gzip = _is_gzip(request)
        if request.length is not None and request.length > self._settings.max_body:
            raise self._too_large()
        if request.length == 0:
            self._metrics.empty_requests.inc()
            return
        if self.stopping:
            raise _Refusal("shutting_down", "shutting down")
        _continue(request)
        expected = self._settings.max_body if request.length is None else request.length
        with self._budget.room(expected + gzip * self._settings.max_body) as room:
            try:
                body = await self._body(request, gzip, room)
                if not body:
                    self._metrics.empty_requests.inc()
                    return
                await self._append(body, request.peer)
            except _Refusal as refusal:
                if refusal.body:
                    await self._keep(refusal)
                raise
        self._metrics.ack_seconds.observe(time.perf_counter() - started)

    def _authorize(self, request: Request) -> None:
        if not self._credentials:
            return
        scheme, _, value = request.headers.get(b"authorization", b"").partition(b" ")
        given = scheme.lower() + b" " + value.strip()
        if not any(hmac.compare_digest(given, known) for known in self._credentials):
            schemes = ['Basic realm="btfeed"'] if self._settings.basic_auth else []
            schemes += ["Bearer"] if self._settings.bearer_tokens else []
            raise _Refusal("unauthorized", "wrong or no credentials", {"WWW-Authenticate": ", ".join(schemes)})

    def _expects_post(self, request: Request) -> bool:
        """False for GET and HEAD, AppMon's connection test."""
        test = request.method in ("GET", "HEAD")
        if request.path != self._path and not (test and request.path == b"/"):
            raise _Refusal("not_found", f"nothing at this path; posts go to {self._settings.path}")
        if not test and request.method != "POST":
            raise _Refusal("method", f"{request.method} is not known here", {"Allow": "GET, HEAD, POST"})
        return not test

    def _too_large(self) -> _Refusal:
        return _Refusal("too_large", f"the body is longer than {self._settings.max_body} bytes")

    async def _body(self, request: Request, gzip: bool, room: Reservation) -> bytes:
        """The body, decompressed. Raises TimeoutError where it is not here in time."""
        if request.whole and request.size <= self._small and not gzip:
            return request.take_body()  # as most are: nothing to wait for
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                return await self._read(request, gzip, room)
        except TooLong:
            raise self._too_large() from None
        except Overloaded:
            raise _Refusal("overloaded", "too many posts at a time") from None
        except Incomplete as error:
            raise _Refusal("incomplete", f"the body is broken: {error}") from None

    async def _read(self, request: Request, gzip: bool, room: Reservation) -> bytes:
        limit = self._settings.max_body
        await request.within(self._small)
        await room.cover(request.size)
        if not await request.within(limit):
            raise self._too_large()
        body = request.take_body()
        if not gzip:
            return body
        plain = Gunzip(limit)
        try:
            for length in plain.feed(body):
                await room.cover(len(body) + length)
                await asyncio.sleep(0)  # a bomb must not hold up other answers
            return plain.end()
        except zlib.error as error:
            raise _Refusal("bad_gzip", f"broken gzip: {error}", body=body) from None

    async def _append(self, body: bytes, peer: str) -> None:
        try:
            if len(body) > OFF_LOOP:
                async with self._large:
                    occurrences = await asyncio.to_thread(admission.admit, body, self._settings.max_occurrences)
            else:
                occurrences = admission.admit(body, self._settings.max_occurrences)
            digest = await self._journal.append(Post(body, time.time_ns() // 1_000_000, peer))
        except Malformed as error:
            raise _Refusal("malformed", str(error), body=body) from None
        except TooManyOccurrences as error:
            raise _Refusal("too_many_occurrences", str(error)) from None
        except JournalFull as error:
            raise _Refusal("journal_full", str(error)) from None
        except JournalError as error:
            raise _Refusal("journal_unavailable", str(error)) from None
        self._metrics.posts.inc()
        self._metrics.post_bytes.inc(len(body))
        self._metrics.received_occurrences.inc(occurrences)
        self._count_duplicate(digest)

    def _count_duplicate(self, digest: bytes) -> None:
        if digest in self._seen:
            self._metrics.duplicate_posts.inc()
        self._seen[digest] = None
        if len(self._seen) > DUPLICATES_SEEN:
            self._seen.popitem(last=False)

    async def _keep(self, refusal: _Refusal) -> None:
        letter = DeadLetter("post", "", f"{refusal.reason}: {refusal}", time.time_ns() // 1_000_000, refusal.body)
        try:
            await self._journal.add_dead_letter(letter)
            self._metrics.dead_letters.labels("", refusal.reason).inc()
        except JournalError as error:
            log.warning("a refused post could not be kept", error=str(error))
            self._metrics.dead_letters_evicted.inc()


def _allow_open_files(number: int) -> None:
    """Many systems start a process with 1,024; where those are used up, neither the journal nor a sink can open a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < number:
        allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < number:
            log.warning("max_connections needs more open files than the system allows", needed=number, allowed=allowed)


def _credentials(settings: ReceiverSettings) -> list[bytes]:
    """What an Authorization header may say, its scheme in lower case."""
    known = [b"bearer " + token.encode() for token in settings.bearer_tokens]
    if settings.basic_auth:
        pair = f"{settings.basic_auth.username}:{settings.basic_auth.password}"
        known.append(b"basic " + base64.b64encode(pair.encode()))
        with suppress(UnicodeEncodeError):  # an old Java encodes them so
            known.append(b"basic " + base64.b64encode(pair.encode("latin-1")))
    return known


def _is_gzip(request: Request) -> bool:
    encoding = request.headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity", b"gzip", b"x-gzip"):
        given = encoding.decode("latin-1")
        raise _Refusal("encoding", f"Content-Encoding {given} is not known here", {"Accept-Encoding": "gzip"})
    return encoding.endswith(b"gzip")


def _continue(request: Request) -> None:
    expect = request.headers.get(b"expect")
    if expect is None or request.version == "1.0":
        return
    if expect.lower() != b"100-continue":
        raise _Refusal("expectation", f"Expect: {expect.decode('latin-1')} is not known here")
    request.go_on()
