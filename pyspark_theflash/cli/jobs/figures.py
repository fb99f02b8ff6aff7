"""Figures that several commands report, by the names of `metrics.METRICS`."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp, physical_ms
from pyspark_theflash.storage.store.aside import ASIDE_KIND
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, store_progress

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures


def lag_s(resolved_ts: TimeStamp, clock: Clock) -> float:
    """Return the age of a timestamp by this machine's clock, in seconds; 0 if it is 0."""
    resolved_ms = physical_ms(resolved_ts)
    return max(clock.wall_ms() - resolved_ms, 0) / 1000 if resolved_ms else 0.0


def progress_figures(resolved_ts: TimeStamp, clock: Clock) -> "Figures":
    """Return figures of the newest readable timestamp; none before the first one."""
    if not resolved_ts:
        return {}
    return {
        "resolved_timestamp_seconds": physical_ms(resolved_ts) / 1000,
        "resolved_ts_lag_seconds": lag_s(resolved_ts, clock),
    }


def store_figures(path: Path, clock: Clock, *, has_progress: bool = False) -> "Figures":
    """Return figures of the store in a folder, with its progress if `has_progress`."""
    with closing(open_manifest(path, LocalFileSystem())) as manifest:
        view = manifest.read([ASIDE_KIND, PROGRESS_KIND])
        kinds = Counter(latch.kind.value for latch in LeaseTable(manifest, clock).living())
    figures: Figures = {
        "latches": {kind.value: kinds[kind.value] for kind in LatchKind},
        "set_aside_tables": len(view.of_kind(ASIDE_KIND)),
    }
    progress = store_progress(view) if has_progress else None
    resolved_ts = TimeStamp(0) if progress is None else progress.resolved_ts
    return {**progress_figures(resolved_ts, clock), **figures}
