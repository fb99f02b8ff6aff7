"""What stands in records comes back as it was."""

from pyspark_theflash.codec.field_type import MySQLType
from pyspark_theflash.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.store.catalog import schema_history, schema_records
from pyspark_theflash.store.folder import StoreIdentity
from pyspark_theflash.store.manifest import Record, View
from pyspark_theflash.store.progress import Progress
from pyspark_theflash.types import MAX_TS, Generation, SchemaVersion, TableID, TimeStamp
from tests.support.stores import column, id_column, table_info

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


def test_schema_history() -> None:
    assert schema_history(EMPTY) is None
    table = table_info(7, "db.t", [id_column(), column("é", MySQLType.VARCHAR)])
    events = [
        TableEvent(TimeStamp(number), "db", TableID(7), None if number % 2 else table)
        for number in range(12)
    ]
    versions = [SchemaVersionAt(TimeStamp(5), SchemaVersion(1))]
    history = SchemaHistory(TimeStamp(0), TimeStamp(MAX_TS), events, versions)
    found = schema_history(view(*schema_records(history)))
    assert found is not None
    assert (found.start_ts, found.end_ts) == (history.start_ts, history.end_ts)
    assert list(found.events) == events
    assert list(found.versions) == versions
