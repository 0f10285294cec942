"""Avro in Confluent's wire format: registers schemas in a schema registry, and encodes records for its deserializers.

A value is a zero byte, the schema's id as four bytes, big-endian, and the Avro encoding. The schema is registered under the
subject `{topic}-value`. Registering it again returns the same id, so ids need not be stored.
"""

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any
from urllib.parse import quote

import fastavro
import msgspec
from pydantic import model_validator

from sinks.base import Misconfigured, SinkContext, Unavailable
from sinks.settings import Place, Secret, Settings, Token
from sinks.shared.avro import avro_converter, avro_schema
from sinks.shared.clock import Clock
from sinks.shared.http import HttpClient, Reply, ServiceUrl, basic_credentials, decode_json, describe_reply
from sinks.shared.redaction import Redactor

MAGIC = b"\0"
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
REQUEST_TIMEOUT = 10.0
"""Seconds for a request, until the end of its reply."""
UNKNOWN_SUBJECT_CODES = (40401, 40402)
"""Error codes of a 404 if nothing is registered under a subject yet."""


class RegistrySettings(Settings):
    """Where Avro schemas are registered. A string is short for a table with this url.

    url       the registry's URL
    username  for Basic authentication; at Confluent Cloud an API key
    password  the password or the API key's secret; take it from the environment
    token     a bearer token instead of username and password
    ca        PEM file with further certificates to trust
    """

    url: ServiceUrl
    username: str | None = None
    password: Secret | None = None
    token: Token | None = None
    ca: Place | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> "RegistrySettings":
        if (self.username is None) != (self.password is None):
            raise ValueError("set both username and password, or neither")
        if self.username is not None and self.token is not None:
            raise ValueError("set either username and password or token, not both")
        return self


class SubjectRefused(Misconfigured):
    """The registry does not take the schema under one subject. It may take it under others."""


class Registry:
    """Registers one schema under many subjects."""

    def __init__(self, settings: RegistrySettings, schema: dict[str, Any], clock: Clock) -> None:
        self._url = settings.url.rstrip("/")
        self._schema = msgspec.json.encode({"schema": json.dumps(schema)})
        self._headers = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
        basic: Secret | None = None
        if settings.username is not None and settings.password is not None:
            basic = Secret(basic_credentials(settings.username, settings.password.get_secret_value()))
            self._headers["Authorization"] = f"Basic {basic.get_secret_value()}"
        elif settings.token:
            self._headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
        redactor = Redactor(settings.password, settings.token, basic)
        self._client = HttpClient(REQUEST_TIMEOUT, settings.ca, redactor, clock)
        self._ids: dict[str, int] = {}

    async def ids(self, subjects: Sequence[str]) -> tuple[dict[str, int], dict[str, SubjectRefused]]:
        """The schema's id under each subject, and the subjects that have none. Registers it if necessary.

        Raises Unavailable or Misconfigured.
        """
        refused = {}
        for subject in subjects:
            if subject not in self._ids:
                reply = await self._post(f"subjects/{quote(subject, safe='')}/versions")
                try:
                    self._ids[subject] = parse_schema_id(reply, subject)
                except SubjectRefused as error:
                    refused[subject] = error
        return self._ids, refused

    async def check(self, subject: str) -> None:
        """Check that the schema could be registered. Registers nothing. Raises Unavailable or Misconfigured."""
        reply = await self._post(f"compatibility/subjects/{quote(subject, safe='')}/versions/latest")
        check_compatible(reply, subject)

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, path: str) -> Reply[bytes]:
        self._client.open()
        try:
            return await self._client.post(f"{self._url}/{path}", self._schema, self._headers)
        except Unavailable as error:  # also OutcomeUnknown: registering the schema twice does no harm
            raise Unavailable(f"schema registry: {error}", error.retry_after) from error
        except Misconfigured as error:
            raise Misconfigured(f"schema registry: {error}") from error


def parse_schema_id(reply: Reply[bytes], subject: str) -> int:
    """The id in the reply to a registration. Raises Unavailable or Misconfigured."""
    _raise_for_status(reply, subject)
    schema_id = _member(reply, "id")
    if not isinstance(schema_id, int) or not 0 <= schema_id < 2**31:
        raise Misconfigured("schema registry: the reply contains no schema id; is `schema_registry` a registry's URL?")
    return schema_id


def check_compatible(reply: Reply[bytes], subject: str) -> None:
    """Raises Unavailable or Misconfigured if the reply to a compatibility check says that the schema would be refused."""
    if reply.status == 404 and _member(reply, "error_code") in UNKNOWN_SUBJECT_CODES:
        return
    _raise_for_status(reply, subject)
    if _member(reply, "is_compatible") is not True:
        raise SubjectRefused(f"schema registry: the schema is not compatible with the latest one of {subject}")


def _raise_for_status(reply: Reply[bytes], subject: str) -> None:
    if reply.status == 200:
        return
    text = f"schema registry, subject {subject}: {describe_reply(reply)}"
    if reply.status in (408, 429) or reply.status >= 500:
        raise Unavailable(text, reply.retry_after)
    kind = SubjectRefused if reply.status in (403, 409, 422) else Misconfigured
    raise kind(text + _HINTS.get(reply.status, ""))


_HINTS = {
    401: "; check its credentials",
    403: "; the user may not register schemas",
    404: "; is `schema_registry` a registry's URL?",
    409: "; the schema is not compatible with an older one of this subject",
}


def _member(reply: Reply[bytes], name: str) -> Any:
    answer = decode_json(reply.body)
    return answer.get(name) if isinstance(answer, dict) else None


class AvroValues:
    """Encodes JSON records as Avro values in the wire format."""

    def __init__(self, settings: RegistrySettings, context: SinkContext) -> None:
        schema = avro_schema(context)
        self.registry = Registry(settings, schema, context.clock)
        self._schema = fastavro.parse_schema(schema)
        self._convert = avro_converter(context)

    def encode(self, bodies: Sequence[bytes], ids: Sequence[int]) -> tuple[list[bytes], dict[int, str]]:
        """The value of each record, and the records that can't be encoded: index -> reason. ids: the schema's for each."""
        values, refused = [], {}
        for index, (body, schema_id) in enumerate(zip(bodies, ids, strict=True)):
            buffer = BytesIO()
            buffer.write(MAGIC + schema_id.to_bytes(4, "big"))
            try:
                fastavro.schemaless_writer(buffer, self._schema, self._convert(body))
            except Exception as error:  # noqa: BLE001 - any error concerns this record alone
                refused[index] = f"does not fit the Avro schema: {error!r}"
            values.append(buffer.getvalue())
        return values, refused
