"""When the configured certificates end, as the metrics show it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed import config
from btfeed.app.advice import advice
from btfeed.app.certificates import show_validity
from btfeed.app.check import check
from btfeed.commands.status import _lines
from btfeed.telemetry.metrics import Metrics
from sinks.shared.tls import validity
from tests.app.reloading import running
from tests.support.certificates import Authority, openssl
from tests.support.harness import Server

NAME = "btfeed_certificate_expiry_timestamp_seconds"


def test_the_receiver_and_the_sinks_show_when_their_certificates_end(tmp_path: Path) -> None:
    """By the key in the configuration. One that is not configured any more is not shown."""
    certificate, key = map(str, Authority(tmp_path / "ca").sign("both"))
    files = {"certificate": certificate, "key": key}
    kafka = {"type": "kafka", "bootstrap_servers": ["localhost:9092"], "topic": "t", "security": files | {"tls": True}}
    both = {"receiver": {"tls": files}, "sinks": {"orders": kafka}}
    metrics = Metrics()
    show_validity(config.parse(both, {}), metrics)
    end = validity(certificate).end.timestamp()
    for path in ("receiver.tls.certificate", "sinks.orders.security.certificate"):
        assert metrics.registry.get_sample_value(NAME, {"certificate": path}) == end
    show_validity(config.parse({"sinks": {"orders": kafka}}, {}), metrics)
    assert metrics.registry.get_sample_value(NAME, {"certificate": "receiver.tls.certificate"}) is None


def test_a_missing_file_is_left_out(tmp_path: Path) -> None:
    """Whatever uses it reports it."""
    files = {"certificate": str(tmp_path / "none"), "key": str(tmp_path / "none")}
    metrics = Metrics()
    show_validity(config.parse({"receiver": {"tls": files}}, {}), metrics)
    assert not [sample for family in metrics.certificate_expiry.collect() for sample in family.samples]


def test_a_running_server_shows_it(tmp_path: Path) -> None:
    """In /metrics and /status, from the start."""
    certificate, key = Authority(tmp_path / "ca").sign("server")
    tls = f'tls = {{ certificate = "{certificate}", key = "{key}" }}'
    with Server(tmp_path / "server", receiver=tls) as server:
        (line,) = (line for line in server.get("/metrics").splitlines() if line.startswith(NAME))
        status = server.status()
    assert line.startswith(f'{NAME}{{certificate="receiver.tls.certificate"}} ')
    assert float(line.split()[-1]) == validity(certificate).end.timestamp()
    assert status["certificates"] == {"receiver.tls.certificate": round(validity(certificate).end.timestamp() * 1000)}


async def test_a_renewed_certificate_is_shown_after_the_reload(tmp_path: Path) -> None:
    """Not before: until then, the old one is in use."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    _make(certificate, key, days=10)
    old = validity(certificate).end.timestamp()
    async with running(tmp_path, receiver={"tls": {"certificate": str(certificate), "key": str(key)}}) as it:
        _make(certificate, key, days=20)
        label = {"certificate": "receiver.tls.certificate"}
        assert it.sample("certificate_expiry_timestamp_seconds", **label) == old
        assert await it.reload() == []
        new = it.sample("certificate_expiry_timestamp_seconds", **label)
        assert new == validity(certificate).end.timestamp() > old


def _make(certificate: Path, key: Path, days: int) -> None:
    arguments = ("-newkey", "ed25519", "-nodes", "-keyout", key, "-out", certificate, "-days", str(days), "-subj", "/CN=x")
    openssl("req", "-x509", *arguments)


SOON = "certificate ends soon"
CASES = {"ended": (-5, -1, "certificate has ended"), "to come": (1, 90, "certificate is not valid yet"),
         "soon": (-1, 13, SOON), "later": (-1, 15, None)}  # fmt: skip


@pytest.mark.parametrize(("begin", "end", "event"), CASES.values(), ids=CASES)
async def test_a_certificate_that_is_not_valid_for_long_is_told(
    tmp_path: Path, begin: int, end: int, event: str | None
) -> None:
    """By the server when it starts or reloads, and by `check` as a warning: the receiver's and those of sinks, with the key
    of each."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.sign("both", begin, end)
    files = {"certificate": str(certificate), "key": str(key)}
    kafka = {"type": "kafka", "bootstrap_servers": ["localhost:9092"], "topic": "t", "security": files | {"tls": True}}
    both = config.parse({"receiver": {"tls": files}, "sinks": {"orders": kafka}}, {})
    told = {item.path: item async for item in advice(both) if item.path.endswith("certificate")}
    paths = ["sinks.orders.security.certificate", "receiver.tls.certificate"]
    assert {path: item.event for path, item in told.items()} == (dict.fromkeys(paths, event) if event else {})
    assert all(f"{validity(certificate).end:%Y-%m-%d %H:%M} UTC. Replace" in item.hint for item in told.values())
    warned = {each.path: each.what for each in await check(both) if each.verdict == "warning"}
    assert ("receiver.tls.certificate" in warned) is bool(event)
    assert warned.get(paths[0], f"{event}: it is valid from").startswith(f"{event}: it is valid from")


async def test_a_reload_tells_that_the_new_certificate_has_ended(tmp_path: Path) -> None:
    """It is taken all the same, as at the start, and a line of `btfeed status` shows it."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.sign("server")
    async with running(tmp_path, receiver={"tls": {"certificate": str(certificate), "key": str(key)}}) as it:
        old, old_key = authority.sign("old", -9, -1)
        old.replace(certificate)
        old_key.replace(key)
        with capture_logs() as logs:
            assert await it.reload() == []
        status = await it.status()
    (warning,) = (line for line in logs if line.get("setting") == "receiver.tls.certificate")
    assert (warning["log_level"], warning["event"]) == ("warning", "certificate has ended")
    assert [line for line in _lines(status) if line.startswith("CERTIFICATE")] == [
        f"CERTIFICATE receiver.tls.certificate: it has ended at {validity(certificate).end:%Y-%m-%dT%H:%M:%S}.000Z"
    ]
