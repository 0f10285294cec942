"""The [admin] table of the configuration."""

from btfeed.address import Address
from sinks.settings import Settings, Token


class AdminSettings(Settings):
    """Where health, metrics, status and control are served, and who may ask.

    listen  address and port to listen on
    token   bearer token that all requests but those of /healthz and /readyz need; without one, anyone who can connect may
            read, and only this machine may change anything
    """

    listen: Address = "127.0.0.1:4322"
    token: Token | None = None
