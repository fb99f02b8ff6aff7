"""Origin of a snapshot's rows: the store's files alone, or a replica that is ahead of them.

A replica (`tikv.origin`) adds its rows in an `EngineReader` over the one of the files, so plans and
scans are the same for both.
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
    """Source of the rows of one snapshot. The methods are called in this order."""

    def check_store(self, view: View, path: str) -> None:
        """Raise `RaftFedError` if the store's rows cannot be read from here."""

    def choose(self, view: View, wanted: TimeStamp | None) -> TimeStamp:
        """Return the timestamp to read at: `wanted`, or the newest if None.

        Raises:
            NotCaughtUpError, SnapshotTooOldError: The timestamp cannot be read.
        """

    def reader(self, stored: EngineReader) -> EngineReader:
        """Return a reader of all rows, given the reader of the files."""

    def confirm(self, view: View, lease: ReadLease) -> None:
        """Raise `SnapshotTooOldError` if garbage was collected before the latch was acquired."""

    def history(self, view: View, snapshot_ts: TimeStamp) -> SchemaHistory | None:
        """Return the schema history up to the timestamp; None if it is empty."""

    def check_table(self, view: View, table: TableInfo, snapshot_ts: TimeStamp) -> None:
        """Raise `NotCaughtUpError` or `SnapshotTooOldError` if this table cannot be read then."""

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        """Return the view to plan scans of a table on: `view` or a later one."""

    def metadata(self, kind: str, table: TableInfo, schema: pa.Schema) -> pa.RecordBatch:
        """Return the current rows of `table$raft` or `table$locks`.

        Args:
            kind: `raft` or `locks`.
            schema: the columns to return.
        """


class Files:
    """Files of the store alone.

    The progress of a feed is the timestamp up to which its tables are complete. A timestamp is
    readable if at least one feed has reached it; the newest is the one that all feeds have reached.
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
    ts = min(resolved) if snapshot_ts is None else snapshot_ts
    if ts > max(resolved):
        raise NotCaughtUpError(max(resolved), ts)
    if ts < oldest_ts:
        raise SnapshotTooOldError(ts, oldest_ts)
    return ts
