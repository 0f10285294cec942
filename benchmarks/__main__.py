"""The command line of the benchmarks.

    python -m benchmarks run [--full] [--only TEXT ...] [--out FILE] [--seed N]
    python -m benchmarks compare BASE [NEW] [--threshold SHARE]     exit 1 if a case is worse
    python -m benchmarks draw FILE                                  pictures and page of a result, next to it

`run` writes the result, its pictures and its page. Tables go to stdout, progress to stderr.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from benchmarks import compare, page, suite
from benchmarks.findings import few_connections, posts
from benchmarks.job import FULL, SHORT
from benchmarks.measuring import quiet
from benchmarks.results import LATEST, Case, Result, about

SEED = 20130116


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 done, 1 a case is worse or failed, 2 wrong usage."""
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = chosen.command
    return command(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what btfeed costs.")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure, and write a result with its pictures")
    run.add_argument("--full", action="store_true", help="measure everything, for hours")
    run.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="only cases with one of these texts in the name")
    run.add_argument("--out", type=Path, default=LATEST, help="where to write the result; default %(default)s")
    run.add_argument("--seed", type=int, default=SEED, help="seed of the order of cases; default %(default)s")
    run.set_defaults(command=_run)
    compared = commands.add_parser("compare", help="show two results side by side; exit 1 if a case is worse")
    compared.add_argument("base", type=Path)
    compared.add_argument("new", type=Path, nargs="?", default=LATEST, help="default %(default)s")
    compared.add_argument("--threshold", type=float, default=0.1, help="smallest change that counts; default %(default)s")
    compared.set_defaults(command=_compare)
    draw = commands.add_parser("draw", help="draw the pictures and the page of a result, next to it")
    draw.add_argument("result", type=Path)
    draw.set_defaults(command=_draw)
    return parser


def _run(chosen: argparse.Namespace) -> int:
    told = " ".join(["make", "bench-full" if chosen.full else "bench"]) if not chosen.only else "python -m benchmarks run"
    if chosen.only:
        told += (" --full" if chosen.full else "") + " --only " + " ".join(chosen.only)
    of = about(told, chosen.seed)
    quiet()
    try:
        plan, wanted = FULL if chosen.full else SHORT, _wanted(chosen.only)
        cases, failures = suite.run(plan, chosen.seed, wanted, Console(stderr=True))
    except suite.NoRoom as error:
        print(error, file=sys.stderr)
        return 2
    result = Result(of, cases, failures)
    if not cases and not failures:
        print(f"no case has {' or '.join(chosen.only)} in its name: see benchmarks/suite.py for the names", file=sys.stderr)
        return 2
    result.save(chosen.out)
    page.write(result, chosen.out.with_suffix(""))
    print("\n".join([*_table(result), *_posts(result)]))
    print(f"\nwritten: {_near(chosen.out)} and {_near(chosen.out.with_suffix(''))}/index.html")
    for case, failure in failures.items():
        print(f"failed: {case}: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _wanted(texts: list[str]) -> Callable[[Case], bool]:
    return lambda case: not texts or any(text in case.key for text in texts)


def _table(result: Result) -> Iterator[str]:
    """Each case with its main quantities."""
    columns = (("cpu_us", 9), ("x_parse", 9), ("least", 8), ("most", 8), ("occurrences/s", 14), ("ack p99 ms", 11))
    yield f"{'case':72}" + "".join(f"{name:>{width}}" for name, width in columns)
    for case in result.cases:
        row = [_median(case, "cpu_us", "9.3f"), _median(case, "x_parse", "9.2f")]
        spread = case.spread("x_parse") if "x_parse" in case.samples else None
        row += [f"{spread.least:8.2f}{spread.most:8.2f}" if spread else " " * 16]
        row += [_median(case, "occurrences_per_s", "14,.0f"), _median(case, "ack_p99_ms", "11.1f")]
        yield f"{case.key:72}" + "".join(row).rstrip()


def _posts(result: Result) -> Iterator[str]:
    """What whole posts cost, as AppMon sends them."""
    if found := posts(result):
        yield f"\n{'small posts: occurrences, connections, taken by':72}{'cpu_us a post':>14}{'x_parse':>9}{'posts/s':>10}"
    for post in found:
        told = f"{post.size:4} over {post.connections:2}, {post.name}"
        yield f"{told:72}{post.cpu_us:14,.0f}{post.case.median('x_parse'):9.2f}{post.per_s:10,.0f}"
    yield from few_connections(result)


def _median(case: Case, quantity: str, form: str) -> str:
    width = int(form.partition(".")[0].rstrip(","))
    return f"{case.median(quantity):{form}}" if quantity in case.samples else " " * width


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _compare(chosen: argparse.Namespace) -> int:
    try:
        base, new = Result.load(chosen.base), Result.load(chosen.new)
    except (OSError, ValueError) as error:
        print(f"can't compare: {error}", file=sys.stderr)
        return 2
    found = list(compare.compare(base, new, chosen.threshold))
    if not found:
        print("the two results have no case in common", file=sys.stderr)
        return 2
    print("\n".join(compare.report(found)))
    for case in compare.gone(base, new):
        print(f"only in the base: {case}")
    worse = [one for one in found if one.verdict == "worse"]
    print(f"\n{len(found)} compared, {len(worse)} worse by more than {chosen.threshold:.0%} and more than the noise")
    return 1 if worse else 0


def _draw(chosen: argparse.Namespace) -> int:
    try:
        result = Result.load(chosen.result)
    except (OSError, ValueError) as error:
        print(f"can't draw: {error}", file=sys.stderr)
        return 2
    page.write(result, chosen.result.with_suffix(""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
