"""What all records of one business transaction share: templates, constants, attributes, and the names of its measures.

Both mappers use it. The plain one compiles each transaction of a post; the native one keeps what was compiled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from btfeed.posts.bt_pb2 import BusinessTransaction
from btfeed.records.encoding import count_invalid_utf8, text, texts
from btfeed.records.privacy import Privacy
from btfeed.records.schema import CATEGORIES, NO_PROVIDER, TRANSACTION_FIELDS, UNKNOWN
from btfeed.records.settings import RecordSettings
from sinks.batch import Transaction
from sinks.template import Template


@dataclass(frozen=True, slots=True)
class CompiledTransaction:
    """A business transaction under one configuration.

    transaction   what its records say of it: protected, and empty where they say nothing
    category      one of CATEGORIES or UNKNOWN, whatever privacy does to event.category
    constants     the fields that its records have between event.id and those of the occurrence
    invalid_utf8  how many strings of it are not valid UTF-8
    """

    transaction: Transaction
    category: str
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
        self._attributes = record.attributes

    def compile(self, message: BusinessTransaction, server: str | None) -> CompiledTransaction:
        """Ignores the occurrences of `message`. server: serverName of the post, None if it has none."""
        measures, dimensions = (*message.measureNames,), (*message.dimensionNames,)
        invalid_utf8 = count_invalid_utf8(
            (message.name, message.application, message.systemProfile, *measures, *dimensions)
        )
        sent = _sent(message, server)
        shown = self._protect(sent)
        transaction = Transaction(**{name: shown.get(field, "") for name, field in TRANSACTION_FIELDS.items()})
        filled = {
            "event.type": self._type.fill(transaction),
            "event.provider": self._provider.fill(transaction) or NO_PROVIDER,
        }
        constants: dict[str, object] = {**self._protect(filled), **shown, **self._attributes}
        names = tuple(texts(measures)), tuple(texts(dimensions))
        return CompiledTransaction(transaction, sent["event.category"], *names, constants, invalid_utf8)

    def _protect(self, fields: Mapping[str, str]) -> dict[str, str]:
        privacy = self._privacy
        return {name: privacy.protect(name, value) for name, value in fields.items() if name not in privacy.dropped}


def _sent(message: BusinessTransaction, server: str | None) -> dict[str, str]:
    """What AppMon says of a business transaction, by record field."""
    fields = {
        "event.category": CATEGORIES[message.type] if message.HasField("type") else UNKNOWN,
        "event.name": text(message.name),
    }
    if message.HasField("application"):
        fields["appmon.application"] = text(message.application)
    if message.HasField("systemProfile"):
        fields["appmon.system_profile"] = text(message.systemProfile)
    if server is not None:
        fields["appmon.server"] = text(server)
    return fields
