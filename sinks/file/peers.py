"""Files of a sink that other processes have, too, each for the partitions that it delivers at the time.

The journal keeps the state of each process beside the cursor of a partition. Whoever has the partition next begins behind
the records that the state covers. So what this process wrote after its last saved state is written again, here or there,
and must go. Names of files tell which these are: their numbers begin with a series, which the state has, and which no other
journal's state has. Files of another series are another journal's: they may be the only copy of their records.
"""

import random
import re
from pathlib import Path

_DIGITS = 9


def new_series() -> str:
    """Digits with which the numbers of files begin from now on."""
    return str(random.SystemRandom().randrange(10 ** (_DIGITS - 1), 10**_DIGITS))


def is_of(series: str, path: Path) -> bool:
    """Whether a file was begun under a state with this series. "": none is."""
    return bool(series and re.search(rf"Z-{series}\d{{4,}}\.", path.name))
