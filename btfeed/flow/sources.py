"""Sources of records: finds files, and brings everything else to files that DuckDB reads.

NDJSON (plain, gzip, zstd) and Parquet stay where they are. The rest is written to a spool, a temporary directory that is
removed at the end: Avro as NDJSON, the records of post files, standard input, documents of Elasticsearch (elastic.py).
"""

import errno
import gzip
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from btfeed.flow import damage
from btfeed.flow.damage import SourceError
from btfeed.flow.options import Source
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed, digest
from btfeed.records.mapper import PostMapper
from btfeed.signals import standard_input
from btfeed.telemetry.wording import count
from sinks.shared.avro import avro_restorer

NDJSON = (".ndjson", ".ndjson.gz", ".ndjson.zst")
"""How names of NDJSON files end. Others that people use: .jsonl and .json, which have one record a line too."""
OTHER_NDJSON = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst")
PARQUET, AVRO, OPEN = ".parquet", ".avro", ".open"
STANDARD = Path("-")
_KNOWN = "*.ndjson, *.jsonl and *.json (also with .gz or .zst), *.avro, *.parquet, *.btposts, *.bin"
_GLOB = set("*?[]{}")
"""Characters that DuckDB reads as a pattern."""
_CHUNK = 2**20
DAMAGED = "damaged, or cut off: what comes before that is read"
REMOVALS = 10
"""How often it is tried to remove a spool."""
MANY = 1_000_000
"""Records of Avro from which on a message says that it is slow."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What DuckDB reads.

    unreadable  records, or posts, that could not be read when the spool was written
    spool       the temporary directory
    notes       what a reader should know of the source
    """

    source: Source
    unreadable: int = 0
    spool: Path = Path()
    notes: tuple[str, ...] = ()

    def repaired(self, say: Callable[[str], None] = lambda text: None) -> "Scan":
        """The same without what DuckDB refuses: damaged compressed files, and lines that are too long. What is readable of
        such files is in the spool. Each counts as one unreadable record. Reads them all once.

        say  is told which files these are

        Raises SourceError.
        """
        kept: list[Path] = []
        unreadable = self.unreadable
        for path in self.source.ndjson:
            damaged, long = damage.faults(path)
            name = "standard input" if path.parent == self.spool and path.name.startswith("stdin") else path
            if damaged:
                say(f"{name}: {DAMAGED}")
            if long:
                say(f"{name}: {count(long, 'line')} of more than 16 MiB left out")
            unreadable += damaged + long
            kept.append(_rescued(path, self.spool) if damaged or long else path)
        return replace(self, source=replace(self.source, ndjson=tuple(kept)), unreadable=unreadable)


def _rescued(path: Path, spool: Path) -> Path:
    """A file with what can be read of one. Raises SourceError."""
    rescued = spool / f"rescued-{len(list(spool.glob('rescued-*')))}.ndjson"
    try:
        with rescued.open("wb") as out:
            out.writelines(damage.readable(path))
    except OSError as error:
        raise SourceError(f"can't write to {spool}: {error.strerror}; see --temp") from None
    return rescued


@dataclass(frozen=True, slots=True)
class Found:
    """Files by what they are. passed_over: open files, whose ends may be written again."""

    ndjson: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    avro: list[Path] = field(default_factory=list)
    posts: list[Path] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)

    def add(self, path: Path, open_too: bool) -> bool:
        """Whether the name is that of a file with records. An empty file has none, and is left out."""
        name = path.name.removesuffix(OPEN)
        kinds = ((self.ndjson, NDJSON + OTHER_NDJSON), (self.parquet, (PARQUET,)), (self.avro, (AVRO,)))
        wanted = next((files for files, suffixes in kinds if name.endswith(suffixes)), None)
        if wanted is None and postfile.is_post_file(path):
            wanted = self.posts
        if wanted is None:
            return False
        if path.name.endswith(OPEN) and not open_too:
            wanted = self.passed_over
        if path.stat().st_size:
            wanted.append(path)
        return True


