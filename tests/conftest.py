"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running btfeed with one file sink."""
    with Server(tmp_path / "server") as running:
        yield running
