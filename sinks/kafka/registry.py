"""Avro in Confluent's wire format: schemas in a schema registry, and records as the bytes that its deserializers read.

A value is a zero byte, the schema's id in four bytes, big-endian, and the Avro encoding. The schema is registered under the
subject `{topic}-value`; the registry answers with the same id however often, so that nothing has to be remembered.
"""

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from typing import Annotated, Any
from urllib.parse import quote

import fastavro
import msgspec
from pydantic import AfterValidator, Field, model_validator

from sinks.base import Misconfigured, SinkContext, Unavailable
from sinks.settings import Settings
from sinks.shared.avro import avro_converter, avro_schema
from sinks.shared.http import Client, explain, retry_after, web_url

MAGIC = b"\0"
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
TIMEOUT = 10.0
"""Seconds from the start of a request to the end of its reply."""
NO_SUBJECT = 404
"""So the registry answers where nothing is there that a schema could be incompatible with."""


class RegistrySettings(Settings):
    """Where Avro schemas are registered. A text alone is the url.

    url       of the registry
    username  for Basic authentication; at Confluent Cloud an API key,
    password  and its secret; take it from the environment
    token     a bearer token instead
    ca        PEM file of further certificates to trust
    """

    url: Annotated[str, AfterValidator(web_url)]
    username: str | None = None
    password: Annotated[str | None, Field(repr=False)] = None
    token: Annotated[Annotated[str, Field(pattern=r"^[!-~]+$")] | None, Field(repr=False)] = None
    ca: str | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> "RegistrySettings":
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.username is not None and self.token is not None:
            raise ValueError("takes either username and password or token")
        return self


class Registry:
    """The ids of one schema under many subjects."""

    def __init__(self, settings: RegistrySettings, schema: dict[str, Any]) -> None:
        self._url = settings.url.rstrip("/")
        self._schema = msgspec.json.encode({"schema": json.dumps(schema)})
        self._headers = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
        secrets = [secret for secret in (settings.password, settings.token) if secret]
        if settings.username is not None:
            pair = base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
            secrets.append(pair)
        elif settings.token:
            self._headers["Authorization"] = f"Bearer {settings.token}"
        self._client = Client(TIMEOUT, settings.ca, secrets)
        self._ids: dict[str, int] = {}

    async def ids(self, subjects: Sequence[str]) -> dict[str, int]:
        """The schema's id under each subject; it is registered where it is not yet. Raises Unavailable or Misconfigured."""
        for subject in subjects:
            if subject not in self._ids:
                status, headers, body = await self._post(f"subjects/{quote(subject, safe='')}/versions")
                self._ids[subject] = registered(status, headers, body, subject)
        return self._ids

    async def check(self, subject: str) -> None:
        """Would the schema be taken? Registers nothing. Raises Unavailable or Misconfigured."""
        status, headers, body = await self._post(f"compatibility/subjects/{quote(subject, safe='')}/versions/latest")
        compatible(status, headers, body, subject)

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, path: str) -> tuple[int, Any, bytes]:
        self._client.open()
        try:
            return await self._client.post(f"{self._url}/{path}", self._schema, self._headers)
        except Unavailable as error:  # whether it was registered does not matter: it may be again
            raise Unavailable(f"the schema registry: {error}", error.retry_after) from error
        except Misconfigured as error:
            raise Misconfigured(f"the schema registry: {error}") from error


def registered(status: int, headers: Any, body: bytes, subject: str) -> int:
    """The id in the reply to a registration. Raises Unavailable or Misconfigured."""
    _raise_for(status, headers, body, subject)
    found = _member(body, "id")
    if not isinstance(found, int) or not 0 <= found < 2**31:
        raise Misconfigured("what answers at schema_registry is no schema registry: it gives no id")
    return found


def compatible(status: int, headers: Any, body: bytes, subject: str) -> None:
    """Raises Unavailable or Misconfigured where a reply to the question says that the schema would not be taken."""
    if status == NO_SUBJECT and _member(body, "error_code") in (40401, 40402):
        return
    _raise_for(status, headers, body, subject)
    if _member(body, "is_compatible") is not True:
        raise Misconfigured(f"the schema is not compatible with the latest one of {subject}")


def _raise_for(status: int, headers: Any, body: bytes, subject: str) -> None:
    if status == 200:
        return
    said = f"the schema registry, of {subject}: {explain(status, body)}"
    if status in (408, 429) or status >= 500:
        raise Unavailable(said, retry_after(headers))
    raise Misconfigured(said + _HINTS.get(status, ""))


_HINTS = {
    401: "; are its credentials right?",
    403: "; the user may not register schemas",
    404: "; is that the url of a schema registry?",
    409: "; the schema is not compatible with an older one of this subject",
}


def _member(body: bytes, name: str) -> Any:
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return answer.get(name) if isinstance(answer, dict) else None


class AvroValues:
    """JSON records as values in the wire format."""

    def __init__(self, settings: RegistrySettings, context: SinkContext) -> None:
        schema = avro_schema(context)
        self.registry = Registry(settings, schema)
        self._schema = fastavro.parse_schema(schema)
        self._convert = avro_converter(context)

    def encode(self, bodies: Sequence[bytes], ids: Sequence[int]) -> tuple[list[bytes], dict[int, str]]:
        """The value of each record, and why some have none: index -> reason."""
        values, refused = [], {}
        for index, (body, schema_id) in enumerate(zip(bodies, ids, strict=True)):
            buffer = BytesIO()
            buffer.write(MAGIC + schema_id.to_bytes(4, "big"))
            try:
                fastavro.schemaless_writer(buffer, self._schema, self._convert(body))
            except Exception as error:  # noqa: BLE001 - whatever it is, this record has it alone
                refused[index] = f"does not fit the Avro schema: {error!r}"
            values.append(buffer.getvalue())
        return values, refused
