"""Which of several receivers on one machine a process is. The supervisor says it by the environment."""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass

from btfeed.notify import WORKER, WORKERS


@dataclass(frozen=True, slots=True)
class Worker:
    """The process `number`, from 1 on, of `of` that receive. Number 0 answers for the others."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def take(environment: MutableMapping[str, str] = os.environ) -> tuple[Worker | None, str]:
    """Which one this process is, None if it is the only one, and the directory of all workers' sockets. The variables are
    removed, since they are for no other process."""
    number, _, of = environment.pop(WORKER, "").partition("/")
    directory = environment.pop(WORKERS, "")
    return (Worker(int(number), int(of)), directory) if of else (None, "")
