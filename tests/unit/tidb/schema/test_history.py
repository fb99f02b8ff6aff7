"""Table definitions by timestamp, also on a cluster that ran every kind of DDL."""

import gzip
import json
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import (
    SchemaConflictError,
    SchemaFileError,
    SchemaOutdatedError,
    TableNotFoundError,
)
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support.golden_vectors import VECTORS, ddl_history
from tests.support.schema import tables_at


@pytest.fixture(scope="module")
def captured() -> SchemaHistory:
    return ddl_history()


def event(ts: int, name: str | None, db: str = "shop", table_id: int = 1) -> TableEvent:
    table = table_info(table_id, f"{db}.{name}", [id_column()]) if name else None
    return TableEvent(TimeStamp(ts), db, TableID(table_id), table)


def history(*events: TableEvent, end_ts: int = 100) -> SchemaHistory:
    versions = [(20, 7), (30, 8), (50, 10)]
    return SchemaHistory(
        TimeStamp(10),
        TimeStamp(end_ts),
        events,
        [SchemaVersionAt(TimeStamp(ts), SchemaVersion(v)) for ts, v in versions],
    )


def names(tables: SchemaHistory, ts: int) -> list[str]:
    return [table.full_name for table in tables_at(tables, TimeStamp(ts))]


def test_a_table_is_what_it_was_at_a_timestamp() -> None:
    versions = history(event(10, "a"), event(31, "b"), event(60, None))
    assert [names(versions, ts) for ts in (9, 10, 30, 31, 59, 60)] == [
        [],
        ["shop.a"],
        ["shop.a"],
        ["shop.b"],
        ["shop.b"],
        [],
    ]
    assert versions.table_by_name("SHOP.B", TimeStamp(40)).name == "b"
    with pytest.raises(TableNotFoundError, match=r"shop\.a at timestamp 40"):
        versions.table_by_name("shop.a", TimeStamp(40))


def test_a_schema_version_means_what_was_written_right_after_it() -> None:
    renames = history(event(10, "a"), event(21, "b"), event(31, "c"), event(51, None))
    by_version = {
        v: table and table.name
        for v in (6, 7, 8, 9, 10)
        for table in [renames.table_by_version(TableID(1), SchemaVersion(v))]
    }
    assert by_version == {6: "a", 7: "b", 8: "c", 9: "c", 10: None}
    with pytest.raises(SchemaOutdatedError, match="schema version 11"):
        renames.table_by_version(TableID(1), SchemaVersion(11))


def test_a_table_that_moves_to_another_database_is_there_all_the_time() -> None:
    moves = history(event(10, "a"), event(40, "a", db="attic"), event(40, None))
    assert names(moves, 40) == ["attic.a"]


def test_a_history_goes_on_only_as_it_began() -> None:
    ours = history(event(10, "a"), event(60, "b"), end_ts=70)
    longer = history(event(10, "a"), event(60, "b"), event(80, "c"), end_ts=90)
    assert ours.extend(longer) is longer
    assert longer.extend(ours) is longer
    for other in (
        history(event(10, "z"), event(60, "b")),
        history(event(10, "a")),
        history(event(10, "a"), event(60, "b"), event(65, "c")),
    ):
        with pytest.raises(SchemaConflictError):
            ours.extend(other)


def test_captured_partitions_have_their_own_ids(captured: SchemaHistory) -> None:
    partitioned = [t for t in tables_at(captured, captured.end_ts) if t.partition]
    assert partitioned
    assert all(t.id not in t.physical_ids for t in partitioned)


@pytest.mark.parametrize("info", [{}, {"id": 1}, {"id": 1, "name": "x"}, [], None])
def test_what_is_no_table_info_is_refused(info: object) -> None:
    with pytest.raises(SchemaFileError, match="shop"):
        parse_table_info("shop", info)  # type: ignore[arg-type]


def test_a_schema_file_of_any_compression(tmp_path: Path, captured: SchemaHistory) -> None:
    plain = tmp_path / "schema.json"
    plain.write_bytes(gzip.decompress((VECTORS / "ddl_schema.json.gz").read_bytes()))
    assert read_schema_file(plain).events == captured.events


