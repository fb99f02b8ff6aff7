"""Coverage of physical tables in small histories."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pyspark_theflash.base.errors import TableNotLoadedError
from pyspark_theflash.base.types import Generation, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.storage.store.coverage import (
    BASE_KIND,
    Coverage,
    assumed_record,
    recovered_record,
)
from pyspark_theflash.storage.store.entered import Entered
from pyspark_theflash.storage.store.feed import SIDE_IDS_FROM, Feed, feed_record
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.raft_fed import RaftFedMarker
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent, UnreadTable
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info

COLUMNS = [column("a", MySQLType.LONG)]
START, END = TimeStamp(10), TimeStamp(90)
STREAM = feed_record(Feed.STREAM)


def parts(ids: Sequence[int], **states: Sequence[int]) -> TableInfo:
    """`d.p`, id 1, in partitions by hash."""
    plain = table_info(1, "d.p", COLUMNS)
    info: dict[str, Any] = json.loads(plain.json_text)

    def definitions(of: Sequence[int]) -> list[dict[str, Any]]:
        return [{"id": i, "name": {"O": f"p{i}", "L": f"p{i}"}} for i in of]

    info["partition"] = {
        "type": 2,
        "expr": "`a`",
        "enable": True,
        "definitions": definitions(ids),
        **{f"{state}_definitions": definitions(of) for state, of in states.items()},
    }
    return parse_table_info("d", info)


def event(ts: int, table: TableInfo) -> TableEvent:
    return TableEvent(TimeStamp(ts), table.db, table.id, table)


def lacking(
    table: TableInfo, ts: int, events: Sequence[TableEvent], *records: Record
) -> str | None:
    """Return the source of the missing rows."""
    kept: dict[str, dict[str, bytes]] = {}
    for record in records or (STREAM,):
        kept.setdefault(record.kind, {})[record.key] = record.body
    history = SchemaHistory(START, END, events, ())
    coverage = Coverage(View(Generation(1), kept), history)
    missing = coverage.lacking(event(ts, table), TimeStamp(ts))
    if missing is None:
        coverage.check(table, TimeStamp(ts))
        return None
    with pytest.raises(TableNotLoadedError, match=missing.source):
        coverage.check(table, TimeStamp(ts))
    return missing.source


def test_tables_that_were_there_and_new_ones() -> None:
    old, new = table_info(2, "d.old", COLUMNS), table_info(3, "d.new", COLUMNS)
    renamed = table_info(2, "d.renamed", COLUMNS)
    events = [event(10, old), event(20, new), event(30, renamed)]
    assert lacking(new, 40, events) is None
    assert lacking(renamed, 40, events) == "d.old"
    assert lacking(renamed, 40, events, STREAM, assumed_record("D.o*")) is None
    assert lacking(renamed, 40, events, STREAM, assumed_record("d.renamed")) == "d.old"
    assert lacking(renamed, 40, events, STREAM, Record("base", "d.OLD", b"{}")) is None
    assert lacking(renamed, 40, events, feed_record(Feed.API)) is None
    assert lacking(renamed, 40, events, STREAM, RaftFedMarker(7).to_record()) is None
    assert lacking(new, 40, events, STREAM, recovered_record(TableID(3))) == "d.new"


def test_tables_of_the_api_beside_a_stream() -> None:
    own = table_info(SIDE_IDS_FROM, "own.t", COLUMNS)
    assert lacking(own, 40, [event(10, own), event(10, table_info(2, "d.t", COLUMNS))]) is None


def test_reorganised_partitions_lack_what_the_old_ones_did() -> None:
    before, after = parts([11, 12]), parts([11, 13])
    between = parts([11, 12], adding=[13], dropping=[12])
    truncated = parts([14, 13])
    events = [event(10, before), event(20, between), event(30, after), event(40, truncated)]
    assert lacking(after, 30, events) == "d.p"
    assert lacking(truncated, 40, events) == "d.p", "13 was filled from 12"
    assert lacking(truncated, 40, events, STREAM, Record("base", "d.p", b"{}")) is None
    events.append(event(50, parts([14, 15])))
    assert lacking(parts([14, 15]), 50, events) is None, "both are new"


def test_partitions_that_were_reorganised_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each former partition is looked at once, although rows may have come from it in 2^n ways."""
    rounds, looked_at = 12, 0
    # The store's own table, beside one whose rows are missing.
    events = [event(10, table_info(2, "d.other", COLUMNS)), event(11, parts([11, 12]))]
    for n in range(rounds):
        old, new = [11 + 2 * n, 12 + 2 * n], [13 + 2 * n, 14 + 2 * n]
        events.append(event(20 + 2 * n, parts(old, adding=new, dropping=old)))
        events.append(event(21 + 2 * n, parts(new)))
    entered_of = Coverage._entered_of

    def counted(self: Coverage, physical_id: PhysicalTableID) -> Entered:
        nonlocal looked_at
        looked_at += 1
        return entered_of(self, physical_id)

    monkeypatch.setattr(Coverage, "_entered_of", counted)
    assert lacking(parts([11 + 2 * rounds, 12 + 2 * rounds]), 80, events) is None
    assert looked_at < 20 * rounds
    events[1] = event(10, parts([11, 12]))
    assert lacking(parts([11 + 2 * rounds, 12 + 2 * rounds]), 80, events) == "d.p"


def test_partitions_that_come_from_a_table_which_is_left_out() -> None:
    """And a partition that is exchanged twice."""
    scope = TableScope(exclude=("d.x",)).to_record()
    p, x = parts([11, 12]), table_info(20, "d.x", COLUMNS)
    swapped, back = parts([11, 20]), parts([11, 12])
    x_after = table_info(12, "d.x", COLUMNS)
    events = [event(15, p), event(20, x), event(30, swapped), event(30, x_after)]
    events.append(event(40, back))
    assert lacking(p, 29, events, STREAM, scope) is None
    assert lacking(swapped, 30, events, STREAM, scope) == "d.x"
    assert lacking(back, 40, events, STREAM, scope) == "d.x"
    assert lacking(back, 40, events) is None


def test_the_error_says_what_to_do() -> None:
    error = TableNotLoadedError("d.t", "d.s", "was there")
    for said in ("d.t", "d.s was there", "--base", "--assume-empty d.s"):
        assert said in str(error)


class Looked(tuple[TableEvent, ...]):
    """Events that count how often they are iterated."""

    times = 0

    def __iter__(self) -> Iterator[TableEvent]:
        self.times += 1
        return super().__iter__()


def test_a_list_goes_over_the_history_once_not_once_a_table() -> None:
    def refused(_: bytes) -> str:
        return '{"cols":[]}'  # no partitions, and nothing that could be read as a table

    events = [
        TableEvent(START, "d", TableID(i), UnreadTable("d", f"t{i}", b"", refused, 1, 1, True))
        for i in range(1, 9)
    ]
    history = SchemaHistory(START, END, events, ())
    loaded = {f"d.t{i}": b"{}" for i in range(2, 9)}
    kept = {STREAM.kind: {STREAM.key: STREAM.body}, BASE_KIND: loaded}
    coverage = Coverage(View(Generation(1), kept), history)
    looked = Looked(history.events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "events", looked)
        is_missing = [coverage.lacking(event, END) is not None for event in events]
    assert is_missing == [True, *[False] * 7]
    assert looked.times == 1
