"""What a process does: `btfeed serve` receives and delivers, `btfeed receive` and `btfeed deliver` do one of it."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from btfeed.config import TABLES, Config
from btfeed.faults import ConfigError
from btfeed.journal import create as journals
from btfeed.worker import Worker

_ALONE = (
    'journal.type: a journal of type "{type}" belongs to one process, which receives and delivers: run `btfeed serve`, or'
    ' set journal.type = "kafka" for `btfeed {command}`'
)


@dataclass(frozen=True, slots=True)
class Role:
    """
    command  of btfeed
    sinks    names of those that it delivers to; empty for all
    worker   which process it is, if several receive on this machine
    """

    command: str = "serve"
    receives: bool = True
    delivers: bool = True
    sinks: Collection[str] = ()
    worker: Worker | None = None

    @property
    def tables(self) -> frozenset[str]:
        """The tables of the configuration that it needs. Secrets of sinks are for those who deliver."""
        return TABLES if self.delivers else TABLES - {"sinks"}

    def of(self, config: Config) -> Config:
        """What concerns this role. Raises ConfigError if the journal or a sink is not for it."""
        if not config.was_read("journal"):  # a reference in it stands for nothing
            return config if self.delivers else replace(config, sinks={})
        if not (self.receives and self.delivers) and not journals.halves(config.journal):
            raise ConfigError([_ALONE.format(type=config.journal.type, command=self.command)])
        if not self.delivers:
            return replace(config, sinks={})
        known = ", ".join(config.sinks) or "none"
        faults = [f"sinks.{name}: no such sink; the sinks are {known}" for name in self.sinks if name not in config.sinks]
        if faults:
            raise ConfigError(faults)
        wanted = self.sinks or config.sinks
        return replace(config, sinks={name: each for name, each in config.sinks.items() if name in wanted})


SERVE = Role()
RECEIVE = Role("receive", delivers=False)


BY_COMMAND = {role.command: role for role in (SERVE, RECEIVE, Role("deliver", receives=False))}
"""The roles of whole commands."""


def deliver(sinks: Collection[str] = ()) -> Role:
    return Role("deliver", receives=False, sinks=sinks)