def test_hides_what_statements_cannot_name() -> None:
    """System tables, and a table that is being dropped; rows of both can be decoded."""
    doomed = parse_table_info("shop", {**json.loads(_json("shop.t")), "state": 2})
    states = history(
        event(20, "t"),
        event(20, "user", db="mysql", table_id=2),
        TableEvent(TimeStamp(40), "shop", TableID(1), doomed),
    )
    assert [t.full_name for t in tables_at(states, TimeStamp(30))] == ["shop.t"]
    assert tables_at(states, TimeStamp(40)) == []
    with pytest.raises(TableNotFoundError):
        states.table_by_name("mysql.user", TimeStamp(30))
    assert states.table_by_version(TableID(1), SchemaVersion(10)) is doomed
    user = states.table_by_version(TableID(2), SchemaVersion(10))
    assert user is not None
    assert user.name == "user"


def test_versions_from_before_the_start_mean_the_first_tables() -> None:
    """Version 7 is from before the start of the history, whose tables are those of 8."""
    versions = [SchemaVersionAt(TimeStamp(5), SchemaVersion(8))]
    later = SchemaHistory(TimeStamp(10), TimeStamp(20), [event(10, "t")], versions)
    tables = [later.table_by_version(TableID(1), SchemaVersion(v)) for v in (6, 7, 8)]
    assert [table and table.name for table in tables] == ["t"] * 3
    with pytest.raises(SchemaOutdatedError, match="schema version 9"):
        later.table_by_version(TableID(1), SchemaVersion(9))


def _columns(table: TableInfo) -> list[tuple[str, bool]]:
    return [(c.name, c.is_public) for c in sorted(table.columns, key=lambda c: c.offset)]


def test_rows_are_read_by_the_state_at_their_commit_and_the_one_before() -> None:
    """Column b is dropped and c added in one step; then d is added."""
    states = [
        (20, [id_column(), _int_column(2, "b")]),
        (30, [id_column(), _int_column(3, "c")]),
        (40, [id_column(), _int_column(3, "c"), _int_column(4, "d")]),
    ]
    tables = [(ts, table_info(1, "shop.t", columns)) for ts, columns in states]
    dropped = TableEvent(TimeStamp(50), "shop", TableID(1), None)
    changes = history(
        *(TableEvent(TimeStamp(ts), "shop", TableID(1), table) for ts, table in tables), dropped
    )
    shown = {
        ts: _columns(changes.table_at_commit(TableID(1), TimeStamp(ts))) for ts in (29, 30, 40)
    }
    assert shown == {
        29: [("id", True), ("b", True)],
        30: [("id", True), ("c", True), ("b", False)],
        40: [("id", True), ("c", True), ("d", True)],
    }
    last = changes.table_at_commit(TableID(1), TimeStamp(45))
    assert last is tables[2][1]
    assert changes.table_at_commit(TableID(1), TimeStamp(60)) == last
    assert [c.name for c in changes.table_at_commit(TableID(1), TimeStamp(30)).public_columns] == [
        "id",
        "c",
    ]


def test_no_table_is_known_before_it_is_made_or_after_the_end() -> None:
    created = history(event(20, "t"))
    with pytest.raises(SchemaOutdatedError, match="table with id 1 at 19"):
        created.table_at_commit(TableID(1), TimeStamp(19))
    with pytest.raises(SchemaOutdatedError, match="table with id 2 at 30"):
        created.table_at_commit(TableID(2), TimeStamp(30))
    assert created.table_at_commit(TableID(1), TimeStamp(100)).name == "t"
    with pytest.raises(SchemaOutdatedError, match="no schema at 101"):
        created.table_at_commit(TableID(1), TimeStamp(101))


def _int_column(column_id: int, name: str) -> dict[str, object]:
    return {"id": column_id} | column(name, MySQLType.LONG)


def _json(full_name: str) -> str:
    return table_info(1, full_name, [id_column()]).json_text
