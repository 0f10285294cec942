"""What the contract suite runs on: each backend."""

from pathlib import Path

import pytest

from tests.journal.drivers import DRIVERS, Driver


@pytest.fixture(params=DRIVERS)
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    return DRIVERS[request.param](tmp_path)
