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

    constants     the fields that its records have between event.id and timestamp; fallbacks come on top
    invalid_utf8  how many strings of it are not valid UTF-8
    """

    transaction: Transaction
    measure_names: tuple[str, ...]
    dimension_names: tuple[str, ...]
    constants: dict[str, object]
    invalid_utf8: int


def compile_transaction(message: BusinessTransaction, server: str | None, record: RecordSettings) -> CompiledTransaction:
    """`server` is the serverName of the post, None if it has none. Ignores the occurrences."""
    strings = (message.name, message.application, message.systemProfile, *message.measureNames, *message.dimensionNames)
    transaction = Transaction(
        name=text(message.name),
        application=text(message.application),
        system_profile=text(message.systemProfile),
        server=text(server or ""),
        category=CATEGORIES[message.type] if message.HasField("type") else UNKNOWN,
    )
    return CompiledTransaction(
        transaction,
        tuple(texts(message.measureNames)),
        tuple(texts(message.dimensionNames)),
        _constants(transaction, message, server is not None, record),
        count_invalid_utf8(strings),
    )


def _constants(
    transaction: Transaction, message: BusinessTransaction, has_server: bool, record: RecordSettings
) -> dict[str, object]:
    said = {
        "event.type": Template(record.type).fill(transaction),
        "event.provider": Template(record.provider).fill(transaction) or "appmon",
        "event.category": transaction.category,
        "event.name": transaction.name,
    }
    if message.HasField("application"):
        said["appmon.application"] = transaction.application
    if message.HasField("systemProfile"):
        said["appmon.system_profile"] = transaction.system_profile
    if has_server:
        said["appmon.server"] = transaction.server
    privacy = Privacy(record.privacy)
    constants: dict[str, object] = {
        name: privacy.protect(name, value) for name, value in said.items() if name not in privacy.dropped
    }
    fallbacks = record.fallbacks()
    for name, value in record.attributes.items():
        if name not in ("event.kind", "event.id") and name not in fallbacks:
            constants.setdefault(name, value)
    return constants
