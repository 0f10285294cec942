"""Work in a thread that may never end."""

import subprocess
import sys

import pytest

from btfeed.app.aside import aside
from tests.support.harness import DEADLINE


async def test_results_and_errors_are_those_of_the_function() -> None:
    """As with asyncio.to_thread."""
    assert await aside(lambda: 17) == 17
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0)


def test_the_process_ends_while_it_hangs() -> None:
    """Neither the event loop nor Python waits for the thread."""
    program = """if True:
        import asyncio, threading
        from btfeed.app.aside import aside
        async def run():
            hanging = asyncio.create_task(aside(threading.Event().wait))
            await asyncio.sleep(0)
            hanging.cancel()
            print("ending")
        asyncio.run(run())
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert result.stdout == "ending\n"
