"""Profiles: a business process as `btfeed generate` plays it, in TOML. Three come with the package.

All faults are found at once, each with its path, as those of the configuration are.
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
    """Going back after a step, and through all steps since again.

    percent                of the flows at this step
    back_to                the step to go back to; the step itself by default
    min_times, max_times   how many times, each number as likely as the others
    """

    percent: Percent
    back_to: str | None = None
    min_times: Annotated[int, Field(ge=1)] = 1
    max_times: Annotated[int, Field(ge=1, le=1000)] = 1


class StepSettings(Settings):
    """A step is one user action, and the requests behind it.

    name                   as it is shown
    event                  the business transaction of its user actions
    path                   of its url
    drop_off               percent of the flows at the step before that end there
    taken                  percent of the flows that take it; the others pass it over. 100 for all but optional steps
    min_hours, max_hours   from its end to the beginning of the next
    min_ms, max_ms         how long the action takes
    requests               the business transactions of its PurePaths, one PurePath each
    converts               whether a visit that comes here is converted
    loop                   see below
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
    """Where visits come from.

    percent                of the visits
    continent, country, city  as AppMon names them
    """

    percent: Percent
    continent: Name
    country: Name
    city: Name


class SegmentSettings(Settings):
    """A kind of customer.

    name                   the dimension's value
    percent                of the visits
    min_revenue, max_revenue  in the place of the range that all have
    """

    name: Name
    percent: Percent
    min_revenue: Amount | None = None
    max_revenue: Amount | None = None


class RevenueSettings(Settings):
    """What a flow brings in.

    step                   the step at which it does, each time
    min, max               its range, in which each amount is as likely as the others
    """

    step: str
    min: Amount
    max: Amount


class ErrorSettings(Settings):
    """What goes wrong: the action fails, and its first request.

    step                   at which step
    percent                of its actions
    extra_ms               how much longer they take
    client_errors          how many JavaScript errors they have
    """

    step: str
    percent: Percent
    extra_ms: Amount = 0.0
    client_errors: Annotated[int, Field(ge=0, le=1000)] = 0


class TimesSettings(Settings):
    """When flows begin, in UTC: weights, of which only the proportions count.

    hours                  one for each hour of the day
    weekday, weekend       of a whole day
    """

    hours: Annotated[list[Amount], Field(min_length=24, max_length=24)] = [1.0] * 24
    weekday: Amount = 1.0
    weekend: Amount = 1.0


class ClientSettings(Settings):
    """A browser.

    percent                of the visits
    family                 its name
    """

    percent: Percent
    family: Name


class SystemSettings(Settings):
    """An operating system.

    percent                of the visits
    family, name           such as Windows and Windows 10
    """

    percent: Percent
    family: Name
    name: Name


class ConnectionSettings(Settings):
    """A kind of connection.

    percent                of the visits
    type                   as AppMon names it
    """

    percent: Percent
    type: Name


class Profile(Settings):
    """The keys outside of all tables, and the tables.

    application     what posts say
    system_profile  likewise
    server          likewise
    visits          the business transaction of the visits
    url             the application's base, before each step's path
    flows_per_hour  how many begin, on average over a week
    apdex_ms        actions up to so long are satisfying, up to four times so long tolerable
    visit_timeout   how long after its last action a visit is posted
    steps           in their order; see below, as for the others
    locations, segments, clients, systems, connections  the percentages of each make 100
    errors, revenue, times  see below
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
    """The profiles that come with the package: name -> TOML."""
    folder = resources.files("btfeed.traffic") / "profiles"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def load(name: str) -> Profile:
    """The profile of that name, or in the file of that path. Raises ConfigError."""
    known = shipped()
    try:
        if name in known:
            return parse(tomllib.loads(known[name]))
        return parse(tomllib.loads(Path(name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError([f"{name}: no such file, nor a profile that is shipped: {', '.join(known)}"]) from None
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
    """What is wrong with values that are right each for itself."""
    names = [step.name for step in profile.steps]
    for place, step in enumerate(profile.steps):
        path = ("steps", str(place))
        if step.name in names[:place]:
            yield (*path, "name"), "another step has this name"
        yield from _range(path, "hours", step.min_hours, step.max_hours)
        yield from _range(path, "ms", step.min_ms, step.max_ms)
        if step.loop:
            yield from _range((*path, "loop"), "times", step.loop.min_times, step.loop.max_times)
            if step.loop.back_to not in (None, *names[: place + 1]):
                yield (*path, "loop", "back_to"), "neither this step nor one before it"
    if profile.steps[0].taken < 100:
        yield ("steps", "0", "taken"), "every flow takes the first step"
    if profile.steps[0].drop_off:
        yield ("steps", "0", "drop_off"), "there is no step before the first"
    for place, error in enumerate(profile.errors):
        if error.step not in names:
            yield ("errors", str(place), "step"), "no step has this name"
    yield from _revenue(profile, names)
    for name in ("locations", "segments", "clients", "systems", "connections"):
        total = sum(row.percent for row in getattr(profile, name))
        if not isclose(total, 100, abs_tol=0.01):
            yield (name,), f"the percentages make {total:g}, not 100"
    times = profile.times
    if not sum(times.hours) or not times.weekday + times.weekend:
        yield ("times",), "no hour has any weight"


def _revenue(profile: Profile, names: Sequence[str]) -> Iterator[Fault]:
    if profile.revenue:
        if profile.revenue.step not in names:
            yield ("revenue", "step"), "no step has this name"
        if profile.revenue.min > profile.revenue.max:
            yield ("revenue", "min"), "is more than max"
    for place, segment in enumerate(profile.segments):
        path = ("segments", str(place))
        if (segment.min_revenue is None) != (segment.max_revenue is None):
            yield path, "give both min_revenue and max_revenue, or neither"
        elif segment.min_revenue is not None and segment.max_revenue is not None:
            if not profile.revenue:
                yield (*path, "min_revenue"), "needs the table revenue, which says at which step"
            yield from _range(path, "revenue", segment.min_revenue, segment.max_revenue)


def _range(path: tuple[str, ...], what: str, low: float, high: float) -> Iterator[Fault]:
    if low > high:
        yield (*path, f"min_{what}"), f"is more than max_{what}"