def find(sources: Iterable[Path], open_too: bool = False, wanted: Callable[[Path], bool] = lambda path: True) -> Found:
    """The files among `sources` and in the directories among them. `-` is standard input.

    wanted  which files of a directory to take

    Raises SourceError if one does not exist, must not be read, or is of no known kind.
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    for source in map(postfile.standard, sources):
        if source == STANDARD:
            found.posts.append(STANDARD)
            continue
        try:
            inside = sorted(filter(wanted, _inside(source))) if source.is_dir() else [source]
            any_known = False
            for path in inside:
                status = path.stat()
                if (status.st_dev, status.st_ino) in seen:
                    any_known = True
                    continue  # named twice: its records would count as duplicates
                seen.add((status.st_dev, status.st_ino))
                known = found.add(path, open_too)
                any_known = any_known or known
                if known and not os.access(path, os.R_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            if not any_known:
                what = "no file with records in it" if source.is_dir() else "not a file with records"
                raise SourceError(f"{source}: {what}: names end like {_KNOWN}")
        except OSError as error:
            raise SourceError(f"{error.filename or source}: {error.strerror}") from None
    return found


def _inside(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder, onerror=_raise):
        yield from (path for name in names if (path := Path(place, name)).is_file())


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def spool(parent: Path | None = None) -> Iterator[Path]:
    """A temporary directory that only this user may read, since records may be personal.

    parent  where it is made; by default where the system has temporary files
    """
    try:
        place = Path(tempfile.mkdtemp(prefix="btfeed-flow-", dir=parent))
    except OSError as error:
        raise SourceError(f"can't write to {parent or tempfile.gettempdir()}: {error.strerror}; see --temp") from None
    try:
        yield place
    finally:
        remove(place)


def remove(place: Path) -> None:
    """Remove a spool, also while threads still make files in it."""
    for _ in range(REMOVALS):
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return


def of_files(
    found: Found, place: Path, mapper: Callable[[], PostMapper], say: Callable[[str], None] = lambda text: None
) -> Scan:
    """What DuckDB reads of these files. Writes to the spool `place` what it can't read itself.

    mapper  makes the one that post files are mapped with; called only if there are any
    say     is told what takes long, or was left out

    Raises SourceError.
    """
    if not any((found.ndjson, found.parquet, found.avro, found.posts)) and found.passed_over:
        raise SourceError(
            f"only open files ({found.passed_over[0]}), which a server may still write to: add --open to read them as"
            " they are now, or wait until they are finished"
        )
    notes = []
    if found.passed_over:
        open_files = count(len(found.passed_over), "open file")
        notes.append(f"{open_files} passed over, which a server may still write to: --open reads them, too")
    spooled = _Spool(place, say)
    ndjson = [_plain_name(path, place, number) for number, path in enumerate(map(spooled.whole, found.ndjson))]
    for path in found.parquet:
        _check_parquet(path)
    parquet = [_plain_name(path, place, number) for number, path in enumerate(found.parquet)]
    try:
        if found.avro:
            ndjson.append(spooled.avro(found.avro))
        if found.posts:
            ndjson += spooled.posts(found.posts, mapper)
    except OSError as error:
        raise SourceError(f"can't write to {place}: {error.strerror}; see --temp") from None
    notes += [f"{count(number, 'record')} left out: {why}" for why, number in spooled.refused.items()]
    return Scan(Source("files", tuple(ndjson), tuple(parquet)), spooled.unreadable, place, tuple(notes))


def _plain_name(path: Path, place: Path, number: int) -> Path:
    """A name that tells DuckDB the format, and is no pattern: a link, where the file's own is not."""
    if not path.name.endswith(OPEN) and not _GLOB & set(str(path)):
        return path
    name = path.name.removesuffix(OPEN)
    suffix = next(each for each in (*NDJSON, *OTHER_NDJSON, PARQUET)[::-1] if name.endswith(each))
    link = place / f"link-{number}{suffix}"
    link.symlink_to(path.absolute())
    return link


