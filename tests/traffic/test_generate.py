"""Generated posts follow the profile statistically, and the occurrences of a visit are consistent with each other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from math import sqrt

import pytest

from btfeed.posts.admission import admit
from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransactions
from btfeed.posts.post import digest, parse
from btfeed.traffic import profile
from btfeed.traffic.generate import BULK_SIZE, DEFAULT_BEGIN, MAX_WAIT_MS, GenerateOptions, generate
from btfeed.traffic.profile import Profile
from btfeed.traffic.sending import ScheduledPost
from btfeed.traffic.visits import FIRST_VISIT_ID, REVENUE
from tests.support.fakes import mapper

VISITS = 5_000
Z = 4.5
"""Standard deviations that a share may be off. Chance exceeds that once in 100,000 times, and the seed is fixed."""
SHIPPED = list(profile.shipped())
HOUR = 3_600_000

each_profile = pytest.mark.parametrize("name", SHIPPED)


@dataclass
class Visit:
    """One visit and its actions, in the order of their start."""

    visit: BtOccurrence | None = None
    revenue: float = 0.0
    segment: str = ""
    actions: list[BtOccurrence] = field(default_factory=list)

    @property
    def steps(self) -> list[str]:
        return [action.dimensions[1] for action in self.actions]


@dataclass
class Generated:
    """The posts of a profile, and their occurrences by visit."""

    profile: Profile
    posts: list[ScheduledPost]
    visits: dict[int, Visit]
    purepaths: list[BtOccurrence]


def messages(posts: Iterable[ScheduledPost]) -> Iterator[BusinessTransactions]:
    return (parse(post.body) for post in posts)


@cache
def generated(name: str) -> Generated:
    """10,000 visits of a built-in profile."""
    loaded = profile.load(name)
    posts = list(generate(GenerateOptions(loaded, seed=7, visits=VISITS)))
    visits: dict[int, Visit] = defaultdict(Visit)
    purepaths: list[BtOccurrence] = []
    for message in messages(posts):
        for transaction in message.businessTransactions:
            for occurrence in transaction.occurrences:
                if transaction.type == 0:
                    purepaths.append(occurrence)
                    continue
                visit = visits[occurrence.visitId]
                if transaction.type == 1:
                    visit.actions.append(occurrence)
                else:
                    visit.visit, visit.segment = occurrence, occurrence.dimensions[0]
                    visit.revenue = occurrence.values[list(transaction.measureNames).index(REVENUE)]
    for visit in visits.values():
        visit.actions.sort(key=lambda action: action.startTime)
    return Generated(loaded, posts, visits, purepaths)


def assert_share(hits: int, of: int, percent: float, what: str) -> None:
    """`hits` of `of` is a likely result for that probability."""
    share = percent / 100
    allowed = Z * sqrt(of * share * (1 - share)) + 1e-9
    assert abs(hits - of * share) <= allowed, f"{what}: {hits} of {of}, expected {of * share:.0f} +- {allowed:.0f}"


def assert_mean(values: list[float], low: float, high: float, what: str) -> None:
    """The values look uniformly distributed between `low` and `high`."""
    assert low <= min(values)
    assert max(values) <= high, what
    mean, expected = sum(values) / len(values), (low + high) / 2
    allowed = Z * (high - low) / sqrt(12 * len(values)) + 0.005
    assert abs(mean - expected) <= allowed, f"{what}: {mean:.2f}, expected {expected:.2f} +- {allowed:.2f}"


# Statistics


@pytest.mark.slow
@each_profile
def test_as_many_visits_reach_each_step_as_the_drop_off_says(name: str) -> None:
    """Each step loses its drop-off of those who reached the step before; optional steps are taken by their share."""
    found = generated(name)
    ways = [set(visit.steps) for visit in found.visits.values()]
    assert len(ways) == VISITS
    still_in = ways
    for place, step in enumerate(found.profile.steps):
        later = {other.name for other in found.profile.steps[place:]}
        if step.taken < 100:
            # visitors who dropped off before the next step may or may not have taken it, so count only those who went on
            went_on = [way for way in ways if way & (later - {step.name})]
            assert_share(sum(step.name in way for way in went_on), len(went_on), step.taken, step.name)
            continue
        here = [way for way in ways if way & later]
        reached = sum(step.name in way for way in ways)
        assert reached == sum(step.name in way for way in here)
        assert_share(reached, len(still_in), 100 - step.drop_off, step.name)
        still_in = [way for way in ways if step.name in way]


@pytest.mark.slow
@each_profile
def test_as_many_visits_loop_as_the_profile_says(name: str) -> None:
    """The share of visits that loop is right, and each number of repetitions is equally frequent."""
    found = generated(name)
    for place, step in enumerate(found.profile.steps):
        loop = step.loop
        if not loop or (loop.back_to or step.name) != step.name:
            continue
        inside = [other.loop for other in found.profile.steps[place + 1 :] if other.loop and other.loop.back_to]
        names = {other.name: index for index, other in enumerate(found.profile.steps)}
        if any(names[str(outer.back_to)] <= place for outer in inside):
            continue  # a loop around this one adds to its count; the next test covers that
        counts = [visit.steps.count(step.name) - 1 for visit in found.visits.values() if step.name in visit.steps]
        looped = [count for count in counts if count]
        assert_share(len(looped), len(counts), loop.percent, step.name)
        choices = loop.max_times - loop.min_times + 1
        for times in range(loop.min_times, loop.max_times + 1):
            assert_share(looped.count(times), len(looped), 100 / choices, f"{step.name} {times} times")


def test_a_loop_repeats_all_steps_from_the_one_it_goes_back_to() -> None:
    """In the web shop, visitors who go back from the cart to the product page must add to the cart again."""
    found = generated("web-shop")
    reached = [visit.steps for visit in found.visits.values() if "Cart" in visit.steps]
    back = sum(("Cart", "Product page") in list(pairwise(steps)) for steps in reached)
    loop = found.profile.steps[2].loop
    assert loop
    assert_share(back, len(reached), loop.percent, "back to the product page")
    for steps in reached:
        for before, after in pairwise(steps):
            if before == "Product page":
                assert after in ("Product page", "Add to cart")


@pytest.mark.slow
@each_profile
def test_revenue_is_in_the_range_of_its_segment(name: str) -> None:
    """Its mean is right as well, and only the step of the profile earns revenue."""
    found = generated(name)
    assert found.profile.revenue
    for segment in found.profile.segments:
        low = found.profile.revenue.min if segment.min_revenue is None else segment.min_revenue
        high = found.profile.revenue.max if segment.max_revenue is None else segment.max_revenue
        amounts = [
            action.values[1]
            for visit in found.visits.values() if visit.segment == segment.name
            for action in visit.actions if len(action.values) > 1
        ]  # fmt: skip
        assert_mean(amounts, low, high, segment.name)
    paid = {action.dimensions[1] for visit in found.visits.values() for action in visit.actions if len(action.values) > 1}
    assert paid == {found.profile.revenue.step}


@each_profile
def test_errors_are_as_frequent_as_the_profile_says(name: str) -> None:
    """Actions fail at their step only, with the right frequency, and failed actions take longer."""
    found = generated(name)
    actions: dict[str, list[BtOccurrence]] = defaultdict(list)
    for visit in found.visits.values():
        for action in visit.actions:
            actions[action.dimensions[1]].append(action)
    errors = {error.step: error for error in found.profile.errors}
    for step in found.profile.steps:
        failed = [action for action in actions[step.name] if action.failed]
        error = errors.get(step.name)
        assert_share(len(failed), len(actions[step.name]), error.percent if error else 0, step.name)
        assert all(error and action.duration >= error.extra_ms + step.min_ms for action in failed)
        assert all(
            action.clientErrors == (error.client_errors if error and action.failed else 0) for action in actions[step.name]
        )


@each_profile
def test_segments_locations_browsers_and_systems_have_their_shares(name: str) -> None:
    """Each makes up its percentage of the visits."""
    found = generated(name)
    visits = [visit.visit for visit in found.visits.values() if visit.visit]
    settings = found.profile
    for segment in settings.segments:
        hits = sum(visit.segment == segment.name for visit in found.visits.values())
        assert_share(hits, VISITS, segment.percent, segment.name)
    for place in settings.locations:
        hits = sum((v.continent, v.country, v.city) == (place.continent, place.country, place.city) for v in visits)
        assert_share(hits, VISITS, place.percent, place.city)
    for client in settings.clients:
        assert_share(sum(v.clientFamily == client.family for v in visits), VISITS, client.percent, client.family)
    for system in settings.systems:
        hits = sum((v.osFamily, v.osName) == (system.family, system.name) for v in visits)
        assert_share(hits, VISITS, system.percent, system.name)
    for connection in settings.connections:
        assert_share(sum(v.connectionType == connection.type for v in visits), VISITS, connection.percent, connection.type)


@pytest.mark.slow
def test_visits_begin_when_the_profile_says() -> None:
    """From a working day into the weekend, each hour has the number of visits that its weight gives."""
    loaded = profile.load("web-shop")
    friday = DEFAULT_BEGIN + 4 * 24 * HOUR
    options = GenerateOptions(loaded, seed=3, begin=friday + 19 * HOUR, end=friday + 30 * HOUR)
    starts: dict[int, int] = defaultdict(int)
    for message in messages(generate(options)):
        for transaction in message.businessTransactions:
            if transaction.type == 2:
                for visit in transaction.occurrences:
                    starts[visit.startTime // HOUR] += 1
    times = loaded.times
    mean = sum(times.hours) / 24 * (5 * times.weekday + 2 * times.weekend) / 7
    for number in range(20, 28):  # whose visits have ended
        hour = friday // HOUR + number
        day = times.weekday if number < 24 else times.weekend
        expected = loaded.flows_per_hour * times.hours[number % 24] * day / mean
        assert abs(starts[hour] - expected) <= Z * sqrt(expected) + 1, (number, starts[hour], expected)


# Consistency


@each_profile
def test_a_visit_sums_up_its_actions(name: str) -> None:
    """Its counts, end, conversion, bounce, apdex and revenue follow from them, and its id exceeds 32 bits."""
    found = generated(name)
    converting = {step.name: step.event for step in found.profile.steps if step.converts}
    threshold = found.profile.apdex_ms
    for number, one in found.visits.items():
        visit, actions = one.visit, one.actions
        assert visit
        assert actions
        assert number > FIRST_VISIT_ID >= 2**32
        assert (visit.nrOfActions, visit.failedActions) == (len(actions), sum(action.failed for action in actions))
        assert visit.clientErrors == sum(action.clientErrors for action in actions)
        assert visit.startTime == actions[0].startTime
        assert 0 <= visit.endTime - (actions[-1].startTime + actions[-1].duration) < 1
        assert visit.exitActionFailed == actions[-1].failed
        assert visit.bounce == (len(actions) == 1)
        assert list(visit.convertedBy) == list(dict.fromkeys(converting[step] for step in one.steps if step in converting))
        assert visit.converted == bool(visit.convertedBy)
        scores = [
            0.0 if action.failed or action.duration > 4 * threshold else 1.0 if action.duration <= threshold else 0.5
            for action in actions
        ]
        assert visit.userExperienceIndex == pytest.approx(sum(scores) / len(scores), abs=0.006)
        assert one.revenue == pytest.approx(sum(action.values[1] for action in actions if len(action.values) > 1), abs=0.01)
        assert {action.dimensions[0] for action in actions} == {one.segment}


@each_profile
def test_actions_of_a_visit_follow_each_other(name: str) -> None:
    """The time from the end of an action to the start of the next is in the range of the profile."""
    found = generated(name)
    settings = {step.name: step for step in found.profile.steps}
    for one in found.visits.values():
        for before, after in pairwise(one.actions):
            step = settings[before.dimensions[1]]
            gap = after.startTime - before.startTime - before.duration
            assert step.min_hours * HOUR - 2 <= gap <= step.max_hours * HOUR + 2


@pytest.mark.slow
@each_profile
def test_purepaths_belong_to_actions(name: str) -> None:
    """An action has one PurePath per request. They run within the action, and their times add up to its server time."""
    found = generated(name)
    requests = {step.name: len(step.requests) for step in found.profile.steps}
    by_id = {purepath.purePathId: purepath for purepath in found.purepaths}
    assert len(by_id) == len(found.purepaths)
    order = {purepath: place for place, purepath in enumerate(sorted(by_id, key=_number))}
    ids = sorted(by_id, key=_number)
    seen = 0
    for one in found.visits.values():
        for action in one.actions:
            first = order[action.purePathId]
            mine = [by_id[name] for name in ids[first : first + requests[action.dimensions[1]]]]
            seen += len(mine)
            assert all(purepath.dimensions == action.dimensions for purepath in mine)
            assert all(purepath.startTime >= action.startTime for purepath in mine)
            assert all(p.startTime + p.duration <= action.startTime + action.duration for p in mine)
            assert sum(purepath.duration for purepath in mine) == pytest.approx(action.serverTime, abs=0.01)
            assert sum(purepath.cpuTime for purepath in mine) == pytest.approx(action.cpuTime, abs=0.01)
            assert any(purepath.failed for purepath in mine) == action.failed
            assert action.clientTime + action.networkTime + action.serverTime == pytest.approx(action.duration, abs=0.01)
    assert seen == len(found.purepaths)


def _number(purepath_id: str) -> int:
    return int(purepath_id.partition(";")[0].removeprefix("PT="))


@each_profile
def test_posts_break_no_rule_of_the_field_table(name: str) -> None:
    """Each occurrence has the required fields and no forbidden ones, and the receiver accepts the posts."""
    checker = mapper()
    for post in generated(name).posts[:300]:
        mapped = checker.map(post.body, digest(post.body))
        counts = mapped.counts
        assert not counts.violations
        assert not counts.mismatches
        assert not counts.unknown_fields
        assert not mapped.refused
        assert admit(post.body, BULK_SIZE) == post.occurrences == len(mapped.batch)


@each_profile
def test_posts_have_the_size_and_order_of_an_appmon_server(name: str) -> None:
    """Each has at most 100 occurrences, which arrived within 5 s and after those of the post before."""
    before = 0.0
    for post, message in zip(generated(name).posts, messages(generated(name).posts), strict=True):
        arrivals = [
            occurrence.endTime if transaction.type == 2 else occurrence.startTime + int(-(-occurrence.duration // 1))
            for transaction in message.businessTransactions for occurrence in transaction.occurrences
        ]  # fmt: skip
        assert 1 <= len(arrivals) == post.occurrences <= BULK_SIZE
        assert min(arrivals) >= before - 1
        assert max(arrivals) - min(arrivals) <= MAX_WAIT_MS + 1
        before = max(arrivals)
