"""Handles: the same bytes as the oracle's, the inverse, and an order that is the values' own."""

import datetime as dt
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles, encode_common_handles
from tests.support.decoded import as_python, as_stored
from tests.support.row_oracle import OddTime, decode_handle, encode_handle
from tests.support.values import key_types, values

if TYPE_CHECKING:
    import pyarrow as pa

Rows = list[tuple[Any, ...]]


@st.composite
def keys(draw: st.DrawFn) -> tuple[list[FieldType], Rows]:
    types = draw(st.lists(key_types(), min_size=1, max_size=4))
    rows = draw(st.lists(st.tuples(*map(values, types)), min_size=1, max_size=8))
    return types, rows


def _encode(types: list[FieldType], rows: Rows) -> "pa.Array[Any]":
    columns = [
        as_stored(column, field_type)
        for column, field_type in zip(zip(*rows, strict=True), types, strict=True)
    ]
    return encode_common_handles(columns, types, [-1] * len(types))


@given(keys())
def test_equal_to_the_oracle(key: tuple[list[FieldType], Rows]) -> None:
    types, rows = key
    handles = _encode(types, rows)
    assert handles.to_pylist() == [encode_handle(row, types) for row in rows]
    decoded = [as_python(column) for column in decode_common_handles(handles, types)]
    assert list(zip(*decoded, strict=True)) == rows
    assert [tuple(decode_handle(h, types)) for h in handles.to_pylist()] == rows


def _parts(value: str | dt.date | OddTime) -> bytes | tuple[int, ...]:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, OddTime):
        return tuple(value)
    clock = [getattr(value, part, 0) for part in ("hour", "minute", "second", "microsecond")]
    return (value.year, value.month, value.day, *clock)


@given(keys())
def test_order_is_the_values_order(key: tuple[list[FieldType], Rows]) -> None:
    types, rows = key
    handles = _encode(types, rows).to_pylist()

    def comparable(row: tuple[Any, ...]) -> list[Any]:
        # Strings of a binary collation compare as their bytes, not as their code points; all times
        # as their parts.
        return [_parts(v) if isinstance(v, str | dt.date | OddTime) else v for v in row]

    for row, handle in zip(rows, handles, strict=True):
        assert (comparable(rows[0]) < comparable(row)) == (handles[0] < handle)


@given(st.lists(st.text(alphabet="a \tb", max_size=12), min_size=1, max_size=10))
def test_order_without_trailing_spaces(texts: list[str]) -> None:
    field_type = FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_bin")
    handles = _encode([field_type], [(text,) for text in texts]).to_pylist()
    for text, handle in zip(texts, handles, strict=True):
        assert (texts[0].rstrip(" ") < text.rstrip(" ")) == (handles[0] < handle)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_memcomparable_bytes(a: bytes, b: bytes) -> None:
    assert (a < b) == (encode_bytes(a) < encode_bytes(b))
    assert decode_bytes(encode_bytes(a) + encode_bytes(b)) == (a, len(encode_bytes(a)))
