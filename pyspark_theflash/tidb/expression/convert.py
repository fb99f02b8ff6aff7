"""Implicit conversions of values to a number, text, time or duration.

A text is converted to the number at its start, a time to the number 20240229123456. DOUBLE is
rounded to integers half to even, DECIMAL half away from zero (TiDB's `types/convert.go`).
"""

import re
from dataclasses import replace
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.codec.time import Int64s, packed_text, round_half_up
from pyspark_theflash.tidb.expression import times
from pyspark_theflash.tidb.expression.failure import (
    LackingError,
    OutOfRangeError,
    reject_in_condition,
)
from pyspark_theflash.tidb.expression.vector import (
    INTEGERS,
    Array,
    Kind,
    Vector,
    booleans,
    decimals,
    integers,
    map_rows,
    reals,
    texts,
)

Objects = npt.NDArray[np.object_]

INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
MAX_SCALE: Final = 30
MAX_PRECISION: Final = 65
# Later digits do not affect rounding, and Python's `int` accepts only some thousand.
_MAX_FIGURES: Final = 200
# `Decimal` accepts 18 exponent digits; a longer exponent is out of range when truncated, too.
_EXPONENT_DIGITS: Final = 9
_NUMBER: Final = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))(?:[eE]([-+]?)0*(\d+))?", re.ASCII)
_INTEGER: Final = re.compile(r"([-+]?)(\d+)", re.ASCII)


def number_prefix(text: str | bytes) -> Decimal:
    """Return the number that a text starts with, or 0."""
    match = _NUMBER.match(_as_str(text).strip(times.SPACES))
    if match is None:
        return Decimal(0)
    figures, sign, exponent = match[1], match[2] or "", match[3] or "0"
    return Decimal(f"{figures}e{sign}{exponent[:_EXPONENT_DIGITS]}")


def text_number(text: str | bytes) -> Decimal | None:
    """Return the number that a text consists of, or None if it has other characters."""
    whole = _NUMBER.fullmatch(_as_str(text).strip(times.SPACES))
    return number_prefix(text) if whole else None


def full_years(values: Objects) -> Objects:
    """Expand two-digit years: 1 to 69 are 2001 to 2069, 70 to 99 are 1970 to 1999."""
    values = np.where((values > 0) & (values < 70), values + 2000, values)
    return np.where((values >= 70) & (values < 100), values + 1900, values)


def _integer_prefix(text: str | bytes) -> int:
    match = _INTEGER.match(_as_str(text).strip(times.SPACES))
    if match is None:
        return 0
    # A number that is out of range remains so when truncated, and Python's `int` accepts only some
    # thousand digits.
    sign, digits = match[1], match[2].lstrip("0")[:MAX_PRECISION]
    return int(f"{sign}{digits or 0}")


def _as_str(text: str | bytes) -> str:
    return text.decode("latin1") if isinstance(text, bytes) else text


def _readable(vector: Vector) -> Vector:
    """Return a TEXT to be parsed as a number.

    Raises:
        LackingError: Some rows come from an ENUM or SET, others do not.
    """
    if vector.is_mixed:
        raise LackingError("mixing ENUM and other types in IF, CASE or similar, as a number")
    return vector


def plain(vector: Vector) -> Vector:
    """Return the number of a BIT column; other vectors are returned unchanged."""
    return vector.number if vector.is_bit and vector.number is not None else vector


def objects_of(vector: Vector) -> Objects:
    """Return INT or UINT as Python ints."""
    result: Objects = vector.data.astype(object)
    return result


def to_objects(values: Array, null: Mask) -> Objects:
    """Return values with 0 in place of NULL."""
    return np.where(null, 0, values)


def to_python_ints(values: npt.NDArray[np.float64]) -> Objects:
    """Convert integral DOUBLEs to Python ints."""
    return np.array([int(value) for value in values.tolist()], object)


