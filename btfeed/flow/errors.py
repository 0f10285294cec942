"""What can go wrong with a report, apart from its definition."""


class FlowError(Exception):
    """The records can't be read, or the numbers would be wrong. Says what, and what to do."""


class EngineMissing(FlowError):
    """DuckDB is not installed."""

    def __init__(self) -> None:
        super().__init__("btfeed flow needs DuckDB, which is not installed: pip install 'btfeed[flow]'")
