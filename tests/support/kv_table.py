"""A table of integers and texts, and its rows in TiKV's formats."""

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.percolator_records import LockRecord, write_record
from tests.support.raft_tikv import Change, FakeRaftCluster, at_ts, encoded
from tests.support.row_oracle import encode_row_v2

TABLE = table_info(1, "d.t", [id_column(), column("v", MySQLType.VARCHAR)])
TYPES = {2: TABLE.columns[1].type}
HISTORY = SchemaHistory(
    TimeStamp(1), TimeStamp(1000), [TableEvent(TimeStamp(1), "d", TABLE.id, TABLE)], ()
)


def raw_key(handle: int) -> bytes:
    table_id, number = ((n + 2**63).to_bytes(8, "big") for n in (TABLE.id, handle))
    return b"t" + table_id + b"_r" + number


def key(handle: int) -> bytes:
    return encoded(raw_key(handle))


def row(text: str) -> bytes:
    return encode_row_v2({2: text}, TYPES)


def committed(handle: int, ts: int, text: str | None) -> list[Change]:
    """The writes of a commit at `ts`, of a transaction that began right before; None: a delete."""
    kind, short = ("D", None) if text is None else ("P", row(text))
    changes: list[Change] = []
    if short is not None and len(short) > 255:
        changes.append(("default", at_ts(key(handle), ts - 1), short))
        short = None
    return [
        *changes,
        ("write", at_ts(key(handle), ts), write_record(kind, ts - 1, short_value=short)),
    ]


def locked(handle: int, start_ts: int, text: str, primary: int | None = None) -> list[Change]:
    """The writes of a prewrite at `start_ts`."""
    value = row(text)
    record = LockRecord("P", raw_key(handle if primary is None else primary), start_ts, ttl=3000)
    changes: list[Change] = []
    if len(value) <= 255:
        record.short_value = value
    else:
        changes.append(("default", at_ts(key(handle), start_ts), value))
    return [*changes, ("lock", key(handle), record.encode())]


def commit(tikv: FakeRaftCluster, handle: int, ts: int, text: str | None) -> None:
    """Commit a row."""
    tikv.write(committed(handle, ts, text))
