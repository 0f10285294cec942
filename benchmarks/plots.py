"""Pictures of a result: one function for each, which returns None if the result has no data for it."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from benchmarks.findings import usual
from benchmarks.peers import PEERS
from benchmarks.results import SINK, Case, Result

mpl.use("Agg")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "svg.hashsalt": "btfeed",
    "svg.fonttype": "none",  # text as text: small and searchable
    "figure.constrained_layout.use": True,
}
COLORS = ("#3b6ea5", "#d98032", "#5a9367", "#a3475b", "#7d6aa8", "#8a8a8a", "#c2a83e", "#4f9da6", "#b0724b", "#333333")
SMALL = 100
"""Posts of fewer occurrences have a separate axis, because they cost many times as much."""


def _labelled(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _lines(axes: Axes, series: Mapping[str, Sequence[Case]], x: str, quantity: str) -> None:
    """A line for each series: its medians over parameter `x`, with bars from the lowest to the highest round."""
    for (name, cases), color in zip(series.items(), COLORS, strict=False):
        ordered = sorted((case for case in cases if quantity in case.samples), key=lambda case: float(case.parameters[x]))
        spreads = [case.spread(quantity) for case in ordered]
        middle = [spread.median for spread in spreads]
        below = [spread.median - spread.least for spread in spreads]
        above = [spread.most - spread.median for spread in spreads]
        places = [float(case.parameters[x]) for case in ordered]
        if places:
            axes.errorbar(
                places, middle, [below, above], label=name, color=color, marker="o", markersize=4, capsize=2, lw=1.5
            )
    places = sorted({float(case.parameters[x]) for cases in series.values() for case in cases})
    if places and places[0] > 0 and places[-1] / places[0] > 20:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:,.0f}" for place in places])
    axes.minorticks_off()


def _logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic: numbers at 1, 2 and 5 of each decade, and at least one decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = axes.get_ylim()
    if high / low < 10:
        axes.set_ylim(high / 10, high)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _by_name(result: Result, group: str) -> dict[str, list[Case]]:
    """Those whose posts come over the usual number of connections."""
    found: dict[str, list[Case]] = {}
    for case in result.of(group):
        if usual(case):
            found.setdefault(case.name, []).append(case)
    return found


def throughput(result: Result) -> Figure | None:
    """Throughput and CPU, by sink and post size."""
    series = _by_name(result, "whole server")
    if not series:
        return None
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    _lines(left, series, "occurrences", "occurrences_per_s")
    _from_zero(left)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _labelled(left, "Throughput, to the last record at the far end", "occurrences in a post", "occurrences / s")
    _lines(right, series, "occurrences", "cpu_us")
    _logarithmic(right)
    _labelled(right, "CPU of btfeed serve", "occurrences in a post", "µs / occurrence")
    _legend(right)
    return figure


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def latency(result: Result) -> Figure | None:
    """The time to a post's 200, at fixed rates."""
    cases = sorted(result.of("latency"), key=lambda case: float(case.parameters["posts_per_s"]))
    if not cases:
        return None
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    points = ("p50", "p99", "p99.9", "max")
    for case, color in zip(cases, COLORS, strict=False):
        values = [case.median(f"ack_{point}_ms") for point in points]
        label = f"{case.parameters['posts_per_s']:g} posts/s"
        axes.plot(points, values, label=label, color=color, marker="o", markersize=4)
    _logarithmic(axes)
    _labelled(axes, "Time to the 200, from when a post of 100 occurrences was due", "share of posts", "ms")
    axes.set_xticks(range(len(points)), ["50 %", "99 %", "99.9 %", "all"])
    _legend(axes)
    return figure


def stages(result: Result) -> Figure | None:
    """The cost of each stage, stacked, by post size and type."""
    there = any(result.of("stages", "map, native"))
    return _stages(result, _NATIVE if there else _PLAIN, "Where the time goes, with the file sink")


def stages_plain(result: Result) -> Figure | None:
    """The same for the plain path, if the result has both."""
    there = any(result.of("stages", "map, native"))
    return _stages(result, _PLAIN, "Where the time goes on the plain path") if there else None


