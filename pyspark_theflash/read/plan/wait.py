"""Waiting until a store can answer at a timestamp."""

from contextlib import closing
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import NotCaughtUpError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, every_progress

LOOK_MS: Final = 50


def wait_until(
    path: Path, ts: TimeStamp, deadline_ms: int, *, clock: Clock, fs: FileSystem
) -> None:
    """Return as soon as the store has resolved `ts`. `deadline_ms` is on the boot-time clock.

    Raises:
        NotCaughtUpError: It has not by the deadline.
    """
    with closing(open_manifest(path, fs)) as manifest:
        while True:
            feeds = every_progress(manifest.read([PROGRESS_KIND]))
            resolved = [progress.resolved_ts for progress in feeds] or [TimeStamp(0)]
            if min(resolved) >= ts:
                return
            if clock.boottime_ms() >= deadline_ms:
                if max(resolved) >= ts:
                    # Tables of a feed that has resolved `ts` can be read; others raise later.
                    return
                raise NotCaughtUpError(max(resolved), ts)
            clock.sleep_ms(min(LOOK_MS, max(deadline_ms - clock.boottime_ms(), 1)))
