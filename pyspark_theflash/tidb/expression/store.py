"""Conversion of vectors to stored Arrow columns, like TiDB's CAST to a column type on read.

Values out of range become the nearest value in range: TiDB casts virtual columns without an error
when it reads them.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.array import primitive
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS, arrow_type
from pyspark_theflash.tidb.codec.convert_number import integer_range
from pyspark_theflash.tidb.codec.convert_string import pad
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.time import DAY_US, round_half_up, unpack_dates
from pyspark_theflash.tidb.expression import times
from pyspark_theflash.tidb.expression.allowance import require
from pyspark_theflash.tidb.expression.convert import (
    Objects,
    full_years,
    objects_of,
    rescale,
    rounded_objects,
    to_decimal,
    to_duration,
    to_integer,
    to_objects,
    to_real,
    to_text,
    to_time,
)
from pyspark_theflash.tidb.expression.failure import LackingError, OutOfRangeError
from pyspark_theflash.tidb.expression.vector import Array, Kind, Vector

_MIN_YEAR, _MAX_YEAR = 1901, 2155


def store_column(vector: Vector, field_type: FieldType) -> Array:
    """Convert a vector to an Arrow column of `field_type`, in storage form.

    Raises:
        LackingError: The conversion is not supported.
        OutOfRangeError: A DOUBLE is out of range of an unsigned integer type.
    """
    tp = field_type.tp
    if vector.null.all():
        return pa.nulls(len(vector), arrow_type(field_type))
    if tp in STRING_TYPES:
        return _strings(vector, field_type)
    if tp in INTEGER_TYPES or tp == MySQLType.BIT:
        return _whole_numbers(vector, field_type)
    if tp == MySQLType.NEWDECIMAL:
        return _decimals(vector, field_type)
    if tp in (MySQLType.FLOAT, MySQLType.DOUBLE):
        return _floats(vector, field_type)
    if tp in DATETIME_TYPES:
        return _times(vector, field_type)
    if tp == MySQLType.TIME:
        durations = to_duration(vector)
        rounded = round_half_up(durations.data, field_type.fsp)
        rounded = np.clip(rounded, -times.MAX_DURATION_US, times.MAX_DURATION_US)
        return _masked(primitive(rounded, pa.duration("us")), durations)
    raise LackingError(f"a generated column of type {tp.name}")


def _masked(values: Array, vector: Vector) -> Array:
    if not vector.null.any():
        return values
    return pc.if_else(pa.array(vector.null), pa.scalar(None, values.type), values)


def _whole_numbers(vector: Vector, field_type: FieldType) -> Array:
    whole = to_objects(_nearest(vector), vector.null)
    low, high = _bounds(field_type)
    if field_type.tp == MySQLType.YEAR:
        whole = _years(whole)
    elif low == 0 and vector.kind is Kind.INT:
        # TiDB reinterprets a negative integer as a large unsigned one, which is then clipped.
        whole = np.where(whole < 0, high, whole)
    elif low == 0 and vector.kind is Kind.REAL and ((whole < low) | (whole > high)).any():
        raise OutOfRangeError(f"{field_type.tp.name} UNSIGNED")
    tp = arrow_type(field_type)
    clipped = np.clip(whole, low, high)
    return _masked(primitive(clipped.astype(tp.to_pandas_dtype()), tp), vector)


def _bounds(field_type: FieldType) -> tuple[int, int]:
    if field_type.tp == MySQLType.YEAR:
        return 0, _MAX_YEAR
    if field_type.tp == MySQLType.BIT:
        return 0, 2 ** max(field_type.flen, 1) - 1
    return integer_range(field_type)


def _nearest(vector: Vector) -> Objects:
    """Convert to Python ints; a text is rounded, where CAST would truncate it."""
    number = vector.number or vector
    if number.kind is Kind.TEXT:
        decimal = to_decimal(number)
        return rescale(decimal.data, decimal.digits, 0)
    if number.kind in (Kind.DECIMAL, Kind.REAL):
        return rounded_objects(number)
    return objects_of(to_integer(number))


def _years(values: Objects) -> Objects:
    """Expand two-digit years, and clip others to the range of YEAR."""
    values = full_years(values)
    return np.where(values <= 0, 0, np.clip(values, _MIN_YEAR, _MAX_YEAR))


def _decimals(vector: Vector, field_type: FieldType) -> Array:
    tp = arrow_type(field_type)
    decimal = to_decimal(vector)
    most = 10**tp.precision - 1
    rounded = rescale(decimal.data, decimal.digits, tp.scale)
    unscaled = np.clip(rounded, 0 if field_type.is_unsigned else -most, most)
    unscaled = to_objects(unscaled, decimal.null)
    words = 2 if tp.precision <= DECIMAL128_DIGITS else 4
    data = np.empty((len(vector), words), np.uint64)
    for place in range(words):
        data[:, place] = ((unscaled >> 64 * place) & (2**64 - 1)).astype(np.uint64)
    return _masked(primitive(data, tp), decimal)


def _floats(vector: Vector, field_type: FieldType) -> Array:
    tp = arrow_type(field_type)
    real = to_real(vector)
    data = np.where(real.null, 0.0, real.data)
    if field_type.flen > 0 and field_type.decimal >= 0:
        most = (10**field_type.flen - 1) / 10**field_type.decimal
        scaled = data * 10.0**field_type.decimal
        rounded = np.rint(scaled) / 10.0**field_type.decimal
        data = np.clip(np.where(np.isfinite(scaled), rounded, data), -most, most)
    if field_type.is_unsigned:
        data = np.maximum(data, 0.0)
    if field_type.tp == MySQLType.FLOAT:
        most = float(np.finfo(np.float32).max)
        data = np.clip(data, -most, most).astype(np.float32)
    return _masked(primitive(data, tp), real)


def _strings(vector: Vector, field_type: FieldType) -> Array:
    # In a column, a BIT becomes the digits of its number; in functions, it is bytes.
    source = vector.number if vector.is_bit and vector.number else vector
    if source.kind is Kind.DECIMAL:
        shown = source.shown_digits
        rounded = rescale(source.data, source.digits, shown)
        source = replace(source, data=rounded, digits=shown, shown=-1)
    text = to_text(source).data
    flen = field_type.flen
    if field_type.is_binary_string:
        data = text if pa.types.is_binary(text.type) else pc.cast(text, pa.binary())
        if flen >= 0 and not pc.all(pc.less_equal(pc.binary_length(data), flen)).as_py():
            data = pc.binary_slice(data, 0, flen)
        is_padded = field_type.tp == MySQLType.STRING and flen > 0
        return pad(data, flen) if is_padded else data
    if pa.types.is_binary(text.type):
        try:
            text = pc.cast(text, pa.string())
        except pa.ArrowInvalid:
            raise LackingError("bytes that are not UTF-8 as text") from None
    if flen >= 0:
        text = pc.utf8_slice_codeunits(text, 0, flen)
    return pc.ascii_rtrim(text, " ") if field_type.tp == MySQLType.STRING else text


def _padded(data: Array, width: int) -> Array:
    """Pad to BINARY(n) with zero bytes."""
    require(width * len(data))
    missing = pc.subtract(width, pc.binary_length(data))
    zeros = pc.binary_repeat(pa.scalar(b"\0", pa.binary()), missing)
    return pc.binary_join_element_wise(data, zeros, pa.scalar(b"", pa.binary()))


def _times(vector: Vector, field_type: FieldType) -> Array:
    tp = arrow_type(field_type)
    converted = to_time(vector, is_date=tp == pa.date32())
    if vector.kind is not Kind.TIME:
        # A value that is not a date becomes 0000-00-00.
        unreadable = converted.null & ~vector.null
        data = np.where(unreadable, 0, converted.data).astype(np.uint64)
        converted = replace(converted, data=data, null=vector.null)
    packed = times.round_times(np.where(converted.null, 0, converted.data), field_type.fsp)
    days = unpack_dates(packed)[0]
    if tp == pa.date32():
        return _masked(primitive(days.astype(np.int32), tp), converted)
    return _masked(primitive(days * DAY_US + times.time_of_day(packed), tp), converted)
