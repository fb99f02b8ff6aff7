"""Transactions that began before partitions changed: TiKV has their writes."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from pyspark_theflash.base.errors import ServiceUnavailableError, TableSetAsideError
from pyspark_theflash.base.types import PhysicalTableID, SchemaVersion, TimeStamp
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.store.aside import ASIDE_KIND, asides_of, set_aside
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.key import RawKey, RecordKey, decode_record_key
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.model import (
    ColumnInfo,
    PartitionDefinition,
    PartitionInfo,
    PartitionType,
    TableInfo,
)
from tests.support.binlog_writer import prewrite_value, transaction, write_file
from tests.support.row_oracle import encode_insert_v1, encode_row_v1

BIGINT = FieldType(MySQLType.LONGLONG)
PLAIN = table_info(100, "shop.item", [id_column(), column("v", MySQLType.LONGLONG)])
OLD, NEW, OTHER = PhysicalTableID(201), PhysicalTableID(203), PhysicalTableID(202)
TRUNCATED = TimeStamp(1000)
END = TimeStamp(2000)


def partitioned(first: PhysicalTableID) -> TableInfo:
    """Rows below 10 are in `first`."""
    definitions = (
        PartitionDefinition(first, "p0", less_than=("10",)),
        PartitionDefinition(OTHER, "p1", less_than=("MAXVALUE",)),
    )
    partition = PartitionInfo(PartitionType.RANGE, "`id`", (), definitions)
    text = PLAIN.json_text + str(first)
    return replace(PLAIN, partition=partition, json_text=text)


BEFORE, AFTER = partitioned(OLD), partitioned(NEW)


def history(*events: tuple[int, TableInfo | None]) -> SchemaHistory:
    """States of the table by timestamp; the first is in version 59, version 60 begins with 1000."""
    versions = [(TimeStamp(100), 59), (TimeStamp(TRUNCATED - 10), 60)]
    return SchemaHistory(
        TimeStamp(100),
        END,
        [TableEvent(TimeStamp(ts), "shop", PLAIN.id, table) for ts, table in events],
        [SchemaVersionAt(ts, SchemaVersion(version)) for ts, version in versions],
    )


HISTORY = history((100, BEFORE), (TRUNCATED, AFTER))


class Cluster:
    """A schema source with a given `has_written`."""

    def __init__(
        self,
        has_written: Callable[[RecordKey, TimeStamp], bool],
        history: SchemaHistory = HISTORY,
    ) -> None:
        self.checked: list[RecordKey] = []
        self._has_written, self._history = has_written, history

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        return self._history

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> None:
        """Return None: these tests have no orphans."""

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool:
        self.checked.append(decode_record_key(key))
        return self._has_written(self.checked[-1], start_ts)


def wrote_to(*ids: PhysicalTableID, history: SchemaHistory = HISTORY) -> Cluster:
    return Cluster(lambda key, _: key.table_id in ids, history)


Placement: TypeAlias = Callable[..., dict[PhysicalTableID, set[int]]]


@pytest.fixture
def placement(tmp_path: Path) -> Placement:
    """cluster, version, start_ts, commit_ts, handles -> where the rows are that it inserts."""
    return partial(rows_of, tmp_path / "binlog")


def rows_of(
    path: Path,
    cluster: Cluster,
    version: int,
    start_ts: int,
    commit_ts: int,
    *handles: int,
    may_guess: bool = False,
) -> dict[PhysicalTableID, set[int]]:
    value = prewrite_value(version, {PLAIN.id: [insert(handle) for handle in handles]})
    messages = transaction(start_ts, commit_ts, value)
    stored = rows_after(path, messages, cluster, may_guess=may_guess)
    return {physical_id: {row[0] for row in rows} for physical_id, rows in stored.items()}


def rows_after(
    path: Path,
    messages: Sequence[bytes],
    cluster: Cluster,
    *,
    columns: Sequence[ColumnInfo] = PLAIN.columns[:1],
    may_guess: bool = False,
) -> dict[PhysicalTableID, set[tuple[int, ...]]]:
    """Return all rows by partition, also truncated ones. Raises as a read does."""
    write_file(path, messages)
    engine, ids = MemoryEngine(), (OLD, NEW, OTHER)
    Writer(engine, cluster, may_guess=may_guess).run_once(FileSource(path), until_ts=END)
    view, read = engine.read([ASIDE_KIND]), [scan_column(PLAIN, c) for c in columns]
    if (error := set_aside(asides_of(view), PLAIN.full_name, ids, END)) is not None:
        raise error
    return {
        physical_id: rows
        for physical_id in ids
        if (
            rows := {
                tuple(row.values())
                for region in engine.plan(view, physical_id)
                for batch in engine.scan(region, ScanSpec(read, END))
                for row in batch.to_pylist()
            }
        )
    }


def insert(handle: int) -> tuple[int, bytes]:
    row = encode_row_v1({2: handle}, {2: BIGINT})
    return INSERT, encode_insert_v1([handle], [BIGINT], row)


def inserting(handle: int, start_ts: int, commit_ts: int, version: int) -> list[bytes]:
    value = prewrite_value(version, {PLAIN.id: [insert(handle)]})
    return transaction(start_ts, commit_ts, value)


def changing(kind: int, handle: int, start_ts: int, commit_ts: int, version: int) -> list[bytes]:
    """Set `v` to 7, or delete the row."""
    types = {1: BIGINT, 2: BIGINT}
    old, new = (encode_row_v1({1: handle, 2: v}, types) for v in (handle, 7))
    value = prewrite_value(version, {PLAIN.id: [(kind, old + new * (kind == UPDATE))]})
    return transaction(start_ts, commit_ts, value)


@pytest.mark.parametrize("where", [OLD, NEW])
def test_who_names_the_version_before_may_have_met_either(
    placement: Placement, where: PhysicalTableID
) -> None:
    """A transaction uses one definition for all rows of a table, so one row decides."""
    cluster = wrote_to(where)
    assert placement(cluster, 59, 1004, 1100, 1, 2, 70) == {where: {1, 2}, OTHER: {70}}
    assert {key.handle for key in cluster.checked} == {1}


def test_who_began_before_and_names_the_new_version_too(placement: Placement) -> None:
    assert placement(wrote_to(OLD), 60, 995, 1100, 1) == {OLD: {1}}
    assert placement(wrote_to(NEW), 60, 995, 1100, 1) == {NEW: {1}}


@pytest.mark.parametrize(
    ("version", "start_ts", "commit_ts", "handle", "where"),
    [(59, 900, 950, 1, OLD), (59, 1004, 1100, 70, OTHER)],
    ids=["over before", "in a partition that stays"],
)
def test_nobody_is_asked_what_is_certain(
    placement: Placement,
    version: int,
    start_ts: int,
    commit_ts: int,
    handle: int,
    where: PhysicalTableID,
) -> None:
    cluster = wrote_to()
    assert placement(cluster, version, start_ts, commit_ts, handle) == {where: {handle}}
    assert cluster.checked == []


def test_a_statement_may_name_a_version_that_came_while_it_ran(
    placement: Placement, caplog: pytest.LogCaptureFixture
) -> None:
    """TiDB had not loaded the change when it began, and records the version at its end."""
    assert placement(wrote_to(OLD), 60, 1001, 1100, 1) == {OLD: {1}}
    assert placement(wrote_to(NEW), 60, 1001, 1100, 1) == {NEW: {1}}
    assert placement(wrote_to(), 60, 1001, 1100, 1) == {NEW: {1}}, "which is far likelier"
    assert caplog.text == ""


@pytest.mark.parametrize("reason", ["named", "lease"])
def test_a_change_that_is_known_by_then_leaves_no_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    cluster, state = wrote_to(OLD), "pyspark_theflash.replication.apply.state"
    messages = inserting(1, 1020, 1030, 60)
    if reason == "named":
        monkeypatch.setattr(f"{state}._LAG", 10)
        messages = [*transaction(1005, 1010, prewrite_value(60, {})), *messages]
    else:
        monkeypatch.setattr(f"{state}._LEASE", 20)
    assert rows_after(tmp_path / "binlog", messages, cluster) == {NEW: {(1,)}}
    assert cluster.checked == []


def test_a_row_that_left_nothing_does_not_decide(placement: Placement) -> None:
    cluster = Cluster(lambda key, _: key == RecordKey(NEW, 2))
    assert placement(cluster, 59, 1004, 1100, 1, 2) == {NEW: {1, 2}}


@pytest.mark.parametrize("before", [[], [(100, BEFORE), (500, None)]], ids=["created", "recovered"])
def test_a_table_may_be_younger_than_the_transaction(
    placement: Placement, before: list[tuple[int, TableInfo | None]]
) -> None:
    """TRUNCATE TABLE, or DROP and CREATE, between BEGIN and the first statement on the table."""
    cluster = wrote_to(history=history(*before, (1000, BEFORE)))
    assert placement(cluster, 59, 900, 1100, 1) == {OLD: {1}}
    assert cluster.checked == []


def test_a_younger_table_whose_partitions_have_changed_since_is_asked_for(
    placement: Placement,
) -> None:
    cluster = wrote_to(NEW, history=history((1000, BEFORE), (1050, AFTER)))
    assert placement(cluster, 59, 900, 1100, 1) == {NEW: {1}}
    assert {key.handle for key in cluster.checked} == {1}
    with pytest.raises(TableSetAsideError):
        placement(wrote_to(history=history((1000, BEFORE), (1050, AFTER))), 59, 900, 1100, 1)


def test_what_nobody_knows_is_refused(placement: Placement) -> None:
    with pytest.raises(TableSetAsideError, match=r"from 1100 .*start_ts=1004 commit_ts=1100"):
        placement(wrote_to(), 59, 1004, 1100, 1)


def test_what_nobody_knows_may_be_guessed(
    placement: Placement, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert placement(wrote_to(), 59, 1004, 1100, 1, may_guess=True) == {OLD: {1}}
    assert "shop.item" in caplog.text
    assert "start_ts=1004 commit_ts=1100" in caplog.text


@pytest.mark.parametrize("kind", [UPDATE, DELETE_ROW])
@pytest.mark.parametrize(("began", "where"), [(900, OLD), (1010, NEW)])
def test_what_is_changed_was_there_before(
    tmp_path: Path, kind: int, began: int, where: PhysicalTableID
) -> None:
    """No lookup is needed: only one of the two partitions has the row."""
    messages = [
        *inserting(1, began, began + 10, 59 if began < TRUNCATED else 60),
        *changing(kind, 1, 1020, 1100, 59),
    ]
    rows = rows_after(tmp_path / "binlog", messages, wrote_to(), columns=PLAIN.columns)
    assert rows == ({where: {(1, 7)}} if kind == UPDATE else {})


def test_what_is_inserted_was_not_there_before(tmp_path: Path) -> None:
    messages = [*inserting(1, 900, 910, 59), *inserting(1, 1004, 1100, 59)]
    assert rows_after(tmp_path / "binlog", messages, wrote_to()) == {OLD: {(1,)}, NEW: {(1,)}}


def test_a_cluster_that_does_not_answer_is_not_guessed_over(placement: Placement) -> None:
    def away(_key: RecordKey, _start_ts: TimeStamp) -> bool:
        raise ServiceUnavailableError("tidb", "away")

    with pytest.raises(ServiceUnavailableError):
        placement(Cluster(away), 59, 1004, 1100, 1)
