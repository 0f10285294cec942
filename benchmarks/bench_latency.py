"""How long a post waits for its 200: with nothing else to do, and while a million occurrences are mapped and delivered.

    python -m benchmarks.bench_latency [--backlog 1000000] [--rate 100] [--seconds 8]

Posts leave at a fixed rate, whatever is answered, and each one's latency counts from when it should have left, so that a
stall is seen by all the posts that it held up. The server runs in a process of its own, the client in this one.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from btfeed import replay
from tests.harness import Server
from tests.posts import mixed

CONNECTIONS = 64


async def paced(url: str, rate: float, seconds: float) -> list[float]:
    """Latencies in seconds of posts of 100 occurrences, `rate` a second."""
    bodies = [mixed(100, 10_000 + number) for number in range(50)]
    latencies: list[float] = []
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        started = time.perf_counter()

        async def one(number: int) -> None:
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            async with session.post(url, data=bodies[number % len(bodies)]) as answer:
                await answer.read()
                assert answer.status == 200, answer.status
            latencies.append(time.perf_counter() - due)

        await asyncio.gather(*(one(number) for number in range(round(rate * seconds))))
    return latencies


def report(name: str, latencies: list[float]) -> str:
    ordered = sorted(latencies)
    points = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    figures = [
        f"{label} {ordered[min(len(ordered) - 1, int(len(ordered) * at))] * 1000:7.1f} ms" for label, at in points.items()
    ]
    return f"{name:32} {len(ordered):6} posts  " + "  ".join(figures)


def run(backlog: int, rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        with Server(Path(scratch) / "idle") as server:
            asyncio.run(paced(server.url, rate, 1.0))  # warm
            print(report("no backlog", asyncio.run(paced(server.url, rate, seconds))))
        directory = Path(scratch) / "busy"
        with Server(directory, program=[sys.executable, "-m", "tests.stalled"]) as stalled:
            bodies = [mixed(1_000, seed) for seed in range(20)]
            posts = (bodies[number % 20] for number in range(backlog // 1_000))
            asyncio.run(replay.replay(posts, stalled.url, connections=8))
            stalled.kill()
        with Server(directory) as server:
            latencies = asyncio.run(paced(server.url, rate, seconds))
            left = server.status()["sinks"]["files"]["backlog_posts"]
            print(report("while the backlog is delivered", latencies) + f"  ({left} posts of it were left at the end)")


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a post waits for its 200.")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="occurrences")
    parser.add_argument("--rate", type=float, default=100.0, help="posts of 100 occurrences a second")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    run(arguments.backlog, arguments.rate, arguments.seconds)


if __name__ == "__main__":
    main()
