"""Conversion of stored Arrow columns and of literals to vectors."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.tidb.codec.array import fixed_width, primitive
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.codec.time import packed_times
from pyspark_theflash.tidb.expression.convert import INT64_MAX, UINT64_MAX, decimals_of
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.syntax import Literal
from pyspark_theflash.tidb.expression.vector import (
    IMPLICIT,
    Array,
    Kind,
    Vector,
    decimals,
    integers,
    nothing,
    reals,
    texts,
)


def load_column(values: Array, field_type: FieldType) -> Vector:
    """Convert a column in storage form to a vector. Raises `LackingError`."""
    tp = field_type.tp
    null = np.asarray(values.is_null())
    if tp in STRING_TYPES:
        return replace(texts(values), collation=field_type, coercibility=IMPLICIT)
    if tp in (MySQLType.JSON, MySQLType.VECTOR):
        raise LackingError(f"a column of type {tp.name}")
    filled = _fill(values, null) if null.any() else values
    if tp in INTEGER_TYPES:
        # A YEAR is unsigned.
        wide = np.uint64 if field_type.is_unsigned or tp == MySQLType.YEAR else np.int64
        vector = integers(filled.to_numpy().astype(wide), null)
        return replace(vector, is_year=tp == MySQLType.YEAR)
    if tp == MySQLType.NEWDECIMAL:
        return decimals(_unscaled(filled), null, values.type.scale)
    if tp in (MySQLType.FLOAT, MySQLType.DOUBLE):
        vector = reals(filled.to_numpy().astype(np.float64), null)
        return replace(vector, single=tp == MySQLType.FLOAT)
    if tp in DATETIME_TYPES:
        is_date = tp in (MySQLType.DATE, MySQLType.NEWDATE)
        digits = 0 if is_date else field_type.fsp
        return Vector(Kind.TIME, packed_times(filled), null, digits, is_date=is_date)
    if tp == MySQLType.TIME:
        micros = filled.cast(pa.int64()).to_numpy()
        return Vector(Kind.DURATION, micros, null, field_type.fsp)
    if tp in (MySQLType.ENUM, MySQLType.SET):
        names = texts(format_column(values, field_type))
        number = reals(filled.to_numpy().astype(np.float64), null)
        return replace(names, collation=field_type, coercibility=IMPLICIT, number=number)
    number = integers(filled.to_numpy(), null)
    return replace(texts(format_column(values, field_type)), number=number)


def _fill(values: Array, null: Mask) -> Array:
    """Replace nulls by zeros, in an array of any fixed-width type."""
    rows = fixed_width(values, values.type.bit_width // 8).copy()
    rows[null] = 0
    return primitive(rows, values.type)


def _unscaled(values: Array) -> npt.NDArray[np.object_]:
    """Convert an Arrow decimal array without nulls to unscaled Python ints."""
    words = fixed_width(values, values.type.byte_width).view(np.int64)
    low, high = words[:, 0], words[:, 1:]
    if (high == (low >> 63)[:, None]).all():
        return low.astype(object)
    result = words[:, -1].astype(object)
    for place in range(words.shape[1] - 2, -1, -1):
        result = result * 2**64 + words[:, place].view(np.uint64).astype(object)
    return result


def load_literal(literal: Literal) -> Vector:
    """Convert a literal to a vector of one row."""
    return replace(_literal(literal), is_constant=True)


def _literal(literal: Literal) -> Vector:
    value, not_null = literal.value, np.zeros(1, np.bool_)
    if value is None:
        return nothing(1)
    if isinstance(value, str):
        return texts(pa.array([value], pa.string()))
    if isinstance(value, bytes):
        text = texts(pa.array([value], pa.binary()))
        return replace(text, number=_hex_number(value)) if literal.is_number else text
    if isinstance(value, float):
        return reals(np.array([value]), not_null)
    if isinstance(value, int):
        if value > UINT64_MAX:
            return decimals_of(np.array([Decimal(value)], object), not_null)
        return integers(np.array([value], np.uint64 if value > INT64_MAX else np.int64), not_null)
    return decimals_of(np.array([value], object), not_null)


def _hex_number(value: bytes) -> Vector:
    number = int.from_bytes(value[-8:], "big")
    too_long = any(value[:-8])
    data = np.array([UINT64_MAX if too_long else number], np.uint64)
    return replace(integers(data, np.zeros(1, np.bool_)), is_constant=True)