def _stages(result: Result, parts: "Mapping[str, Part]", title: str) -> Figure | None:
    loads = sorted(
        {(int(c.parameters["occurrences"]), str(c.parameters["posts"])) for c in result.of("stages")}, key=_order
    )
    if not loads:
        return None
    groups = [[load for load in loads if (load[0] < SMALL) == few] for few in (True, False)]
    groups = [group for group in groups if group]
    figure = Figure(figsize=(10, 4.2))
    widths = [max(2, len(group)) for group in groups]
    all_axes = figure.subplots(1, len(groups), squeeze=False, width_ratios=widths)[0]
    for axes, group in zip(all_axes, groups, strict=True):
        _stack(axes, result, parts, group)
    _labelled(all_axes[0], title, "", "× parse of the same posts")
    _labelled(all_axes[-1], "", "occurrences in a post, and their type", "")
    handles, labels = all_axes[-1].get_legend_handles_labels()
    all_axes[-1].legend(handles[::-1], labels[::-1], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _stack(axes: Axes, result: Result, parts: "Mapping[str, Part]", loads: Sequence[tuple[int, str]]) -> None:
    """A bar for each of `loads`."""
    bottom = [0.0] * len(loads)
    for (name, of), color in zip(parts.items(), COLORS, strict=False):
        heights = [max(0.0, of(result, load)) for load in loads]
        axes.bar(range(len(loads)), heights, bottom=bottom, label=name, color=color, width=0.65)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, top in enumerate(bottom):
        axes.annotate(f"{top:.1f}", (place, top), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(loads)), [f"{size:,}\n{kind.replace('_', ' ')}" for size, kind in loads])
    axes.set_xlim(-0.6, max(2, len(loads)) - 0.4)


def _order(load: tuple[int, str]) -> tuple[bool, int, str]:
    return load[1] != "mixed", load[0], load[1]


Part = Callable[[Result, tuple[int, str]], float]


def _stage(name: str) -> Part:
    def cost(result: Result, load: tuple[int, str]) -> float:
        found = list(result.of("stages", name, occurrences=load[0], posts=load[1]))
        return found[0].median("x_parse") if found else 0.0

    return cost


_PLAIN: dict[str, Part] = {
    "receive: parse": _stage("parse"),
    "receive: limits": _stage("limits"),
    "journal: append": _stage("journal append"),
    "journal: read": _stage("journal read"),
    "map: parse": _stage("parse"),
    "map: encode": _stage("encode"),
    "map: the rest": lambda of, load: _stage("map")(of, load) - _stage("parse")(of, load) - _stage("encode")(of, load),
    "batch": _stage("batch"),
    "file sink": _stage("sink: file"),
}
"""Parts that add up. Receiving parses, too, which is not part of `limits`."""
_NATIVE: dict[str, Part] = {
    "receive: limits": _stage("limits, native"),
    "journal: append": _stage("journal append"),
    "journal: read": _stage("journal read"),
    "map": _stage("map, native"),
    "batch": _stage("batch"),
    "file sink": _stage("sink: file"),
}


def sinks(result: Result) -> Figure | None:
    """The writes of each sink alone, by post size, of mixed posts."""
    named = _by_name(result, "stages").items()
    series = {
        name.removeprefix(SINK): [case for case in cases if case.parameters["posts"] == "mixed"]
        for name, cases in named
        if name.startswith(SINK)
    }
    if not any(series.values()):
        return None
    figure = Figure(figsize=(10, 4))
    told = (
        ("x_parse", "CPU of a sink's writes", "× parse of the same posts"),
        ("allocations", "Memory allocations", "per occurrence"),
    )
    for axes, (quantity, title, y) in zip(figure.subplots(1, 2), told, strict=True):
        _lines(axes, series, "occurrences", quantity)
        _logarithmic(axes)
        _labelled(axes, title, "occurrences in a post", y)
    _legend(figure.axes[1])
    return figure


