"""Former owners of physical tables, in the captured DDL workload and in other histories."""

from dataclasses import replace
from typing import Any

import pytest

from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import (
    PartitionDefinition,
    PartitionInfo,
    PartitionType,
    TableInfo,
)
from pyspark_theflash.tidb.schema.owners import Owners, Past
from tests.support.workloads import schema_of

HISTORY = schema_of("ddl")
A = column("a", MySQLType.LONG)
B = column("b", MySQLType.VARCHAR, id=5)
CHANGING = {**B, "state": 3, "change_state_info": {"relative_col_offset": 0}}


def plain(*columns: dict[str, Any], id: int = 1) -> TableInfo:
    return table_info(id, "d.t", columns)


def parts(*ids: int) -> TableInfo:
    named = tuple(PartitionDefinition(PhysicalTableID(i), f"p{i}", ()) for i in ids)
    partition = PartitionInfo(PartitionType.RANGE, "`a`", (), named)
    table = plain(A, id=100)
    return replace(table, partition=partition, json_text=f'{table.json_text}"partition":{{')


def event(ts: int, table: TableInfo) -> TableEvent:
    return TableEvent(TimeStamp(ts), "d", table.id, table)


def gone(ts: int, table_id: int) -> TableEvent:
    return TableEvent(TimeStamp(ts), "d", TableID(table_id), None)


def owners_at(history: SchemaHistory, table: TableInfo, physical_id: int, ts: int) -> list[int]:
    past = Owners(history).past(table, PhysicalTableID(physical_id), TimeStamp(ts))
    return [int(each.id) for each in past.tables]


def test_a_modified_column_comes_from_the_one_it_replaced() -> None:
    events = [(e.table, e.ts) for e in HISTORY.events if e.name == "cc" and e.table is not None]
    first = events[0][0].id
    table, ts = [(table, ts) for table, ts in events if table.id == first][-1]
    past = Owners(HISTORY).past_of(table, ts)
    origin = past.source(ColumnID(24))
    assert origin is not None
    source, before = origin
    assert (source.id, source.name, source.type.tp) == (2, "a", MySQLType.LONGLONG)
    assert before.tables == past.tables[: len(before.tables)]
    assert [past.source(ColumnID(i)) for i in (1, 6, 7, 23)] == [None] * 4


def test_a_physical_table_goes_from_owner_to_owner() -> None:
    """20 becomes a partition at 30 and is a table again from 40 on."""
    history = SchemaHistory(
        TimeStamp(5),
        TimeStamp(90),
        [
            event(5, parts(11, 12)),
            event(10, plain(A, id=20)),
            *(gone(30, 20), event(30, parts(20, 12)), event(30, plain(A, id=11))),
            *(gone(40, 11), event(40, parts(11, 12)), event(40, plain(A, id=20))),
            event(50, parts(11, 12, 13)),
            *(gone(60, 20), event(70, plain(A, id=20))),
        ],
        (),
    )
    assert owners_at(history, plain(A, id=20), 20, 15) == [20]
    assert owners_at(history, parts(20, 12), 20, 35) == [20, 100]
    assert owners_at(history, plain(A, id=11), 11, 35) == [100, 11]
    assert owners_at(history, plain(A, id=20), 20, 45) == [20, 100, 20]
    assert owners_at(history, parts(11, 12), 11, 45) == [100, 11, 100]
    # A partition that was added later, and a table that was recovered.
    assert owners_at(history, parts(11, 12, 13), 13, 55) == [100] * 4
    assert owners_at(history, plain(A, id=20), 20, 75) == [20, 100, 20, 20]


def reorganized(rounds: int) -> list[TableEvent]:
    """REORGANIZE PARTITION of both partitions into two new ones, again and again."""
    events = []
    for n in range(rounds):
        ts, old, new = 100 + 10 * n, (11 + 2 * n, 12 + 2 * n), (13 + 2 * n, 14 + 2 * n)
        before, after = parts(*old), parts(*new)
        assert before.partition is not None
        assert after.partition is not None
        copying = replace(
            before.partition,
            adding=after.partition.definitions,
            dropping=before.partition.definitions,
            ddl_state=4,
        )
        events += [event(ts, replace(before, partition=copying)), event(ts + 1, after)]
    return events


def test_partitions_moved_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each former partition is visited once, although rows may have come from it in 2^n ways."""
    first = [
        event(5, parts(11, 12)),
        event(10, plain(A, id=20)),
        *(gone(30, 20), event(30, parts(11, 20)), event(30, plain(A, id=12))),
        *(gone(40, 12), event(40, parts(11, 12)), event(40, plain(A, id=20))),
    ]
    rounds, visited = 12, 0
    history = SchemaHistory(TimeStamp(5), TimeStamp(900), [*first, *reorganized(rounds)], ())
    before = Owners._before

    def counted(self: Owners, *args: Any) -> list[TableEvent]:
        nonlocal visited
        visited += 1
        return before(self, *args)

    monkeypatch.setattr(Owners, "_before", counted)
    last = (11 + 2 * rounds, 12 + 2 * rounds)
    past = Owners(history).past(parts(*last), PhysicalTableID(last[0]))
    assert {int(table.id) for table in past.tables} == {100}
    # Partition 12 was a table of its own from 30 to 40, which is 24 partitions ago.
    assert [[int(t.id) for t in each.tables] for each in past.moved_from] == [[100, 12, 100, 100]]
    assert visited < 10 * rounds


def test_rows_are_rewritten_by_the_owner_of_the_time() -> None:
    before, changing, after = plain(A), plain(A, CHANGING), plain(A, B)
    past = Past((before, changing, after, plain(A, B, id=2)))
    (rewrite,) = past.rewrites(ColumnID(1))
    assert (rewrite.made.id, rewrite.column.id, rewrite.is_finished) == (5, 1, True)
    assert not past.is_exchanged
    assert Past((plain(A, id=2), before, changing, after)).is_exchanged
    refused = Past((before, changing, before))
    assert [r.is_finished for r in refused.rewrites(ColumnID(1))] == [False]
    assert list(Past((before, changing)).rewrites(ColumnID(1))) == []


@pytest.mark.parametrize(
    ("former", "is_reused"),
    [
        ([plain(A, B)], False),
        ([plain(A, column("x", MySQLType.LONG, id=5))], True),
        # It may have been filled before it was rejected, or emptied by another MODIFY COLUMN.
        ([plain(A, CHANGING)], True),
        ([plain(A, B), plain(A, {**CHANGING, "id": 6})], True),
    ],
)
def test_an_id_that_two_columns_had(former: list[TableInfo], is_reused: bool) -> None:
    last = plain(A, B, id=2)
    past = Past((*former, plain(A), plain(A, id=2), last))
    assert past.is_reused(last.column_by_id[ColumnID(5)]) is is_reused
    assert not past.is_reused(last.column_by_id[ColumnID(1)])
    assert past.source(ColumnID(5)) is None


def test_rows_are_untouched_until_another_column_is_changed() -> None:
    added = column("d", MySQLType.DATETIME, id=2)
    before, after = plain(A), plain(A, added)
    made = {**CHANGING, "id": 3, "change_state_info": {"relative_col_offset": 1}}
    changed, other = plain(A, added, made), plain(A, added, {**CHANGING, "id": 4})
    for tables, is_untouched in [
        ((before, after, changed), True),
        ((before, other, after, changed), False),
        ((after, changed), False),
    ]:
        origin = Past(tables).source(ColumnID(3))
        assert origin is not None
        assert origin[0].rows_untouched is is_untouched
