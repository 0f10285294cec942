"""How fast posts are made and replayed: into a file, into a black hole, and into a server.

    python -m benchmarks.bench_sources [--occurrences 300000] [--rounds 3]

generate   a profile's history to a file, wall-clock, file included
replay     that file at max pace into a black hole in a process of its own, which answers 200 to whatever comes
server     the same into `btfeed serve`, until the last 200. Where the replay's own CPU is a small part of that time, it is
           not what bounds the figure
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from btfeed import profile
from tests.harness import BTFEED, Server

CONNECTIONS = 8


def black_hole() -> None:
    """Answers 200, and forgets."""

    async def handle(request: web.BaseRequest) -> web.Response:
        async for _ in request.content.iter_any():
            pass
        return web.Response()

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(web.Server(handle), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(serve())


def command(*arguments: object) -> tuple[dict[str, Any], float]:
    """The summary of a btfeed command, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = subprocess.run([*BTFEED, *map(str, arguments), "--json"], stdout=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary: dict[str, Any] = json.loads(made.stdout)
    return summary, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _speed(found: tuple[dict[str, Any], float]) -> float:
    return float(found[0]["occurrences_per_second"])


def report(name: str, found: tuple[dict[str, Any], float]) -> str:
    summary, cpu = found
    return (
        f"{name:36} {summary['occurrences_per_second']:9,.0f} occurrences/s {summary['posts_per_second']:8,.0f} posts/s"
        f"  ({summary['occurrences']:,} in {summary['seconds']:.2f} s; its own CPU, start included, {cpu:.2f} s)"
    )


def run(occurrences: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for name in profile.shipped():
            flows = ["--flows", occurrences // 11, "--rate", 50, "--out", directory / f"{name}.btposts"]
            found = max((command("generate", name, *flows) for _ in range(rounds)), key=_speed)
            print(report(f"generate {name} to a file", found))
        file = directory / "web-shop.btposts"
        black = [sys.executable, "-m", "benchmarks.bench_sources", "--hole"]
        hole = subprocess.Popen(black, stdout=subprocess.PIPE, text=True)
        assert hole.stdout
        url = f"http://127.0.0.1:{int(hole.stdout.readline())}/"
        try:
            replay = ["replay", file, "--connections", CONNECTIONS]
            print(report("replay to a black hole", max((command(*replay, url) for _ in range(rounds)), key=_speed)))
        finally:
            hole.terminate()
            hole.wait()
        for number in range(rounds):
            with Server(directory / f"server-{number}") as server:
                began = time.perf_counter()
                found = command(*replay, server.url)
                while server.status()["sinks"]["files"]["delivered"] < found[0]["occurrences"]:
                    time.sleep(0.02)
                whole = found[0]["occurrences"] / (time.perf_counter() - began)
            print(report("replay to a server, to the last 200", found))
            print(f"{'the same, to the last record in a file':36} {whole:9,.0f} occurrences/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast posts are made and replayed.")
    parser.add_argument("--occurrences", type=int, default=300_000, help="about so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hole", action="store_true", help="be the black hole")
    arguments = parser.parse_args()
    if arguments.hole:
        black_hole()
    else:
        run(arguments.occurrences, arguments.rounds)


if __name__ == "__main__":
    main()
