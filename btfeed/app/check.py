"""What `btfeed check` tries: everything that `serve` would need, without changing anything."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from btfeed.app.parts import create_sink
from btfeed.config import Config
from btfeed.delivery.sink_config import SinkConfig
from btfeed.journal import create as journals
from btfeed.journal.base import JournalError
from sinks.base import SinkError


@dataclass(frozen=True, slots=True)
class Check:
    """Something that `serve` needs. path: in the configuration. what: what is true if it succeeded. failure: why it did
    not, None if it did."""

    path: str
    what: str
    failure: str | None = None


async def check(config: Config) -> list[Check]:
    """Try everything that `serve` would need."""
    found = []
    if config.receiver.tls:
        load = asyncio.to_thread(config.receiver.tls.context)
        found.append(await _check("receiver.tls", "certificate and key can be loaded", load))
    for key, what, attempt in journals.checks(config.journal):
        found.append(await _check(f"journal.{key}", what, attempt))
    for name, sink in config.sinks.items():
        article = "an" if sink.common.type[0] in "aeiou" else "a"
        what = f"{article} {sink.common.type} sink that could open"
        found.append(await _check(f"sinks.{name}", what, _check_sink(name, sink)))
    return found


async def _check(path: str, what: str, attempt: Awaitable[object]) -> Check:
    try:
        await attempt
    except (OSError, JournalError) as error:
        return Check(path, what, str(error))
    except SinkError as error:
        return Check(path, what, f"{type(error).__name__.lower()}: {error}")
    except Exception as error:  # noqa: BLE001 - one check that fails must not prevent the others
        return Check(path, what, f"a bug: {error!r}")
    return Check(path, what)


async def _check_sink(name: str, config: SinkConfig) -> None:
    sink = create_sink(name, config)
    try:
        await sink.check()
    finally:
        await sink.close()
