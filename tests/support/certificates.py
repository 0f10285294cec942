"""Certificates for tests, made with the openssl command."""

import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.harness import DEADLINE


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=DEADLINE)


@dataclass(frozen=True)
class Authority:
    """A certificate authority that keeps its files in `directory`."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir()
        key, certificate = self.directory / "ca.key", self.directory / "ca.pem"
        extension = "basicConstraints=critical,CA:TRUE"
        self._request(key, "test-ca", "-x509", "-out", certificate, "-days", "30", "-addext", extension)

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    def sign(self, name: str, begin: int | None = None, end: int = 30) -> tuple[Path, Path]:
        """A certificate for localhost, and its key. It is valid from now, or from `begin`, to `end`, in days from now."""
        key, asked, signed = (self.directory / f"{name}.{suffix}" for suffix in ("key", "csr", "pem"))
        extensions = self.directory / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._request(key, name, "-out", asked)
        authority = ("-CA", self.certificate, "-CAkey", self.directory / "ca.key", "-CAcreateserial")
        if begin is None:
            openssl("x509", "-req", "-in", asked, *authority, "-out", signed, "-days", str(end), "-extfile", extensions)
        else:
            self._sign_between(asked, signed, begin, end)
        return signed, key

    def _sign_between(self, asked: Path, signed: Path, begin: int, end: int) -> None:
        """What `openssl x509` can't do in all versions."""
        settings, database = self.directory / "ca.conf", self.directory / "index"
        database.touch()
        policy = "[policy]\ncommonName = supplied\n"
        place = f"database = {database}\nnew_certs_dir = {self.directory}\nunique_subject = no\n"
        settings.write_text(
            f"[ca]\ndefault_ca = it\n[it]\n{place}default_md = sha256\nrand_serial = yes\npolicy = policy\n{policy}"
        )
        dates = [f"{datetime.now(UTC) + timedelta(days):%y%m%d%H%M%SZ}" for days in (begin, end)]
        authority = (
            "-cert",
            self.certificate,
            "-keyfile",
            self.directory / "ca.key",
            "-extfile",
            self.directory / "extensions",
        )
        between = ("-startdate", dates[0], "-enddate", dates[1])
        openssl("ca", "-batch", "-notext", "-config", settings, *authority, *between, "-in", asked, "-out", signed)

    def _request(self, key: Path, name: str, *more: str | Path) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        openssl("req", *curve, "-nodes", "-keyout", key, "-subj", f"/CN={name}", *more)

    def client(self, *, signed_by: "Authority | None" = None) -> ssl.SSLContext:
        """The context of a client that trusts this authority. signed_by: the authority of the client's own certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if signed_by:
            context.load_cert_chain(*map(str, signed_by.sign("client")))
        return context
