"""REORGANIZE PARTITION of a table without a clustered key, while rows are written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import TableSetAsideError
from pyspark_theflash.base.types import PhysicalTableID, SchemaVersion, TimeStamp
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.store.aside import ASIDE_KIND, asides_of, set_aside
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.key import RawKey, RecordKey, decode_record_key
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.model import (
    STATE_WRITE_REORGANIZATION,
    PartitionDefinition,
    PartitionInfo,
    PartitionType,
    TableInfo,
)
from tests.support.binlog_writer import heartbeat, prewrite_value, transaction, write_file
from tests.support.row_oracle import encode_insert_v1, encode_row_v1

BIGINT = FieldType(MySQLType.LONGLONG)
PLAIN = table_info(100, "shop.log", [column("id", MySQLType.LONGLONG)], has_rowid=True)
COPYING, COPIED, ENDED, END = map(TimeStamp, (1000, 1100, 1200, 2000))
OLD = (PartitionDefinition(PhysicalTableID(201), "p", less_than=("MAXVALUE",)),)
NEW = (
    PartitionDefinition(PhysicalTableID(211), "p0", less_than=("10",)),
    PartitionDefinition(PhysicalTableID(212), "p1", less_than=("MAXVALUE",)),
)


@pytest.fixture(autouse=True)
def quick_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """All TiDB servers load a schema change at the same time."""
    monkeypatch.setattr("pyspark_theflash.replication.apply.state._LAG", 0)


def state(partition: PartitionInfo) -> TableInfo:
    return replace(PLAIN, partition=partition, json_text=f"{PLAIN.json_text}{partition}")


BEFORE = PartitionInfo(PartitionType.RANGE, "`id`", (), OLD)
DURING = replace(BEFORE, adding=NEW, dropping=OLD, ddl_state=STATE_WRITE_REORGANIZATION)
READABLE = replace(DURING, definitions=NEW, ddl_state=4)
AFTER = replace(READABLE, adding=(), dropping=())
HISTORY = SchemaHistory(
    TimeStamp(100),
    END,
    [
        TableEvent(ts, "shop", PLAIN.id, state(partition))
        for ts, partition in (
            (TimeStamp(100), BEFORE),
            (COPYING, DURING),
            (COPIED, READABLE),
            (ENDED, AFTER),
        )
    ],
    [
        SchemaVersionAt(TimeStamp(ts - 1), SchemaVersion(version))
        for version, ts in enumerate((100, COPYING, COPIED, ENDED), 59)
    ],
)


class Cluster:
    """A schema source that has the existence of some records at the end of the copy."""

    def __init__(self, rows: Mapping[RecordKey, bool]) -> None:
        self._rows = rows

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        return HISTORY

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool:
        raise AssertionError("nobody has to be asked where these transactions wrote")

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> None:
        """Return None: these tests have no orphans."""

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        assert ts == COPIED
        return self._rows.get(decode_record_key(key))


Change = tuple[int, bytes]


def came(rowid: int, key: int) -> Change:
    return INSERT, encode_insert_v1([rowid], [BIGINT], encode_row_v1({1: key}, {1: BIGINT}))


def row(rowid: int, key: int) -> bytes:
    return encode_row_v1({1: key, -1: rowid}, {1: BIGINT, -1: BIGINT})


def changed(rowid: int, old: int, new: int) -> Change:
    return UPDATE, row(rowid, old) + row(rowid, new)


def went(rowid: int, key: int) -> Change:
    return DELETE_ROW, row(rowid, key)


def keys_at(
    path: Path,
    cluster: Cluster,
    *transactions: tuple[int, int, list[Change]],
    may_guess: bool = False,
    moments: Sequence[int] = (COPIED - 1, END),
    names_last_version: bool = True,
) -> dict[int, list[int]]:
    """Return the rows after transactions (commit_ts, version, changes). Raises as a read does.

    With `names_last_version`, a transaction that names the last version has arrived before them.
    """
    earlier: list[tuple[int, int, list[Change]]] = [(200, 62, [])] if names_last_version else []
    messages = [
        message
        for commit_ts, version, changes in (*earlier, *transactions)
        for message in transaction(
            commit_ts - 5, commit_ts, prewrite_value(version, {PLAIN.id: changes})
        )
    ]
    write_file(path / "binlog", messages)
    engine = MemoryEngine()
    Writer(engine, cluster, may_guess=may_guess).run_once(FileSource(path / "binlog"), until_ts=END)
    return {ts: _keys(engine, TimeStamp(ts)) for ts in moments}


def _keys(engine: MemoryEngine, ts: TimeStamp) -> list[int]:
    view, read = engine.read([ASIDE_KIND]), [scan_column(PLAIN, c) for c in PLAIN.columns]
    ids = [definition.id for definition in (OLD if ts < COPIED else NEW)]
    if (error := set_aside(asides_of(view), PLAIN.full_name, ids, ts)) is not None:
        raise error
    return sorted(
        key
        for physical_id in ids
        for region in engine.plan(view, physical_id)
        for batch in engine.scan(region, ScanSpec(read, ts))
        for key in batch.column(0).to_pylist()
    )


def test_a_row_that_is_written_twice_is_there_once_unless_it_was_copied_too(tmp_path: Path) -> None:
    transactions = (
        (900, 59, [came(1, 5), came(2, 15)]),
        (1050, 60, [came(3, 6), came(4, 6), changed(1, 5, 7), changed(1, 5, 7)]),
        (1060, 60, [came(5, 16), came(6, 16)]),
        (1150, 61, [came(7, 8), came(8, 8), went(2, 15), went(2, 15)]),
    )
    copied = Cluster({RecordKey(NEW[0].id, 3): False, RecordKey(NEW[1].id, 5): True})
    rows = keys_at(tmp_path, copied, *transactions)
    assert rows == {COPIED - 1: [6, 7, 15, 16], END: [6, 7, 8, 16, 16]}
    with pytest.raises(TableSetAsideError, match=r"shop\.log: .* 1100; 2 rows"):
        keys_at(tmp_path, Cluster({}), *transactions, moments=[COPIED])
    before = keys_at(tmp_path, Cluster({}), *transactions, moments=[COPIED - 1])
    assert before == {COPIED - 1: [6, 7, 15, 16]}
    guessed = keys_at(tmp_path, Cluster({}), *transactions, may_guess=True)
    assert guessed == {COPIED - 1: [6, 7, 15, 16], END: [6, 7, 8, 16]}


def test_an_update_to_another_new_partition_has_a_new_rowid_there(tmp_path: Path) -> None:
    rows = keys_at(
        tmp_path,
        Cluster({RecordKey(NEW[1].id, 1): False}),
        (900, 59, [came(1, 5)]),
        (1050, 60, [changed(1, 5, 15), came(2, 15), went(1, 5)]),
        (1150, 61, [went(2, 15), went(2, 15)]),
    )
    assert rows == {COPIED - 1: [15], END: []}


def test_rows_that_are_not_written_while_tidb_copies_need_nobody_who_knows(tmp_path: Path) -> None:
    rows = keys_at(
        tmp_path,
        Cluster({}),
        (900, 59, [came(1, 5), came(2, 15)]),
        (1050, 60, [went(1, 5), went(1, 5), changed(2, 15, 16), changed(2, 15, 16)]),
    )
    assert rows == {COPIED - 1: [16], END: [16]}


def test_the_schema_is_known_up_to_where_readers_are_answered(tmp_path: Path) -> None:
    """TiDB writes no binlog for intermediate states of a DDL, and possibly no row either."""

    class Growing(Cluster):
        def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
            end_ts = at_least or HISTORY.start_ts
            return SchemaHistory(HISTORY.start_ts, end_ts, HISTORY.until(end_ts), HISTORY.versions)

    write_file(tmp_path / "binlog", [heartbeat(COPYING + 50)])
    writer = Writer(MemoryEngine(), Growing({}))
    writer.poll(FileSource(tmp_path / "binlog"))
    assert writer.resolved_ts == COPYING + 50
    table = writer.state.history.table_at_commit(PLAIN.id, writer.resolved_ts)
    assert table.partition == DURING


def test_a_statement_that_began_before_its_state_was_loaded(tmp_path: Path) -> None:
    """It records version 60, loaded while it ran, and wrote each row once, as under 59."""
    once = (1050, 60, [came(1, 5), came(2, 6)])
    copied = Cluster({RecordKey(NEW[0].id, rowid): True for rowid in (1, 2)})
    rows = keys_at(tmp_path, copied, once, names_last_version=False)
    assert rows == {COPIED - 1: [5, 6], END: [5, 6]}


def test_from_what_is_not_written_twice_on_a_table_is_set_aside(tmp_path: Path) -> None:
    """The first three transactions are in one batch."""
    transactions = (
        (1040, 60, [came(1, 5), came(2, 5)]),
        (1050, 60, [came(3, 6)]),
        (1060, 60, [came(4, 7), came(5, 7)]),
        (1150, 61, [came(6, 8), came(7, 8)]),
    )
    rows = keys_at(tmp_path, Cluster({}), *transactions, moments=[1039, 1049])
    assert rows == {1039: [], 1049: [5]}
    for moment in (1050, COPIED, END):
        with pytest.raises(TableSetAsideError, match=r"from 1050 .* start_ts=1045 commit_ts=1050"):
            keys_at(tmp_path, Cluster({}), *transactions, moments=[moment])
