"""A load that tells which posts were answered, for tests that kill a server or what it writes to."""

import http.client
import itertools
import threading
import time
from contextlib import closing

from tests.support import posts
from tests.support.harness import DEADLINE

OCCURRENCES = 10
LOADERS = 3


class Load:
    """Posts different bodies of OCCURRENCES each over LOADERS connections until told to stop, or until one breaks.

    answered: bodies answered 200. refused: answered otherwise. unanswered: sent, and the connection broke.
    pause: seconds between two posts of a connection.
    """

    def __init__(self, seed: int, pause: float = 0.0) -> None:
        self._pause = pause
        self.answered: list[bytes] = []
        self.unanswered: list[bytes] = []
        self.refused: list[bytes] = []
        self._seeds = itertools.count(seed * 10_000)

    def run(self, port: int, stop: threading.Event) -> list[threading.Thread]:
        """Start; join the threads after setting `stop`."""
        threads = [threading.Thread(target=self._post, args=(port, stop)) for _ in range(LOADERS)]
        for thread in threads:
            thread.start()
        return threads

    def _post(self, port: int, stop: threading.Event) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
            while not stop.is_set():
                body = posts.mixed(OCCURRENCES, next(self._seeds))
                try:
                    connection.request("POST", "/", body)
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException):
                    self.unanswered.append(body)
                    return
                (self.answered if answer.status == 200 else self.refused).append(body)
                time.sleep(self._pause)
