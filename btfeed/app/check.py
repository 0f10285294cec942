"""What `btfeed check` tries: everything that `serve` would need, without changing anything.

Each check runs the code that decides when the server starts: the same settings, the same call that listens, the journal's
and the sinks' own checks. If a server is running with the same configuration, its journal and its ports are in use. That is
not a failure: the next start will find them free.
"""

import asyncio
import errno
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal

from btfeed.address import check_free, host_and_port
from btfeed.app.advice import advice
from btfeed.app.in_use import explain, holder_of
from btfeed.app.listeners import check_addresses
from btfeed.app.parts import create_sink
from btfeed.app.roles import SERVE, Role
from btfeed.config import Config
from btfeed.delivery.sink_config import SinkConfig
from btfeed.journal import create as journals
from btfeed.journal.base import Found, JournalError, JournalInUse
from btfeed.telemetry.opentelemetry.packages import check_collector
from sinks.base import Misconfigured, SinkError

SINKS_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Check:
    """Something that `serve` needs, or that a person should look at.

    path     in the configuration
    what     what holds unless there is a failure
    failure  why `serve` could not start or deliver, None if it could
    verdict  of what is true: "in use" by a running server, or "warning" if it is probably not meant
    """

    path: str
    what: str
    failure: str | None = None
    verdict: Literal["ok", "in use", "warning"] = "ok"


async def check(config: Config, role: Role = SERVE) -> list[Check]:
    """Try everything that the command of this role would need. What lacks a variable, a file or a credential has failed
    already."""
    found = [Check(path, "all references stand for something", failure) for path, failure in config.unresolved.items()]
    complete, administers = (config.is_complete(f"{table}.listen") for table in ("receiver", "admin"))
    receives = complete and role.receives
    if complete and administers:
        found += [Check(each.path, f"{each.event}: {each.hint}", verdict="warning") async for each in advice(config, role)]
    if role.receives and config.is_complete("receiver.tls") and config.receiver.tls:
        load = asyncio.to_thread(config.receiver.tls.context)
        found.append(await _check("receiver.tls", "certificate and key can be loaded", load))
    if config.is_complete("journal"):
        limit = {"max_body": config.receiver.max_body} if config.was_read("receiver") else {}
        attempts = journals.checks(config.journal, **limit, receives=role.receives, delivers=role.delivers)
        for key, what, attempt in attempts:
            found.append(await _check(f"journal.{key}", what, attempt))
    is_running = any(each.verdict == "in use" for each in found)
    own = role.command if config.is_complete("journal") and journals.halves(config.journal) else ""
    if receives:
        found.append(await _check_listener("receiver.listen", config.receiver.listen, is_running, own))
    if administers:
        free = await _check_listener("admin.listen", config.admin.listen, is_running, own)
        both = check_addresses(config) if receives else None
        distinct = await _check("admin.listen", "another address than the receiver's", both) if both else free
        found.append(distinct if distinct.failure else free)
    if config.is_complete("opentelemetry") and config.opentelemetry.enabled:
        asking = asyncio.to_thread(check_collector, config.opentelemetry)
        found.append(await _check("opentelemetry", "a collector that takes what it gets", asking))
    return [*found, *await _check_sinks(config)]


async def _check_sinks(config: Config) -> list[Check]:
    """In the order of the configuration, several at the same time: one that does not answer takes its whole timeout."""
    turn = asyncio.Semaphore(SINKS_AT_A_TIME)

    def owner(name: str) -> str:
        return journals.transactional_id(config.journal, name) if config.is_complete("journal") else ""

    async def check_one(name: str, sink: SinkConfig) -> Check:
        article = "an" if sink.common.type[0] in "aeiou" else "a"
        async with turn:
            return await _check(
                f"sinks.{name}", f"{article} {sink.common.type} sink that could open", _check_sink(name, sink, owner(name))
            )

    complete = [(name, sink) for name, sink in config.sinks.items() if config.is_complete(f"sinks.{name}")]
    return await asyncio.gather(*(check_one(name, sink) for name, sink in complete))


async def _check(path: str, what: str, attempt: Awaitable[object]) -> Check:
    """attempt: if it returns a text, that is a warning, unless it is a Found."""
    try:
        note = await attempt
    except JournalInUse:
        return Check(path, "by a btfeed that is running", verdict="in use")
    except (OSError, JournalError) as error:
        return Check(path, what, str(error))
    except Misconfigured as error:
        return Check(path, what, f"misconfigured: {error}")
    except SinkError as error:  # nothing is written, so that all others mean the same
        return Check(path, what, f"unavailable: {error}")
    except Exception as error:  # noqa: BLE001 - one check that fails must not prevent the others
        return Check(path, what, f"a bug: {error!r}")
    if isinstance(note, Found):
        return Check(path, note)
    return Check(path, note, verdict="warning") if isinstance(note, str) and note else Check(path, what)


async def _check_listener(path: str, address: str, is_running: bool, own: str = "") -> Check:
    """is_running: whether a server has the journal, and so probably the port. own: the command whose process
    counts as the server: a journal in Kafka has no lock, so only the port shows that it is running."""
    free = f"{address} is free"
    try:
        await check_free(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and is_running:
            return Check(path, f"{address}, probably by that btfeed", verdict="in use")
        holder = holder_of(host_and_port(address)[1]) if error.errno == errno.EADDRINUSE else None
        if holder and holder.keeps:
            runs = "running" if holder.runs else "not running"
            return Check(path, f"{address}, held for a server that is {runs}, by {holder}", verdict="in use")
        if holder and own and holder.program == f"btfeed {own}":
            return Check(path, f"{address}, by {holder}", verdict="in use")
        return Check(path, free, explain(address, error))
    return Check(path, free)


async def _check_sink(name: str, config: SinkConfig, transactional_id: str) -> None:
    sink = create_sink(name, config, transactional_id=transactional_id)
    try:
        await sink.check()
    finally:
        await sink.close()
