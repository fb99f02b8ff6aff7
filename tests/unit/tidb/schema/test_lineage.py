"""Effects of DDL on rows, derived from TableInfos, also of the captured DDL workload."""

from collections.abc import Sequence
from typing import Any

from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import Lineage, moves
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support.workloads import schema_of


def test_reorganised_partitions_move_their_rows() -> None:
    moves = Lineage(schema_of("ddl")).moves
    assert [(m.after.name, sorted(m.from_ids), sorted(m.to_ids)) for m in moves] == [
        ("pr", [178, 179], [213, 214, 215])
    ]


def test_dropped_truncated_added_and_exchanged_ones_do_not() -> None:
    kinds = {"drop": (1, 2), "truncate": (1, 3), "exchange": (1, 4)}
    for to in kinds.values():
        events = [event(10, partitioned((1, 2))), event(20, partitioned(to))]
        assert moves(events) == []


def test_what_was_written_before_and_commits_after_goes_to_the_new_partitions() -> None:
    lineage = Lineage(schema_of("ddl"))
    (move,) = lineage.moves
    before = move.before
    assert lineage.placement(before, TimeStamp(move.ts - 1)) is before
    assert lineage.placement(before, move.ts) is move.after


def test_a_history_without_ddl_moves_nothing() -> None:
    table = table_info(1, "d.t", [column("a", MySQLType.LONG)])
    history = SchemaHistory(TimeStamp(1), TimeStamp(9), [event(1, table)], ())
    assert Lineage(history).moves == ()


def event(ts: int, table: TableInfo) -> TableEvent:
    return TableEvent(TimeStamp(ts), table.db, TableID(table.id), table)


def partitioned(ids: Sequence[int]) -> TableInfo:
    definitions: list[dict[str, Any]] = [
        {"id": i, "name": {"O": f"p{i}"}, "less_than": [str(10 * i)]} for i in ids
    ]
    info = {
        "id": 99,
        "name": {"O": "t"},
        "cols": [{"id": 1, "offset": 0, **column("id", MySQLType.LONG)}],
        "pk_is_handle": False,
        "partition": {
            "type": 1,
            "expr": "`id`",
            "columns": None,
            "enable": True,
            "definitions": definitions,
            "adding_definitions": [],
            "dropping_definitions": [],
        },
    }
    return parse_table_info("d", info)
