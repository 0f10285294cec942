"""Where workers spill, and who forwards what others left."""

from pathlib import Path

import pytest

from btfeed.journal.kafka.worker import Worker, spill_directories


def workers(number: int) -> list[Worker | None]:
    """None is a receiver alone."""
    return [Worker(each, number) for each in range(1, number + 1)] if number else [None]


@pytest.mark.parametrize("now", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 5])
def test_every_directory_has_exactly_one_process(tmp_path: Path, before: int, now: int) -> None:
    """However many workers there were, and are. Nobody forwards a directory that another one spills into."""
    used = []
    for worker in workers(before):
        own, _ = spill_directories(tmp_path, worker)
        own.mkdir(exist_ok=True)
        (own / "journal.db").touch()
        used.append(own)
    served = [
        path for worker in workers(now) for own, left in [spill_directories(tmp_path, worker)] for path in (own, *left)
    ]
    assert len(served) == len(set(served))
    assert set(used) <= set(served)


def test_a_receiver_alone_spills_where_the_configuration_says(tmp_path: Path) -> None:
    """The directory may not exist yet, and other things in it are not taken for a worker's."""
    assert spill_directories(tmp_path / "spill", None) == (tmp_path / "spill", [])
    for name in ("worker-0", "worker-x", "worker-2-copy", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "worker-3").touch()
    assert spill_directories(tmp_path, None) == (tmp_path, [])
    assert spill_directories(tmp_path, Worker(2, 2)) == (tmp_path / "worker-2", [])
