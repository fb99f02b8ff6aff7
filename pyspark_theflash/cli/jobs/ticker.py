"""Progress line on stderr for long operations."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.log import is_json

EVERY_S: Final = 0.5
WIDTH: Final = 78


class Ticker:
    """Text of the current activity, with the elapsed time."""

    def __init__(self, text: str, stream: TextIO, clock: Clock) -> None:
        self._text, self._stream, self._clock = text, stream, clock
        self._started_ms = clock.boottime_ms()
        self._lock, self._is_shown = threading.Lock(), False

    def note(self, text: str) -> None:
        """Replace the text; shown with the next tick."""
        self._text = text

    def print(self, text: str) -> None:
        """Print a line to stdout, which may be the same terminal."""
        with self._lock:
            self._clear()
            print(text, flush=True)

    def tick(self) -> None:
        """Show the line."""
        elapsed_s = (self._clock.boottime_ms() - self._started_ms) // 1000
        with self._lock:
            self._stream.write(f"\r{f'{self._text} ({elapsed_s} s)'[:WIDTH]:{WIDTH}}")
            self._stream.flush()
            self._is_shown = True

    def clear(self) -> None:
        """Erase the line."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._is_shown:
            self._stream.write(f"\r{'':{WIDTH}}\r")
            self._stream.flush()
            self._is_shown = False


@contextmanager
def ticking(text: str, clock: Clock, stream: TextIO | None = None) -> Iterator[Ticker]:
    """Show progress within the block if stderr is a terminal, and the log is not JSON."""
    stream = stream or sys.stderr
    ticker = Ticker(text, stream, clock)
    if is_json() or not stream.isatty():
        yield ticker
        return
    ended = threading.Event()
    thread = threading.Thread(target=_run, args=(ticker, ended), daemon=True)
    thread.start()
    try:
        yield ticker
    finally:
        ended.set()
        thread.join()


def _run(ticker: Ticker, ended: threading.Event) -> None:
    while not ended.wait(EVERY_S):
        ticker.tick()
    ticker.clear()
