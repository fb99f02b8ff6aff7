"""Output and verdict of the demonstration."""

import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from pyspark_theflash.base.types import TimeStamp, physical_ms


class Report:
    """Prints as things happen and counts the comparisons with TiDB."""

    def __init__(self) -> None:
        self.compared = 0
        self.different = 0
        self._steps = 0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step, with its time at the end."""
        self._steps += 1
        print(f"\n{self._steps}. {title}", flush=True)
        start = time.perf_counter()
        yield
        print(f"   [{time.perf_counter() - start:.1f} s]", flush=True)

    def say(self, text: str) -> None:
        """Some lines of text inside a step."""
        print(textwrap.indent(text, "   "), flush=True)

    def verdict(self, same: bool) -> str:
        """Count a comparison with TiDB's answer and name its outcome."""
        self.compared += 1
        self.different += not same
        return "equal to TiDB's" if same else "NOT WHAT TIDB ANSWERED"


def time_of_day(ts: TimeStamp) -> str:
    """Format the physical time of a timestamp, in UTC."""
    seconds, milliseconds = divmod(physical_ms(ts), 1000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{milliseconds:03}"
