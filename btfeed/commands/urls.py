"""URLs on the command line: what is one, whether it can be used, and how it is shown.

Credentials may be anywhere before the last @ of what was meant as a URL, however it is written. So whatever is echoed goes
through `shown`, and whatever else reaches a terminal through `without_credentials`.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import typer

_HIDDEN = "***@"
_IN_TEXT = re.compile(r"""([a-z][\w+.-]*://)\S*@|(?<![\w/*])[^\s'"(/:]+:[^\s/][^\s]*@""", re.IGNORECASE)


def shown(url: str) -> str:
    """What the user gave as a URL, without credentials."""
    start = re.match(r"[a-z][\w+.-]*://", url, re.IGNORECASE)
    scheme = start[0] if start else ""
    return f"{scheme}{_HIDDEN}{url.rpartition('@')[2]}" if "@" in url else url


def without_credentials(text: str) -> str:
    """A message without the credentials of URLs in it, which may lack their scheme."""
    return _IN_TEXT.sub(lambda found: (found[1] or "") + _HIDDEN, text)


def check_url(url: str, option: str = "URL") -> None:
    """Raises BadParameter unless `url` is an http or https URL. The error does not show its credentials."""
    if fault := _fault(url):
        raise typer.BadParameter(f"invalid URL {shown(url)!r}: {fault}", param_hint=option)


def looks_like_url(text: str) -> bool:
    """Whether it is one, or HOST:PORT or NAME:PASSWORD@HOST, which lacks only http://. Not if there is such a file."""
    lacks_scheme = re.fullmatch(r"(.*@)?[\w.\-\[\]:]+:\d+(/.*)?|[^/]+:.*@[^@]+", text)
    return "://" in text or bool(lacks_scheme and not Path(text).exists())


def _fault(url: str) -> str | None:
    """What is wrong, in words of our own: Python's quote parts of the URL, which may be of a password."""
    try:
        parts = urlsplit(url)
        hostname = parts.hostname or ""
        hostname.encode("idna")
    except ValueError:  # of the brackets around an IPv6 address, or of the host; UnicodeError is one
        return "its host is neither a name nor an IP address; an IPv6 address needs brackets"
    if parts.scheme not in ("http", "https") or not url.lower().startswith(f"{parts.scheme}://"):
        example = f", as in http://{shown(url)}" if looks_like_url(url) and "://" not in url else ""
        return f"start it with http:// or https://{example}"
    if not hostname:
        return f"add a host after {parts.scheme}://"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        cut = "@" in url and "@" not in parts.netloc
        in_password = "; in a name or password, write / as %2F, ? as %3F and # as %23" if cut else ""
        return f"its port must be a number from 1 to 65535{in_password}"
    return None
