"""Assignment of rows to partitions, in cases that the captured tables do not have."""

import gc
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import NoPartitionError, UnsupportedError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.partitioning import row_partition
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions, partition_columns
from pyspark_theflash.tidb.schema.model import (
    PartitionDefinition,
    PartitionInfo,
    PartitionType,
    TableInfo,
)

DEFINITIONS = tuple(PartitionDefinition(PhysicalTableID(101 + n), f"p{n}") for n in range(4))


def partitioned(
    expr: str = "`id`",
    kind: int = PartitionType.HASH,
    flag: int = 0,
    tp: int = 8,
    columns: tuple[str, ...] = (),
    **bounds: Any,
) -> TableInfo:
    table = table_info(100, "shop.item", [column("id", MySQLType(tp), flag=flag)], has_rowid=True)
    definitions = DEFINITIONS
    if bounds:
        ((name, texts),) = bounds.items()
        definitions = tuple(
            replace(d, **{name: texts[n]}) for n, d in enumerate(DEFINITIONS[: len(texts)])
        )
    return replace(table, partition=PartitionInfo(kind, expr, columns, definitions))


def place(table: TableInfo, values: pa.Array) -> list[int]:
    return assign_partitions(table, {ColumnID(1): values}, len(values)).tolist()


def test_hash_of_a_signed_column() -> None:
    values = pa.array([0, 1, 4, 7, -1, -5, -(2**63), None], pa.int64())
    assert place(partitioned(), values) == [101, 102, 101, 104, 102, 102, 101, 101]


def test_hash_of_an_unsigned_column_goes_by_its_bits() -> None:
    values = pa.array([3, 2**64 - 1, 2**63 + 1], pa.uint64())
    assert place(partitioned(flag=ColumnFlag.UNSIGNED), values) == [104, 102, 104]


def test_without_partitions_the_table_is_the_place() -> None:
    table = replace(partitioned(), partition=None)
    assert place(table, pa.array([1, 2], pa.int64())) == [100, 100]
    assert partition_columns(table) == ()


def test_while_partitioning_begins_all_rows_are_in_one() -> None:
    table = partitioned(kind=PartitionType.NONE)
    assert place(table, pa.array([1, None], pa.int64())) == [101, 101]


def test_no_rows() -> None:
    assert place(partitioned(), pa.array([], pa.int64())) == []


def test_range_bounds_beyond_the_values() -> None:
    bounds = [("-9223372036854775808",), ("0",), ("10",), ("18446744073709551615",)]
    values = pa.array([-(2**63), -1, 0, 9, 10, 2**63 - 1, None], pa.int64())
    table = partitioned(kind=PartitionType.RANGE, less_than=bounds)
    assert place(table, values) == [102, 102, 103, 103, 104, 104, 101]
    table = partitioned(kind=PartitionType.RANGE, flag=ColumnFlag.UNSIGNED, less_than=bounds)
    values = pa.array([0, 9, 10, 2**64 - 2], pa.uint64())
    assert place(table, values) == [103, 103, 104, 104]
    with pytest.raises(NoPartitionError):
        place(table, pa.array([2**64 - 1], pa.uint64()))


def test_bounds_of_old_versions_are_expressions() -> None:
    bounds = [("TO_DAYS('2020-01-01')",), ("TO_DAYS('2020-01-02')",), ("MAXVALUE",)]
    table = partitioned(kind=PartitionType.RANGE, less_than=bounds)
    assert place(table, pa.array([737789, 737790, 737791], pa.int64())) == [101, 102, 103]


def test_list_default_takes_what_is_not_named() -> None:
    in_values = [(("1",), ("DEFAULT",)), (("2",), ("3",))]
    table = partitioned(kind=PartitionType.LIST, in_values=in_values)
    assert place(table, pa.array([1, 2, 3, 9, None], pa.int64())) == [101, 102, 102, 101, 101]
    table = partitioned("", PartitionType.LIST, columns=("ID",), in_values=in_values)
    assert place(table, pa.array([1, 2, 3, 9, None], pa.int64())) == [101, 102, 102, 101, 101]


@pytest.mark.parametrize("columns", [(), ("id",)])
def test_null_has_to_be_listed(columns: tuple[str, ...]) -> None:
    expr = "" if columns else "`id`"
    values = pa.array([1, None, 7, None], pa.int64())
    table = partitioned(expr, PartitionType.LIST, columns=columns, in_values=[(("1",),)])
    with pytest.raises(NoPartitionError) as refused:
        place(table, values)
    assert (refused.value.table, refused.value.rows) == ("shop.item", 3)
    listed = [(("1",), ("NULL",)), (("7",),)]
    table = partitioned(expr, PartitionType.LIST, columns=columns, in_values=listed)
    assert place(table, values) == [101, 101, 102, 101]


def test_definitions_are_read_once_and_forgotten_with_the_table() -> None:
    gc.collect()
    before = len(row_partition._PLACEMENTS)
    table = partitioned()
    place(table, pa.array([1], pa.int64()))
    place(table, pa.array([2], pa.int64()))
    assert len(row_partition._PLACEMENTS) == before + 1
    del table
    gc.collect()
    assert len(row_partition._PLACEMENTS) == before


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (partitioned("rand()"), "function RAND"),
        (partitioned(kind=9), "partitioning of type 9"),
        (partitioned("year(`nosuch`)"), "column nosuch"),
        (partitioned(kind=1, less_than=[("uuid()",)]), "function UUID"),
        (
            partitioned("", 1, tp=MySQLType.DOUBLE, columns=("id",), less_than=[("1",)]),
            "partitioning by a column of type DOUBLE",
        ),
        (
            partitioned("", 4, tp=MySQLType.TIMESTAMP, columns=("id",)),
            "partitioning by key of a TIMESTAMP",
        ),
    ],
)
def test_what_is_not_understood_is_refused(table: TableInfo, what: str) -> None:
    with pytest.raises(UnsupportedError, match=r"shop\.item") as refused:
        partition_columns(table)
    assert what in str(refused.value)


def test_list_columns_of_default_alone() -> None:
    bounds = [(("DEFAULT",),)]
    table = partitioned("", PartitionType.LIST, columns=("id",), in_values=bounds)
    assert place(table, pa.array([1, None, 7], pa.int64())) == [101] * 3
    assert [c.name for c in partition_columns(table)] == ["id"]


@pytest.mark.parametrize(
    "table",
    [
        partitioned("", PartitionType.RANGE, columns=("id",), less_than=[("1", "2")]),
        partitioned("", PartitionType.RANGE, columns=("id",), less_than=[("1",), ()]),
        partitioned("`id`", PartitionType.RANGE, less_than=[()]),
        partitioned("`id`", PartitionType.LIST, in_values=[(("1", "2"),)]),
        partitioned("", PartitionType.LIST, columns=("id",), in_values=[((),)]),
        partitioned("", PartitionType.KEY, columns=("nothing",)),
        replace(partitioned(), partition=PartitionInfo(PartitionType.HASH, "`id`", (), ())),
    ],
    ids=lambda table: str(table.partition),
)
def test_definitions_that_do_not_fit(table: TableInfo) -> None:
    with pytest.raises(UnsupportedError, match=r"shop\.item: "):
        partition_columns(table)
