"""What `btfeed check` tries: all that `serve` would need, without changing anything."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

from btfeed.app.parts import create_sink
from btfeed.config import Config, SinkConfig
from sinks.base import SinkError
from sinks.shared.files import check_writable


@dataclass(frozen=True, slots=True)
class Check:
    """Something that `serve` needs. path: in the configuration. what: was found well. failure: None where it was."""

    path: str
    what: str
    failure: str | None = None


async def check(config: Config) -> list[Check]:
    """Try what `serve` would need, and change nothing."""
    found = []
    if config.receiver.tls:
        found.append(await _check("receiver.tls", "certificate and key can be loaded", _load_certificate(config)))
    directory = Path(config.journal.directory)
    writable = asyncio.to_thread(check_writable, directory)
    found.append(await _check("journal.directory", f"{directory} can be written", writable))
    for name, sink in config.sinks.items():
        article = "an" if sink.common.type[0] in "aeiou" else "a"
        what = f"{article} {sink.common.type} sink that could open"
        found.append(await _check(f"sinks.{name}", what, _check_sink(name, sink)))
    return found


async def _check(path: str, what: str, attempt: Awaitable[None]) -> Check:
    try:
        await attempt
    except OSError as error:
        return Check(path, what, str(error))
    except SinkError as error:
        return Check(path, what, f"{type(error).__name__.lower()}: {error}")
    except Exception as error:  # noqa: BLE001 - one that fails must not keep the others from being checked
        return Check(path, what, f"a bug: {error!r}")
    return Check(path, what)


async def _check_sink(name: str, config: SinkConfig) -> None:
    sink = create_sink(name, config)
    try:
        await sink.check()
    finally:
        await sink.close()


async def _load_certificate(config: Config) -> None:
    assert config.receiver.tls
    config.receiver.tls.context()