def whole_numbers(values: Objects, null: Mask, kind: Kind) -> Vector:
    """Convert Python ints to INT or UINT. Raises `OutOfRangeError`: A value is out of range."""
    values = to_objects(values, null)
    low, high = (0, UINT64_MAX) if kind is Kind.UINT else (INT64_MIN, INT64_MAX)
    if ((values < low) | (values > high)).any():
        raise OutOfRangeError(kind.value)
    return integers(values.astype(np.uint64 if kind is Kind.UINT else np.int64), null)


def rescale(unscaled: Objects, have: int, want: int) -> Objects:
    """Convert unscaled DECIMALs to another scale, rounding half away from zero."""
    result: Objects
    if want >= have:
        result = unscaled * 10 ** (want - have)
        return result
    power: int = 10 ** (have - want)
    magnitude = (np.abs(unscaled) + power // 2) // power
    result = np.where(unscaled < 0, -magnitude, magnitude)
    return result


def to_integer(vector: Vector) -> Vector:
    """Convert to INT or UINT, as for an integer argument. Raises `OutOfRangeError`."""
    vector = vector.number or vector
    if vector.kind in INTEGERS:
        return vector
    if vector.kind is Kind.NULL:
        return replace(vector, kind=Kind.INT)
    if vector.kind is Kind.TEXT:
        values = map_rows(_integer_prefix, [_readable(vector)], vector.null)
        clipped = np.clip(to_objects(values, vector.null), INT64_MIN, UINT64_MAX)
        # Values above BIGINT become the negative numbers with the same bits.
        signed = np.where(clipped > INT64_MAX, clipped - 2**64, clipped)
        return integers(signed.astype(np.int64), vector.null)
    if vector.kind is Kind.TIME:
        is_date = known_date(vector)
        rounded = vector.data if is_date else times.round_times(vector.data, 0)
        return integers(times.time_number(rounded, is_date=is_date), vector.null)
    if vector.kind is Kind.DURATION:
        rounded = round_half_up(vector.data, 0)
        return integers(times.duration_number(rounded), vector.null)
    return whole_numbers(rounded_objects(vector), vector.null, Kind.INT)


def rounded_objects(vector: Vector) -> Objects:
    """Round DECIMAL or REAL to Python ints."""
    if vector.kind is Kind.DECIMAL:
        return rescale(to_objects(vector.data, vector.null), vector.digits, 0)
    whole = np.rint(np.where(vector.null, 0, vector.data))
    return to_python_ints(whole)


def to_signed(vector: Vector) -> Int64s:
    """Convert an argument such as a length to int64; a large UINT is reinterpreted as negative."""
    data: Int64s = to_integer(vector).data.view(np.int64)
    return data


def to_decimal(vector: Vector) -> Vector:
    """Convert to DECIMAL with as many fractional digits as the values need."""
    vector = vector.number or vector
    if vector.kind is Kind.DECIMAL:
        return vector
    if vector.kind in INTEGERS or vector.kind is Kind.NULL:
        return decimals(objects_of(vector), vector.null, 0)
    if vector.kind in (Kind.TIME, Kind.DURATION):
        return _time_decimal(vector)
    if vector.kind is Kind.TEXT:
        values = map_rows(number_prefix, [_readable(vector)], vector.null)
    else:
        values = map_rows(lambda value: Decimal(repr(value)), [vector], vector.null)
    return decimals_of(values, vector.null)


def decimals_of(values: Objects, null: Mask) -> Vector:
    """Convert `decimal.Decimal`s to DECIMAL, rounded to at most 30 fractional digits."""
    digits = max((-_exponent(v) for v in values[~null]), default=0)
    digits = min(max(digits, 0), MAX_SCALE)
    unscaled = np.zeros(len(null), object)
    for row in np.flatnonzero(~null):
        unscaled[row] = _unscaled(values[row], digits)
    return decimals(unscaled, null, digits)


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise OutOfRangeError(Kind.DECIMAL.value)
    return exponent


def _unscaled(value: Decimal, digits: int) -> int:
    sign, figures, exponent = value.as_tuple()
    if not isinstance(exponent, int) or len(figures) + exponent > MAX_PRECISION:
        raise OutOfRangeError(Kind.DECIMAL.value)
    if len(figures) > _MAX_FIGURES:
        exponent += len(figures) - _MAX_FIGURES
        figures = figures[:_MAX_FIGURES]
    magnitude = int("".join(map(str, figures)))
    shift = exponent + digits
    if shift >= 0:
        magnitude *= int(10**shift)
    else:
        # A shift by more digits than there are gives 0.
        power: int = 10 ** min(-shift, len(figures) + 1)
        magnitude = (magnitude + power // 2) // power
    return -magnitude if sign else magnitude


def known_date(vector: Vector) -> bool:
    """Return whether a TIME vector is a DATE.

    Raises:
        LackingError: Some rows are DATE, others are not.
    """
    if vector.is_date is None:
        raise LackingError("mixing DATE and DATETIME in IF, CASE or similar, as a number or text")
    return vector.is_date


def _time_decimal(vector: Vector) -> Vector:
    """Convert to 20240229123456.789, with the fractional digits of the type."""
    if vector.kind is Kind.TIME:
        whole = times.time_number(vector.data, is_date=known_date(vector))
        micro = times.parts(vector.data).micro
    else:
        whole = times.duration_number(vector.data)
        micro = np.sign(vector.data) * (np.abs(vector.data) % times.SECOND_US)
    unscaled = whole.astype(object) * times.SECOND_US + micro.astype(object)
    return decimals(rescale(unscaled, 6, vector.digits), vector.null, vector.digits)


def to_real(vector: Vector) -> Vector:
    """Convert to DOUBLE.

    Raises:
        LackingError: A DECIMAL comes from a CAST that rounded digits off.
    """
    vector = vector.number or vector
    if vector.is_cut:
        raise LackingError("a CAST as DECIMAL that rounds, used as a DOUBLE,")
    if vector.kind is Kind.REAL:
        return vector
    if vector.kind in INTEGERS or vector.kind is Kind.NULL:
        return reals(vector.data.astype(np.float64), vector.null)
    if vector.kind is Kind.TEXT:
        values = map_rows(lambda text: float(number_prefix(text)), [_readable(vector)], vector.null)
        most = np.finfo(np.float64).max
        doubles = np.clip(to_objects(values, vector.null).astype(np.float64), -most, most)
        return reals(doubles, vector.null)
    decimal = to_decimal(vector)
    # Python's division of ints rounds once.
    quotients: Objects = to_objects(decimal.data, decimal.null) / 10**decimal.digits
    return reals(quotients.astype(np.float64), decimal.null)


def to_number(vector: Vector) -> Vector:
    """Convert to the kind used in arithmetic: INT, UINT, DECIMAL or REAL."""
    if vector.number is not None:
        return vector.number
    if vector.kind is Kind.TEXT:
        return to_real(vector)
    if vector.kind in (Kind.TIME, Kind.DURATION):
        return to_decimal(vector) if vector.digits else to_integer(vector)
    return replace(vector, kind=Kind.INT) if vector.kind is Kind.NULL else vector


def to_text(vector: Vector) -> Vector:
    """Convert to the text that TiDB prints. Raises `LackingError`."""
    if vector.kind is Kind.TEXT:
        return vector
    null = pa.array(vector.null)
    if vector.kind in INTEGERS or vector.kind is Kind.NULL:
        return texts(pc.if_else(null, None, pc.cast(pa.array(vector.data), pa.string())))
    return texts(pa.array(map_rows(_printer(vector), [vector], vector.null), pa.string()))


def _printer(vector: Vector) -> Array:
    digits = vector.digits
    if vector.kind is Kind.DECIMAL:
        if vector.is_mixed:
            raise LackingError("mixing DECIMAL scales in IF, CASE or similar, as text")
        if vector.shown >= 0:
            raise LackingError("a quotient as text")
        return lambda unscaled: _decimal_text(unscaled, digits)
    if vector.kind is Kind.REAL:
        if vector.single and (np.abs(vector.data[~vector.null]) > np.finfo(np.float32).max).any():
            raise LackingError("a FLOAT beyond 32 bits as text")
        to_scalar = np.float32 if vector.single else np.float64
        return lambda value: np.format_float_positional(to_scalar(value), trim="-")
    if vector.kind is Kind.TIME:
        is_date = known_date(vector)
        return lambda packed: packed_text(packed, with_time=not is_date, fsp=digits)
    if vector.kind is Kind.DURATION:
        return lambda micros: times.duration_text(micros, digits)
    raise LackingError(f"{vector.kind.value} as text")


def _decimal_text(unscaled: int, digits: int) -> str:
    figures = str(abs(unscaled)).zfill(digits + 1)
    text = f"{figures[:-digits]}.{figures[-digits:]}" if digits else figures
    return f"-{text}" if unscaled < 0 else text


def to_truth(vector: Vector) -> Vector:
    """Return 1 where the value is not zero, else 0."""
    number = to_number(vector)
    return booleans(np.asarray(to_objects(number.data, number.null) != 0, np.bool_), number.null)


def to_time(vector: Vector, *, is_date: bool = False) -> Vector:
    """Convert to DATETIME, or to DATE, which is represented as midnight.

    Raises:
        LackingError: A TIME, which requires today's date, or a text in an unsupported format.
    """
    vector = plain(vector)
    if vector.kind is Kind.TIME:
        converted = vector
    elif vector.kind is Kind.NULL:
        converted = replace(vector, kind=Kind.TIME, data=vector.data.astype(np.uint64))
    elif vector.kind is Kind.DURATION:
        raise LackingError("a TIME used as a DATETIME")
    elif vector.is_year is not False:
        if vector.is_year is None:
            raise LackingError("mixing YEAR and other numbers in IF, CASE or similar, as a date")
        if (vector.data[~vector.null] > times.MAX_YEAR).any():
            raise LackingError("a YEAR of more than four digits as a date")
        # Month and day are 0.
        converted = Vector(Kind.TIME, times.pack_years(vector.data.astype(np.int64)), vector.null)
    elif vector.kind in INTEGERS:
        parsed = map_rows(times.parse_time_number, [vector], vector.null)
        converted = Vector(Kind.TIME, *times.packed_array(parsed, vector.null))
    else:
        text = to_text(vector)
        # Other numbers are parsed as text: TiDB uses the digits before the point, as of integers.
        is_text = vector.kind is Kind.TEXT

        def read(value: str | bytes) -> int | None:
            shown = _as_str(value)
            return None if is_text and times.is_no_date(shown) else times.parse_time(shown)

        parsed = map_rows(read, [text], text.null)
        packed, null = times.packed_array(parsed, text.null)
        zero = ~null & (packed == 0)
        if zero.any() and not vector.is_constant:
            reject_in_condition("a text 0000-00-00 as a date")
        # NO_ZERO_DATE is in the default SQL mode.
        converted = Vector(Kind.TIME, packed, null | zero, digits=6)
    if not is_date:
        return converted
    # Only a text is rounded, possibly up to the next day.
    is_text = vector.kind is Kind.TEXT
    whole = times.round_times(converted.data, 0) if is_text else converted.data
    return replace(converted, data=times.dates_only(whole), digits=0, is_date=True)


def to_duration(vector: Vector) -> Vector:
    """Convert to TIME; a DATETIME is converted to its time of day. Raises `LackingError`."""
    vector = plain(vector)
    if vector.kind is Kind.DURATION:
        return vector
    if vector.kind is Kind.NULL:
        return replace(vector, kind=Kind.DURATION)
    if vector.kind is Kind.TIME:
        clock = times.time_of_day(vector.data)
        return Vector(Kind.DURATION, clock, vector.null, digits=vector.digits)
    text = to_text(vector)
    parsed = map_rows(lambda value: times.parse_duration(_as_str(value)), [text], text.null)
    missing = times.missing_in(parsed, text.null)
    digits = 0 if vector.kind in INTEGERS else 6
    return Vector(Kind.DURATION, to_objects(parsed, missing).astype(np.int64), missing, digits)
