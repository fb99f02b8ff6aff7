"""Where a snapshot's rows come from: the store's files alone, or a replica that is ahead of them.

What a replica adds (`tikv.origin`) is in an `EngineReader` over the files' own, so whoever
plans and scans does both alike.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import pyarrow as pa

from pyspark_theflash.base.errors import NotCaughtUpError, SnapshotTooOldError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.store.catalog import schema_history
from pyspark_theflash.storage.store.feed import check_not_both, records_of
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import Progress, every_progress
from pyspark_theflash.storage.store.raft_fed import check_readable_alone
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo


class Origin(Protocol):
    """What a snapshot asks, in this order; one that takes time is made for one snapshot."""

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

    def check_table(self, view: View, table: TableInfo, snapshot_ts: TimeStamp) -> None:
        """Raise `NotCaughtUpError` or `SnapshotTooOldError` where others can be read then."""

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        """What to plan a table's scans by: `view`, or a later one."""

    def metadata(self, kind: str, table: TableInfo, schema: pa.Schema) -> pa.RecordBatch:
        """Return the present rows of `table$raft` or `table$locks`.

        Args:
            kind: `raft` or `locks`.
            schema: the columns to return.
        """


class Files:
    """The store's files; the progress of each feed says up to when its tables are complete.

    A timestamp can be read at if any feed has come to it. The newest is one that all have come to.
    """

    def check_store(self, view: View, path: str) -> None:
        check_readable_alone(view, path)
        check_not_both(view)

    def choose(self, view: View, wanted: TimeStamp | None) -> TimeStamp:
        return _readable(every_progress(view), wanted)

    def reader(self, stored: EngineReader) -> EngineReader:
        return stored

    def confirm(self, view: View, lease: ReadLease) -> None:
        _readable(every_progress(view), lease.snapshot_ts)

    def history(self, view: View, snapshot_ts: TimeStamp) -> SchemaHistory | None:
        return schema_history(view)

    def check_table(self, view: View, table: TableInfo, snapshot_ts: TimeStamp) -> None:
        progress = Progress.of(view, records_of(view, table.id))
        _readable([] if progress is None else [progress], snapshot_ts)

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        return view

    def metadata(self, kind: str, table: TableInfo, schema: pa.Schema) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist([], schema)


FILES: Final = Files()


def _readable(feeds: Sequence[Progress], snapshot_ts: TimeStamp | None) -> TimeStamp:
    if not feeds:
        raise NotCaughtUpError(0, snapshot_ts or 0)
    resolved = [progress.resolved_ts for progress in feeds]
    oldest_ts = min(progress.oldest_ts for progress in feeds)
    wanted = min(resolved) if snapshot_ts is None else snapshot_ts
    if wanted > max(resolved):
        raise NotCaughtUpError(max(resolved), wanted)
    if wanted < oldest_ts:
        raise SnapshotTooOldError(wanted, oldest_ts)
    return wanted