def _check_parquet(path: Path) -> None:
    """Raises SourceError unless it begins and ends as such files do."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            file.seek(-4, os.SEEK_END)
            end = file.read(4)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if (begin, end) != (b"PAR1", b"PAR1"):
        raise SourceError(f"{path}: no Parquet file, or cut off: nothing of it can be read")


class _Spool:
    """Writes what is not NDJSON to files that are. refused: records that validation leaves out, by reason."""

    def __init__(self, place: Path, say: Callable[[str], None]) -> None:
        self.unreadable = 0
        self.refused: Counter[str] = Counter()
        self._place = place
        self._say = say

    def avro(self, files: Iterable[Path]) -> Path:
        """The records of Avro object container files, with the names that they have in JSON."""
        import fastavro  # slow to import

        from btfeed.records.schema import MAPS, RECORD_FIELDS

        restore = avro_restorer(RECORD_FIELDS, MAPS)
        encode = msgspec.json.encode
        written = 0
        spooled = self._place / "avro.ndjson"
        with spooled.open("wb") as out:
            for path in files:
                with path.open("rb") as file:
                    try:
                        for record in fastavro.reader(file):
                            out.write(encode(restore(cast("dict[str, Any]", record))) + b"\n")
                            written += 1
                            if written == MANY:
                                self._say("Avro is read at about 29,000 records a second; NDJSON at half a million")
                    except OSError:
                        raise
                    except Exception:  # noqa: BLE001 - damaged data raises many kinds of errors
                        self._damaged(str(path))
        return spooled

    def posts(self, files: Iterable[Path], mapper: Callable[[], PostMapper]) -> Iterator[Path]:
        """The records of post files, and what standard input has: posts, or records as lines."""
        spooled, made = self._place / "posts.ndjson", None
        with spooled.open("wb") as out:
            for path in files:
                name = str(path)
                if path == STANDARD:
                    name = "standard input"
                    path = self._place / "stdin"
                    kind = _copy_standard_input(path)
                    path = path.rename(path.with_name(f"stdin{kind}"))
                    if kind in NDJSON:
                        yield self.whole(path, name)
                        continue
                made = made or mapper()
                self._map(path, made, out, name)
        yield spooled

    def whole(self, path: Path, name: str = "") -> Path:
        """The file itself, or what is readable of it if it is a zstd file that is cut. name: what it is called."""
        try:
            if path.name.removesuffix(OPEN).endswith(".zst") and damage.is_cut(path):
                self.unreadable += 1
                self._say(f"{name or path}: {DAMAGED}")
                return _rescued(path, self._place)
        except OSError as error:
            raise SourceError(f"{name or path}: {error.strerror}") from None
        return path

    def _map(self, path: Path, mapper: PostMapper, out: BinaryIO, name: str) -> None:
        try:
            for body in postfile.read(path):
                try:
                    mapped = mapper.map(body, digest(body))
                except Malformed:
                    self.unreadable += 1
                    continue
                out.write(mapped.batch.ndjson)
                self.refused.update(refused.reason for refused in mapped.refused)
        except postfile.PostFileError:
            self._damaged(name)

    def _damaged(self, name: str) -> None:
        self.unreadable += 1
        self._say(f"{name}: {DAMAGED}")


def _copy_standard_input(path: Path) -> str:
    """Copy it to `path`, and tell how a file with such data is named."""
    given = standard_input()
    if given is None:
        raise SourceError("standard input is closed")
    with given, path.open("wb") as out:
        shutil.copyfileobj(given, out, _CHUNK)
    with path.open("rb") as file:
        head = file.read(4)
        if head in (b"Obj\x01", b"PAR1"):
            form = "Avro" if head == b"Obj\x01" else "Parquet"
            raise SourceError(f"standard input: {form} can't be read from there: name the file")
        if head == b"\x28\xb5\x2f\xfd":
            return ".ndjson.zst"
        if head[:2] != b"\x1f\x8b":
            return ".ndjson" if _is_json(head) else ".btposts"
    try:
        with gzip.open(path) as unzipped:
            return ".ndjson.gz" if _is_json(unzipped.read(4)) else ".btposts.gz"
    except (OSError, EOFError, zlib.error):
        return ".ndjson.gz"


def _is_json(head: bytes) -> bool:
    """Whether a line of JSON begins so. A post of 123 bytes has a length of `{`, but then a field's number."""
    return head[:1] == b"{" and head[1:2] in (b'"', b" ", b"}", b"\n", b"\t")
