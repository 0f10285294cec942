"""The same traffic in all forms of files: for tests that their reports are equal."""

from pathlib import Path

import duckdb

from btfeed.posts import files as postfile
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from tests.support.harness import Server, until

FLOWS = 300
SINKS = {
    "plain": "",
    "gzip": 'compression = "gzip"',
    "zstd": 'compression = "zstd"',
    "avro": 'format = "avro"\ncompression = "deflate"',
}
"""File sinks of a server, each with its settings."""
DELIVERED = 60.0
"""Seconds to wait until all is delivered."""


def config(directory: Path) -> str:
    """The tables of these sinks. Files are finished when they are old, which is at once."""
    return "\n".join(
        f'[sinks.{name}]\ntype = "file"\ndirectory = "{directory / name}"\nrotate_interval = "1s"\n{more}\n'
        for name, more in SINKS.items()
    )


def posts(path: Path, flows: int = FLOWS) -> Path:
    """A post file with traffic of the web shop over some hours."""
    made = list(generate(GenerateOptions(profile.load("web-shop"), seed=5, visits=flows, rate=0.04, bulk_size=2000)))
    writer = postfile.Writer(path)
    for post in made:
        writer.write(post.body)
    writer.close()
    return path


def deliver(server: Server, path: Path) -> None:
    """Send the posts, and wait until all sinks have them, and all files are finished."""
    for body in postfile.read(path):
        assert server.post(body)[0] == 200
    until(lambda: _delivered(server), "everything delivered", DELIVERED)
    folder = server.directory / "sinks"
    until(lambda: not list(folder.rglob("*.open")) and list(folder.rglob("*.avro")), "files finished", DELIVERED)


def _delivered(server: Server) -> bool:
    return all(sink["backlog_posts"] == 0 for sink in server.status()["sinks"].values())


def parquet(ndjson: Path, path: Path) -> Path:
    """The records of a folder of NDJSON files as a Parquet file, with a column of its type for each field."""
    duckdb.sql(
        f"COPY (SELECT * FROM read_json('{ndjson}/*.ndjson', union_by_name = true, sample_size = -1)) "
        f"TO '{path}' (FORMAT parquet)"
    )
    return path
