"""Row checksums: those of TiDB's own code match, those of changed rows do not."""

from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, InternalError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.tidb.codec.checksum import RecordKeys
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import encode_common_handles
from pyspark_theflash.tidb.codec.key import encode_record_key
from pyspark_theflash.tidb.codec.row import ColumnSpec, RowBuffer
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from tests.support.golden_vectors import value_vectors
from tests.support.row_oracle import encode_row_v2

TABLE = PhysicalTableID(7)
PREFIX = encode_record_key(TABLE, 0)[:-8]
INT = FieldType(MySQLType.LONGLONG)
TEXT = FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_bin")
BYTES = FieldType(MySQLType.BLOB, 0, -1, -1, "binary", "binary")


def _spec(column_id: int, field_type: FieldType) -> ColumnSpec:
    return ColumnSpec(ColumnID(column_id), f"c{column_id}", field_type)


def _keys(*keys: bytes, handle: tuple[ColumnSpec, ...] = ()) -> RecordKeys:
    return RecordKeys(RowBuffer.from_list(keys), handle)


def _le32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def test_version_2_as_tidb_writes_it() -> None:
    vectors = value_vectors("checksum2")
    rows = [bytes.fromhex(v["hex"]) for v in vectors]
    keys = [PREFIX + bytes.fromhex(v["handle"]) for v in vectors]
    columns = [_spec(1, INT), _spec(3, BYTES), _spec(300, INT)]
    decode_rows_v2(RowBuffer.from_list(rows), columns, _keys(*keys))
    decode_rows_v2(RowBuffer.from_list(rows), [], _keys(*keys))
    with pytest.raises(CodecError, match="wrong checksum"):
        decode_rows_v2(RowBuffer.from_list(rows), columns, _keys(*keys[1:], keys[0]))
    for row, key in zip(rows, keys, strict=True):
        for at in range(len(row)):
            changed = bytearray(row)
            changed[at] ^= 1
            with pytest.raises(CodecError):
                decode_rows_v2(RowBuffer.from_list([changed]), columns, _keys(key))


def _with_raw_checksum(row: dict[int, Any], version: int, covered: bytes) -> bytes:
    header = bytes([version])
    data = encode_row_v2(row, {1: INT, 2: TEXT}, header + bytes(4))[:-4]
    return data + _le32(crc32(data + covered))


def test_versions_and_rows_without_any_together() -> None:
    keys = [encode_record_key(TABLE, n) for n in range(4)]
    rows = [
        _with_raw_checksum({1: 1, 2: "a"}, 1, keys[0]),
        encode_row_v2({1: 2}, {1: INT}),
        _with_raw_checksum({1: 3}, 2, keys[2][-8:]),
        _with_raw_checksum({2: "b"}, 1, keys[3]),
    ]
    columns = [_spec(1, INT), _spec(2, TEXT)]
    decoded = decode_rows_v2(RowBuffer.from_list(rows), columns, _keys(*keys))
    assert decoded.columns[0].values.to_pylist() == [1, 2, 3, None]
    for n in (0, 2, 3):
        wrong = [*rows[:n], rows[n][:-1] + bytes([rows[n][-1] ^ 1]), *rows[n + 1 :]]
        with pytest.raises(CodecError, match="wrong checksum"):
            decode_rows_v2(RowBuffer.from_list(wrong), columns, _keys(*keys))
        decode_rows_v2(RowBuffer.from_list(wrong), columns)
    with pytest.raises(InternalError):
        decode_rows_v2(RowBuffer.from_list(rows), columns, _keys(*keys[:3]))


def test_rows_within_a_larger_buffer() -> None:
    key = encode_record_key(TABLE, 1)
    row = _with_raw_checksum({1: 1}, 1, key)
    buffer = np.frombuffer(b"\xff" * 5 + row + b"\xee" * 40, np.uint8)
    rows = RowBuffer(buffer, np.array([5, 5 + len(row)]))
    key_buffer = np.frombuffer(b"\xdd" * 3 + key, np.uint8)
    keys = RecordKeys(RowBuffer(key_buffer, np.array([3, 3 + len(key)])))
    decode_rows_v2(rows, [], keys)


@pytest.mark.parametrize("version", range(3, 8))
def test_an_unknown_version(version: int) -> None:
    row = _with_raw_checksum({1: 1}, version, b"")
    with pytest.raises(CodecError, match="unknown checksum version"):
        decode_rows_v2(RowBuffer.from_list([row]), [_spec(1, INT)])


# Version 0


