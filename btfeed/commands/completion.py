"""Values that the shell completes. A key press waits for them, so they are read without the rest of the configuration."""

import tomllib
from pathlib import Path

import typer


def sink_names(context: typer.Context) -> list[str]:
    """The sinks of the configuration, as far as it can be read."""
    path = context.params.get("config")
    if not isinstance(path, Path):
        return []
    try:
        sinks = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("sinks")
    except (OSError, ValueError):
        return []
    return list(sinks) if isinstance(sinks, dict) else []


def sink_types() -> list[str]:
    """The types of sinks that are installed."""
    from sinks import types  # slow to import, and not needed by every command

    return types()
