"""Explicit CAST and CONVERT."""

from dataclasses import replace

import numpy as np

from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.time import round_half_up
from pyspark_theflash.tidb.expression import times
from pyspark_theflash.tidb.expression.comparison import compare
from pyspark_theflash.tidb.expression.convert import (
    INT64_MAX,
    INT64_MIN,
    UINT64_MAX,
    rounded_objects,
    to_decimal,
    to_duration,
    to_integer,
    to_real,
    to_time,
    whole_numbers,
)
from pyspark_theflash.tidb.expression.failure import LackingError, reject_in_condition
from pyspark_theflash.tidb.expression.load import load_column
from pyspark_theflash.tidb.expression.store import store_column
from pyspark_theflash.tidb.expression.vector import Kind, Vector, integers, nothing


def cast(vector: Vector, target: FieldType) -> Vector:
    """Convert values to type `target`; a value out of range becomes the nearest one in range.

    Raises:
        LackingError: The conversion is not supported.
    """
    tp = target.tp
    if tp == MySQLType.STRING:
        reject_in_condition("CAST as BINARY of a length")
    if vector.kind is Kind.NULL:
        if tp in DATETIME_TYPES or tp == MySQLType.TIME:
            reject_in_condition("CAST of NULL as a date or time")
        return nothing(len(vector))
    if tp == MySQLType.LONGLONG:
        return _to_integer(vector, Kind.UINT if target.is_unsigned else Kind.INT)
    if tp == MySQLType.DOUBLE:
        return replace(to_real(vector), single=False)
    if tp == MySQLType.FLOAT:
        # The value keeps its DOUBLE digits until it is printed.
        return replace(to_real(vector), single=True)
    if tp == MySQLType.DATE:
        return to_time(vector, is_date=True)
    if tp == MySQLType.DATETIME:
        time = to_time(vector)
        rounded = times.round_times(time.data, target.fsp)
        return replace(time, data=rounded, digits=target.fsp, is_date=False)
    if tp == MySQLType.TIME:
        duration = to_duration(vector)
        micros = round_half_up(duration.data, target.fsp)
        return replace(duration, data=micros, digits=target.fsp)
    if tp == MySQLType.JSON:
        raise LackingError("CAST as JSON")
    if tp == MySQLType.YEAR:
        # Unlike in a column, two-digit years are not expanded.
        whole = _to_integer(vector, Kind.INT)
        years = whole.data[~whole.null]
        if ((years < 0) | (years > times.MAX_YEAR)).any():
            raise LackingError("CAST of a number out of range as YEAR")
        return replace(integers(whole.data.view(np.uint64), whole.null), is_year=True)
    if vector.is_bit and tp == MySQLType.STRING:
        raise LackingError("CAST of a BIT as BINARY of a length")
        # Unlike a BIT stored in a column, a BIT cast to a text is its bytes.
    source = replace(vector, number=None) if tp in STRING_TYPES else vector
    result = load_column(store_column(source, target), target)
    if tp == MySQLType.NEWDECIMAL:
        same = compare("equal", to_decimal(source), result)
        return replace(result, is_cut=bool(((same.data == 0) & ~same.null).any()))
    return result


def _to_integer(vector: Vector, kind: Kind) -> Vector:
    vector = vector.number or vector
    if vector.kind in (Kind.DECIMAL, Kind.REAL):
        values = rounded_objects(vector)
        if kind is Kind.UINT and vector.kind is Kind.REAL:
            # A negative DOUBLE keeps its bits, a negative DECIMAL becomes 0.
            values = np.where(values < 0, np.maximum(values, INT64_MIN) + 2**64, values)
        low, high = (0, UINT64_MAX) if kind is Kind.UINT else (INT64_MIN, INT64_MAX)
        return whole_numbers(np.clip(values, low, high), vector.null, kind)
    whole = to_integer(vector)
    target = np.dtype(np.uint64 if kind is Kind.UINT else np.int64)
    return integers(whole.data.view(target), whole.null)
