"""Secrets on the command line. Other users of a machine see the arguments of every process, so a secret can also be in a
file or in an environment variable."""

import re
from pathlib import Path

import typer


def secret(text: str, hint: str) -> str:
    """The text of an option, or of the file if it is `@FILE`, without whitespace at its ends. Raises BadParameter.

    hint: the option, for the error
    """
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError as error:
        raise typer.BadParameter(f"can't read {text[1:]}: {error.strerror}", param_hint=hint) from None


def token(text: str, hint: str) -> str:
    """`secret` for a token, which goes into a header as it is. Raises BadParameter."""
    found = secret(text, hint)
    if not found:
        where = f"the file {text[1:]}" if text.startswith("@") else "it"
        raise typer.BadParameter(f"{where} is empty: a token is needed there", param_hint=hint)
    if not re.fullmatch(r"[!-~]+", found):
        raise typer.BadParameter("a token has visible ASCII characters only, and no spaces", param_hint=hint)
    return found
