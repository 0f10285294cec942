"""What works, but is probably not meant: `serve` logs it, and `btfeed check` shows it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from btfeed.address import is_exposed
from btfeed.config import Config
from sinks.shared.optional import unusable


@dataclass(frozen=True, slots=True)
class Advice:
    """path: of the setting, or the name of a module. event: what is so, as logged. hint: what to do."""

    path: str
    event: str
    hint: str


async def advice(config: Config) -> AsyncIterator[Advice]:
    """Everything about the installation and the configuration that a person should look at."""
    for module, reason in unusable.items():
        hint = f"{reason}. Install a wheel for this machine, or cargo and run `make setup`. BTFEED_PLAIN=1 silences this"
        yield Advice(module, "native code can't be used, slower Python code runs instead", hint)
    if not config.sinks:
        event = "no sinks configured: posts are kept for their retention, and not delivered"
        yield Advice("sinks", event, "add a table [sinks.NAME]")
    exposed = "other machines can connect, without credentials"
    if not config.receiver.asks_for_credentials and await is_exposed(config.receiver.listen):
        hint = "set basic_auth, bearer_tokens or tls.client_ca, or listen on 127.0.0.1"
        yield Advice("receiver.listen", exposed, hint)
    if config.admin.token is None and await is_exposed(config.admin.listen):
        hint = "set admin.token, or listen on 127.0.0.1"
        yield Advice("admin.listen", exposed, hint)
