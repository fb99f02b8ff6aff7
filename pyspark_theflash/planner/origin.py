"""Where a snapshot's rows come from: the store's files alone, or a replica that is ahead of them.

What a replica adds (`planner.learned`) is in an `EngineReader` over the files' own, so whoever
plans and scans does both alike.
"""

from typing import Final, Protocol

from pyspark_theflash.engine.api import EngineReader
from pyspark_theflash.errors import NotCaughtUpError, SnapshotTooOldError
from pyspark_theflash.kvstore.store import RegionStore
from pyspark_theflash.schema.history import SchemaHistory
from pyspark_theflash.schema.model import TableInfo
from pyspark_theflash.store.catalog import schema_history
from pyspark_theflash.store.learned import check_readable_alone
from pyspark_theflash.store.lease import ReadLease
from pyspark_theflash.store.manifest import View
from pyspark_theflash.store.progress import Progress
from pyspark_theflash.types import TimeStamp


class Origin(Protocol):
    """What a snapshot asks, in this order; one that takes time is made for one snapshot."""

    @property
    def raft(self) -> RegionStore | None:
        """TiKV's regions, where it feeds the store."""

    def check_store(self, view: View, path: str) -> None:
        """Raise `RaftFedError` where the rows of a store are not to be had from here."""

    def choose(self, view: View, wanted: TimeStamp | None) -> TimeStamp:
        """The timestamp to read at; None: the newest.

        Raises:
            NotCaughtUpError, SnapshotTooOldError: it cannot be read.
        """

    def reader(self, stored: EngineReader) -> EngineReader:
        """All there is, over what the files have."""

    def confirm(self, view: View, lease: ReadLease) -> None:
        """Raise `SnapshotTooOldError` if the timestamp was passed before the latch was there."""

    def history(self, view: View, snapshot_ts: TimeStamp) -> SchemaHistory | None:
        """The tables there have been, up to the timestamp; None if there never were any."""

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        """What to plan a table's scans by: `view`, or a later one."""


class Files:
    """The store's files; `progress` says up to when they are complete."""

    raft = None

    def check_store(self, view: View, path: str) -> None:
        check_readable_alone(view, path)

    def choose(self, view: View, wanted: TimeStamp | None) -> TimeStamp:
        return _readable(Progress.of(view), wanted)

    def reader(self, stored: EngineReader) -> EngineReader:
        return stored

    def confirm(self, view: View, lease: ReadLease) -> None:
        _readable(Progress.of(view), lease.snapshot_ts)

    def history(self, view: View, snapshot_ts: TimeStamp) -> SchemaHistory | None:
        return schema_history(view)

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        return view


FILES: Final = Files()


def _readable(progress: Progress | None, snapshot_ts: TimeStamp | None) -> TimeStamp:
    if progress is None:
        raise NotCaughtUpError(0, snapshot_ts or 0)
    wanted = progress.resolved_ts if snapshot_ts is None else snapshot_ts
    if wanted > progress.resolved_ts:
        raise NotCaughtUpError(progress.resolved_ts, wanted)
    if wanted < progress.oldest_ts:
        raise SnapshotTooOldError(wanted, progress.oldest_ts)
    return wanted
