"""Flame graphs as SVG without script: frames as boxes as wide as their share of the samples, callees below callers.

Stacks are lines as py-spy writes them with `--format raw`: `outermost;...;innermost COUNT`. A thread that only waits is in
many of them, since it looks busy to py-spy at the moment at which it was stopped. These are left out: they use no CPU. What
`perf script` prints becomes such lines, too.
"""

import html
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

WAITS = (
    "PyThread_acquire_lock_timed", "pthread_cond_timedwait", "pthread_cond_wait", "take_gil", "sem_wait", "sem_clockwait",
    "epoll_pwait", "epoll_wait", "poll", "select",
)  # fmt: skip
"""Functions in which a thread waits."""
INNERMOST = 4
"""Frames in which they are looked for: below them are those of the C library, which have no names."""
WIDTH, ROW, MARGIN = 1600, 17, 10
"""Pixels."""
LETTER = 6.7
"""Pixels of a letter, about."""
LEAST = 0.5
"""Pixels of the narrowest box that is drawn."""
PYTHON, NATIVE, KERNEL = "#9ec5e8", "#f0b878", "#c9c3bb"
STYLE = "text{font:11px monospace;pointer-events:none}rect{stroke:#fff;stroke-width:.5}"


@dataclass
class Frame:
    """A function, and those that it calls. samples: in it and in all of these."""

    name: str
    samples: int = 0
    callees: "dict[str, Frame]" = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Frames one below the other, with this one."""
        return 1 + max((callee.depth for callee in self.callees.values()), default=0)


def tree(stacks: Iterable[str], waits: Collection[str] = WAITS) -> tuple[Frame, int]:
    """All frames below one for the whole server, and how many samples were left out: those in functions of `waits`."""
    root, waiting = Frame("all threads"), 0
    for line in stacks:
        stack, _, count = line.strip().rpartition(" ")
        frames, samples = stack.split(";"), int(count)
        if any(frame.partition(" ")[0] in waits for frame in frames[-INNERMOST:]):
            waiting += samples
            continue
        at = root
        at.samples += samples
        for name in frames:
            at = at.callees.setdefault(name, Frame(name))
            at.samples += samples
    return root, waiting


def from_perf(printed: str) -> Iterator[str]:
    """The stacks that `perf script -F comm,ip,sym,dso` prints: a paragraph for each sample, with the thread's name, and
    then its frames from the innermost one on. Frames of code that perf does not know are left out."""
    counts: Counter[str] = Counter()
    for paragraph in filter(None, printed.strip().split("\n\n")):
        thread, *frames = paragraph.strip().splitlines()
        known = [frame.split(maxsplit=1)[1] for frame in frames if not frame.endswith("([unknown])")]
        parted = [frame.rpartition(" (") for frame in reversed(known)]
        names = [f"{function} ({library.rpartition('/')[2]}" for function, _, library in parted]
        counts[";".join([thread.strip(), *(name.replace(";", ":") for name in names)])] += 1
    for stack, count in counts.items():
        yield f"{stack} {count}"


def draw(root: Frame, title: str) -> str:
    """The SVG. Pointing at a box shows its whole name, samples and share."""
    height = root.depth * ROW + 3 * MARGIN + ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 11}">{html.escape(title)}</text>',
    ]
    if root.samples:
        parts += _boxes(root, float(MARGIN), 2 * MARGIN + ROW, (WIDTH - 2 * MARGIN) / root.samples, root.samples)
    return "\n".join([*parts, "</svg>\n"])


def _boxes(frame: Frame, x: float, y: int, scale: float, whole: int) -> Iterator[str]:
    width = frame.samples * scale
    if width < LEAST:
        return
    color = PYTHON if ".py:" in frame.name else KERNEL if "[kernel" in frame.name else NATIVE
    told = f"{frame.name}: {frame.samples} samples, {frame.samples / whole:.1%}"
    letters = int((width - 6) / LETTER)
    short = frame.name if len(frame.name) <= letters else frame.name[: letters - 2] + ".."
    yield (
        f'<g><title>{html.escape(told)}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" '
        f'fill="{color}"/>'
    )
    if letters > 2:
        yield f'<text x="{x + 3:.1f}" y="{y + 12}">{html.escape(short)}</text>'
    yield "</g>"
    for callee in sorted(frame.callees.values(), key=lambda callee: -callee.samples):
        yield from _boxes(callee, x, y + ROW, scale, whole)
        x += callee.samples * scale
