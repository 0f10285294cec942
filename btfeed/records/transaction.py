"""What all records of one business transaction share: templates, constants, attributes, and the names of its measures.

Both mappers use it. The plain one compiles each transaction of a post; the native one keeps what was compiled.
"""

from dataclasses import dataclass

from btfeed.posts.bt_pb2 import BusinessTransaction
from btfeed.records.encoding import count_invalid_utf8, text, texts
from btfeed.records.privacy import Privacy
from btfeed.records.schema import CATEGORIES, UNKNOWN
from btfeed.records.settings import RecordSettings
from sinks.batch import Transaction
from sinks.template import Template


@dataclass(frozen=True, slots=True)
class CompiledTransaction:
    """A business transaction under one configuration.

    constants     the fields that its records have between event.id and those of the occurrence
    invalid_utf8  how many strings of it are not valid UTF-8
    """

    transaction: Transaction
    measure_names: tuple[str, ...]
    dimension_names: tuple[str, ...]
    constants: dict[str, object]
    invalid_utf8: int


class TransactionCompiler:
    """Compiles business transactions under one configuration."""

    def __init__(self, record: RecordSettings) -> None:
        self._type = Template(record.type)
        self._provider = Template(record.provider)
        self._privacy = Privacy(record.privacy)
        elsewhere = {"event.kind", "event.id", *record.fallbacks()}
        self._attributes = {name: value for name, value in record.attributes.items() if name not in elsewhere}

    def compile(self, message: BusinessTransaction, server: str | None) -> CompiledTransaction:
        """Ignores the occurrences of `message`. server: serverName of the post, None if it has none."""
        transaction = Transaction(
            name=text(message.name),
            application=text(message.application),
            system_profile=text(message.systemProfile),
            server=text(server or ""),
            category=CATEGORIES[message.type] if message.HasField("type") else UNKNOWN,
        )
        measures, dimensions = (*message.measureNames,), (*message.dimensionNames,)
        invalid_utf8 = count_invalid_utf8(
            (message.name, message.application, message.systemProfile, *measures, *dimensions)
        )
        constants = self._constants(transaction, message, server is not None)
        return CompiledTransaction(transaction, tuple(texts(measures)), tuple(texts(dimensions)), constants, invalid_utf8)

    def _constants(self, transaction: Transaction, message: BusinessTransaction, has_server: bool) -> dict[str, object]:
        said = {
            "event.type": self._type.fill(transaction),
            "event.provider": self._provider.fill(transaction) or "appmon",
            "event.category": transaction.category,
            "event.name": transaction.name,
        }
        if message.HasField("application"):
            said["appmon.application"] = transaction.application
        if message.HasField("systemProfile"):
            said["appmon.system_profile"] = transaction.system_profile
        if has_server:
            said["appmon.server"] = transaction.server
        privacy = self._privacy
        constants: dict[str, object] = {
            name: privacy.protect(name, value) for name, value in said.items() if name not in privacy.dropped
        }
        for name, value in self._attributes.items():
            constants.setdefault(name, value)
        return constants
