"""Records are decoded to the values that were encoded."""

import re
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import (
    MAX_TS,
    Generation,
    PhysicalTableID,
    SchemaVersion,
    TableID,
    TimeStamp,
)
from pyspark_theflash.storage.store import catalog
from pyspark_theflash.storage.store.catalog import (
    SCHEMA_KIND,
    pack_event,
    schema_history,
    schema_records,
    unpack_event,
)
from pyspark_theflash.storage.store.folder import StoreIdentity, open_manifest
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.storage.store.purged import PURGED_KIND, purged_at, purged_record
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from tests.support.archives import unpack
from tests.support.golden_vectors import ddl_history
from tests.support.schema import tables_at
from tests.support.workloads import schema_of

EMPTY = View(Generation(1), {})


def view(*records: Record) -> View:
    kinds: dict[str, dict[str, bytes]] = {}
    for record in sorted(records, key=lambda r: (r.kind, r.key)):
        kinds.setdefault(record.kind, {})[record.key] = record.body
    return View(Generation(1), kinds)


def test_progress() -> None:
    assert Progress.of(EMPTY) is None
    progress = Progress(TimeStamp(0), TimeStamp(MAX_TS))
    assert Progress.of(view(progress.to_record())) == progress


def test_identity() -> None:
    identity = StoreIdentity("ид", "magic")
    assert StoreIdentity.of(view(identity.to_record())) == identity


def test_purged() -> None:
    table = PhysicalTableID(7)
    assert purged_at(EMPTY, table) is None
    assert purged_at(view(purged_record(table, TimeStamp(MAX_TS))), table) == MAX_TS
    with pytest.raises(CodecError, match="purged record"):
        purged_at(view(Record(PURGED_KIND, f"{table:020d}", b"5z")), table)


def test_schema_history() -> None:
    assert schema_history(EMPTY) is None
    table = table_info(7, "db.t", [id_column(), column("é", MySQLType.VARCHAR)])
    events = [
        TableEvent(TimeStamp(number), "db", TableID(7), None if number % 2 else table)
        for number in range(12)
    ]
    versions = [SchemaVersionAt(TimeStamp(5), SchemaVersion(1))]
    history = SchemaHistory(TimeStamp(0), TimeStamp(MAX_TS), events, versions)
    decoded = schema_history(view(*schema_records(history)))
    assert decoded is not None
    assert (decoded.start_ts, decoded.end_ts) == (history.start_ts, history.end_ts)
    assert list(decoded.events) == events
    assert list(decoded.versions) == versions


def test_every_captured_event_survives_being_stored() -> None:
    captured = ddl_history().events
    assert len(captured) == 240
    for event in captured:
        stored = unpack_event(pack_event(event))
        assert stored == event
        assert (stored.name, stored.table) == (event.name, event.table)


def test_the_schema_of_a_store_of_format_1_is_still_read(fixtures: Path, tmp_path: Path) -> None:
    unpack(fixtures / "stores" / "format1.tar.gz", tmp_path)
    with closing(open_manifest(tmp_path / "format1", LocalFileSystem())) as manifest:
        decoded = schema_history(manifest.read([SCHEMA_KIND]))
    assert decoded is not None
    assert decoded.events == schema_of("bank").until(decoded.end_ts)


def test_a_definition_is_read_only_when_it_is_asked_for() -> None:
    tables = [table_info(n, f"db.t{n}", [id_column()]) for n in range(3)]
    events = [TableEvent(TimeStamp(1), "db", t.id, t) for t in tables]
    history = SchemaHistory(TimeStamp(0), TimeStamp(9), events, [])
    broken = [
        Record(r.kind, r.key, r.body[:-8]) if r.key.endswith("1") else r
        for r in schema_records(history)
    ]
    decoded = schema_history(view(*broken))
    assert decoded is not None
    assert decoded.table_by_name("DB.t2", TimeStamp(5)) == tables[2]
    with pytest.raises(CodecError):
        decoded.table_by_name("db.t1", TimeStamp(5))


def listed(history: SchemaHistory, ts: TimeStamp) -> list[tuple[object, ...]]:
    listed_events = history.listed_at(ts)
    shapes = [event.shape for event in listed_events]
    return [
        (event.table_id, event.full_name, shape.columns, shape.partitions)
        for event, shape in zip(listed_events, shapes, strict=True)
        if shape is not None
    ]


def test_a_list_of_tables_reads_no_definition() -> None:
    """A damaged definition does not matter; a record without the shape is still decoded."""
    captured = ddl_history()
    records = schema_records(captured)
    broken = [Record(r.kind, r.key, r.body.partition(b"\n")[0] + b"\nx") for r in records]
    broken[-1] = records[-1]  # the span
    older = [Record(r.kind, r.key, re.sub(rb',"shape":[^}]*', b"", r.body)) for r in records]
    assert older != records
    histories = [schema_history(view(*each)) for each in (records, broken, older)]
    for ts in {event.ts for event in captured.events}:
        tables = [t for t in tables_at(captured, ts) if t.holds_rows]
        expected = [(t.id, t.full_name, len(t.public_columns), len(t.physical_ids)) for t in tables]
        for history in histories:
            assert history is not None
            assert listed(history, ts) == expected


def test_where_rows_are_from_a_moment_on() -> None:
    captured = ddl_history()
    for ts in sorted({event.ts for event in captured.events})[::5]:
        readable = {ts, *(event.ts for event in captured.events if event.ts > ts)}
        tables = [table for at in readable for table in tables_at(captured, at)]
        needed = {physical_id for table in tables for physical_id in table.physical_ids}
        assert needed <= captured.physical_ids_from(ts)
    last = captured.events[-1].ts
    everything = {i for event in captured.events if event.table for i in event.physical_ids}
    assert captured.physical_ids_from(last) < everything


@pytest.mark.parametrize("definition", [b"", b"x", zlib.compress(b"{}")[:-1]])
def test_what_is_no_definition(definition: bytes) -> None:
    event = unpack_event(b'{"ts":1,"db":"db","table_id":1,"name":"t"}\n' + definition)
    with pytest.raises(CodecError):
        assert event.json_text


def test_a_definition_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_TABLE_BYTES", 100)
    packed = zlib.compress(b" " * 101)
    event = unpack_event(b'{"ts":1,"db":"db","table_id":1,"name":"t"}\n' + packed)
    with pytest.raises(CodecError, match="too long"):
        assert event.json_text
