"""When the configured certificates end, as the metrics show it."""

from pathlib import Path

from btfeed import config
from btfeed.app.certificates import show_expiry
from btfeed.telemetry.metrics import Metrics
from sinks.shared.tls import expiry
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
    show_expiry(config.parse(both, {}), metrics)
    end = expiry(certificate).timestamp()
    for path in ("receiver.tls.certificate", "sinks.orders.security.certificate"):
        assert metrics.registry.get_sample_value(NAME, {"certificate": path}) == end
    show_expiry(config.parse({"sinks": {"orders": kafka}}, {}), metrics)
    assert metrics.registry.get_sample_value(NAME, {"certificate": "receiver.tls.certificate"}) is None


def test_a_missing_file_is_left_out(tmp_path: Path) -> None:
    """Whatever uses it reports it."""
    files = {"certificate": str(tmp_path / "none"), "key": str(tmp_path / "none")}
    metrics = Metrics()
    show_expiry(config.parse({"receiver": {"tls": files}}, {}), metrics)
    assert not [sample for family in metrics.certificate_expiry.collect() for sample in family.samples]


def test_a_running_server_shows_it(tmp_path: Path) -> None:
    """In /metrics and /status, from the start."""
    certificate, key = Authority(tmp_path / "ca").sign("server")
    tls = f'tls = {{ certificate = "{certificate}", key = "{key}" }}'
    with Server(tmp_path / "server", receiver=tls) as server:
        (line,) = (line for line in server.get("/metrics").splitlines() if line.startswith(NAME))
        status = server.status()
    assert line.startswith(f'{NAME}{{certificate="receiver.tls.certificate"}} ')
    assert float(line.split()[-1]) == expiry(certificate).timestamp()
    assert status["certificates"] == {"receiver.tls.certificate": round(expiry(certificate).timestamp() * 1000)}


async def test_a_renewed_certificate_is_shown_after_the_reload(tmp_path: Path) -> None:
    """Not before: until then, the old one is in use."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    _make(certificate, key, days=10)
    old = expiry(certificate).timestamp()
    async with running(tmp_path, receiver={"tls": {"certificate": str(certificate), "key": str(key)}}) as it:
        _make(certificate, key, days=20)
        label = {"certificate": "receiver.tls.certificate"}
        assert it.sample("certificate_expiry_timestamp_seconds", **label) == old
        assert await it.reload() == []
        new = it.sample("certificate_expiry_timestamp_seconds", **label)
        assert new == expiry(certificate).timestamp() > old


def _make(certificate: Path, key: Path, days: int) -> None:
    arguments = ("-newkey", "ed25519", "-nodes", "-keyout", key, "-out", certificate, "-days", str(days), "-subj", "/CN=x")
    openssl("req", "-x509", *arguments)
