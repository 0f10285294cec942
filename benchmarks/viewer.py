"""Viewers of the page, as a process: they ask what btfeed/page/static/page.js asks, and for the newest records.

python -m benchmarks.viewer URL VIEWERS     says "ready" when each has seen an event, then answers each line on
                                            stdin with the number of pages that they have got since the last one
"""

import asyncio
import sys

from aiohttp import ClientSession, ClientTimeout

from benchmarks.measuring import pin


class Viewers:
    """pages: got so far. waiting: viewers that have not seen an event yet."""

    def __init__(self, number: int) -> None:
        self.pages = 0
        self.waiting = number
        self.ready = asyncio.Event()

    async def view(self, session: ClientSession) -> None:
        """Open the page, then get it and the newest records again at each event. Raises if an answer is not a 200."""
        await self._page(session)
        seen = False
        async with session.get("/events") as events:
            async for line in events.content:
                if line.rstrip() != b"event: snapshot":
                    continue
                await self._page(session)
                async with session.get("/records") as answer:
                    await answer.read()
                if not seen:
                    seen, self.waiting = True, self.waiting - 1
                    if not self.waiting:
                        self.ready.set()
        raise ConnectionError("the events ended")

    async def _page(self, session: ClientSession) -> None:
        async with session.get("/", headers={"Accept": "text/html"}) as answer:
            await answer.read()
        self.pages += 1


async def _serve(viewers: Viewers) -> None:
    await viewers.ready.wait()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(viewers.pages, flush=True)
        viewers.pages = 0


async def _main(url: str, number: int) -> None:
    viewers = Viewers(number)
    timeout = ClientTimeout(total=None, sock_read=60)
    async with ClientSession(url, timeout=timeout, raise_for_status=True, read_bufsize=2**22) as session:
        viewing = [asyncio.create_task(viewers.view(session)) for _ in range(number)]
        serving = asyncio.create_task(_serve(viewers))
        done, others = await asyncio.wait([serving, *viewing], return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in done:
            task.result()


if __name__ == "__main__":
    pin(-1)
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
