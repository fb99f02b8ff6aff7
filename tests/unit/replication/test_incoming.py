"""Rows and records of callers whose buffers do not fit each other."""

import struct

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, TheFlashError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.incoming import IncomingRows, checked_rows
from pyspark_theflash.service.api.records import change_of
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.writes import versions

TABLE = table_info(7, "d.t", [id_column(), column("a", MySQLType.VARCHAR, flen=20)])
HISTORY = SchemaHistory(
    TimeStamp(1), TimeStamp(900), [TableEvent(TimeStamp(1), "d", TableID(7), TABLE)], ()
)


def damaged(kind: pa.DataType, text: bytes = b"hello") -> pa.Array:
    """Two texts, the second of which ends before it begins."""
    offsets = pa.py_buffer(struct.pack("<3i", 0, len(text), 1))
    return pa.Array.from_buffers(kind, 2, [None, offsets, pa.py_buffer(text)])


def test_rows_are_checked() -> None:
    table = versions(TABLE, [(n, 150, 140, [n, "text"]) for n in (1, 2)])
    incoming = IncomingRows(TableID(7), PhysicalTableID(7), table)
    assert checked_rows(incoming, HISTORY).batch.num_rows == 2
    at = table.schema.get_field_index(table.schema.names[-1])
    array = damaged(table.schema.field(at).type)
    wrong = table.set_column(at, table.schema.field(at), pa.chunked_array([array]))
    with pytest.raises(TheFlashError, match="buffers are damaged"):
        checked_rows(IncomingRows(TableID(7), PhysicalTableID(7), wrong), HISTORY)


def test_records_are_checked() -> None:
    texts = pa.array(["file", "file"])
    for at, body in enumerate((damaged(pa.binary()), pa.array([b"a", b"b"]))):
        table = pa.table({"kind": texts, "key": pa.array(["1", "2"]), "body": body})
        if at:
            assert change_of(table)
        else:
            with pytest.raises(CodecError, match="damaged"):
                change_of(table)
