"""Names of files: `PREFIX-TIME-NUMBER.SUFFIX`, and `.open` behind it while the file is being written."""

import re
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
