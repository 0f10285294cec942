"""The servers that btfeed is compared with: what is started, and with which posts. None of them needs to be installed."""

from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.job import SHORT
from benchmarks.workshop import Workshop


@pytest.mark.java
def test_the_agent_of_flume_gets_its_configuration() -> None:
    """With every variable filled in, the bridge's jar before Flume's own, and Java."""
    variables = {"PORT": "4321", "DIRECTORY": "/records"}
    with Workshop() as workshop:
        java, *options = peers.PEERS["flume bridge, file"].command(workshop, variables)
        config = Path(options[-1]).read_text(encoding="utf-8")
    assert Path(java).name == "java"
    jars = options[options.index("-cp") + 1].split(":")
    assert [Path(jar).name for jar in jars] == ["dtFlume.jar", "*"]
    assert "$" not in config
    assert "agent1.sources.feed.port = 4321\n" in config
    assert "agent1.sinks.files.sink.directory = /records\n" in config


def test_peers_get_posts_as_appmon_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bento those over few connections, too. No case is there twice."""
    monkeypatch.setattr(peers.Peer, "installed", True)
    found = [(job.case.name, *job.case.parameters.values()) for job in peers.jobs(SHORT)]
    assert len(set(found)) == len(found)
    for size, number in ((100, 1), (100, 64), (10, 64), (1, 64), (1, 4)):
        assert {("bento, file", size, number), ("bento, file, fields as they are", size, number)} <= set(found)
    assert {size for name, size, _ in found if name == "flume bridge, file"} == {1, 100, 1_000}
