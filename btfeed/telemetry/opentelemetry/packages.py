"""The packages of OpenTelemetry, which need not be installed. This module imports them only when it is asked to."""

from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings

NAMES = ("opentelemetry", "requests")
"""What the extra `otel` installs: the first part of the modules' names."""
INSTALL = "pip install 'btfeed[otel]'"


class MissingPackages(OSError):
    """The packages of OpenTelemetry are not installed."""


def explained(error: ImportError) -> Exception:
    """MissingPackages if that is why a module can't be imported, else the error itself."""
    if (error.name or "").partition(".")[0] not in NAMES:
        return error
    return MissingPackages(f"opentelemetry: a package that it needs is missing ({error.name}): install it with {INSTALL}")


def check_collector(settings: OpenTelemetrySettings) -> str | None:
    """What is wrong with the collector now, None if it takes what it gets. Blocks. Raises MissingPackages."""
    try:
        from btfeed.telemetry.opentelemetry.exporter import check_collector as ask
    except ImportError as error:
        raise explained(error) from None
    return ask(settings)
