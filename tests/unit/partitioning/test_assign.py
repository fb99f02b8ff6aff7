"""Rows to partitions. Of HASH partitions TiDB says: `abs(value % count)`, NULL as 0."""

from dataclasses import replace

import pyarrow as pa
import pytest

from pyspark_theflash.codec.field_type import Flag, MySQLType
from pyspark_theflash.errors import UnsupportedError
from pyspark_theflash.partitioning.assign import assign_partitions
from pyspark_theflash.schema.model import PartitionDefinition, PartitionInfo, TableInfo
from pyspark_theflash.types import ColumnID, PhysicalTableID
from tests.support.stores import column, table_info

DEFINITIONS = tuple(PartitionDefinition(PhysicalTableID(101 + n), f"p{n}") for n in range(4))


def partitioned(expr: str = "`id`", kind: int = 2, flag: int = 0, tp: int = 8) -> TableInfo:
    table = table_info(100, "shop.item", [column("id", MySQLType(tp), flag=flag)], has_rowid=True)
    return replace(table, partition=PartitionInfo(kind, expr, (), DEFINITIONS))


def assign(table: TableInfo, values: pa.Array) -> list[int]:
    return assign_partitions(table, {ColumnID(1): values}, len(values)).tolist()


def test_hash_of_a_signed_column() -> None:
    values = pa.array([0, 1, 4, 7, -1, -5, -(2**63), None], pa.int64())
    assert assign(partitioned(), values) == [101, 102, 101, 104, 102, 102, 101, 101]


def test_hash_of_an_unsigned_column_goes_by_its_bits() -> None:
    values = pa.array([3, 2**64 - 1, 2**63 + 1], pa.uint64())
    assert assign(partitioned(flag=Flag.UNSIGNED), values) == [104, 102, 104]


def test_without_partitions_the_table_is_the_place() -> None:
    table = replace(partitioned(), partition=None)
    assert assign(table, pa.array([1, 2], pa.int64())) == [100, 100]


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (partitioned(kind=1), "range of `id`"),
        (partitioned("`id` + 1"), "hash of `id`"),
        (partitioned("YEAR(`id`)"), "YEAR"),
        (partitioned(tp=MySQLType.VARCHAR), "VARCHAR"),
    ],
)
def test_what_is_not_understood_is_refused(table: TableInfo, what: str) -> None:
    with pytest.raises(UnsupportedError, match="shop") as refused:
        assign(table, pa.array([1], pa.int64()))
    assert what in str(refused.value)
