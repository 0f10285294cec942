"""The field table as AppMon documents it. Tests compare proto/bt.proto and btfeed/records/schema.py with it."""

import csv
from pathlib import Path
from typing import NamedTuple

CATEGORIES = ("purepath", "user_action", "visit")


class Row(NamedTuple):
    """A line of fields.csv."""

    number: str
    field: str
    older_name: str
    type: str
    purepath: str
    user_action: str
    visit: str
    record_field: str
    record_value: str

    @property
    def tag(self) -> int:
        return int(self.number)

    @property
    def kind(self) -> str:
        """int32, int64, double, bool or string."""
        return self.type.removeprefix("repeated ").removesuffix(" ms")

    @property
    def repeated(self) -> bool:
        return self.type.startswith("repeated ")

    def presence(self, category: str) -> str:
        """yes, no or optional."""
        said: str = getattr(self, category)
        return said


def _read() -> tuple[Row, ...]:
    with (Path(__file__).parent / "fields.csv").open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        assert tuple(next(lines)) == Row._fields
        return tuple(Row(*line) for line in lines)


ROWS = _read()
BY_FIELD = {row.field: row for row in ROWS}
