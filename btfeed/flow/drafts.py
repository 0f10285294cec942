"""A definition to begin with, made of a profile of generated traffic (btfeed/traffic/profile.py)."""

import json
from collections.abc import Iterator

from btfeed.records.names import normalize
from btfeed.traffic.profile import Profile, StepSettings
from sinks.settings import time_text

HOUR = 3600.0
SLACK = 2.0
"""So many times longer than the longest time that the profile has is a flow waited for."""


def of_profile(profile: Profile) -> str:
    """The definition as TOML."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    longest = sum(step.max_hours * (step.loop.max_times + 1 if step.loop else 1) for step in profile.steps) * HOUR
    waits = max(step.max_hours for step in profile.steps) * HOUR * SLACK + profile.visit_timeout
    goal = [step.name for step in profile.steps if step.converts] or [profile.steps[-1].name]
    yield f"# What became of {profile.visits.lower()}."
    yield f"name = {_text(profile.visits)}"
    yield f'where = {{ "event.provider" = {_text(profile.application)} }}'
    yield f'window = "{_time(max(longest * SLACK, HOUR))}"'
    yield f'lost_after = "{_time(max(waits, 1800.0))}"   # without a record of the visit: given up after so long'
    yield 'ends = { "event.category" = "visit" }   # AppMon posts the visit when it has ended'
    for step in profile.steps:
        yield ""
        yield from _step(step, step.name in goal)
    if profile.revenue:
        yield ""
        yield "[value]"
        yield 'label = "Revenue"'
        yield 'field = "appmon.measure.revenue"'
        yield f"step = {_text(profile.revenue.step)}   # the record of the visit has it a second time"
    yield ""
    yield "[dimensions]"
    yield f'segment = "appmon.dimension.{normalize("Customer segment")}"'
    yield 'country = "geo.country.name"   # on the record of the visit alone'


def _step(step: StepSettings, goal: bool) -> Iterator[str]:
    yield "[[steps]]"
    yield f"name = {_text(step.name)}"
    yield f"event = {_text(step.event)}"
    if step.taken < 100:
        yield "optional = true"
    if step.loop and step.loop.back_to in (None, step.name):
        yield "repeats = true"
    elif step.loop:
        yield f"back_to = [{_text(step.loop.back_to or '')}]"
    if goal:
        yield "goal = true"


def _text(value: str) -> str:
    """A basic string of TOML: JSON's escapes are among its own."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _time(seconds: float) -> str:
    """Rounded up to whole minutes, hours or days."""
    unit = next(each for each in (86_400, HOUR, 60) if seconds >= each or each == 60)
    return time_text(-(-seconds // unit) * unit)
