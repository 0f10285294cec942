"""The [admin] table of the configuration."""

from btfeed.address import Address
from sinks.settings import Settings


class AdminSettings(Settings):
    """Where health, metrics and status are served. It does not ask for credentials: keep it on the loopback interface, or
    put a proxy with access control in front of it.

    listen  address and port to listen on
    """

    listen: Address = "127.0.0.1:4322"
