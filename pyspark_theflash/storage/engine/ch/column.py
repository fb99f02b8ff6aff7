"""Columns of versions in ClickHouse.

ClickHouse's own dates and times do not cover TiDB's, so these are stored as integers, and the
values of a vector as bytes. All other types of `tidb.codec.arrow` have one of the same values.

    int8..uint64, bool, float32, float64    the same
    decimal128(p, s), decimal256(p, s)      Decimal(p, s)
    date32                                  Int32: days
    timestamp[us], duration[us]             Int64: microseconds
    string, binary                          String
    list<float32>                           String: the values' bytes
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.storage.mvcc.version import absence_name, is_absence
from pyspark_theflash.tidb.codec.array import primitive

_VECTOR: Final = pa.list_(pa.float32())
_SAME: Final[Mapping[pa.DataType, str]] = {
    pa.int8(): "Int8",
    pa.int16(): "Int16",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.uint8(): "UInt8",
    pa.uint16(): "UInt16",
    pa.uint32(): "UInt32",
    pa.uint64(): "UInt64",
    pa.bool_(): "Bool",
    pa.float32(): "Float32",
    pa.float64(): "Float64",
    pa.binary(): "String",
}
"""ClickHouse's types by the Arrow types with which it exchanges them."""
_AS_OTHERS: Final[Mapping[pa.DataType, pa.DataType]] = {
    pa.date32(): pa.int32(),
    pa.timestamp("us"): pa.int64(),
    pa.timestamp("us", tz="UTC"): pa.int64(),
    pa.duration("us"): pa.int64(),
    pa.string(): pa.binary(),
    _VECTOR: pa.binary(),
}
_FIXED: Final[Mapping[str, pa.DataType]] = {str(tp): tp for tp in (*_SAME, *_AS_OTHERS)}
_DECIMAL: Final = re.compile(r"decimal(128|256)\((\d+), (-?\d+)\)")


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column of a batch: its name, Arrow type, and whether it may have NULLs."""

    name: str
    type: pa.DataType
    has_null: bool

    @property
    def definition(self) -> str:
        """The column in CREATE TABLE."""
        return f"{quoted(self.name)} {ch_type(self.type, has_null=self.has_null)}"


def quoted(name: str) -> str:
    """Quote an identifier. Names of columns and tables are ASCII letters, digits and `_` only."""
    if not re.fullmatch(r"\w+", name, re.ASCII):
        raise ValueError(f"{name!r} is not a name of a stored column")
    return f"`{name}`"


def type_of(text: str) -> pa.DataType:
    """Return the Arrow type of which `text` is the string. Raises ValueError."""
    if text in _FIXED:
        return _FIXED[text]
    if (match := _DECIMAL.fullmatch(text)) is None:
        raise ValueError("not the name of a type")
    width, precision, scale = map(int, match.groups())
    return (pa.decimal128 if width == 128 else pa.decimal256)(precision, scale)


def ch_type(tp: pa.DataType, *, has_null: bool) -> str:
    """Return ClickHouse's type for values of an Arrow type."""
    name = _SAME.get(_exchanged(tp))
    if name is None:
        name = f"Decimal({tp.precision}, {tp.scale})"
    return f"Nullable({name})" if has_null else name


def _exchanged(tp: pa.DataType) -> pa.DataType:
    return _AS_OTHERS.get(tp, tp)


def to_exchange(values: pa.Array) -> pa.Array:
    """Return values as ClickHouse takes them."""
    if values.type == _VECTOR:
        return _vector_bytes(values)
    other = _exchanged(values.type)
    return values if other == values.type else values.view(other)


def from_exchange(values: pa.Array, tp: pa.DataType) -> pa.Array:
    """Return values that ClickHouse has returned as an array of `tp`."""
    if tp == _VECTOR:
        return _vectors(values)
    return values if values.type == tp else values.view(tp)


def _vector_bytes(values: pa.Array) -> pa.Array:
    """Return the values of each vector as bytes."""
    bounds = values.offsets.to_numpy().astype(np.int64) * 4
    floats = values.values.to_numpy(zero_copy_only=False)
    valid = None if not values.null_count else pc.is_valid(values).buffers()[1]
    buffers = [valid, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(floats))]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


def _vectors(values: pa.Array) -> pa.Array:
    """Return the vectors whose values have these bytes."""
    values = pc.cast(values, pa.large_binary())
    whole = pa.concat_arrays([values])  # Offsets begin at the buffer's first value.
    _, offsets, data = whole.buffers()
    bounds = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    size = int(bounds[-1]) if len(bounds) else 0
    floats = np.frombuffer(data or b"", np.uint8)[:size].view(np.float32)
    valid = None if not whole.null_count else whole.is_valid().to_numpy(zero_copy_only=False)
    mask = None if valid is None else pa.array(~valid)
    return pa.ListArray.from_arrays(
        pa.array((bounds // 4).astype(np.int32)), primitive(floats, pa.float32()), mask=mask
    ).cast(_VECTOR)


def united(columns: Sequence[Sequence[StoredColumn]]) -> list[StoredColumn] | None:
    """Return the columns of a table that has the rows of several; None if types do not fit.

    A column that some of them do not have gets NULLs and an absence mask.
    """
    names: dict[str, StoredColumn] = {}
    for each in columns:
        for column in each:
            earlier = names.get(column.name, column)
            wider = _wider(earlier.type, column.type)
            if wider is None:
                return None
            has_null = earlier.has_null or column.has_null
            names[column.name] = StoredColumn(column.name, wider, has_null)
    held = [{column.name for column in each} for each in columns]
    for name, column in list(names.items()):
        if not is_absence(name) and not all(name in each for each in held):
            names[name] = replace(column, has_null=True)
            mask = absence_name(name)
            names[mask] = StoredColumn(mask, pa.bool_(), has_null=False)
    return list(names.values())


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the one of two types that has all values of the other; None if neither has."""
    if _holds(other, one):
        return other
    return one if _holds(one, other) else None


def _holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Return whether ClickHouse converts each value of `narrow` to an equal one of `wide`."""
    if wide == narrow:
        return True
    for is_kind in (
        pa.types.is_signed_integer,
        pa.types.is_unsigned_integer,
        pa.types.is_floating,
    ):
        if is_kind(wide) and is_kind(narrow):
            return bool(wide.bit_width >= narrow.bit_width)
    if pa.types.is_decimal(wide) and pa.types.is_decimal(narrow):
        digits = wide.precision - wide.scale >= narrow.precision - narrow.scale
        return bool(digits and wide.scale >= narrow.scale)
    return False
