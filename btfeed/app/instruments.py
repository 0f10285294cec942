"""OpenTelemetry's place in a server. Unless it is enabled, nothing of it is imported, and the parts are the plain ones."""

from collections.abc import Awaitable, Callable

from btfeed.journal.base import Intake
from btfeed.receiving.receiver import Receiver
from btfeed.receiving.settings import ReceiverSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.opentelemetry.packages import explained
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings
from sinks.base import Sink


class Instruments:
    """Makes the parts of a server that can record spans. This one makes the plain ones, and sends nothing."""

    def receiver(self, settings: ReceiverSettings, journal: Intake, metrics: Metrics) -> Receiver:
        return Receiver(settings, journal, metrics)

    def sink(self, name: str, sink: Sink) -> Sink:
        return sink

    def start(self, update: Callable[[], Awaitable[object]]) -> None:
        """Begin to send. update: brings metrics up to date that only change when they are read."""

    def reconfigure(self, settings: OpenTelemetrySettings) -> None:
        """Take another endpoint and other headers. Other changes need a restart (btfeed/app/reload.py)."""

    async def stop(self) -> None:
        """Send what is left, for at most FLUSH seconds (btfeed/telemetry/opentelemetry/exporter.py)."""


def create_instruments(settings: OpenTelemetrySettings, metrics: Metrics) -> Instruments:
    """Raises MissingPackages."""
    if not settings.enabled:
        return Instruments()
    try:
        from btfeed.app.tracing import OpenTelemetry
    except ImportError as error:
        raise explained(error) from None
    return OpenTelemetry(settings, metrics)
