"""TiDB partition of each row, computed from the table's partition definition.

A binlog contains only the logical table id, so the physical table of a row is computed here.
"""

import weakref
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import NoPartitionError, UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.expression.evaluate import parse
from pyspark_theflash.tidb.partitioning.bounds import DEFAULT, is_word
from pyspark_theflash.tidb.partitioning.by_hash import HashPlacement, key_placement
from pyspark_theflash.tidb.partitioning.by_list import list_columns_placement, list_placement
from pyspark_theflash.tidb.partitioning.by_range import range_columns_placement, range_placement
from pyspark_theflash.tidb.partitioning.placement import NO_PARTITION, Placement
from pyspark_theflash.tidb.schema.generated import stored_inputs, typed_columns
from pyspark_theflash.tidb.schema.model import ColumnInfo, PartitionInfo, PartitionType, TableInfo

# By object id: a TableInfo is large, and all rows written under it share one object.
_PLACEMENTS: dict[int, Placement | None] = {}


def partition_columns(table: TableInfo) -> tuple[ColumnInfo, ...]:
    """Return the stored columns that determine the partition; none for an unpartitioned table.

    Raises:
        UnsupportedError: The partitioning is not supported.
    """
    placement = _placement(table)
    return stored_inputs(table, placement.columns) if placement else ()


def assign_partitions(
    table: TableInfo, columns: Mapping[ColumnID, pa.Array], rows: int
) -> npt.NDArray[np.int64]:
    """Return each row's physical table id; `columns` has at least the `partition_columns`.

    Raises:
        NoPartitionError: Rows do not belong to any partition.
        UnsupportedError: The partitioning is not supported.
    """
    ids = np.array(table.physical_ids, np.int64)
    placement = _placement(table)
    if placement is None or not rows:
        return np.full(rows, ids[0], np.int64)
    places = placement.locate(typed_columns(table, placement.columns, columns, rows), rows)
    unmatched = int(np.count_nonzero(places == NO_PARTITION))
    if unmatched:
        raise NoPartitionError(table.full_name, unmatched)
    return ids[places]


def _placement(table: TableInfo) -> Placement | None:
    """Return the table's placement, None if it has no partitions."""
    key = id(table)
    if key not in _PLACEMENTS:
        _PLACEMENTS[key] = _build(table, table.partition) if table.partition else None
        weakref.finalize(table, _PLACEMENTS.pop, key, None).atexit = False
    return _PLACEMENTS[key]


def _columns(table: TableInfo, partition: PartitionInfo) -> list[tuple[str, FieldType]]:
    types = {c.name.lower(): c.type for c in table.columns}
    names = [name.lower() for name in partition.columns]
    if not types.keys() >= set(names):
        raise UnsupportedError("partitioning by a missing column", table.full_name)
    return [(name, types[name]) for name in names]


def _check_bounds(partition: PartitionInfo, width: int, where: str) -> None:
    """Raise unless there are partitions, and each bound has as many values as there are columns."""
    bounds: list[tuple[str, ...]] = []
    if partition.type == PartitionType.RANGE:
        bounds = [d.less_than for d in partition.definitions]
    elif partition.type == PartitionType.LIST:
        values = (v for d in partition.definitions for v in d.in_values)
        bounds = [v for v in values if not (len(v) == 1 and is_word(v[0], DEFAULT))]
    if not partition.definitions or any(len(bound) != width for bound in bounds):
        raise UnsupportedError("partitions with missing bounds", where)


def _build(table: TableInfo, partition: PartitionInfo) -> Placement | None:
    where, definitions = table.full_name, partition.definitions
    if partition.type == PartitionType.NONE:
        return None
    columns = _columns(table, partition)
    _check_bounds(partition, max(len(columns), 1), where)
    if partition.type == PartitionType.RANGE:
        if columns:
            return range_columns_placement(columns, definitions, where)
        return range_placement(partition.expr, definitions, where)
    if partition.type == PartitionType.LIST:
        if columns:
            return list_columns_placement(columns, definitions, where)
        return list_placement(partition.expr, definitions, where)
    if partition.type == PartitionType.HASH:
        return HashPlacement(parse(partition.expr, where), where, len(definitions))
    if partition.type == PartitionType.KEY:
        return key_placement(columns, len(definitions), where)
    raise UnsupportedError(f"partitioning of type {partition.type}", where)
