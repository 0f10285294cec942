"""What `serve` and `check` advise about the installation."""

import sys
from types import ModuleType
from typing import Any

import pytest

from btfeed import config
from btfeed.app import advice
from sinks.shared import optional


@pytest.fixture(autouse=True)
def _unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module was looked for yet."""
    monkeypatch.delenv("BTFEED_PLAIN", raising=False)
    monkeypatch.setattr(optional, "unusable", {})
    monkeypatch.setattr(advice, "unusable", optional.unusable)


async def advised() -> list[advice.Advice]:
    return [item async for item in advice.advice(config.parse({}, {})) if "native" in item.event]


async def test_native_code_that_can_not_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and what to do."""
    monkeypatch.setitem(sys.modules, "btfeed._gone", None)
    assert optional.optional("btfeed._gone", 1) is None
    (told,) = await advised()
    assert (told.path, told.event) == ("btfeed._gone", "native code can't be used, slower Python code runs instead")
    assert told.hint.startswith("import of btfeed._gone halted; None in sys.modules. Install a wheel")


async def test_native_code_of_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not used either."""
    module = ModuleType("btfeed._old")
    module.INTERFACE = 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "btfeed._old", module)
    assert optional.optional("btfeed._old", 2) is None
    (told,) = await advised()
    assert told.hint.startswith("it was built for another version, with interface 1 instead of 2. ")


async def test_native_code_that_is_used_or_not_wanted_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With BTFEED_PLAIN=1, somebody has decided."""
    module = ModuleType("btfeed._new")
    module.INTERFACE = 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "btfeed._new", module)
    assert optional.optional("btfeed._new", 2) is module
    monkeypatch.setenv("BTFEED_PLAIN", "1")
    assert optional.optional("btfeed._gone", 2) is None
    assert await advised() == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"create_topics": True}, True),
        ({"create_topics": True, "replication_factor": 3}, False),
        ({}, False),
    ],
)
async def test_topics_beside_the_journal_with_the_replicas_of_the_brokers_are_told(
    keys: dict[str, Any], told: bool
) -> None:
    """The journal has three replicas, and what was delivered might have one."""
    sink = {"type": "kafka", "cluster": "journal"} | keys
    parsed = config.parse({"journal": {"type": "kafka", "bootstrap_servers": "k:1"}, "sinks": {"k": sink}}, {})
    found = [item async for item in advice.advice(parsed) if item.path == "sinks.k.replication_factor"]
    assert len(found) == told
    assert all("brokers' default" in item.event for item in found)
