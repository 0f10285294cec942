"""What can go wrong with a report, apart from its definition."""


class FlowError(Exception):
    """The records can't be read, or the numbers would be wrong. Says what, and what to do."""


class MemoryMissing(FlowError):
    """The records need more memory than is allowed, and there is no place for what does not fit."""


class EngineMissing(FlowError):
    """DuckDB is not installed."""

    def __init__(self) -> None:
        super().__init__("btfeed flow needs DuckDB, which is not installed: pip install 'btfeed[flow]'")
