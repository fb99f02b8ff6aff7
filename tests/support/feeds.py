"""A workload that arrives while a writer follows it: as a growing folder, or from a TiDB."""

import random
import threading
from pathlib import Path
from typing import IO, Protocol

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.wire import decode_entities
from tests.support.binlog_writer import frame, heartbeat
from tests.support.pump_client import CLUSTER, PumpWriter, RpcError
from tests.support.workloads import Workload

_CLOCK = SystemClock()
_TICK_MS = 10
_FOLLOWING = ("--interval", "0.02")


class Feed(Protocol):
    """The input of a following writer, produced in a separate thread until `stop`."""

    @property
    def arguments(self) -> list[str]:
        """The options of the writer's command line that name it."""

    def finish(self) -> None:
        """Provide the rest without delay."""

    def stop(self) -> None:
        """Provide nothing more."""


def messages(chosen: Workload, until_ts: TimeStamp) -> list[bytes]:
    """The messages of transactions that commit up to `until_ts` or never, and a final heartbeat."""
    frames = list(FileSource(chosen.binlog).frames())
    entities = [decode_entities(f.payload, f.file, f.offset)[-1] for f in frames]
    later = {e.start_ts for e in entities if e.commit_ts > until_ts}
    kept = (f.payload for f, e in zip(frames, entities, strict=True) if e.start_ts not in later)
    return [*kept, heartbeat(until_ts)]


class WholeFile:
    """All input is present from the start, for `--once`."""

    def __init__(self, chosen: Workload) -> None:
        self.arguments = ["--source", f"file:{chosen.binlog}", "--once"]

    def finish(self) -> None:
        """Do nothing: it is complete."""

    def stop(self) -> None:
        """Do nothing: there is no thread."""


class GrowingFolder:
    """Files that grow in pieces of any length; sometimes a new file is started."""

    def __init__(
        self, content: list[bytes], folder: Path, seconds: float, rng: random.Random
    ) -> None:
        """Write `content` within about so many seconds."""
        folder.mkdir()
        self._folder, self._rng = folder, rng
        self.arguments = ["--source", f"file:{folder}", *_FOLLOWING]
        self._frames = [frame(message) for message in content]
        self._a_tick = max(1, int(len(self._frames) * _TICK_MS / 1000 / seconds))
        self._hurried, self._stopped = threading.Event(), threading.Event()
        (folder / "0000").touch()
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def finish(self) -> None:
        self._hurried.set()
        self._thread.join()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _feed(self) -> None:
        number, left, file = 0, b"", self._file(0)
        for at in range(0, len(self._frames), self._a_tick):
            if self._stopped.is_set():
                break
            left += b"".join(self._frames[at : at + self._a_tick])
            cut = len(left) if self._rng.random() < 0.3 else self._rng.randrange(len(left))
            file.write(left[:cut])
            left = left[cut:]
            if not left and self._rng.random() < 0.1:
                file.close()
                number += 1
                file = self._file(number)
            if not self._hurried.is_set():
                _CLOCK.sleep_ms(_TICK_MS)
        file.write(left)
        file.close()

    def _file(self, number: int) -> IO[bytes]:
        return open(self._folder / f"{number:04}", "ab", buffering=0)


class Tidb:
    """Writes to the pump that the writer is, each binlog again until it is acknowledged."""

    def __init__(self, content: list[bytes], socket: Path) -> None:
        self._address = f"unix:{socket}"
        source = ["--source", f"pump-server:{self._address}", "--cluster-id", str(CLUSTER)]
        self.arguments = [*source, *_FOLLOWING]
        self._messages = content
        self.acknowledged = 0
        self.sent_again = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def finish(self) -> None:
        """Do nothing: it is never throttled, and its receiver must be running."""

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _feed(self) -> None:
        while self.acknowledged < len(self._messages) and not self._stopped.is_set():
            with PumpWriter(self._address) as pump:
                self._send(pump)

    def _send(self, pump: PumpWriter) -> None:
        for message in self._messages[self.acknowledged :]:
            if self._stopped.is_set():
                return
            try:
                answer = pump.write(message, timeout_s=2)
            except RpcError:
                self.sent_again += 1
                return
            if answer.endswith("the pump is stopping"):
                # The writer has ended with an error.
                self.sent_again += 1
                return
            assert answer == "", answer
            self.acknowledged += 1
