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
from sinks.settings import Seconds, Settings

Percent = Annotated[float, Field(ge=0, le=100, strict=False)]
Amount = Annotated[float, Field(ge=0, le=1e9, strict=False)]
Name = Annotated[str, Field(min_length=1)]


class LoopSettings(Settings):
    """Goes back to an earlier step after this one, and repeats the steps from there.

    percent                share of the flows at this step that loop, in percent
    back_to                name of the step to go back to; default: this step
    min_times, max_times   range of the number of repetitions; every number in it is equally likely
    """

    percent: Percent
    back_to: str | None = None
    min_times: Annotated[int, Field(ge=1)] = 1
    max_times: Annotated[int, Field(ge=1, le=1000)] = 1


class StepSettings(Settings):
    """One user action and the requests that it causes.

    name                   value of the dimension `Step`
    event                  name of the business transaction for its user actions
    path                   path of its URL
    drop_off               share of the flows that end before this step, in percent
    taken                  share of the flows that take this step, in percent; less than 100 makes it optional
    min_hours, max_hours   range of the time from the end of this step to the start of the next, in hours
    min_ms, max_ms         range of the action's duration, in milliseconds
    requests               names of the business transactions for its PurePaths; one PurePath each
    converts               whether reaching this step converts the visit
    loop                   table, see below
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

    percent                share of the visits, in percent
    continent, country, city  names, in AppMon's spelling
    """

    percent: Percent
    continent: Name
    country: Name
    city: Name


class SegmentSettings(Settings):
    """A group of customers.

    name                   value of the dimension `Customer segment`
    percent                share of the visits, in percent
    min_revenue, max_revenue  range of the revenue in this segment; default: that of the table `revenue`
    """

    name: Name
    percent: Percent
    min_revenue: Amount | None = None
    max_revenue: Amount | None = None


class RevenueSettings(Settings):
    """The revenue of a flow.

    step                   name of the step that earns it, each time it is taken
    min, max               range of the amount; every amount in it is equally likely
    """

    step: str
    min: Amount
    max: Amount


class ErrorSettings(Settings):
    """Failures at a step. The user action and its first request fail.

    step                   name of the step
    percent                share of its actions that fail, in percent
    extra_ms               how much longer a failed action takes, in milliseconds
    client_errors          number of JavaScript errors in a failed action
    """

    step: str
    percent: Percent
    extra_ms: Amount = 0.0
    client_errors: Annotated[int, Field(ge=0, le=1000)] = 0


class TimesSettings(Settings):
    """When flows begin, in UTC. All values are weights: only their proportions matter.

    hours                  24 weights, one for each hour of the day
    weekday, weekend       weight of a day from Monday to Friday, and of a Saturday or Sunday
    """

    hours: Annotated[list[Amount], Field(min_length=24, max_length=24)] = [1.0] * 24
    weekday: Amount = 1.0
    weekend: Amount = 1.0


class ClientSettings(Settings):
    """A browser.

    percent                share of the visits, in percent
    family                 name of the browser
    """

    percent: Percent
    family: Name


class SystemSettings(Settings):
    """An operating system.

    percent                share of the visits, in percent
    family, name           for example `Windows` and `Windows 10`
    """

    percent: Percent
    family: Name
    name: Name


class ConnectionSettings(Settings):
    """A type of network connection.

    percent                share of the visits, in percent
    type                   name, in AppMon's spelling
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
    steps              list of tables, in the order of the process, see below
    locations, segments, clients, systems, connections  list of tables whose percentages add up to 100, see below
    errors             list of tables, see below
    revenue, times     table, see below
    """

    application: Name
    system_profile: Name
    server: Name = "appmon"
    visits: Name
    url: Annotated[str, Field(pattern="^https?://")]
    flows_per_hour: Annotated[float, Field(gt=0, le=1e7, strict=False)]
    apdex_ms: Annotated[float, Field(gt=0, strict=False)] = 3000.0
    visit_timeout: Seconds = 0.0
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
    try:
        if name in known:
            return parse(tomllib.loads(known[name]))
        return parse(tomllib.loads(Path(name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError([f"{name}: no such file, and not a built-in profile ({', '.join(known)})"]) from None
    except OSError as error:
        raise ConfigError([f"{name}: {error.strerror}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{name}: {error}"]) from None


def parse(tables: dict[str, Any]) -> Profile:
    """The profile in parsed TOML. Raises ConfigError."""
    faults = Faults()
    profile = validate(Profile, tables, (), faults)
    if profile:
        for path, message in _contradictions(profile):
            faults.add(path, message)
    if faults or profile is None:
        raise ConfigError([f"{path}: {message}" for path, message in faults.items()])
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
