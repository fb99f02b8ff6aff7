"""Table definitions of a physical table's rows, by commit_ts."""

from dataclasses import replace

import numpy as np
import pytest

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.cluster.key_range import EncodedKeyRange, record_range
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import PartitionDefinition, PartitionInfo, TableInfo

PLAIN = table_info(20, "d.plain", [id_column(), column("a", MySQLType.LONG)])
WIDER = table_info(20, "d.plain", [id_column(), *(column(n, MySQLType.LONG) for n in "ab")])


def parts(*ids: int, adding: tuple[int, ...] = ()) -> TableInfo:
    def definitions(numbers: tuple[int, ...]) -> tuple[PartitionDefinition, ...]:
        return tuple(PartitionDefinition(PhysicalTableID(i), f"p{i}", ()) for i in numbers)

    partition = PartitionInfo(1, "id", (), definitions(ids), definitions(adding))
    table = table_info(10, "d.parts", [id_column(), column("a", MySQLType.LONG)])
    return replace(table, partition=partition)


def event(ts: int, table: TableInfo, table_id: int | None = None) -> TableEvent:
    return TableEvent(TimeStamp(ts), "d", TableID(table_id or table.id), table)


def tables(*events: TableEvent) -> PhysicalTables:
    return PhysicalTables(SchemaHistory(TimeStamp(1), TimeStamp(100), events, ()))


def shown(
    physical: PhysicalTables, physical_id: int, *commits: int
) -> list[tuple[int, int, list[int]]]:
    """Return (table, number of columns, commits) for each definition."""
    commit_ts = np.array(commits, np.uint64)
    return [
        (d.id, len(d.columns), commit_ts[places].tolist())
        for d, places in physical.definitions(PhysicalTableID(physical_id), commit_ts)
    ]


def test_a_table_that_grows() -> None:
    physical = tables(event(5, PLAIN), event(50, WIDER))
    assert shown(physical, 20, 60, 10, 49, 50) == [(20, 2, [10, 49]), (20, 3, [60, 50])]
    assert not physical.has(PhysicalTableID(21))


def test_partitions_belong_from_their_making_on() -> None:
    physical = tables(
        event(5, parts(11)), event(30, parts(11, adding=(12,))), event(40, parts(11, 12))
    )
    assert physical.has(PhysicalTableID(12))
    assert not physical.has(PhysicalTableID(10))
    assert [(i, commits) for i, _, commits in shown(physical, 12, 35, 45)] == [
        (10, [35]),
        (10, [45]),
    ]


def test_exchanged_partitions() -> None:
    """From 50 on, 20 is a partition of table 10, and table 11 has the rows of partition 11."""
    moved = replace(PLAIN, id=TableID(11))
    gone = TableEvent(TimeStamp(50), "d", TableID(20), None)
    physical = tables(
        event(5, PLAIN), event(6, parts(11)), event(50, parts(20)), event(50, moved), gone
    )
    assert [(i, c) for i, _, c in shown(physical, 20, 10, 60)] == [(20, [10]), (10, [60])]
    assert [(i, c) for i, _, c in shown(physical, 11, 10, 60)] == [(10, [10]), (11, [60])]


def test_commits_beyond_the_history() -> None:
    with pytest.raises(SchemaOutdatedError):
        shown(tables(event(5, PLAIN)), 20, 10, 101)


def test_tables_in_a_range() -> None:
    physical = tables(*(event(5, replace(PLAIN, id=TableID(n))) for n in (3, 20, 30)))
    everything = EncodedKeyRange(b"", b"")
    assert list(physical.within(everything)) == [3, 20, 30]
    middle = EncodedKeyRange(
        record_range(PhysicalTableID(4)).start, record_range(PhysicalTableID(20)).end
    )
    assert list(physical.within(middle)) == [20]
    assert list(physical.within(EncodedKeyRange(b"", b"m"))) == []
    assert list(physical.within(EncodedKeyRange(b"u", b""))) == []
