"""The profile of the whole server: a load of a few posts."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import flames, profiling
from tests.servers.installed import NotInstalled


@pytest.mark.strace
def test_a_profile_counts_system_calls_and_draws_flames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one load. Every post waits for a sync, and the summary has both numbers."""
    monkeypatch.setattr(profiling, "LOADS", [profiling.Profiled("file", 10, 1)])
    monkeypatch.setattr(profiling, "OCCURRENCES", 200)
    monkeypatch.setattr(profiling, "ALONE", 0.01)
    status = profiling.main(["--seconds", "1", "--out", str(tmp_path)])
    told = capsys.readouterr()
    assert status == 0, told.err
    cpu = told.out.splitlines()[1].split()
    assert cpu[0] == "file-10-over-1"
    assert float(cpu[1].replace(",", "")) > 0
    assert float(cpu[2]) > 0
    assert float(cpu[3]) >= 1
    assert "fdatasync" in (tmp_path / "file-10-over-1" / "syscalls.txt").read_text()
    drawn = (tmp_path / "file-10-over-1" / "flames.svg").read_text()
    assert ".py:" in drawn
    assert re.search(r"\.so[.0-9]*\)", drawn)  # native
    assert (tmp_path / "summary.txt").read_text().splitlines()[1].split() == cpu
    if "perf" not in told.err:  # not every machine has it, or allows it
        assert "append" in (tmp_path / "file-10-over-1" / "cpu-stacks.txt").read_text()
        assert "append" in (tmp_path / "file-10-over-1" / "cpu.svg").read_text()


def test_a_flame_graph_leaves_out_threads_that_wait() -> None:
    """Boxes are as wide as their share of the other samples; each tells its whole name, as text that is no markup."""
    stacks = [
        "main (a.py:1);write (libc.so.6) 3", "main (a.py:1);<lambda> (a.py:2) 1", "run (b.py:3);append (c.py:4) 4",
        "run (b.py:3);get (q.py:1);PyThread_acquire_lock_timed (python.so);0x7f (libc.so.6);0x7e (libc.so.6) 90",
    ]  # fmt: skip
    root, waiting = flames.tree(stacks)
    assert (root.samples, waiting, root.depth) == (8, 90, 3)
    assert {name: frame.samples for name, frame in root.callees.items()} == {"main (a.py:1)": 4, "run (b.py:3)": 4}
    drawn = flames.draw(root, "a & b")
    svg = ET.fromstring(drawn)
    told = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert told[:2] == ["all threads: 8 samples, 100.0%", "main (a.py:1): 4 samples, 50.0%"]
    assert "<lambda> (a.py:2): 1 samples, 12.5%" in told
    widths = [float(box.get("width", "")) for box in svg.findall(".//{*}g/{*}rect")]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert "a &amp; b" in drawn


def test_the_samples_of_perf_become_stacks() -> None:
    """From the thread on, without frames that perf does not know, and without directories."""
    printed = (
        "append \n"
        "\tffffffff8 do_syscall_64 ([kernel.kallsyms])\n\t    7f10a fdatasync (/usr/lib/libc.so.6)\n"
        "\t    0 [unknown] ([unknown])\n\n"
        "my thread \n\t 7f1 core::ops::call<(), a; b> (/x/btfeed/_native.abi3.so)\n\n"
        "append \n"
        "\tffffffff8 do_syscall_64 ([kernel.kallsyms])\n\t    7f10a fdatasync (/usr/lib/libc.so.6)\n\n"
    )
    assert list(flames.from_perf(printed)) == [
        "append;fdatasync (libc.so.6);do_syscall_64 ([kernel.kallsyms]) 2",
        "my thread;core::ops::call<(), a: b> (_native.abi3.so) 1",
    ]
    root, waiting = flames.tree(["append;epoll_pwait (libc.so.6) 3"], waits=())
    assert (root.samples, waiting) == (3, 0)
    assert list(flames.from_perf("")) == []


def test_tools_of_a_profile_that_are_missing_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do, below what was measured without them."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(NotInstalled, match="py-spy is not installed: run make setup"):
        profiling.pyspy()
    with pytest.raises(NotInstalled, match="perf is not installed"):
        profiling.perf()
    found = profiling.Found(profiling.LOADS[0], 1_234.0, missing=["strace is not installed"], notes=["no perf"])
    monkeypatch.setattr(profiling, "profile", lambda *arguments: found)
    assert profiling.main(["--only", "file-100-over-1", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[1].split() == ["file-100-over-1", "1,234"]
    assert told.err == "strace is not installed\nno perf\n"
    found.missing.clear()
    assert profiling.main(["--only", "file-100-over-1", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "no perf\n"
    assert profiling.main(["--only", "nothing", "--out", str(tmp_path)]) == 2
