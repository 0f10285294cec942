"""Profiles: TOML files that describe the business process which `btfeed generate` simulates. Three are built in.

As in the configuration, all mistakes are reported at once, each with its path.
"""

import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from math import isclose
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from btfeed.faults import ConfigError, Faults, validate
from btfeed.toml_file import read_toml
from sinks.settings import Seconds, Settings

Percent = Annotated[float, Field(ge=0, le=100, strict=False)]
Amount = Annotated[float, Field(ge=0, le=1e9, strict=False)]
Name = Annotated[str, Field(min_length=1)]


class LoopSettings(Settings):
    """Goes back to an earlier step after this one, and repeats the steps from there.

    percent    share of the flows at this step that loop, in percent
    back_to    name of the step to go back to; default: this step
    min_times  lowest number of repetitions
    max_times  highest number of repetitions; all numbers in between are equally likely
    """

    percent: Percent
    back_to: str | None = None
    min_times: Annotated[int, Field(ge=1)] = 1
    max_times: Annotated[int, Field(ge=1, le=1000)] = 1


class StepSettings(Settings):
    """One user action and the requests that it causes.

    name       value of the dimension `Step`
    event      name of the business transaction for its user actions
    path       path of its URL
    drop_off   share of the flows at the previous step that end there, in percent
    taken      share of the flows that take this step, in percent; below 100, the others skip it
    min_hours  shortest time from the end of this step to the start of the next, in hours
    max_hours  longest time from the end of this step to the start of the next, in hours
    min_ms     shortest duration of the action, in milliseconds
    max_ms     longest duration of the action, in milliseconds
    requests   names of the business transactions for its PurePaths; one PurePath each
    converts   whether reaching this step converts the visit
    loop       repeats earlier steps, see below
    """

    name: Name
    event: Name
    path: Annotated[str, Field(pattern="^/")]
    drop_off: Percent = 0.0
    taken: Percent = 100.0
    min_hours: Amount = 0.0
    max_hours: Amount = 0.0
    min_ms: Amount = 100.0
    max_ms: Amount = 2000.0
    requests: list[Name] = []
    converts: bool = False
    loop: LoopSettings | None = None


class LocationSettings(Settings):
    """A place where visits come from.

    percent    share of the visits, in percent
    continent  its name in AppMon
    country    its name in AppMon
    city       its name in AppMon
    """

    percent: Percent
    continent: Name
    country: Name
    city: Name


class SegmentSettings(Settings):
    """A group of customers.

    name         value of the dimension `Customer segment`
    percent      share of the visits, in percent
    min_revenue  lowest revenue; default: `min` of the table `revenue`
    max_revenue  highest revenue; default: `max` of the table `revenue`
    """

    name: Name
    percent: Percent
    min_revenue: Amount | None = None
    max_revenue: Amount | None = None


class RevenueSettings(Settings):
    """The revenue of a flow.

    step  name of the step that earns it, each time it is taken
    min   lowest amount
    max   highest amount; all amounts in between are equally likely
    """

    step: str
    min: Amount
    max: Amount


class ErrorSettings(Settings):
    """Failures at a step. The user action and its first request fail.

    step           name of the step
    percent        share of its actions that fail, in percent
    extra_ms       how much longer a failed action takes, in milliseconds
    client_errors  number of JavaScript errors in a failed action
    """

    step: str
    percent: Percent
    extra_ms: Amount = 0.0
    client_errors: Annotated[int, Field(ge=0, le=1000)] = 0


class TimesSettings(Settings):
    """When flows begin, in UTC. All values are weights: only their proportions matter.

    hours    24 weights, one for each hour of the day
    weekday  weight of each day from Monday to Friday
    weekend  weight of Saturday and of Sunday
    """

    hours: Annotated[list[Amount], Field(min_length=24, max_length=24)] = [1.0] * 24
    weekday: Amount = 1.0
    weekend: Amount = 1.0


class ClientSettings(Settings):
    """A browser of visitors.

    percent  share of the visits, in percent
    family   its name in AppMon
    """

    percent: Percent
    family: Name


class SystemSettings(Settings):
    """An operating system.

    percent  share of the visits, in percent
    family   for example `Windows`
    name     for example `Windows 10`
    """

    percent: Percent
    family: Name
    name: Name


class ConnectionSettings(Settings):
    """A type of network connection.

    percent  share of the visits, in percent
    type     its name in AppMon
    """

    percent: Percent
    type: Name


