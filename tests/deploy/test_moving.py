"""Going back to an older version, and moving to another machine, as docs/installing.md says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from btfeed.journal.sqlite.layout import APPLICATION, VERSION
from tests.support import posts
from tests.support.harness import Server

PAGE = (Path(__file__).parents[2] / "docs/installing.md").read_text()
BTFEED = [sys.executable, "-m", "btfeed"]


def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*BTFEED, *arguments], capture_output=True, text=True, check=False, timeout=120)


def set_layout(journal: Path, version: int) -> None:
    """What a version of btfeed with this layout leaves in the file."""
    db = apsw.Connection(str(journal / "journal.db"))
    db.execute(f"PRAGMA user_version={version}; PRAGMA application_id={APPLICATION + version}")
    db.close()


@pytest.mark.slow
def test_an_older_version_refuses_a_newer_journal_and_gets_its_posts_by_replay(tmp_path: Path) -> None:
    """With the words that the page shows. The file stays as it is, and records arrive with the same ids."""
    server = Server(tmp_path)
    journal, newer = tmp_path / "journal", tmp_path / "journal-newer"
    with server:
        assert server.post(posts.mixed(20, seed=1))[0] == 200
        before = server.delivered(20)
    set_layout(journal, VERSION + 1)
    refused = run("serve", "-c", server.config)
    assert refused.returncode == 1
    said = refused.stderr.strip().splitlines()[-1].replace(str(journal), "/var/lib/btfeed/journal")
    assert re.sub(r"\d+", "N", said) in re.sub(r"\d+", "N", PAGE)
    checked = run("check", "-c", server.config)
    assert checked.returncode == 1
    assert f"layout {VERSION + 1}" in checked.stdout

    set_layout(journal, VERSION)  # the version that wrote it can read it
    journal.rename(newer)
    with server:
        replayed = run("replay", "--journal", newer, "--from", "2h", f"{server.url}/", "--json")
        assert replayed.returncode == 0, replayed.stderr
        after = server.delivered(40)
    ids = [record["event.id"] for record in after]
    assert sorted(ids) == sorted(2 * [record["event.id"] for record in before])


def test_another_machine_delivers_what_the_old_one_had_not(tmp_path: Path) -> None:
    """The journal and the files of the sinks move to other paths, and the new server goes on where the old one stopped."""
    old, new = Server(tmp_path / "old"), Server(tmp_path / "new")
    with old:
        assert old.post(posts.mixed(20, seed=1))[0] == 200
        old.delivered(20)
    files = old.files.rename(tmp_path / "files")
    old.files.write_text("in the way of the sink")
    with old:
        assert old.post(posts.mixed(20, seed=2))[0] == 200
    shutil.copytree(tmp_path / "old/journal", tmp_path / "new/journal")
    shutil.copytree(files, new.files)
    with new:
        assert new.post(posts.mixed(20, seed=3))[0] == 200
        records = new.delivered(60)
    assert len({record["event.id"] for record in records}) == 60
