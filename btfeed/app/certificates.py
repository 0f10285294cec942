"""When the certificates that the configuration names are valid."""

from collections.abc import Iterator
from itertools import chain

import structlog
from pydantic import BaseModel

from btfeed.config import Config
from btfeed.telemetry.metrics import Metrics
from sinks.shared.tls import TlsFileError, Validity, validity

log = structlog.get_logger()


def show_validity(config: Config, metrics: Metrics) -> None:
    """Set the metric to the certificates of `config`, and no others. Call it when these have been loaded."""
    metrics.certificate_expiry.clear()
    metrics.certificates_begin.clear()
    for path, valid in validities(config):
        metrics.certificate_expiry.labels(path).set(valid.end.timestamp())
        metrics.certificates_begin[path] = round(valid.begin.timestamp() * 1000)


def validities(config: Config) -> Iterator[tuple[str, Validity]]:
    """The key of each certificate of the receiver and the sinks, and when it is valid. A file that can't be read is left
    out: whatever uses it says so."""
    tables: dict[str, BaseModel] = {f"sinks.{name}": sink.settings for name, sink in config.sinks.items()}
    tables["receiver"] = config.receiver
    complete = (_certificates(table, path) for path, table in tables.items() if config.is_complete(path))
    for path, file in chain.from_iterable(complete):
        try:
            yield path, validity(file)
        except TlsFileError as error:
            log.debug("end of a certificate unknown", setting=path, error=str(error))


def _certificates(settings: BaseModel, path: str) -> Iterator[tuple[str, str]]:
    """Each key `certificate` in a table and those below it, and the file that it names."""
    for key, value in settings:
        if isinstance(value, BaseModel):
            yield from _certificates(value, f"{path}.{key}")
        elif key == "certificate" and value is not None:
            yield f"{path}.{key}", value
