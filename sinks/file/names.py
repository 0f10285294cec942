"""Names of files: `PREFIX-TIME-NUMBER.SUFFIX`, and `.open` behind it while the file is being written."""

import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from sinks.file.open_file import OPEN_SUFFIX

_FINISHED = r"-\d{8}T\d{6}Z-\d{4,}\.(ndjson(?:\.gz|\.zst)?|avro)"
OPEN_FILE = re.compile(_FINISHED + re.escape(OPEN_SUFFIX))
"""What follows the prefix in the name of an open file."""
_PART = r"(-(p\d+|retries)-.+)?"
"""What SinkContext.part adds to the prefix."""


def prefix(sink: str, part: str = "") -> str:
    """How names of a sink's files begin: distinct names have distinct prefixes. part: see SinkContext."""
    return quote(f"{sink}-{part}" if part else sink, safe="")


def is_file_of(sink: str, file: Path) -> bool:
    """Whether a file of this name is one that the sink of that name writes or has finished, whatever its part."""
    name = file.name.removesuffix(OPEN_SUFFIX)
    return bool(re.fullmatch(re.escape(prefix(sink)) + _PART + _FINISHED, name))


class Names:
    """The names of the files of one sink object. None is given twice, even if the file was finished and taken away:
    numbers go on over reloads and restarts, whatever the clock says.

    prefix  how they begin
    series  digits with which numbers begin, see peers
    number  of the newest file, without the series; `series` and `number` are part of the sink's state
    """

    def __init__(self, sink: str, part: str) -> None:
        """part: see SinkContext."""
        self.prefix = prefix(sink, part)
        self.series = ""
        self.number = 0

    def open_files(self, directory: Path) -> list[Path]:
        """The open files in `directory`, and none of a sink whose name starts like this one's."""
        found = sorted(directory.glob(f"{self.prefix}-*{OPEN_SUFFIX}"))
        return [path for path in found if OPEN_FILE.fullmatch(path.name[len(self.prefix) :])]

    def format_of(self, path: Path) -> str | None:
        """The part of an open file's name between its number and `.open`. None for other names."""
        found = OPEN_FILE.fullmatch(path.name[len(self.prefix) :])
        return found[1] if found else None

    def note(self, name: str) -> None:
        """Give no number up to that of this file, if it is of the series."""
        if found := re.match(rf"{re.escape(self.prefix)}-\d{{8}}T\d{{6}}Z-{self.series}(\d{{4,}})\.", name):
            self.number = max(self.number, int(found[1]))

    def new(self, directory: Path, now: float, suffix: str) -> Path:
        """The path of a new open file. now: in seconds since the epoch."""
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        while True:
            self.number += 1
            final = directory / f"{self.prefix}-{stamp}-{self.series}{self.number:04}.{suffix}"
            path = final.with_name(final.name + OPEN_SUFFIX)
            if not final.exists() and not path.exists():
                return path
