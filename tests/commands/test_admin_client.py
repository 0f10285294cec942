"""How commands ask the admin listener: with the token, and what each kind of failure says."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from btfeed.admin.access import MARK
from btfeed.commands import admin_client
from btfeed.commands.admin_client import (
    AdminClient,
    AdminError,
    AnotherServer,
    NotAllowed,
    NotFound,
    NotRunning,
    Refused,
    segment,
)
from btfeed.config import parse
from tests.commands.test_main import invoke
from tests.support.harness import Server

BTFEED = {MARK[0]: MARK[1]}


class Listener:
    """A server with one canned answer. asked: method, path, headers and body of each request."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                listener.asked.append((self.command, self.path, dict(self.headers), content))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def answering(status: int, body: bytes = b"", headers: Mapping[str, str] = BTFEED) -> Iterator[Listener]:
    listener = Listener(status, body, headers)
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield listener
    finally:
        listener.server.shutdown()
        thread.join()
        listener.server.server_close()


def test_the_mark_is_the_servers() -> None:
    """The client has its own copy, since the server's module is slow to import."""
    assert admin_client._MARK == MARK


def test_requests_carry_the_token_of_the_configuration() -> None:
    """Whether they read or change something. The address is that of [admin], and every address means this machine."""
    with answering(200, b'{"sinks": {}}') as listener:
        listen = f"0.0.0.0:{listener.server.server_port}"
        config = parse({"admin": {"listen": listen, "token": "${TOKEN}"}}, {"TOKEN": "s3cret"})
        client = AdminClient.configured(config)
        assert json.loads(client.status()) == {"sinks": {}}
        assert client.post("/sinks/a/rewind", {"to": 1}) == {"sinks": {}}
        assert [(method, path, body) for method, path, _, body in listener.asked] == [
            ("GET", "/status", b""), ("POST", "/sinks/a/rewind", b'{"to": 1}'),
        ]  # fmt: skip
        assert [headers["Authorization"] for _, _, headers, _ in listener.asked] == ["Bearer s3cret"] * 2
        assert listener.asked[1][2]["Content-Type"] == "application/json"


def test_a_url_may_have_a_path() -> None:
    """Of a proxy in front of the listener."""
    with answering(200, b"x") as listener:
        assert AdminClient(f"{listener.url}/btfeed/").get("/readyz") == b"x"
        assert listener.asked[0][1] == "/btfeed/readyz"
        assert "Authorization" not in listener.asked[0][2]


def test_the_configuration_is_where_its_own_token_is() -> None:
    """Its listener's token can't come from the command line."""
    with (
        answering(401, b"no\n") as listener,
        pytest.raises(NotAllowed, match=r"set admin\.token to the token of"),
    ):
        AdminClient(listener.url, "wrong", place="admin.listen").status()


@pytest.mark.parametrize(
    ("path", "message"),
    [("/status", "has nothing there: leave out the path /status"), ("", "can't do this: it is probably an older version")],
)
def test_a_path_that_is_not_there_says_what_to_do(path: str, message: str) -> None:
    """aiohttp's own answer says only 404."""
    with answering(404, b"404: Not Found") as listener, pytest.raises(NotFound, match=message):
        AdminClient(f"{listener.url}{path}").status()


def test_a_sink_without_a_name_is_wrong_usage() -> None:
    """No server is asked."""
    result = invoke("sinks", "pause", "", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "name a sink" in result.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("WRONG_VERSION_NUMBER", "wrong version number. If it speaks HTTP, write http://"),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "its certificate is not trusted: self-signed certificate. Name the file of its CA",
        ),
    ],
)
def test_a_failed_handshake_says_what_to_do(error: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, where OpenSSL has only names."""
    kind = ssl.SSLCertVerificationError if "CERTIFICATE" in error else ssl.SSLError
    raised = kind(1, error)
    raised.reason = error
    if isinstance(raised, ssl.SSLCertVerificationError):
        raised.verify_message = "self-signed certificate"
    client = AdminClient("https://127.0.0.1:1")

    def connect() -> None:
        raise raised

    monkeypatch.setattr(client, "_connection", connect)
    with pytest.raises(AnotherServer, match=f"no TLS with 127.0.0.1:1 .*: {told}"):
        client.status()


def test_lines_come_as_they_are_sent() -> None:
    """Until the server ends."""
    with answering(200, b"one\ntwo\n") as listener:
        assert list(AdminClient(listener.url).lines("/tap")) == [b"one\n", b"two\n"]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(404, NotFound, "no sink x"), (409, Refused, "no sink x"), (503, Refused, "no sink x"), (403, NotAllowed, "no sink x"),
     (401, NotAllowed, "asks for a token: give it the running server's admin.token, with --token @FILE")],
)  # fmt: skip
def test_refusals_are_told_in_the_servers_words(status: int, error: type[AdminError], message: str) -> None:
    """Each kind is an error of its own."""
    with answering(status, b"no sink x\n") as listener, pytest.raises(error, match=message) as raised:
        AdminClient(listener.url).post("/sinks/x/pause", {})
    assert type(raised.value) is error


def test_a_wrong_token_is_told_from_a_missing_one() -> None:
    """The message names the key, and not the token."""
    with (
        answering(401) as listener,
        pytest.raises(NotAllowed, match=r"not accept the token: give it the running server") as raised,
    ):
        AdminClient(listener.url, "s3cret").status()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"<html>"), (401, b""), (302, b""), (500, b"{}"), (200, b"<html>"), (200, b"[]"), (200, b"{}")],
)
def test_another_server_is_recognized(status: int, body: bytes) -> None:
    """By the header that btfeed's answers have, whatever it answers. Its redirects are not followed."""
    with answering(status, body, {"Location": "/elsewhere"}) as listener:
        with pytest.raises(AnotherServer, match=r"is not btfeed's admin listener \(HTTP "):
            AdminClient(listener.url, "s3cret").status()
        assert len(listener.asked) == 1


def test_a_status_of_an_earlier_version_is_recognized() -> None:
    """Its answers don't have the header yet."""
    with answering(200, b'{"sinks": {}}', {}) as listener:
        assert AdminClient(listener.url).status() == b'{"sinks": {}}'


def test_a_server_that_does_not_speak_http_is_another_server() -> None:
    """And so is one that does not speak TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(AnotherServer, match="does not answer as btfeed does"):
            AdminClient(f"http://127.0.0.1:{port}").status()
        with pytest.raises(AnotherServer, match="no TLS with 127"):
            AdminClient(f"https://127.0.0.1:{port}").status()
        thread.join()


def test_a_server_that_is_down_or_hangs_is_not_running() -> None:
    """The message names the address and where it comes from."""
    with pytest.raises(NotRunning, match=r"at 127.0.0.1:1 \(--url\): .*refused. Is the server running?"):
        AdminClient("http://127.0.0.1:1").status()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(NotRunning, match=f"no answer from 127.0.0.1:{port} .--url. within 0.1 s"):
            AdminClient(f"http://127.0.0.1:{port}", timeout=0.1).status()


def test_a_running_server_with_a_token_is_asked_with_it(tmp_path: Path) -> None:
    """Without it, it answers only probes."""
    with Server(tmp_path, "", admin='token = "s3cret"') as server:
        assert server.get("/readyz") == "ready\n"
        assert b'"sinks"' in AdminClient(server.admin_url, "s3cret").status()
        with pytest.raises(NotAllowed, match="asks for a token"):
            AdminClient(server.admin_url).status()


def test_names_are_quoted_in_paths() -> None:
    """A sink's name may have any character."""
    assert segment("a/b ü?") == "a%2Fb%20%C3%BC%3F"
