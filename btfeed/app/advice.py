"""What works, but is probably not meant: `serve` logs it, and `btfeed check` shows it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from btfeed.address import is_exposed
from btfeed.app.certificates import validities
from btfeed.app.roles import SERVE, Role
from btfeed.config import Config
from sinks.shared.optional import unusable
from sinks.shared.tls import Validity

log = structlog.get_logger()

ENDS_SOON = timedelta(days=14)
"""How long before the end of a certificate to tell."""


@dataclass(frozen=True, slots=True)
class Advice:
    """path: of the setting, or the name of a module. event: what is so, as logged. hint: what to do."""

    path: str
    event: str
    hint: str


async def log_advice(config: Config, role: Role = SERVE) -> None:
    """Log all of it as warnings."""
    async for item in advice(config, role):
        log.warning(item.event, setting=item.path, hint=item.hint)


async def advice(config: Config, role: Role = SERVE) -> AsyncIterator[Advice]:
    """Everything about the installation and the configuration that a person should look at, in this role."""
    for module, reason in unusable.items():
        hint = f"{reason}. Install a wheel for this machine, or cargo and run `make setup`. BTFEED_PLAIN=1 silences this"
        yield Advice(module, "native code can't be used, slower Python code runs instead", hint)
    if role.delivers and not config.sinks:
        event = "no sinks configured: posts are kept for their retention, and not delivered"
        yield Advice("sinks", event, "add a table [sinks.NAME]")
    for name, sink in config.sinks.items():
        if _makes_topics_by_default(sink.settings):
            event = "new topics get as many replicas as the brokers' default, which is one unless somebody has set it"
            hint = "set it to that of the journal, such as 3: a broker's disk is all that keeps records with one"
            yield Advice(f"sinks.{name}.replication_factor", event, hint)
    for path, valid in await asyncio.to_thread(lambda: list(validities(config))):
        if found := _not_valid_for_long(valid):
            yield Advice(path, found, f"{_hint(valid)}. Replace the files of the certificate and its key, and reload")
    if role.receives and role.delivers and config.receiver.workers > 1:
        event = "one process receives: only `btfeed receive` has workers"
        yield Advice("receiver.workers", event, "leave it out, or run btfeed receive and btfeed deliver")
    exposed = "other machines can connect, without credentials"
    if role.receives and not config.receiver.asks_for_credentials and await is_exposed(config.receiver.listen):
        hint = "set basic_auth, bearer_tokens or tls.client_ca, or listen on 127.0.0.1"
        yield Advice("receiver.listen", exposed, hint)
    if config.admin.token is None and await is_exposed(config.admin.listen):
        hint = "set admin.token, or listen on 127.0.0.1"
        yield Advice("admin.listen", exposed, hint)


def _makes_topics_by_default(settings: object) -> bool:
    """Whether a sink makes topics beside those of the journal, and does not say with how many replicas."""
    shares = getattr(settings, "cluster", None) == "journal" and getattr(settings, "create_topics", False)
    return shares and getattr(settings, "replication_factor", None) is None


def _not_valid_for_long(valid: Validity) -> str | None:
    """What is so with a certificate that is not valid, or not for long."""
    now = datetime.now(UTC)
    if valid.end <= now:
        return "certificate has ended"
    if valid.begin > now:
        return "certificate is not valid yet"
    return "certificate ends soon" if valid.end - now < ENDS_SOON else None


def _hint(valid: Validity) -> str:
    return f"it is valid from {valid.begin:%Y-%m-%d %H:%M} to {valid.end:%Y-%m-%d %H:%M} UTC"
