"""The sockets that a server listens on, opened before everything else: connections wait in them while it starts."""

from contextlib import suppress
from types import MappingProxyType

from btfeed.address import clash, listen
from btfeed.app.in_use import naming
from btfeed.config import Config
from btfeed.inherited import ADMIN, RECEIVER, Sockets


async def check_addresses(config: Config, receives: bool = True) -> None:
    """Raise OSError if the receiver and the admin listener can't both listen where they are configured to. receives:
    whether there is a receiver."""
    if receives and await clash(config.receiver.listen, config.admin.listen):
        raise OSError(f"receiver.listen and admin.listen both need {config.admin.listen}: choose another port for one")


async def open_listeners(config: Config, inherited: Sockets = MappingProxyType({}), receives: bool = True) -> Sockets:
    """Those of the receiver, if there is one, and of the admin listener: the inherited ones, or new ones where the
    configuration says. Raises OSError."""
    await check_addresses(config, receives)
    sockets = {}
    addresses = {RECEIVER: config.receiver.listen} if receives else {}
    addresses[ADMIN] = config.admin.listen
    try:
        for name, address in addresses.items():
            with naming(f"{name}.listen", address):
                sockets[name] = await listen(address, inherited.get(name, ()), f"{name}.listen")
    except OSError:
        close(sockets)
        raise
    return sockets


async def listen_early(config: Config, inherited: Sockets, receives: bool = True) -> Sockets:
    """Listen before everything else that a start takes, so that connections wait instead of being refused.

    Without inherited sockets it is no error if that fails: the server tries again, when it has told what else may be wrong.
    """
    try:
        return await open_listeners(config, inherited, receives)
    except OSError:
        if inherited:
            raise
        return {}


def close(sockets: Sockets) -> None:
    """Close them in this process. Those that another one holds go on listening there."""
    for several in sockets.values():
        for each in several:
            with suppress(OSError):
                each.close()
