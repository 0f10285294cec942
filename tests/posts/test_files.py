"""Files of posts: formats, names, and the errors for broken ones."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.proto import parse_length_prefixed
from hypothesis import given
from hypothesis import strategies as st

from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.posts.files import PostFileError, find, read, write_delimited
from tests.support import posts


def delimited(*bodies: bytes) -> bytes:
    file = io.BytesIO()
    for body in bodies:
        write_delimited(file, body)
    return file.getvalue()


def test_a_bin_file_is_one_body(tmp_path: Path) -> None:
    """Byte for byte, empty or not."""
    for content in (posts.sample_visit(), b"", b"\x05no"):
        path = tmp_path / "a.bin"
        path.write_bytes(content)
        assert list(read(path)) == [content]


@pytest.mark.parametrize(
    ("length", "prefix"), [(0, b"\x00"), (1, b"\x01"), (127, b"\x7f"), (128, b"\x80\x01"), (16384, b"\x80\x80\x01")]
)
def test_a_length_is_a_varint(length: int, prefix: bytes) -> None:
    """The standard framing: least significant seven bits first."""
    assert delimited(b"x" * length) == prefix + b"x" * length


def test_protobuf_reads_what_is_written() -> None:
    """protobuf's own reader of length-delimited messages is the judge."""
    file = io.BytesIO(delimited(posts.sample_purepath(), posts.sample_visit()))
    for body in (posts.sample_purepath(), posts.sample_visit()):
        message = parse_length_prefixed(BusinessTransactions, file)
        assert message is not None
        assert message.SerializeToString() == body
    assert file.read() == b""


@given(bodies=st.lists(st.binary(max_size=300), max_size=8))
def test_what_is_written_is_read(bodies: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """In order, empty bodies included."""
    path = tmp_path_factory.getbasetemp() / "written.btposts"
    path.write_bytes(delimited(*bodies))
    assert list(read(path)) == bodies


@pytest.mark.parametrize(
    "tail",
    [
        b"\x05abc",
        b"\x80",
        b"\xff\xff\xff\xff\x7f",
        b"\x80\x80\x80\x80\x80\x80\x01",
        b"\xff" * 20,
    ],
)
def test_a_broken_file_gives_the_posts_before_the_fault(tmp_path: Path, tail: bytes) -> None:
    """Then an error says where the file is broken."""
    path = tmp_path / "a.btposts"
    path.write_bytes(delimited(b"one", b"two") + tail)
    bodies = read(path)
    assert (next(bodies), next(bodies)) == (b"one", b"two")
    with pytest.raises(PostFileError, match="the post at byte 8 is cut off"):
        next(bodies)


def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    """A file of six bytes claims 34 GB; the process may use 2 GB."""
    path = tmp_path / "a.btposts"
    path.write_bytes(b"\xff\xff\xff\xff\x7fx")
    script = (
        "import resource, sys; from pathlib import Path; from btfeed.posts.files import PostFileError, read\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "try: list(read(Path(sys.argv[1])))\n"
        "except PostFileError: print('rejected')"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("rejected\n", "")


def test_a_directory_is_searched_to_the_bottom(tmp_path: Path) -> None:
    """Its post files are sorted by name, other files ignored. Arguments keep their order."""
    for name in ("b.bin", "a.btposts", "c.txt", "deep/er/0.bin"):
        (tmp_path / "posts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "posts" / name).write_bytes(b"")
    (tmp_path / "posts" / "folder.bin").mkdir()
    last = tmp_path / "0.bin"
    last.write_bytes(b"")
    found = find([tmp_path / "posts", last])
    assert found == [*(tmp_path / "posts" / name for name in ("a.btposts", "b.bin", "deep/er/0.bin")), last]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"empty: no \*.bin or \*.btposts in this directory"),
        ("a.txt", r"a.txt: not a post file: use a name that ends with .bin, .btposts, .bin.gz or .btposts.gz"),
    ],
)
def test_a_path_without_posts_is_rejected(tmp_path: Path, name: str, message: str) -> None:
    """A directory without post files, and a file with another name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(PostFileError, match=message):
        find([tmp_path / name])


@pytest.mark.parametrize("name", ["none.bin", "none.btposts", "folder.bin"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """With the reason of the operating system."""
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(PostFileError, match=f"{name}: (No such file|Is a directory)"):
        list(read(tmp_path / name))
