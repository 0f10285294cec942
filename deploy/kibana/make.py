"""Writes down the saved objects as Kibana imports them. `make docs` calls it."""

import json
from pathlib import Path

from deploy.kibana.dashboard import objects

FILE = Path(__file__).with_name("btfeed.ndjson")


def texts() -> dict[Path, str]:
    """What belongs in the file: one saved object a line."""
    lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in objects()]
    return {FILE: "".join(lines)}
