"""Twins: the native mapper and the plain one must agree on any bytes and under any settings.

    python -m tests.records.twins [--cases 200000] [--seed N]

is the long form of test_native.py: posts that Hypothesis makes, mutated ones, and bytes that are almost posts.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from btfeed import _native
from btfeed.posts.admission import Limits, admit_plain
from btfeed.posts.post import Malformed, PostRefused, digest, event_id_prefix
from btfeed.records.mapper import NativeMapper
from btfeed.records.plain_mapper import PlainMapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from tests.records.mapping import equal
from tests.support import strategies
from tests.support.strategies import UNHURRIED

RECORDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "private": {
        "privacy": {
            "drop": ["url.query", "appmon.dimension.a", "appmon.measure.a", "appmon.visit.converted", "appmon.server",
                     "appmon.measure.größe", "appmon.dimension.売上"],
            "hash": ["user.name", "client.ip", "appmon.visit.id", "event.outcome", "event.name", "appmon.dimension.2",
                     "appmon.dimension.größe", "appmon.visit.converted_by", "url.full"],
            "key": "k",
            "mask_ip": True,
        }
    },
    "dropping": {"privacy": {"drop": ["duration", "appmon.visit.id", "appmon.visit.converted_by", "end_time"]}},
    "attributes": {
        "provider": "{category}/{server}",
        "type": "{name}-{application}-{system_profile}",
        "attributes": {
            "environment": 'pro"d', "ring": 7, "share": 1e30, "canary": True, "appmon.release": "2026.1", "größe 売上": -1,
        },
        "privacy": {"mask_ip": True, "drop": ["appmon.dimension.a"]},
    },
    "anonymous": {
        "provider": "{category}/{server}/{application}",
        "type": "{name}-{application}-{system_profile}",
        "privacy": {
            "drop": ["event.category", "appmon.application"],
            "hash": ["event.name", "event.type", "appmon.server", "appmon.system_profile"],
            "key": "k",
        },
    },
}  # fmt: skip
MUTANTS = 10
"""Of each body that Hypothesis makes, including the body itself."""
POLICIES = [("report", "report"), ("report", "drop"), ("dead-letter", "report"), ("report", "dead-letter")]


@dataclass
class Twins:
    """Both mappers under one configuration, used for many bodies. maps: how many of them were posts."""

    record: dict[str, Any] = field(default_factory=dict)
    missing: str = "report"
    unexpected: str = "report"
    cases: int = 0
    maps: int = 0

    def __post_init__(self) -> None:
        validation = {"missing": self.missing, "unexpected": self.unexpected}
        given = RecordSettings.model_validate(self.record), ValidationSettings.model_validate(validation)
        self.plain, self.native = PlainMapper(*given), NativeMapper(*given)

    def agree(self, body: bytes) -> None:
        """Both give the same result, and the native mapper does not need the plain one for it."""
        self.cases += 1
        digest_of_body = digest(body)
        try:
            expected = self.plain.map(body, digest_of_body)
        except Malformed:
            assert self.native._native.transcode([(body, event_id_prefix(digest_of_body))], 0) == [None]
            return
        assert self.native._native.transcode([(body, event_id_prefix(digest_of_body))], 0) != [None]
        equal(self.native.map(body, digest_of_body), expected)
        self.maps += 1


def agree_to_admit(body: bytes, limit: int) -> bool:
    """Whether both accept `body`. They must agree, also on the number of occurrences."""
    limits = Limits.of(limit)
    native = _native.admit(body, limits)
    try:
        expected = admit_plain(body, limits)
    except PostRefused:
        assert native is None
        return False
    assert native == expected
    assert _native.digests([body]) == [digest(body)]
    return True


def configurations() -> Iterator[Twins]:
    """Each of RECORDS under each of POLICIES."""
    for record in RECORDS.values():
        for missing, unexpected in POLICIES:
            yield Twins(record, missing, unexpected)


def mutants(body: bytes, other: bytes, rng: random.Random) -> Iterator[bytes]:
    """`body`, and versions with bytes changed, inserted, removed, doubled, or taken from `other`."""
    yield body
    changed = body
    for _ in range(MUTANTS - 1):
        place, length = rng.randrange(len(changed) + 1), rng.choice((0, 1, 1, 2, 4, 8, 16))
        start = rng.randrange(len(other) + 1)
        added = rng.choice((b"", changed[place : place + length] * 2, other[start : start + length], rng.randbytes(length)))
        changed = changed[:place] + added + changed[place + length * rng.randrange(2) :]
        yield changed
        if rng.randrange(3) == 0:
            changed = body


def run(cases: int, number: int) -> None:
    """Compares the twins on at least that many bodies. Each one that Hypothesis makes gives MUTANTS."""
    every, rng, started = list(configurations()), random.Random(number), time.monotonic()
    admitted, last = 0, b""

    @seed(number)
    @settings(UNHURRIED, max_examples=-(-cases // MUTANTS), database=None, phases=[Phase.generate])
    @given(body=st.one_of(strategies.bodies, strategies.almost_posts))
    def compare(body: bytes) -> None:
        nonlocal admitted, last
        for mutant in mutants(body, last, rng):
            admitted += agree_to_admit(mutant, rng.choice((1, 3, 1000)))
            rng.choice(every).agree(mutant)
        last = body

    compare()
    total, maps = sum(twins.cases for twins in every), sum(twins.maps for twins in every)
    print(
        f"{total} bodies (seed {number}): {admitted} admitted, {maps} mapped, {time.monotonic() - started:.0f} s; all agree"
    )
    assert total >= cases
    assert min(admitted, maps) > total // 20, "almost none of them was a post"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", file=sys.stderr)
    run(arguments.cases, arguments.seed)


if __name__ == "__main__":
    main()
