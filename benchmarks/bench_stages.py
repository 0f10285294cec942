"""Only the cases of each stage and of the whole server, on posts of 1,000 occurrences.

python -m benchmarks.bench_stages [--out FILE]
"""

import sys

from benchmarks.__main__ import main

CASES = [
    "(occurrences 1000, posts mixed)",
    "whole server: file (occurrences 1000,",
    "whole server: file, plain path (occurrences 1000,",
]

if __name__ == "__main__":
    sys.exit(main(["run", "--only", *CASES, *sys.argv[1:]]))
