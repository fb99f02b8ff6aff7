"""Commands on single regions: split, merge, move, copy and purge."""

from collections.abc import Sequence

from pyspark_theflash.base.errors import LatchHeldError, OptionError, RegionNotFoundError
from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.storage.engine.api import CompactionReport, Engine
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.catalog import schema_history
from pyspark_theflash.storage.store.command import MergeOrder, MoveOrder, PurgeOrder, SplitOrder
from pyspark_theflash.storage.store.feed import SCHEMA_KINDS
from pyspark_theflash.storage.store.gap import GAP_KIND, Gap, gaps_of
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ManifestChange, View
from pyspark_theflash.tidb.schema.history import SchemaHistory


def stored_tables(
    engine: Engine, history: SchemaHistory | None, view: View
) -> dict[PhysicalTableID, Sequence[ScanColumn]]:
    """Return the physical tables with rows in the engine, and all columns these have ever had."""
    if history is None:
        return {}
    columns, stored = StoredColumns(history), set(engine.tables(view))
    return {i: columns.of(i) for i in columns.physical_ids if i in stored}


def split_region(engine: Engine, order: SplitOrder) -> CompactionReport:
    """Split a region. Raises `RegionNotFoundError` and the errors of `Engine.split`."""
    columns = _columns_of(engine, order.physical_id, order.region_id)
    history = schema_history(engine.read(SCHEMA_KINDS))
    events = () if history is None else history.events
    tables = (e.table for e in events if order.physical_id in e.physical_ids)
    if isinstance(order.at, bytes) != any(t.is_common_handle for t in tables if t is not None):
        raise OptionError("at", "is of another type than the table's handles")
    return engine.split(order.physical_id, order.region_id, order.at, columns)


def merge_regions(engine: Engine, order: MergeOrder) -> CompactionReport:
    """Merge two adjacent regions. Raises `RegionNotFoundError` and the errors of `Engine.merge`."""
    columns = _columns_of(engine, order.physical_id, order.left_id)
    return engine.merge(order.physical_id, order.left_id, order.right_id, columns)


def move_region(engine: Engine, order: MoveOrder, *, is_copy: bool) -> str:
    """Move a region's files to another partition, or copy them. Raises as `Engine.move`."""
    move = engine.copy if is_copy else engine.move
    report = move(order.physical_id, order.region_id, order.partition)
    verb = "copied" if is_copy else "moved"
    return f"{verb} {report.files_written:,} files of {report.bytes_written:,} bytes"


def purge_region(engine: Engine, leases: LeaseTable, order: PurgeOrder) -> str:
    """Remove a region's rows at all timestamps; later reads of its range fail.

    Rows written to the range since an earlier purge of the region are removed, too.

    Raises:
        RegionNotFoundError: The region does not exist.
        LatchHeldError: A timestamp is pinned at which the rows can be read.
    """
    view = engine.read([GAP_KIND])
    gaps = {gap.region_id: gap for gap in gaps_of(view, order.physical_id)}
    gap, others = gaps.get(order.region_id), None
    if gap is None:
        regions = {r.region_id: r for r in engine.regions(view, order.physical_id)}
        if (region := regions.get(order.region_id)) is None:
            raise RegionNotFoundError(order.physical_id, order.region_id)
        _check_no_pin(leases, order)
        gap = Gap(order.physical_id, order.region_id, region.start, region.end)
        others = ManifestChange([gap.to_record()])
    columns = all_stored(engine).get(order.physical_id)
    if columns is None:  # An earlier purge has removed all of the table.
        return "purged 0 versions"
    report = engine.purge_range(order.physical_id, gap.start, gap.end, columns, others)
    return f"purged {report.rows_dropped:,} versions"


def _check_no_pin(leases: LeaseTable, order: PurgeOrder) -> None:
    for latch in leases.living():
        if latch.kind is LatchKind.PIN:
            scope = f"region {order.region_id} of physical table {order.physical_id}"
            raise LatchHeldError(scope, f"pin {latch.id} of timestamp {latch.snapshot_ts}")


def all_stored(engine: Engine) -> dict[PhysicalTableID, Sequence[ScanColumn]]:
    """Return `stored_tables` of the newest publication."""
    view = engine.read(SCHEMA_KINDS)
    return stored_tables(engine, schema_history(view), view)


def _columns_of(
    engine: Engine, physical_id: PhysicalTableID, region_id: RegionID
) -> Sequence[ScanColumn]:
    columns = all_stored(engine).get(physical_id)
    if columns is None:
        raise RegionNotFoundError(physical_id, region_id)
    return columns
