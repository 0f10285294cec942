"""The field table: which fields an occurrence may have, which types must have them, and what records call them.

Record names come from Dynatrace's semantic dictionary if it has one that fits; other names start with `appmon.`.

Validation, both mappers, `btfeed inspect`, the Avro schema, the Elasticsearch template and the privacy settings are made
from FIELDS. A new field of the feed needs, besides its line there:

  proto/bt.proto                the field; then `make proto`
  tests/support/fields.csv      the field as AppMon documents it
  docs/record.md                `make docs`
  sinks/elasticsearch/index.py  a higher TEMPLATE_VERSION of the index template
  native/transcoder             nothing, unless its number is 64 or more, or its type has a new encoding

tests/records/test_new_field.py fails for each of these that is forgotten, and says what to do.
"""

from dataclasses import dataclass
from typing import Literal

from sinks.base import RecordField

PUREPATH, USER_ACTION, VISIT = CATEGORIES = ("purepath", "user_action", "visit")
"""event.category by number of BusinessTransaction.Type."""
UNKNOWN = "unknown"
"""event.category if the type is absent or not one of these."""

Encoding = Literal[
    "timestamp",  # milliseconds since the epoch -> RFC 3339, UTC, milliseconds
    "nanoseconds",  # milliseconds -> integer nanoseconds, rounded half to even
    "decimal",  # integer -> string of its decimal digits
    "outcome",  # true -> "failure", false -> "success"
    "string",
    "number",
    "integer",
    "boolean",
    "strings",  # array of strings
    "measures",  # a number for each name of the transaction
    "dimensions",  # a string for each name of the transaction
]


@dataclass(frozen=True, slots=True, eq=False)  # compared and hashed by identity: FIELDS has them all
class Field:
    """A field of BtOccurrence.

    number, name, type  as in proto/bt.proto
    presence            a letter each for purepath, user_action and visit: Y required, N unexpected, O optional
    record              its name in a record; for measures and dimensions, the prefix of their names
    older_name          what older AppMon versions call it
    """

    number: int
    name: str
    type: Literal["int32", "int64", "double", "bool", "string"]
    presence: str
    record: str
    encoding: Encoding
    unit: Literal["ms", ""] = ""
    repeated: bool = False
    older_name: str = ""

    def presence_in(self, category: str) -> str:
        """Y, N or O. `category` is one of CATEGORIES."""
        return self.presence[CATEGORIES.index(category)]


FIELDS = (
    Field(1, "startTime", "int64", "YYY", "timestamp", "timestamp", unit="ms"),
    Field(2, "endTime", "int64", "NNY", "end_time", "timestamp", unit="ms"),
    Field(5, "purePathId", "string", "OON", "appmon.purepath.id", "string"),
    Field(6, "values", "double", "YYY", "appmon.measure.", "measures", repeated=True),
    Field(7, "dimensions", "string", "YYY", "appmon.dimension.", "dimensions", repeated=True),
    Field(8, "actionName", "string", "NYN", "appmon.action.name", "string"),
    Field(9, "url", "string", "NYN", "url.full", "string"),
    Field(10, "query", "string", "NNN", "url.query", "string"),
    Field(11, "visitId", "int64", "NYY", "appmon.visit.id", "decimal"),
    Field(12, "visitTag", "string", "NNY", "user.name", "string", older_name="user"),
    Field(13, "userExperienceIndex", "double", "NNY", "appmon.visit.apdex", "number", older_name="apdex"),
    Field(14, "converted", "bool", "NNY", "appmon.visit.converted", "boolean"),
    Field(15, "responseTime", "double", "OON", "appmon.response_time_ms", "number", unit="ms"),
    Field(16, "cpuTime", "double", "OON", "appmon.cpu_time_ms", "number", unit="ms"),
    Field(17, "syncTime", "double", "OON", "appmon.sync_time_ms", "number", unit="ms"),
    Field(18, "waitTime", "double", "OON", "appmon.wait_time_ms", "number", unit="ms"),
    Field(19, "suspensionTime", "double", "OON", "appmon.suspension_time_ms", "number", unit="ms"),
    Field(20, "execTime", "double", "OON", "appmon.exec_time_ms", "number", unit="ms"),
    Field(21, "duration", "double", "YYN", "duration", "nanoseconds", unit="ms"),
    Field(22, "failed", "bool", "YYN", "event.outcome", "outcome"),
    Field(23, "nrOfActions", "int32", "NNY", "appmon.visit.action_count", "integer"),
    Field(24, "clientFamily", "string", "NNY", "browser.name", "string"),
    Field(25, "clientIP", "string", "NNY", "client.ip", "string"),
    Field(26, "continent", "string", "NNY", "geo.continent.name", "string"),
    Field(27, "country", "string", "NNY", "geo.country.name", "string"),
    Field(28, "city", "string", "NNY", "geo.city.name", "string"),
    Field(29, "failedActions", "int32", "NNY", "appmon.visit.failed_action_count", "integer"),
    Field(30, "clientErrors", "int32", "NYY", "appmon.client_error_count", "integer"),
    Field(31, "exitActionFailed", "bool", "NNY", "appmon.visit.exit_action_failed", "boolean"),
    Field(32, "bounce", "bool", "NNY", "appmon.visit.bounce", "boolean"),
    Field(33, "osFamily", "string", "NNY", "os.family", "string"),
    Field(34, "osName", "string", "NNY", "os.name", "string"),
    Field(35, "connectionType", "string", "NNY", "appmon.connection_type", "string"),
    Field(36, "convertedBy", "string", "NNY", "appmon.visit.converted_by", "strings", repeated=True),
    Field(37, "clientTime", "double", "NYN", "appmon.client_time_ms", "number", unit="ms"),
    Field(38, "networkTime", "double", "NYN", "appmon.network_time_ms", "number", unit="ms"),
    Field(39, "serverTime", "double", "NYN", "appmon.server_time_ms", "number", unit="ms"),
    Field(40, "urlRedirectionTime", "int32", "NYN", "appmon.navigation.redirect_ms", "integer", unit="ms"),
    Field(41, "dnsTime", "int32", "NYN", "appmon.navigation.dns_ms", "integer", unit="ms"),
    Field(42, "connectTime", "int32", "NYN", "appmon.navigation.connect_ms", "integer", unit="ms"),
    Field(43, "sslTime", "int32", "NYN", "appmon.navigation.ssl_ms", "integer", unit="ms"),
    Field(44, "documentRequestTime", "int32", "NYN", "appmon.navigation.request_ms", "integer", unit="ms"),
    Field(45, "documentResponseTime", "int32", "NYN", "appmon.navigation.response_ms", "integer", unit="ms"),
    Field(46, "processingTime", "int32", "NYN", "appmon.navigation.processing_ms", "integer", unit="ms"),
)