class Profile(Settings):
    """The top level of a profile.

    application        name of the application in each post
    system_profile     name of the system profile in each post
    server             name of the AppMon server in each post
    visits             name of the business transaction for visits
    url                base URL of the application; each step's path is appended
    flows_per_hour     how many flows begin per hour, on average over a week
    apdex_ms           actions up to this long are satisfying, up to four times as long tolerable, in milliseconds
    visit_timeout      how long after its last action a visit is posted
    purepath_visit_id  whether PurePaths carry the id of their visit, as in AppMon's sample client;
                       validation reports it as `unexpected`
    steps              the steps of the process, in order; see below
    locations          where visits come from; the percentages add up to 100, see below
    segments           groups of customers; the percentages add up to 100, see below
    revenue            what a flow earns, see below
    errors             failures, see below
    times              when flows begin, see below
    clients            browsers; the percentages add up to 100, see below
    systems            operating systems; the percentages add up to 100, see below
    connections        types of network connections; the percentages add up to 100, see below
    """

    application: Name
    system_profile: Name
    server: Name = "appmon"
    visits: Name
    url: Annotated[str, Field(pattern="^https?://")]
    flows_per_hour: Annotated[float, Field(gt=0, le=1e7, strict=False)]
    apdex_ms: Annotated[float, Field(gt=0, strict=False)] = 3000.0
    visit_timeout: Seconds = 0.0
    purepath_visit_id: bool = False
    steps: Annotated[list[StepSettings], Field(min_length=1)]
    locations: Annotated[list[LocationSettings], Field(min_length=1)]
    segments: Annotated[list[SegmentSettings], Field(min_length=1)]
    revenue: RevenueSettings | None = None
    errors: list[ErrorSettings] = []
    times: TimesSettings = TimesSettings()
    clients: Annotated[list[ClientSettings], Field(min_length=1)]
    systems: Annotated[list[SystemSettings], Field(min_length=1)]
    connections: Annotated[list[ConnectionSettings], Field(min_length=1)]


def shipped() -> dict[str, str]:
    """The built-in profiles as TOML, by name."""
    folder = resources.files("btfeed.traffic") / "profiles"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def load(name: str) -> Profile:
    """The built-in profile of that name, or the one in the file at that path. Raises ConfigError."""
    known = shipped()
    if name in known:
        return parse(tomllib.loads(known[name]))
    if not Path(name).exists():
        raise ConfigError([f"{name}: no such file, and not a built-in profile ({', '.join(known)})"])
    return parse(read_toml(Path(name)))


def parse(tables: dict[str, Any]) -> Profile:
    """The profile in parsed TOML. Raises ConfigError."""
    faults = Faults()
    profile = validate(Profile, tables, (), faults)
    if profile:
        for path, message in _contradictions(profile):
            faults.add(path, message)
    if faults or profile is None:
        raise ConfigError(faults.lines())
    return profile


Fault = tuple[tuple[str, ...], str]


def _contradictions(profile: Profile) -> Iterator[Fault]:
    """Values that are valid on their own but contradict each other."""
    names = [step.name for step in profile.steps]
    for place, step in enumerate(profile.steps):
        path = ("steps", str(place))
        if step.name in names[:place]:
            yield (*path, "name"), "an earlier step has the same name"
        yield from _range(path, "hours", step.min_hours, step.max_hours)
        yield from _range(path, "ms", step.min_ms, step.max_ms)
        if step.loop:
            yield from _range((*path, "loop"), "times", step.loop.min_times, step.loop.max_times)
            if step.loop.back_to not in (None, *names[: place + 1]):
                yield (*path, "loop", "back_to"), "must be the name of this step or of an earlier one"
    if profile.steps[0].taken < 100:
        yield ("steps", "0", "taken"), "must be 100 for the first step"
    if profile.steps[0].drop_off:
        yield ("steps", "0", "drop_off"), "must be 0 for the first step"
    for place, error in enumerate(profile.errors):
        if error.step not in names:
            yield ("errors", str(place), "step"), "there is no step with this name"
    yield from _revenue(profile, names)
    for name in ("locations", "segments", "clients", "systems", "connections"):
        total = sum(row.percent for row in getattr(profile, name))
        if not isclose(total, 100, abs_tol=0.01):
            yield (name,), f"the percentages add up to {total:g}; they must add up to 100"
    times = profile.times
    if not sum(times.hours) or not times.weekday + times.weekend:
        yield ("times",), "at least one hour must have a weight above 0"


def _revenue(profile: Profile, names: Sequence[str]) -> Iterator[Fault]:
    if profile.revenue:
        if profile.revenue.step not in names:
            yield ("revenue", "step"), "there is no step with this name"
        if profile.revenue.min > profile.revenue.max:
            yield ("revenue", "min"), "must not be more than max"
    for place, segment in enumerate(profile.segments):
        path = ("segments", str(place))
        if (segment.min_revenue is None) != (segment.max_revenue is None):
            yield path, "set both min_revenue and max_revenue, or neither"
        elif segment.min_revenue is not None and segment.max_revenue is not None:
            if not profile.revenue:
                yield (*path, "min_revenue"), "needs the table revenue, which names the step"
            yield from _range(path, "revenue", segment.min_revenue, segment.max_revenue)


def _range(path: tuple[str, ...], what: str, low: float, high: float) -> Iterator[Fault]:
    if low > high:
        yield (*path, f"min_{what}"), f"must not be more than max_{what}"
