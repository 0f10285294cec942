"""Why a request failed, in words for people. asyncio and aiohttp repeat the address and more that says nothing, and servers
answer with pages that are made for browsers."""

import os
import re
import ssl
from html import unescape

_HTML = re.compile(r"\s*(<!doctype html|<html|<head|<title)", re.IGNORECASE)
_TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


def explain(error: OSError) -> str:
    """Why there is no connection: the system's own text, or OpenSSL's."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if error.errno is None or error.errno <= 0:  # name resolution has negative numbers of its own
        return error.strerror or str(error)
    return os.strerror(error.errno)


def explain_file(error: OSError) -> str:
    """What is wrong with a file or directory: its path if the error has one, and the reason, without Python's numbers."""
    reason = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason


def one_line(text: str) -> str:
    """What a server says, on one line. Of an HTML page, only its title, or else its text."""
    if _HTML.match(text):
        title = _TITLE.search(text)
        text = unescape(title[1] if title else _TAGS.sub(" ", text))
    return " ".join(text.split())