BY_NUMBER = {field.number: field for field in FIELDS}
BY_NAME = {field.name: field for field in FIELDS}

START_TIME = BY_NUMBER[1]
END_TIME = BY_NUMBER[2]
VALUES = BY_NUMBER[6]
DIMENSIONS = BY_NUMBER[7]
VISIT_ID = BY_NUMBER[11]
DURATION = BY_NUMBER[21]
CLIENT_IP = BY_NUMBER[25]
CONVERTED_BY = BY_NUMBER[36]

EVENT_KIND = "BIZ_EVENT"
NO_PROVIDER = "appmon"
"""event.provider if its template gives an empty text."""
CONSTANTS = (
    RecordField("event.kind", "string", f"Always `{EVENT_KIND}`.", always=True),
    RecordField(
        "event.id", "string", "Digest of the post and ordinal of the occurrence in it; equal on redelivery.", always=True
    ),
    RecordField("event.type", "string", "The template `record.type`; by default the business transaction's name."),
    RecordField("event.provider", "string", "The template `record.provider`; by default the application."),
    RecordField("event.category", "string", "`purepath`, `user_action`, `visit` or `unknown`."),
    RecordField("event.name", "string", "The business transaction's name as sent."),
    RecordField("appmon.application", "string", "The application as sent."),
    RecordField("appmon.system_profile", "string", "The system profile as sent."),
    RecordField("appmon.server", "string", "The AppMon server's name as sent."),
)
"""The fields that come from the post and the business transaction. They stand before those of the occurrence."""

TRANSACTION_FIELDS = {
    "name": "event.name",
    "application": "appmon.application",
    "system_profile": "appmon.system_profile",
    "server": "appmon.server",
    "category": "event.category",
}
"""What templates and filters call a field -> its name in a record. They get the value that the record has."""

MAPS = (
    RecordField(VALUES.record, "double", "Measures of the business transaction, by normalised name."),
    RecordField(DIMENSIONS.record, "string", "Dimensions of the business transaction, by normalised name."),
)
"""Prefixes of fields whose names users choose."""

_RECORD_TYPES: dict[Encoding, Literal["string", "long", "double", "boolean", "timestamp", "strings"]] = {
    "timestamp": "timestamp",
    "nanoseconds": "long",
    "decimal": "string",
    "outcome": "string",
    "string": "string",
    "number": "double",
    "integer": "long",
    "boolean": "boolean",
    "strings": "strings",
}

RECORD_FIELDS = CONSTANTS + tuple(
    RecordField(field.record, _RECORD_TYPES[field.encoding], f"{field.name} ({field.number})", field is START_TIME)
    for field in FIELDS
    if field not in (VALUES, DIMENSIONS)
)
"""All fields of a record except those with the prefixes in MAPS and the configured attributes."""
