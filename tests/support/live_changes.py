"""Transactions on a live cluster, in a thread beside a test."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer

Change = Callable[[MySqlConnection, random.Random], None]


class LiveChanges:
    """Repeats `change` in a thread, within a block."""

    def __init__(self, peer: Peer, change: Change, seed: int) -> None:
        self._peer, self._change, self._rng = peer, change, random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "LiveChanges":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with self._peer.connect() as session:
            while not self._ended.wait(0.02):
                # DDL ends transactions that began before it, and renames tables.
                with suppress(MySqlError):
                    self._change(session, self._rng)
