"""The posts that everything is measured with: seeded, of one size, made once and read by every process.

A load has a few thousand posts at most. If more are sent, each gets another first startTime, because equal posts have equal
event.ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from btfeed.posts import files as postfile
from btfeed.posts.bt_pb2 import BusinessTransactions
from tests.support.posts import mixed, post_of

SIZES = (1, 10, 100, 1_000, 10_000)
"""Occurrences in a post."""
KINDS = ("purepath", "user_action", "visit")
MIXTURE = (0, 0, 0, 1, 1, 2)
"""Kinds of consecutive posts of one occurrence: the shares of a mixed post."""
SMALL = 100
"""Posts with at most this many occurrences count as those that AppMon sends."""
FEW = (1, 4)
"""AppMon's own numbers of connections. Posts of each size in SMALL_SIZES are measured over them, too."""
SMALL_SIZES = tuple(size for size in SIZES if size <= SMALL)
BLOCK = 10
"""Occurrences of a business transaction, in posts of many business transactions."""


def connections(size: int) -> int:
    """How many connections posts of this size come over: many for small ones, so that a commit can group them."""
    return 64 if size <= SMALL else 8


@dataclass(frozen=True, slots=True)
class Load:
    """bodies: the posts. occurrences: their number in all posts together."""

    bodies: Sequence[bytes]
    occurrences: int

    @property
    def per_post(self) -> int:
        return self.occurrences // len(self.bodies)

    @staticmethod
    def make(size: int, occurrences: int, kind: str = "mixed", seed: int = 0) -> "Load":
        """About this many `occurrences`, `size` in each post. kind: one of KINDS, or "mixed"."""
        seeds = range(seed, seed + max(1, occurrences // size))
        bodies = [_body(size, kind, number) for number in seeds]
        return Load(bodies, size * len(bodies))

    @staticmethod
    def of_many(transactions: int, occurrences: int) -> "Load":
        """Posts of 100 business transactions with 10 occurrences each. Their names repeat after `transactions` names."""
        plain = [BusinessTransactions.FromString(body) for body in Load.make(1_000, occurrences, "purepath").bodies]
        number, bodies = 0, []
        for message in plain:
            whole = message.businessTransactions[0]
            regrouped = BusinessTransactions(serverName=message.serverName)
            for start in range(0, 1_000, BLOCK):
                part = regrouped.businessTransactions.add()
                part.CopyFrom(whole)
                part.name = f"Checkout {number % transactions}"
                del part.occurrences[:]
                part.occurrences.extend(whole.occurrences[start : start + BLOCK])
                number += 1
            bodies.append(regrouped.SerializeToString())
        return Load(bodies, 1_000 * len(bodies))

    def save(self, path: Path) -> Path:
        """Write the posts to a `*.btposts` file."""
        writer = postfile.Writer(path)
        for body in self.bodies:
            writer.write(body)
        writer.close()
        return path

    @staticmethod
    def read(path: Path) -> "Load":
        """Read what `save` wrote."""
        bodies = list(postfile.read(path))
        return Load(bodies, sum(map(occurrences_in, bodies)))


def _body(size: int, kind: str, seed: int) -> bytes:
    if kind == "mixed" and size > 1:
        return mixed(size, seed)
    number = KINDS.index(kind) if kind in KINDS else MIXTURE[seed % len(MIXTURE)]
    shares = [0, 0, 0]
    shares[number] = size
    return post_of(shares, seed)


def occurrences_in(body: bytes) -> int:
    """The number of occurrences in a post."""
    return sum(len(part.occurrences) for part in BusinessTransactions.FromString(body).businessTransactions)


class Unique:
    """Endless posts: those of a load over and over, each with another startTime in its first occurrence."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._templates = [_split(body) for body in bodies]
        self._number = 0

    def next(self) -> tuple[bytes, bytes, bytes]:
        """The next post, in three parts."""
        turn, place = divmod(self._number, len(self._templates))
        head, start, tail = self._templates[place]
        self._number += 1
        return head, postfile.varint(start + turn), tail


def _split(body: bytes) -> tuple[bytes, int, bytes]:
    """The bytes before the first startTime, its value, and the bytes after it."""
    start: int = BusinessTransactions.FromString(body).businessTransactions[0].occurrences[0].startTime
    written = postfile.varint(start)
    at = body.index(b"\x08" + written) + 1
    return body[:at], start, body[at + len(written) :]
