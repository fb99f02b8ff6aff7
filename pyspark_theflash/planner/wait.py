"""Waiting until a store can answer at a timestamp."""

from contextlib import closing
from pathlib import Path
from typing import Final

from pyspark_theflash.clock import Clock
from pyspark_theflash.errors import NotCaughtUpError
from pyspark_theflash.fs import FileSystem
from pyspark_theflash.store.folder import open_manifest
from pyspark_theflash.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.types import TimeStamp

LOOK_MS: Final = 50


def wait_until(
    path: Path, ts: TimeStamp, deadline_ms: int, *, clock: Clock, fs: FileSystem
) -> None:
    """Return as soon as the store has resolved `ts`. `deadline_ms` is on the boot-time clock.

    Raises:
        NotCaughtUpError: it has not by the deadline.
    """
    with closing(open_manifest(path, fs)) as manifest:
        while True:
            progress = Progress.of(manifest.read([PROGRESS_KIND]))
            if progress is not None and progress.resolved_ts >= ts:
                return
            if clock.boottime_ms() >= deadline_ms:
                raise NotCaughtUpError(0 if progress is None else progress.resolved_ts, ts)
            clock.sleep_ms(min(LOOK_MS, max(deadline_ms - clock.boottime_ms(), 1)))
