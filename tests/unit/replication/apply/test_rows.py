"""Decoding of versions to columns, in whole or in part, and the newest of each row."""

from dataclasses import replace
from zlib import crc32

import pytest

from pyspark_theflash.base.errors import CodecError, SchemaOutdatedError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.write import Write, WriteKind
from pyspark_theflash.replication.apply.rows import decode_versions, newest_places, version_batches
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions, concat
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.number import encode_uint_desc
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tikv.versions import versions_of
from tests.support.kv_table import key, raw_key
from tests.support.raft_tikv import encoded
from tests.support.row_oracle import encode_row_v2

TABLE = table_info(
    1, "d.t", [id_column(), column("v", MySQLType.VARCHAR), column("w", MySQLType.LONGLONG)]
)
TYPES = {int(c.id): c.type for c in TABLE.columns}
ID = PhysicalTableID(1)


def version(handle: int, commit_ts: int, row: bytes | None) -> Versions:
    kind = WriteKind.DELETE if row is None else WriteKind.PUT
    write = Write(kind, TimeStamp(commit_ts - 1))
    (decoded,) = versions_of([(key(handle) + encode_uint_desc(commit_ts), write, row or b"")])
    return decoded


@pytest.mark.parametrize("names", [[], ["c1"], ["c2"], ["c3"], ["c3", "c1"]])
def test_some_columns_are_as_among_all(names: list[str]) -> None:
    versions = concat(
        [
            version(1, 10, encode_row_v2({2: "a", 3: 7}, TYPES)),
            version(2, 20, None),
            version(3, 30, encode_row_v2({2: None}, TYPES)),
        ]
    )
    every = decode_versions(ID, versions, TABLE)
    some = decode_versions(ID, versions, TABLE, names)
    system = every.schema.names[: -len(TABLE.columns)]
    assert some.schema.names == [
        *system,
        *(f"c{c.id}" for c in TABLE.columns if f"c{c.id}" in names),
    ]
    assert some == every.select(some.schema.names)
    assert every.column("c1").to_pylist() == [1, None, 3]
    assert every.column("c3").to_pylist() == [7, None, None]


@pytest.mark.parametrize("names", [None, [], ["c2"]])
def test_checksums_are_of_all_columns(names: list[str] | None) -> None:
    # Version 1: a checksum of the encoded row and its key.
    data = encode_row_v2({2: "a", 3: 7}, TYPES, b"\1" + bytes(4))[:-4]
    right = data + crc32(data + raw_key(1)).to_bytes(4, "little")
    decode_versions(ID, concat([version(1, 10, right)]), TABLE, names)
    for at in range(len(data)):
        wrong = bytearray(right)
        wrong[at] ^= 1
        with pytest.raises((CodecError, SchemaOutdatedError)):
            decode_versions(ID, concat([version(1, 10, bytes(wrong))]), TABLE, names)


def test_newest_of_each_row() -> None:
    commits = [(2, 30), (1, 10), (2, 20), (1, 40), (3, 50)]
    versions = concat([version(handle, ts, b"r") for handle, ts in commits])
    places = newest_places(versions)
    assert [commits[place] for place in places] == [(1, 40), (2, 30), (3, 50)]
    assert versions.select(places).handles.to_pylist() == [1, 2, 3]


def test_handles_of_two_kinds() -> None:
    common = encoded(raw_key(1) + b"more") + encode_uint_desc(10)
    (other,) = versions_of([(common, Write(WriteKind.PUT, TimeStamp(9)), b"r")])
    with pytest.raises(CodecError, match="two types in table 1"):
        concat([version(1, 10, b"r"), other])


def test_columns_that_were_dropped_are_left_out() -> None:
    """Column ids increase: an unknown id is newer than the definition, or was dropped."""
    types = TYPES | {9: TABLE.columns[2].type}
    rows = concat([version(1, 10, encode_row_v2({2: "a", 9: 1}, types))])
    with pytest.raises(SchemaOutdatedError, match="column 9"):
        decode_versions(ID, rows, TABLE)
    later = replace(TABLE, max_column_id=9)
    assert decode_versions(ID, rows, later).column("c2").to_pylist() == ["a"]


def test_rows_from_before_the_history_may_hold_anything() -> None:
    """A partition may have belonged to another table with higher column ids."""
    types = TYPES | {9: TABLE.columns[2].type}
    event = TableEvent(TimeStamp(20), "d", TABLE.id, TABLE)
    tables = PhysicalTables(SchemaHistory(TimeStamp(20), TimeStamp(30), [event], ()))
    rows = [version(1, ts, encode_row_v2({2: "a", 9: 1}, types)) for ts in (10, 25)]
    (batch,) = version_batches(ID, rows[0], tables)
    assert batch.batch.column("c2").to_pylist() == ["a"]
    with pytest.raises(SchemaOutdatedError, match="column 9"):
        list(version_batches(ID, rows[1], tables))