def growth(result: Result) -> Figure | None:
    """Costs as something grows."""
    series = {name: cases for name, cases in _by_name(result, "growth").items() if name != "time"}
    told = {
        "business transactions": ("number", "x_parse", "different names"),
        "file sinks": ("number", "x_parse", "sinks"),
        "connections": ("number", "x_parse", "connections"),
        "backlog": ("mebibytes", "take_x_parse", "MiB that wait; cost of taking posts"),
    }
    series = {name: cases for name, cases in series.items() if name in told}
    if not series:
        return None
    figure = Figure(figsize=(3.1 * len(series), 3.4))
    for axes, (name, cases) in zip(figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True):
        parameter, quantity, x = told[name]
        _lines(axes, {name: cases}, parameter, quantity)
        _from_zero(axes)
        axes.tick_params(axis="x", labelrotation=45)
        _labelled(axes, name, x, "× parse")
    return figure


def hour(result: Result) -> Figure | None:
    """CPU, memory and latency, minute by minute at a steady rate."""
    case = next(result.of("growth", "time"), None)
    if case is None:
        return None
    figure = Figure(figsize=(10, 3.2))
    for axes, (quantity, title, y) in zip(
        figure.subplots(1, 3),
        (
            ("x_parse", "CPU", "× parse"),
            ("rss_mib", "peak memory", "MiB"),
            ("ack_p99_ms", "99 % of answers", "ms"),
        ),
        strict=True,
    ):
        axes.plot(range(1, len(case.samples[quantity]) + 1), case.samples[quantity], color=COLORS[0])
        _from_zero(axes)
        _labelled(axes, title, "minute", y)
    return figure


def peers(result: Result) -> Figure | None:
    """Other servers doing the same work, beside btfeed."""
    others = {name: [case for case in cases if _large(case)] for name, cases in _by_name(result, "peers").items()}
    others = {name: cases for name, cases in others.items() if cases}
    if not others:
        return None
    ours = {f"btfeed, {name}": _by_name(result, "whole server").get(name, []) for name in ("file", "kafka")}
    rows = {name: cases for name, cases in ours.items() if cases} | others
    sizes = sorted({int(case.parameters["occurrences"]) for cases in others.values() for case in cases})
    figure = Figure(figsize=(10, 1.2 + 0.8 * len(rows)))
    for axes, (quantity, title, x) in zip(
        figure.subplots(1, 2, sharey=True),
        (("occurrences_per_s", "Throughput", "occurrences / s"), ("cpu_us", "CPU", "µs / occurrence")),
        strict=True,
    ):
        for place, (size, color) in enumerate(zip(sizes, COLORS, strict=False)):
            _bars(axes, rows, quantity, size, place / len(sizes), 0.8 / len(sizes), color)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_yticks([place + 0.25 for place in range(len(rows))], list(map(_peer, rows)))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.15)
        _labelled(axes, title, x, "")
    figure.axes[0].invert_yaxis()
    figure.axes[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="occurrences\nin a post")
    return figure


def _large(case: Case) -> bool:
    return int(case.parameters["occurrences"]) >= SMALL


def _peer(name: str) -> str:
    """A peer's name and what it does not do."""
    lacks = [lack.short for lack in PEERS[name].lacks] if name in PEERS else []
    return "\n".join([name, *(", ".join(lacks[start : start + 2]) for start in range(0, len(lacks), 2))])


def _bars(
    axes: Axes, rows: Mapping[str, Sequence[Case]], quantity: str, size: int, offset: float, height: float, color: str
) -> None:
    for place, cases in enumerate(rows.values()):
        for case in cases:
            if case.parameters["occurrences"] == size and quantity in case.samples:
                value = case.median(quantity)
                label = f"{size:,}" if place == 0 else None  # one entry in the legend
                (bar,) = axes.barh(place + offset, value, height, color=color, label=label)
                axes.annotate(f" {value:,.0f}", (value, bar.get_y() + height / 2), va="center", fontsize=9)


PICTURES: dict[str, Callable[[Result], Figure | None]] = {
    "throughput": throughput,
    "stages": stages,
    "stages-plain": stages_plain,
    "sinks": sinks,
    "latency": latency,
    "growth": growth,
    "hour": hour,
    "peers": peers,
}
"""By file name."""
