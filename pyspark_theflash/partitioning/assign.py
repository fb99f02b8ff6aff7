"""Which TiDB partition a row belongs to, computed from the table's partition definition.

A binlog names the logical table only, so this is what decides where a row is stored. Understood so
far: tables without partitions, and HASH over one integer column, which TiDB places at `abs(value %
partitions)`.
"""

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.field_type import INTEGER_TYPES
from pyspark_theflash.errors import UnsupportedError
from pyspark_theflash.schema.model import ColumnInfo, PartitionInfo, TableInfo
from pyspark_theflash.types import ColumnID

HASH_PARTITIONS: Final = 2
_PLAIN_COLUMN: Final = re.compile(r"\s*`((?:[^`]|``)+)`\s*")


def partition_column(table: TableInfo) -> ColumnInfo | None:
    """The column that places the table's rows; None where the table has no partitions.

    Raises:
        UnsupportedError: the table is partitioned in a way that is not understood.
    """
    if table.partition is None:
        return None
    match = _PLAIN_COLUMN.fullmatch(table.partition.expr)
    if table.partition.type != HASH_PARTITIONS or match is None:
        raise UnsupportedError(f"partitioning by {_describe(table.partition)}", table.full_name)
    name = match[1].replace("``", "`").lower()
    column = next(c for c in table.columns if c.name.lower() == name)
    if column.type.tp not in INTEGER_TYPES:
        raise UnsupportedError(f"partitioning by hash of a {column.type.tp.name}", table.full_name)
    return column


def assign_partitions(
    table: TableInfo, columns: Mapping[ColumnID, pa.Array], rows: int
) -> npt.NDArray[np.int64]:
    """The physical table id of each row. `columns` holds at least the `partition_column`."""
    ids = np.array(table.physical_ids, np.int64)
    column = partition_column(table)
    if column is None:
        return np.full(rows, ids[0], np.int64)
    # NULL goes where 0 goes; an unsigned value counts as its int64 bits, as in TiDB.
    values = pc.fill_null(columns[column.id], 0)
    if pa.types.is_uint64(values.type):
        signed = values.to_numpy().view(np.int64)
    else:
        signed = pc.cast(values, pa.int64()).to_numpy()
    chosen: npt.NDArray[np.int64] = ids[np.abs(np.fmod(signed, np.int64(len(ids))))]
    return chosen


def _describe(partition: PartitionInfo) -> str:
    kinds = {1: "range", HASH_PARTITIONS: "hash", 3: "list", 4: "key"}
    by = partition.expr or ", ".join(partition.columns)
    return f"{kinds.get(partition.type, partition.type)} of {by}"
