"""`make wheel` runs this in an environment with only the wheel: the native path exists, and maps a post file."""

import sys
from importlib.metadata import version
from pathlib import Path

from btfeed import native
from btfeed.posts import files as postfile
from btfeed.posts import post
from btfeed.records.mapper import create_mapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from sinks.kafka.native import native as _messages

assert native.PATH == "native", "the wheel has no native transcoder"
assert _messages, "the wheel has no native messages"
mapper = create_mapper(RecordSettings(), ValidationSettings())
records = [
    record for body in postfile.read(Path(sys.argv[1])) for record in mapper.map(body, post.digest(body)).batch.bodies
]
assert records, "no records"
print(f"btfeed {version('btfeed')} from {Path(native.__file__).parent}: {len(records)} records, mapping {native.PATH}")
