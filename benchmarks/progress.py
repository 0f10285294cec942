"""Progress bars of the suite, with the remaining time."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text


class Bars:
    """One bar for the turn, and one for the current case."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._turn = progress.add_task("", total=1)
        self._case: TaskID | None = None

    def turn(self, number: int, of: int, cases: int) -> None:
        self._progress.reset(self._turn, total=cases, description=f"turn {number} of {of}")

    def begin(self, name: str, rounds: int, expected: float | None) -> None:
        """expected: seconds for all its rounds."""
        self._case = self._progress.add_task(name, total=rounds, expected=expected)

    def sampled(self) -> None:
        assert self._case is not None
        self._progress.advance(self._case)

    def failed(self) -> None:
        """Prints the traceback of the exception that is handled."""
        self._progress.console.print_exception()

    def end(self) -> None:
        assert self._case is not None
        self._progress.remove_task(self._case)
        self._progress.advance(self._turn)


class Remaining(TimeRemainingColumn):
    """The rest of the expected time if there is one; otherwise an estimate from the rounds so far."""

    def render(self, task: Task) -> Text:
        expected = task.fields.get("expected")
        if expected is None or task.elapsed is None:
            return super().render(task)
        minutes, seconds = divmod(max(0, round(expected - task.elapsed)), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.remaining")


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Bars that are drawn on a terminal only."""
    name = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (name, BarColumn(20), TimeElapsedColumn(), Remaining())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True, expand=True) as progress:
        yield Bars(progress)
