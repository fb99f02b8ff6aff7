"""Metadata tables: `db.table$files` is read like any other table.

    db.table$regions     division of the table, in handle order
    db.table$partitions  its TiDB partitions; one row for an unpartitioned table
    db.table$files       the files that a scan at the timestamp may read
    db.table$schemas     its definitions and their first timestamps
    db.table$progress    progress of the feed of the table
    db.table$latches     active latches on the store and their holders
    db.table$raft        the regions of TiKV that overlap the table, and their progress
    db.table$locks       locks of running transactions on rows of the table

Regions, partitions and files are those of plans in the same snapshot. The last two tables are
current rather than at the timestamp, and empty if no TiKV feeds the store. A real table of the same
name takes precedence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.types import (
    ColumnID,
    PhysicalTableID,
    RegionID,
    TableID,
    TimeStamp,
    physical_ms,
)
from pyspark_theflash.read.plan.origin import Origin
from pyspark_theflash.storage.engine.api import EngineReader, Handle, RegionScan, RegionStats
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.storage.store.feed import records_of
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ColumnInfo, PartitionInfo, PartitionType, TableInfo

SEPARATOR: Final = "$"
METADATA_ID: Final = TableID(0)
"""Table id of metadata tables; TiDB does not assign it."""
METADATA_REGION: Final = RegionScan(PhysicalTableID(METADATA_ID), RegionID(0))
METADATA_STATS: Final = RegionStats(RegionID(0), None, None, 0, 0, 0, 0)
_NUMBER: Final = FieldType(MySQLType.LONGLONG, ColumnFlag(0), 20, 0, "binary", "binary")
_TEXT: Final = FieldType(MySQLType.VARCHAR, ColumnFlag(0), 65_535, -1, "utf8mb4", "utf8mb4_bin")
_TIME: Final = FieldType(MySQLType.TIMESTAMP, ColumnFlag(0), 23, 3, "binary", "binary")
_TYPES: Final = {"": _NUMBER, "text": _TEXT, "time": _TIME}
_TABLES: Final = 1024
"""Definitions that are cached."""
_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MetadataSource:
    """Parts of a snapshot from which metadata rows are made."""

    engine: EngineReader
    view: View
    history: SchemaHistory
    leases: LeaseTable
    clock: Clock
    origin: Origin


def split_name(name: str) -> tuple[str, str] | None:
    """Split `db.table$files` into `db.table` and `files`; None if the name is not of metadata."""
    table, separator, kind = name.rpartition(SEPARATOR)
    return (table, kind.lower()) if separator and kind.lower() in _KINDS else None


@lru_cache(_TABLES)
def metadata_table(db: str, name: str, kind: str) -> TableInfo:
    """Return the definition of a metadata table."""
    columns = tuple(
        ColumnInfo(ColumnID(n + 1), name, n, tp) for n, (name, tp) in enumerate(_columns(kind))
    )
    full = f"{name}{SEPARATOR}{kind}"
    return TableInfo(METADATA_ID, db, full, columns, True, False, None, None, "")


def metadata_rows(source: MetadataSource, table: TableInfo, kind: str) -> bytes:
    """Return the rows as an Arrow IPC stream with the names and types of stored columns."""
    rows = _KINDS[kind].rows(source, table)
    batch = rows if isinstance(rows, pa.RecordBatch) else batch_of(rows, _schema(kind))
    batch = batch.rename_columns([column_name(ColumnID(n + 1)) for n in range(batch.num_columns)])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch_of(rows: Iterable[_Row], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows of Python values as a batch of a schema."""
    materialized = list(rows)
    columns = zip(*materialized, strict=True) if materialized else [()] * len(schema)
    arrays = [pa.array(values, tp) for values, tp in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _columns(kind: str) -> Iterator[tuple[str, FieldType]]:
    for column in _KINDS[kind].columns.split():
        name, _, tp = column.partition(":")
        yield name, _TYPES[tp]


def _schema(kind: str) -> pa.Schema:
    return pa.schema([(name, arrow_type(tp)) for name, tp in _columns(kind)])


def stated_rows(rows: bytes) -> Iterator[pa.RecordBatch]:
    """Yield the batches of `metadata_rows`."""
    with pa.ipc.open_stream(rows) as reader:
        yield from reader


def partitions_of(table: TableInfo) -> Iterator[tuple[str | None, PhysicalTableID]]:
    """Yield the name and id of each TiDB partition; the name is None where there is one table."""
    if table.partition is None:
        yield None, PhysicalTableID(table.id)
        return
    for definition in table.partition.definitions:
        yield definition.name, definition.id


def _regions(source: MetadataSource, table: TableInfo) -> Iterator[_Row]:
    for name, physical_id in partitions_of(table):
        for r in source.engine.regions(source.view, physical_id):
            bounds = (handle_text(r.start), handle_text(r.end))
            yield (name, physical_id, r.region_id, *bounds, r.files, r.rows, r.bytes, r.deltas)


def _files(source: MetadataSource, table: TableInfo) -> Iterator[_Row]:
    for name, physical_id in partitions_of(table):
        for f in source.engine.files(source.view, physical_id):
            sizes = (f.rows, f.bytes, f.min_commit_ts, f.max_commit_ts)
            yield (name, physical_id, f.region_id, f.path, f.kind, *sizes)


def _partitions(source: MetadataSource, table: TableInfo) -> Iterator[_Row]:
    partition = table.partition
    method = None if partition is None else PartitionType(partition.type).name
    expression = None if partition is None else partition.expr or ",".join(partition.columns)
    bounds = () if partition is None else _bounds(partition)
    for (name, physical_id), bound in zip_longest(partitions_of(table), bounds):
        stats = source.engine.stats(source.view, physical_id)
        yield (name, physical_id, method, expression, bound, stats.files, stats.rows, stats.bytes)


def _bounds(partition: PartitionInfo) -> Iterator[str | None]:
    for d in partition.definitions:
        if d.less_than:
            yield f"LESS THAN ({', '.join(d.less_than)})"
        elif d.in_values:
            values = (v[0] if len(v) == 1 else f"({', '.join(v)})" for v in d.in_values)
            yield f"IN ({', '.join(values)})"
        else:
            yield None


def _schemas(source: MetadataSource, table: TableInfo) -> Iterator[_Row]:
    for event in source.history.events:
        if event.table_id != table.id:
            continue
        was = event.table
        if was is None:
            yield (event.ts, time_value(event.ts), event.db, None, None, None)
        else:
            names = ", ".join(c.name for c in was.public_columns)
            yield (event.ts, time_value(event.ts), event.db, was.name, names, was.json_text)


def _progress(source: MetadataSource, table: TableInfo) -> Iterator[_Row]:
    progress = Progress.of(source.view, records_of(source.view, table.id))
    if progress is not None:
        oldest, resolved = progress.oldest_ts, progress.resolved_ts
        times = (oldest, time_value(oldest), resolved, time_value(resolved))
        yield (source.view.generation, *times, progress.position)


def _latches(source: MetadataSource, table: TableInfo) -> Iterator[_Row]:
    for latch in source.leases.living():
        holder = latch.holder
        # No ids: readers must not learn those of others.
        yield (
            latch.kind.value,
            latch.snapshot_ts if latch.kind.pins_snapshot else None,
            latch.generation if latch.kind.pins_generation else None,
            latch.expires_ms - source.clock.boottime_ms(),
            *((holder.pid, holder.host, holder.program) if holder else (None, None, None)),
        )


def _of_origin(kind: str) -> Callable[[MetadataSource, TableInfo], pa.RecordBatch]:
    """Return the rows from the snapshot's origin."""
    return lambda source, table: source.origin.metadata(kind, table, _schema(kind))


@dataclass(frozen=True, slots=True)
class _Kind:
    """Columns, `name` of a number or `name:type`, and the function that returns the rows."""

    columns: str
    rows: Callable[[MetadataSource, TableInfo], Iterator[_Row] | pa.RecordBatch]


_KINDS: Final[Mapping[str, _Kind]] = {
    "regions": _Kind(
        "partition:text physical_id region_id start:text end:text files versions bytes deltas",
        _regions,
    ),
    "partitions": _Kind(
        "partition:text physical_id method:text expression:text bound:text files versions bytes",
        _partitions,
    ),
    "files": _Kind(
        "partition:text physical_id region_id path:text kind:text versions bytes "
        "min_commit_ts max_commit_ts",
        _files,
    ),
    "schemas": _Kind(
        "since_ts since:time database:text table:text columns:text definition:text",
        _schemas,
    ),
    "progress": _Kind(
        "generation oldest_ts oldest:time resolved_ts resolved:time position:text",
        _progress,
    ),
    "latches": _Kind(
        "kind:text snapshot_ts generation expires_in_ms pid host:text program:text",
        _latches,
    ),
    "raft": _Kind(
        "partition:text physical_id region_id start:text end:text conf_ver version state:text "
        "applied_index durable_index peer_id store_id",
        _of_origin("raft"),
    ),
    "locks": _Kind(
        "partition:text physical_id region_id handle:text kind:text start_ts started:time "
        "ttl_ms for_update_ts min_commit_ts is_async_commit is_primary primary_in:text",
        _of_origin("locks"),
    ),
}


def handle_text(handle: Handle | None) -> str | None:
    """Return a handle as metadata shows it: digits, or bytes in hexadecimal."""
    if handle is None:
        return None
    return f"x'{handle.hex()}'" if isinstance(handle, bytes) else str(handle)


def time_value(ts: TimeStamp) -> int:
    """Return a timestamp's physical time in microseconds, as a TIMESTAMP is stored."""
    return physical_ms(ts) * 1000


def kinds() -> Sequence[str]:
    """Return the names of all kinds."""
    return tuple(_KINDS)
