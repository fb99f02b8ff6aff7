"""Any bytes decode or raise a typed error, and no row reads the bytes of another."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles
from pyspark_theflash.tidb.codec.key import MvccKey, RawKey, decode_mvcc_key, decode_record_key
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from tests.support.decoded import types_of
from tests.support.row_oracle import Row, encode_row_v1, encode_row_v2
from tests.support.values import values

TYPES = [
    FieldType(MySQLType.LONG),
    FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED),
    FieldType(MySQLType.DOUBLE),
    FieldType(MySQLType.FLOAT),
    FieldType(MySQLType.NEWDECIMAL, 0, 15, 2),
    FieldType(MySQLType.NEWDECIMAL, 0, 50, 10),
    FieldType(MySQLType.DATE),
    FieldType(MySQLType.DATETIME, decimal=6),
    FieldType(MySQLType.TIME, decimal=6),
    FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_bin"),
    FieldType(MySQLType.BLOB, 0, -1, -1, "binary", "binary"),
    FieldType(MySQLType.JSON),
    FieldType(MySQLType.VECTOR),
]
COLUMNS = [ColumnSpec(ColumnID(i), f"c{i}", t) for i, t in enumerate(TYPES, 1)]
KEY = [TYPES[i] for i in (0, 4, 9)]
Decoder = Callable[[RowBuffer, Sequence[ColumnSpec]], Any]


def _inserts(rows: RowBuffer, columns: Sequence[ColumnSpec]) -> DecodedRows:
    return decode_inserts_v1(rows, columns, columns[:2])[1]


def rows() -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries({c.id: st.none() | values(c.type) for c in COLUMNS})


def mangled(encode: Callable[..., bytes]) -> st.SearchStrategy[bytes]:
    """Rows with some bytes changed, put in, left out or cut off."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        data = bytearray(encode(draw(rows()), types_of(COLUMNS)))
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(data)))
            data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
        return bytes(data[: draw(st.integers(0, 2 * len(data)))])

    return strategy()


@pytest.mark.parametrize("decode", [decode_rows_v1, decode_updates_v1, _inserts, decode_rows_v2])
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes(decode: Decoder, data: list[bytes]) -> None:
    with contextlib.suppress(CodecError):
        decode(RowBuffer.from_list(data), COLUMNS)


@pytest.mark.parametrize(
    ("decode", "encode"),
    [
        (decode_rows_v1, encode_row_v1),
        (decode_updates_v1, encode_row_v1),
        (_inserts, encode_row_v1),
        (decode_rows_v2, encode_row_v2),
    ],
)
@given(st.data())
def test_mangled_rows(decode: Decoder, encode: Callable[..., bytes], data: st.DataObject) -> None:
    batch = data.draw(st.lists(mangled(encode), min_size=1, max_size=3))
    alone = [_outcome(decode, [row]) for row in batch]
    together = _outcome(decode, batch)
    if None in alone:
        assert together is None
    else:
        assert together == [value for values in alone if values for value in values]


def _outcome(decode: Decoder, data: list[bytes]) -> list[Any] | None:
    """The decoded rows as tuples, None for an error."""
    try:
        decoded = decode(RowBuffer.from_list(data), COLUMNS)
    except CodecError:
        return None
    halves = decoded if isinstance(decoded, tuple) else (decoded,)
    for half in halves:
        for column in half.columns:
            column.values.validate(full=True)
    columns = [_comparable(column.values) for half in halves for column in half.columns]
    return list(zip(*columns, strict=True))


def _comparable(column: "pa.Array[Any]") -> list[Any]:
    """Times as numbers: TiDB and Arrow have a year 0, Python has none."""
    if pa.types.is_temporal(column.type):
        column = column.view(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
    numbers: list[Any] = column.to_pylist()
    return numbers


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_handles(data: list[bytes]) -> None:
    with contextlib.suppress(CodecError):
        decode_common_handles(pa.array(data, pa.binary()), KEY)


@given(st.binary(max_size=40))
def test_any_keys(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode_mvcc_key(MvccKey(data))
    with contextlib.suppress(CodecError):
        decode_record_key(RawKey(data))
