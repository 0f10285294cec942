"""`btfeed receive` and `btfeed deliver` as processes, each with a directory of its own as on a machine of its own."""

import signal
from collections.abc import Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.harness import BTFEED, Server, freeze


class Half(Server):
    """`btfeed COMMAND`, "receive", "deliver" or "serve". It may be started again after it has ended.

    text     the whole configuration, with `{directory}` for this process's directory
    counted  what the counters of all its lives have come to, by sample, as far as `note` has seen them
    """

    def __init__(
        self, command: str, directory: Path, text: str, *, options: Sequence[str] = (), program: Sequence[str] = BTFEED
    ) -> None:
        super().__init__(directory, options=options, program=program)
        self.command = command
        self.config.write_text(text.replace("{directory}", str(directory)))
        self._ended: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._logs: list[Path] = []

    def start(self) -> "Half":
        self._ended, self._now = self.counted, {}
        super().start()
        self._logs.append(self._log_path)
        return self

    def pause(self) -> None:
        """Send SIGSTOP."""
        assert self.process
        freeze(self.process.pid, group=True)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL, also to one that is paused."""
        super().kill()

    @property
    def counted(self) -> dict[str, float]:
        names = self._ended.keys() | self._now.keys()
        return {name: self._ended.get(name, 0.0) + self._now.get(name, 0.0) for name in names}

    def note(self) -> None:
        """Look at the counters. What a life counted after the last look is not known."""
        self._now = self.samples(counters=True)

    def samples(self, counters: bool = False) -> dict[str, float]:
        """All samples of its metrics, as `name{label="value"}`. counters: only those."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            if counters and family.type != "counter":
                continue
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def all_logs(self) -> str:
        """The logs of all its lives."""
        return "".join(path.read_text(errors="replace") for path in self._logs)


def total(samples: dict[str, float], name: str, *labels: str) -> float:
    """The sum of all samples of a metric that have these labels, such as `sink="files"`."""
    return sum(
        value for key, value in samples.items() if key.partition("{")[0] == name and all(label in key for label in labels)
    )
