"""Rows of a physical table: those in a learner's memory, and the engine's."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine.api import EngineReader, ScanSpec
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.tikv.read import Resolve, TableView, newest_rows


def unresolved(locks: Sequence[Lock], snapshot_ts: TimeStamp) -> ResolvedLocks:
    """Resolve no lock."""
    return ResolvedLocks()


def read_rows(
    view: TableView,
    engine: EngineReader,
    stored: View,
    tables: PhysicalTables,
    columns: Sequence[ScanColumn],
    *,
    resolve: Resolve = unresolved,
    with_handle: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield a physical table's rows at the view's timestamp, in bounded batches, unordered.

    Columns are as in `EngineReader.scan`. `stored` is the engine's view, which must be taken after
    the cache's. The history of `tables` must reach the timestamp.

    Raises:
        KeyIsLockedError: The transaction of a blocking lock is undecided.
        SchemaOutdatedError: The schema history does not contain a row's definition.
        CorruptionError: Stored data fails its checksum.
    """
    memory = newest_rows(view, tables, resolve)
    if memory is not None:
        yield from memory.batches(columns, with_handle=with_handle)
    without = None if memory is None else memory.handles
    for region in engine.plan(stored, view.physical_id):
        yield from engine.scan(
            region, ScanSpec(columns, view.snapshot_ts, with_handle=with_handle, without=without)
        )