def _covered(vector: dict[str, Any]) -> list[ColumnSpec]:
    blob = MySQLType.BLOB
    return [
        _spec(
            c["id"],
            FieldType(
                *(MySQLType(c["Tp"]), c["Flag"], c["Flen"], c["Decimal"]),
                "binary" if c["Tp"] == blob else "utf8mb4",
            ),
        )
        for c in vector["covered"]
    ]


@pytest.mark.parametrize("vector", value_vectors("checksum0"), ids=lambda v: v["name"])
def test_version_0_as_tidb_writes_it(vector: dict[str, Any]) -> None:
    row, columns = bytes.fromhex(vector["hex"]), _covered(vector)
    if all(spec.id != 2 for spec in columns):
        columns.append(_spec(2, FieldType(MySQLType.TINY)))
    handle = tuple(spec for spec in columns if spec.type.flag & ColumnFlag.PRI_KEY)
    right = _keys(encode_record_key(TABLE, -7), handle=handle)
    for keys in (right, None):
        decode_rows_v2(RowBuffer.from_list([row]), columns, keys)
        decode_rows_v2(RowBuffer.from_list([row]), columns[3:], keys)
    for place in (-1, row.index("héllo".encode())):
        changed = bytearray(row)
        changed[place] ^= 1
        if place == -1 and row[-9] & 8:
            changed[-8] ^= 1
        rows = RowBuffer.from_list([changed])
        with pytest.raises(CodecError, match="wrong checksum"):
            decode_rows_v2(rows, columns, right)
        if handle:
            decode_rows_v2(rows, columns)
            other = _keys(encode_record_key(TABLE, -8), handle=handle)
            with pytest.raises(CodecError, match="wrong checksum"):
                decode_rows_v2(RowBuffer.from_list([row]), columns, other)
        # A row with columns that are not decoded cannot be checked.
        decode_rows_v2(rows, columns[:-1], right)


def test_version_0_of_a_clustered_key() -> None:
    """Columns of the key that the row omits are taken from the key."""
    text = FieldType(MySQLType.VARCHAR, ColumnFlag.PRI_KEY, 9, -1, "utf8mb4", "utf8mb4_bin")
    unsigned = FieldType(MySQLType.LONGLONG, ColumnFlag.PRI_KEY | ColumnFlag.UNSIGNED)
    folded = FieldType(
        MySQLType.VARCHAR, ColumnFlag.PRI_KEY, 9, -1, "utf8mb4", "utf8mb4_general_ci"
    )
    columns = [_spec(1, unsigned), _spec(2, text), _spec(3, INT), _spec(4, folded)]
    arrays = [pa.array([b"\0A"]), pa.array([2**64 - 1], pa.uint64()), pa.array(["é "])]
    (handle,) = encode_common_handles(arrays, [BYTES, unsigned, text], [-1] * 3).to_pylist()
    key = (columns[3], columns[0], columns[1])
    # The row holds column 4 itself: its key has weights.
    body = encode_row_v2({3: -1, 4: "a"}, {3: INT, 4: TEXT}, bytes(5))[:-4]
    parts = [b"\xff" * 8, _le32(2) + "é".encode(), b"\xff" * 8, _le32(1) + b"a"]
    row = body + _le32(crc32(b"".join(parts)))
    keys = _keys(encode_record_key(TABLE, handle), handle=key)
    decode_rows_v2(RowBuffer.from_list([row]), columns, keys)
    wrong = body + _le32(crc32(b"".join(parts)) ^ 1)
    with pytest.raises(CodecError, match="wrong checksum"):
        decode_rows_v2(RowBuffer.from_list([wrong]), columns, keys)
    for bad_key in (PREFIX, encode_record_key(TABLE, 1)):
        with pytest.raises(CodecError):
            decode_rows_v2(RowBuffer.from_list([row]), columns, _keys(bad_key, handle=key))


def test_version_0_of_an_unsigned_key() -> None:
    unsigned = FieldType(MySQLType.LONGLONG, ColumnFlag.PRI_KEY | ColumnFlag.UNSIGNED)
    columns = [_spec(1, unsigned), _spec(2, FieldType(MySQLType.VECTOR))]
    body = encode_row_v2({2: [0.5]}, {2: FieldType(MySQLType.VECTOR)}, bytes(5))[:-4]
    covered = b"\xff" * 8 + _le32(1) + bytes.fromhex("0000003f")
    keys = _keys(encode_record_key(TABLE, -1), handle=(columns[0],))
    row = body + _le32(crc32(covered))
    decode_rows_v2(RowBuffer.from_list([row]), columns, keys)
    with pytest.raises(CodecError, match="wrong checksum"):
        decode_rows_v2(RowBuffer.from_list([body + _le32(0)]), columns, keys)
