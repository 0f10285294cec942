"""The command capture: what it prints, and its exit status."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from btfeed.posts import files as postfile
from tests.commands.test_main import EXAMPLES, invoke
from tests.support.harness import BTFEED, DEADLINE, until


def start(*arguments: object) -> "tuple[subprocess.Popen[str], str]":
    """The running command, and its URL."""
    command = [*BTFEED, "capture", "--listen", "127.0.0.1:0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = process.stderr.readline()
    assert said.startswith("listening on 127.0.0.1:")
    return process, f"http://{said.split()[-1]}/"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_a_summary(stop: signal.Signals, tmp_path: Path) -> None:
    """SIGINT and SIGTERM end it. The exit status is 0."""
    process, url = start("--out", tmp_path / "a.btposts")
    assert invoke("replay", EXAMPLES, url).exit_code == 0
    os.kill(process.pid, stop)
    out, err = process.communicate(timeout=DEADLINE)
    size = sum(len(body) for body in postfile.read(tmp_path / "a.btposts"))
    captured = f"13 posts captured ({size} bytes) in {tmp_path / 'a.btposts'}\n"
    assert (process.returncode, out, err) == (0, captured, "")


def test_it_ends_after_max_posts(tmp_path: Path) -> None:
    """The next post is refused."""
    process, url = start("--out", tmp_path / "a.btposts", "--max-posts", 2, "--json")
    invoke("replay", EXAMPLES, url)
    out, _ = process.communicate(timeout=DEADLINE)
    assert out.startswith('{"posts": 2, ')
    assert len(list(postfile.read(tmp_path / "a.btposts"))) == 2


def test_it_does_not_overwrite_a_file(tmp_path: Path) -> None:
    """An earlier capture may be the only copy."""
    (tmp_path / "a.btposts").write_bytes(b"precious")
    result = invoke("capture", "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "File exists" in result.stderr
    assert (tmp_path / "a.btposts").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--out", "a.txt"], "use a name that ends with .btposts"),
        (["--out", "a.btposts", "--certificate", "nosuch.pem"], "certificate nosuch.pem: No such file or directory"),
        (["--out", "a.btposts", "--key", "key.pem"], "add --certificate"),
        (["--out", "a.btposts", "--insecure"], "only useful with --forward"),
        (["--out", "a.btposts", "--listen", "nonsense"], "invalid address 'nonsense': write host:port"),
        (["--out", "a.btposts", "--forward", "nonsense"], "invalid URL 'nonsense': start it with http:// or https://"),
    ],
)
def test_wrong_usage_is_reported(arguments: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    result = invoke("capture", *arguments)
    assert result.exit_code == 2
    assert what in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_reported(tmp_path: Path) -> None:
    """It leaves no file behind, which would be in the way of the next attempt."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = invoke("capture", "--listen", f"127.0.0.1:{port}", "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stdout) == (1, "")
    said = f"can't listen on 127.0.0.1:{port}: it is in use by process {os.getpid()} ("
    assert result.stderr.startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_https_with_a_certificate(tmp_path: Path) -> None:
    """A client that does not trust the certificate cannot connect, and is told which options help. So is the log."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*made, *alternative], cwd=tmp_path, check=True, capture_output=True)
    process, url = start(
        "--out", tmp_path / "a.btposts", "--certificate", tmp_path / "cert.pem", "--key", tmp_path / "key.pem"
    )  # fmt: skip
    url = url.replace("http:", "https:")
    example = EXAMPLES / "visit.bin"
    untrusted = invoke("replay", example, url)
    assert untrusted.exit_code == 1
    assert "is not trusted: self-signed certificate; see --ca and --insecure" in untrusted.stdout
    assert invoke("replay", example, url, "--insecure").exit_code == 0
    assert invoke("replay", example, url, "--ca", tmp_path / "cert.pem").exit_code == 0
    process.send_signal(signal.SIGTERM)
    until(lambda: process.poll() is not None, "it ends")
    output, errors = process.communicate()
    assert output.startswith("2 posts captured (")
    (lost,) = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert (lost["event"], lost["reason"], lost["peer"]) == ("post lost", "bad_tls", "127.0.0.1")
