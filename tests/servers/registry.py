"""A stand-in for a schema registry. It enforces what Confluent documents of theirs.

It keeps Avro schemas by subject and id. It takes a new version of a subject only if readers with it can read data of the
latest version (BACKWARD, the default); Apache's Avro library decides that. Errors have the documented codes: 401, 403, 404
with 40401 or 40403, 409, 422 with 42201, or the codes in `faults`.
"""

import base64
import json
from collections import deque
from ssl import SSLContext
from typing import Any

from aiohttp import web
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.schema import parse

from tests.servers.stand_in import StandIn

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
USER, PASSWORD, TOKEN = "registrar", "SECRETOFREGISTRY", "SECRETREGISTRYTOKEN"


class Refused(Exception):
    """The answer is this status, code and message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RegistryServer(StandIn):
    """`with RegistryServer() as registry`: at `registry.url`, in a separate thread.

    locked     clients need credentials
    read_only  clients may not register schemas
    faults     statuses with which the next requests fail
    subjects   subject -> ids of its versions; schemas: id -> text
    requests   method and path of each request
    """

    host = "localhost"  # the name in the tests' certificates

    def __init__(self, *, tls: SSLContext | None = None) -> None:
        super().__init__(tls)
        self.locked = self.read_only = False
        self.faults: deque[int] = deque()
        self.subjects: dict[str, list[int]] = {}
        self.schemas: dict[int, str] = {}
        self.requests: list[str] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/subjects", self._list)
        app.router.add_get("/schemas/ids/{id}", self._schema)
        app.router.add_post("/subjects/{subject}", self._look_up)
        app.router.add_post("/subjects/{subject}/versions", self._register)
        app.router.add_get("/subjects/{subject}/versions/latest", self._latest)
        app.router.add_post("/compatibility/subjects/{subject}/versions/latest", self._compatible)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        try:
            if self.faults:
                status = self.faults.popleft()
                raise Refused(status, status * 100 + 1, "a fault of the test")
            self._authorize(request)
            found = await handler(request)
        except Refused as refused:
            return _answer({"error_code": refused.code, "message": str(refused)}, refused.status)
        except web.HTTPNotFound:
            return _answer({"error_code": 404, "message": "HTTP 404 Not Found"}, 404)
        return _answer(found)

    def _authorize(self, request: web.Request) -> None:
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.locked and request.headers.get("Authorization") not in (f"Basic {pair}", f"Bearer {TOKEN}"):
            raise Refused(401, 401, f"Unauthorized: {request.headers.get('Authorization')}")

    async def _list(self, request: web.Request) -> Any:
        return sorted(self.subjects)

    async def _schema(self, request: web.Request) -> Any:
        schema = self.schemas.get(int(request.match_info["id"]))
        if schema is None:
            raise Refused(404, 40403, "Schema not found")
        return {"schema": schema}

    async def _look_up(self, request: web.Request) -> Any:
        text = await _schema_in(request)
        return self._version(request, next((i for i in self._ids(request) if self.schemas[i] == text), None))

    async def _latest(self, request: web.Request) -> Any:
        return self._version(request, self._ids(request)[-1])

    async def _register(self, request: web.Request) -> Any:
        text = await _schema_in(request)
        if self.read_only:
            raise Refused(403, 40301, "Operation not allowed")
        ids = self.subjects.get(request.match_info["subject"], [])
        known = next((i for i, schema in self.schemas.items() if schema == text), None)
        if known is None or known not in ids:
            if ids and not self._reads(text, ids[-1]):
                raise Refused(409, 409, "Schema being registered is incompatible with an earlier schema")
            known = known or len(self.schemas) + 1
            self.schemas[known] = text
            self.subjects[request.match_info["subject"]] = [*ids, known]
        return {"id": known}

    async def _compatible(self, request: web.Request) -> Any:
        text = await _schema_in(request)
        return {"is_compatible": self._reads(text, self._ids(request)[-1])}

    def _ids(self, request: web.Request) -> list[int]:
        subject = request.match_info["subject"]
        if subject not in self.subjects:
            raise Refused(404, 40401, f"Subject '{subject}' not found.")
        return self.subjects[subject]

    def _version(self, request: web.Request, schema_id: int | None) -> Any:
        if schema_id is None:
            raise Refused(404, 40403, "Schema not found")
        subject, schema = request.match_info["subject"], self.schemas[schema_id]
        return {
            "subject": subject,
            "id": schema_id,
            "version": self.subjects[subject].index(schema_id) + 1,
            "schema": schema,
        }

    def _reads(self, text: str, written: int) -> bool:
        checker: Any = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        found = checker.get_compatibility(parse(text), parse(self.schemas[written]))
        return bool(found.compatibility is SchemaCompatibilityType.compatible)


async def _schema_in(request: web.Request) -> str:
    """The schema of a request, as text. Raises Refused if the request is not as documented."""
    if request.content_type not in (CONTENT_TYPE, "application/json"):
        raise Refused(415, 415, "HTTP 415 Unsupported Media Type")
    try:
        text: str = (await request.json())["schema"]
        parse(text)
    except (ValueError, KeyError, AvroException) as error:
        raise Refused(422, 42201, f"Invalid schema: {error}") from error
    return text


def _answer(body: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type=CONTENT_TYPE)
