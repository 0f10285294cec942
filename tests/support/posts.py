"""Posts for tests, benchmarks and the examples: AppMon's three samples, and seeded mixtures that look like real traffic."""

import random
from collections.abc import Sequence
from functools import lru_cache

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions

START = 1358330757840
"""startTime of the sample posts: 2013-01-16T10:05:57.840Z."""


def _sample(kind: BusinessTransaction.Type, **fields: object) -> bytes:
    occurrence = BtOccurrence(startTime=START, values=[1.0], dimensions=["splitting"], **fields)  # type: ignore[arg-type]
    transaction = BusinessTransaction(
        name="btName",
        type=kind,
        application="btApplication",
        measureNames=["measureKey"],
        dimensionNames=["splittingKey"],
        occurrences=[occurrence],
    )
    return BusinessTransactions(businessTransactions=[transaction]).SerializeToString()


def sample_purepath() -> bytes:
    """What AppMon's sample client posts for a PurePath; its visitId breaks the field table."""
    return _sample(
        BusinessTransaction.PUREPATH,
        purePathId="PT=288;PA=-508867027;PS=-522660323",
        visitId=1234,
        responseTime=12.5,
        cpuTime=3.25,
        syncTime=0.5,
        waitTime=0.25,
        suspensionTime=0.0,
        execTime=10.0,
        duration=14.5,
        failed=False,
    )


def untyped(number: int = 0) -> bytes:
    """The PurePath without a type, different for each number."""
    post = BusinessTransactions.FromString(sample_purepath())
    post.businessTransactions[0].ClearField("type")
    post.businessTransactions[0].occurrences[0].startTime += number
    return post.SerializeToString()


def sample_user_action() -> bytes:
    """What AppMon's sample client posts for a user action."""
    return _sample(
        BusinessTransaction.USER_ACTION,
        purePathId="PT=288;PA=-508867027;PS=-522660323",
        actionName="click on btn",
        url="http://localhost/orange.jsf?a=b",
        visitId=8589934592,
        responseTime=12.5,
        cpuTime=3.25,
        syncTime=0.5,
        waitTime=0.25,
        suspensionTime=0.0,
        execTime=10.0,
        duration=14.5,
        failed=True,
        clientErrors=2,
        clientTime=100.0,
        networkTime=50.0,
        serverTime=25.0,
        urlRedirectionTime=1,
        dnsTime=2,
        connectTime=3,
        sslTime=4,
        documentRequestTime=5,
        documentResponseTime=6,
        processingTime=7,
    )


def sample_visit() -> bytes:
    """What AppMon's sample client posts for a visit."""
    return _sample(
        BusinessTransaction.VISIT,
        endTime=1358330832472,
        visitId=8589934592,
        visitTag="btUser",
        userExperienceIndex=0.75,
        converted=True,
        nrOfActions=5,
        clientFamily="Firefox",
        clientIP="1.2.3.4",
        continent="Europe",
        country="Austria",
        city="Linz",
        failedActions=1,
        clientErrors=2,
        exitActionFailed=False,
        bounce=False,
        osFamily="Windows",
        osName="Windows 7",
        connectionType="Broadband (>1500 kb/s)",
        convertedBy=["conv", "by"],
    )


SAMPLES = {"purepath": sample_purepath, "user_action": sample_user_action, "visit": sample_visit}

_PAGES = ("/home", "/search?q=shoes", "/product/4711", "/cart", "/checkout", "/orderconfirmation")
_PLACES = (
    ("Europe", "Austria", "Linz"),
    ("Europe", "Germany", "Berlin"),
    ("North America", "United States - Arizona", "Tucson"),
)


@lru_cache(maxsize=64)
def mixed(occurrences: int, seed: int = 0, start: int = START) -> bytes:
    """A post of `occurrences` of all three types, about 170 bytes each. Equal arguments give equal bytes."""
    return post_of((occurrences // 2, occurrences // 3, occurrences - occurrences // 2 - occurrences // 3), seed, start)


def post_of(shares: Sequence[int], seed: int = 0, start: int = START) -> bytes:
    """A post. shares: the number of PurePaths, user actions and visits."""
    rng = random.Random(seed)
    message = BusinessTransactions(serverName="appmon-01")
    for kind, number in enumerate(shares):
        if not number:
            continue
        transaction = message.businessTransactions.add(
            name=("Checkout - PurePaths", "Checkout by page", "Visits (all)")[kind],
            type=BusinessTransaction.Type.Name(kind),
            application="easyTravel",
            systemProfile="production",
            measureNames=["Revenue", "Count"],
            dimensionNames=["Page", "Customer segment"],
        )
        for place in range(number):
            occurrence = transaction.occurrences.add(startTime=start + seed * 1000 + place)
            occurrence.values.extend((round(rng.uniform(0, 500), 2), 1.0))
            occurrence.dimensions.extend((rng.choice(_PAGES), rng.choice(("gold", "silver", "none"))))
            (_purepath, _user_action, _visit)[kind](occurrence, rng)
    return message.SerializeToString()


def _purepath(occurrence: BtOccurrence, rng: random.Random) -> None:
    occurrence.purePathId = f"PT={rng.randrange(10**6)};PA={rng.randrange(-(2**31), 2**31)};PS={rng.randrange(2**31)}"
    occurrence.duration = occurrence.responseTime = rng.lognormvariate(4, 1)
    occurrence.failed = rng.random() < 0.03
    for name in ("cpuTime", "syncTime", "waitTime", "suspensionTime", "execTime"):
        setattr(occurrence, name, rng.expovariate(0.1))


def _user_action(occurrence: BtOccurrence, rng: random.Random) -> None:
    page = rng.choice(_PAGES)
    occurrence.actionName = f"Loading of page {page}"
    occurrence.url = f"https://www.easytravel.example{page}"
    occurrence.visitId = 8589934592 + rng.randrange(10**9)
    occurrence.duration = rng.lognormvariate(6, 1)
    occurrence.failed = rng.random() < 0.03
    occurrence.clientErrors = int(rng.random() < 0.02)
    for name in ("clientTime", "networkTime", "serverTime"):
        setattr(occurrence, name, rng.expovariate(0.01))
    for name in (
        "urlRedirectionTime",
        "dnsTime",
        "connectTime",
        "sslTime",
        "documentRequestTime",
        "documentResponseTime",
        "processingTime",
    ):
        setattr(occurrence, name, rng.randrange(200))


def _visit(occurrence: BtOccurrence, rng: random.Random) -> None:
    occurrence.endTime = occurrence.startTime + rng.randrange(8 * 3600 * 1000)
    occurrence.visitId = 8589934592 + rng.randrange(10**9)
    occurrence.visitTag = f"user{rng.randrange(10**4)}"
    occurrence.userExperienceIndex = rng.choice((0.0, 0.5, 0.75, 1.0))
    occurrence.converted = rng.random() < 0.1
    occurrence.nrOfActions = rng.randrange(1, 40)
    occurrence.clientFamily, occurrence.clientIP = (
        rng.choice(("Firefox", "Chrome", "Safari")),
        f"10.0.{rng.randrange(256)}.7",
    )
    occurrence.continent, occurrence.country, occurrence.city = rng.choice(_PLACES)
    occurrence.failedActions = occurrence.clientErrors = 0
    occurrence.exitActionFailed = False
    occurrence.bounce = occurrence.nrOfActions == 1
    occurrence.osFamily, occurrence.osName = "Windows", "Windows 10"
    occurrence.connectionType = "Broadband (>1500 kb/s)"
    if occurrence.converted:
        occurrence.convertedBy.append("Order placed")
