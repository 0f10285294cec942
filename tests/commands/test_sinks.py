"""`btfeed sinks`: what it asks the server for, and what it refuses."""

import json

import pytest

from tests.commands.test_admin_client import answering
from tests.commands.test_main import invoke


@pytest.mark.parametrize("positions", [{"4": 1606, "5": 1568}, {"4": 1606}, {"0": 7, "5": 1568}])
def test_a_position_alone_is_refused_where_partitions_are_meant(positions: dict[str, int]) -> None:
    """It is said what to write, and nothing is moved."""
    status = {"sinks": {"a": {"positions": positions}}}
    with answering(200, json.dumps(status).encode()) as listener:
        done = invoke("sinks", "rewind", "a", "--to", "1560", "--url", listener.url)
    assert done.exit_code == 2
    last = max(positions)
    assert f"of which partition? Write {last}:1560, or several with commas" in " ".join(
        done.stderr.replace("│", "").split()
    )
    assert [method for method, *_ in listener.asked] == ["GET"]


@pytest.mark.parametrize(
    ("to", "sent"),
    [("4:1606,5:1568", {"4": 1606, "5": 1568}), ("0:7", {"0": 7}), ("7", {"0": 7})],
)
def test_positions_are_sent_by_partition(to: str, sent: dict[str, int]) -> None:
    """One alone is of partition 0, if there is no other."""
    moved = {"partition": 0, "position": 7, "again": 0, "skipped": 0, "oldest": None}
    answer = {"sinks": {"a": {"positions": {"0": 9}}}, "partitions": [moved], "paused": False}
    with answering(200, json.dumps(answer).encode()) as listener:
        done = invoke("sinks", "rewind", "a", "--to", to, "--url", listener.url)
    assert (done.exit_code, done.stderr) == (0, "")
    method, path, _, body = listener.asked[-1]
    assert (method, path, json.loads(body)["positions"]) == ("POST", "/sinks/a/rewind", sent)
