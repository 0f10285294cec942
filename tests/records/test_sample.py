"""The bytes of records, pinned: what a committed sample of posts becomes must not change from one version to the next."""

import hashlib
import math
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransactions
from btfeed.posts.files import find, read
from btfeed.posts.post import digest
from btfeed.records.mapper import PostMapper, create_mapper
from btfeed.records.plain_mapper import PlainMapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from tests.support.posts import mixed

EXAMPLES = Path(__file__).parents[2] / "examples" / "posts"
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "default": ({}, {}),
    "attributes": (
        {
            "provider": "{application}/{server}",
            "type": "{category}:{name}",
            "attributes": {"environment": "test", "dt": {"entity": {"host": "HOST-1"}}, "rank": 7},
        },
        {},
    ),
    "private": (
        {
            "attributes": {"deployment": {"ring": -1, "share": 0.5}, "canary": True},
            "privacy": {
                "drop": ["url.full", "appmon.dimension.page", "appmon.measure.count"],
                "hash": ["event.name", "user.name", "client.ip", "appmon.visit.id", "appmon.visit.converted_by"],
                "key": "secret",
                "mask_ip": True,
            },
        },
        {"missing": "dead-letter", "unexpected": "drop"},
    ),
}
DIGESTS = {
    ("examples", "default"): "964ee0ecb88464e03862e65de4a56c2dabdd32a37720f668a5e83a11f991f0bf",
    ("examples", "attributes"): "ab7a7191817dfba2f344f8b07c47f7d6f4d036cece9762fe73687e19768c6524",
    ("examples", "private"): "b15b5a7779be65f2385004728d3704b0fb0c24bc485b137a973c3e981fe0ef00",
    ("generated", "default"): "46c9f8f9ee1e833fe0e54f5270c9f76c82760d3cbe44b9b00a00f47949e62e3d",
    ("generated", "attributes"): "454cf8b21f6dbea9b9e4ae37173b2980dcbee680ea479e85a5b7c0a2e6ae6cb3",
    ("generated", "private"): "fc9e1a822d01ac4c900029ff07c8ea30f50e802b56d62d6ca77ee33cd8220637",
}
"""SHA-256 of all that the posts become."""
GENERATED = "e2d2f71da0290df9e9ca3943635edd4dca3165dd35c8a744ae0e38898c383df0"
"""SHA-256 of the generated posts themselves."""


@cache
def sample(name: str) -> list[bytes]:
    """Posts: those of examples/, or generated ones, of which every third is odd."""
    if name == "examples":
        return [body for path in find([EXAMPLES]) for body in read(path)]
    return [mixed(12, seed) if seed % 3 else odd(mixed(12, seed), seed) for seed in range(300)]


def odd(body: bytes, seed: int) -> bytes:
    """`body` with fields missing and unexpected, and with values that JSON or a calendar can't hold."""
    rng = random.Random(seed)
    message = BusinessTransactions.FromString(body)
    occurrences = [occurrence for bt in message.businessTransactions for occurrence in bt.occurrences]
    for occurrence in occurrences:
        for field in rng.sample([*occurrence.DESCRIPTOR.fields], 4):
            if rng.random() < 0.2 and field.name != "startTime":
                occurrence.ClearField(field.name)
        for change in ODD:
            if rng.random() < 0.1:
                change(occurrence)
    message.lostTransactions = seed
    return message.SerializeToString()


def _values(occurrence: BtOccurrence) -> None:
    occurrence.values.extend([math.inf, 5e-324, -0.0])


def _texts(occurrence: BtOccurrence) -> None:
    occurrence.dimensions.extend(['é "\\\u2028\n', ""])
    occurrence.convertedBy.extend(["", "x=y"])


def _numbers(occurrence: BtOccurrence) -> None:
    occurrence.duration = math.nan
    occurrence.cpuTime = 1e300
    occurrence.visitId = -(2**63)


def _times(occurrence: BtOccurrence) -> None:
    occurrence.startTime -= 2**60
    occurrence.endTime = 2**62


def _no_address(occurrence: BtOccurrence) -> None:
    occurrence.clientIP = "1.2.3.4, 5.6.7.8"


ODD = (_values, _texts, _numbers, _times, _no_address)


def outcome(path: PostMapper, bodies: Iterable[bytes]) -> str:
    """SHA-256 of the records, keys, dead letters and violations that `bodies` become."""
    found = hashlib.sha256()
    for body in bodies:
        mapped = path.map(body, digest(body))
        found.update(mapped.batch.ndjson)
        for refused in mapped.refused:
            found.update(refused.reason.encode() + refused.body)
        found.update(repr(sorted(mapped.counts.violations.items())).encode())
        found.update("".join(mapped.batch.keys).encode())
    return found.hexdigest()


def test_the_generated_posts_are_those_of_the_digests() -> None:
    """If this fails, tests.support.posts or this machine's mathematics changed, not the mapping."""
    assert hashlib.sha256(b"".join(sample("generated"))).hexdigest() == GENERATED


@pytest.mark.parametrize("path", [PlainMapper, create_mapper], ids=["plain", "running"])
@pytest.mark.parametrize(("posts", "settings"), DIGESTS, ids=["-".join(case) for case in DIGESTS])
def test_records_have_the_bytes_that_they_always_had(posts: str, settings: str, path: Any) -> None:
    """On the plain path and on the native one, under each of the settings."""
    record, validation = SETTINGS[settings]
    one = path(RecordSettings.model_validate(record), ValidationSettings.model_validate(validation))
    assert outcome(one, sample(posts)) == DIGESTS[posts, settings]
