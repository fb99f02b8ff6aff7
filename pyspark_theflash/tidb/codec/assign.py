"""Assignment of values to columns, by TiDB's strict mode: exact, rounded to the scale, or an error.

    to                    from
    integers, YEAR        integers and booleans; decimals and floats, rounded; text of an integer
    DECIMAL               numbers, rounded half away from zero; text of a number
    FLOAT, DOUBLE         numbers; text of a number
    CHAR, VARCHAR, TEXT   text; integers, decimals and floats, as TiDB prints them
    BINARY, BLOB          bytes; text, as UTF-8
    dates and times       dates and times, rounded to the fraction; TiDB's text of them
    BIT                   integers; bytes
    ENUM, SET, JSON       text

Everything else needs a CAST in the statement, and so does text in a form that TiDB does not print,
for example `2024-1-2`. Errors never contain values.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, ColumnValueError
from pyspark_theflash.tidb.codec.array import map_distinct
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.convert_string import pad
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.codec.time import DAY_US, has_impossible, round_half_up

_DOUBLE: Final = FieldType(MySQLType.DOUBLE)
_WIDEST: Final = 76
_EXACT: Final = Context(prec=100, rounding=ROUND_HALF_UP)
_TIME_MAX_US: Final = (838 * 3600 + 59 * 60 + 59) * 1_000_000
_TIMESTAMP_US: Final = (1_000_000, (2**31 - 1) * 1_000_000 + 999_999)
_YEARS: Final = (1901, 2155)
_CALENDAR_US: Final = (-62_167_219_200_000_000, 253_402_300_799_999_999)
"""0000-01-01 to the end of 9999."""
_NAMES: Final = {
    MySQLType.TINY: "TINYINT",
    MySQLType.SHORT: "SMALLINT",
    MySQLType.INT24: "MEDIUMINT",
    MySQLType.LONG: "INT",
    MySQLType.LONGLONG: "BIGINT",
    MySQLType.NEWDECIMAL: "DECIMAL",
    MySQLType.STRING: "CHAR",
}
"""The names of types that differ from MySQL's names of their type bytes."""
_BYTES_OF_TEXT: Final = {
    *(MySQLType.TINY_BLOB, MySQLType.BLOB, MySQLType.MEDIUM_BLOB, MySQLType.LONG_BLOB)
}


def assign(values: pa.Array, field_type: FieldType, column: str) -> pa.Array:
    """Convert values to a column's type.

    Args:
        values: Values of any Arrow type. Nulls remain.
        field_type: The column's type.
        column: Its name, for errors.

    Returns:
        An array of type `arrow_type(field_type)`.

    Raises:
        ColumnValueError: A value has no conversion, or is out of range or too long, or NULL in a
            column that is NOT NULL.
    """
    if field_type.is_not_null and values.null_count:
        raise ColumnValueError(column, "NULL in a column that is NOT NULL")
    target = arrow_type(field_type)
    if values.null_count == len(values):
        return pa.nulls(len(values), target)
    source = _plain(values)
    try:
        return _converter(field_type)(source, field_type)
    except (pa.ArrowException, CodecError, ArithmeticError, ValueError, NotImplementedError):
        # Not chained, because Arrow's message contains the value.
        reason = f"a value of type {source.type} is not valid for {shown_type(field_type)}"
        raise ColumnValueError(column, reason) from None


def shown_type(field_type: FieldType) -> str:
    """Return a column's type for messages, for example `VARCHAR(20)`."""
    name = _NAMES.get(field_type.tp, field_type.tp.name)
    if field_type.tp == MySQLType.NEWDECIMAL:
        return f"{name}({field_type.flen},{field_type.decimal})"
    has_length = field_type.tp in (MySQLType.VARCHAR, MySQLType.STRING, MySQLType.BIT)
    return f"{name}({field_type.flen})" if has_length else name


def _plain(values: pa.Array) -> pa.Array:
    """Return the values without dictionaries, and booleans as numbers."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_boolean(values.type):
        return pc.cast(values, pa.int8())
    if pa.types.is_large_string(values.type) or str(values.type) == "string_view":
        return pc.cast(values, pa.string())
    if pa.types.is_large_binary(values.type) or str(values.type) == "binary_view":
        return pc.cast(values, pa.binary())
    return values


def _converter(field_type: FieldType) -> Callable[[pa.Array, FieldType], pa.Array]:
    tp = field_type.tp
    if tp == MySQLType.BIT:
        return _bits
    if tp in INTEGER_TYPES:
        return _integers
    if tp == MySQLType.NEWDECIMAL:
        return _decimals
    if tp in (MySQLType.FLOAT, MySQLType.DOUBLE):
        return _floats
    if tp in STRING_TYPES:
        return _bytes if field_type.is_binary_string else _strings
    if tp in DATETIME_TYPES:
        return _dates if arrow_type(field_type) == pa.date32() else _datetimes
    return _times if tp == MySQLType.TIME else _parsed


def _require(condition: pa.Array | bool) -> None:
    if not (condition if isinstance(condition, bool) else pc.all(condition, min_count=0).as_py()):
        raise ValueError


def _between(values: pa.Array, low: int, high: int) -> None:
    _require(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)))


def _parsed(values: pa.Array, field_type: FieldType) -> pa.Array:
    _require(pa.types.is_string(values.type))
    result = parse_column(values, field_type, "")
    if field_type.tp == MySQLType.ENUM:
        # An empty text is index 0, which is no element.
        _require(pc.greater(result, 0))
    elif field_type.tp in DATETIME_TYPES:
        _require(not has_impossible(result))
    return result


# -- numbers


def _integers(values: pa.Array, field_type: FieldType) -> pa.Array:
    if pa.types.is_floating(values.type):
        values = pc.round(values, 0, "half_to_even")
    elif pa.types.is_decimal(values.type):
        values = pc.round(_widest(values), 0, "half_towards_infinity")
    else:
        _require(pa.types.is_integer(values.type) or pa.types.is_string(values.type))
    result = pc.cast(values, arrow_type(field_type))
    if field_type.tp == MySQLType.YEAR:
        _between(result.filter(pc.not_equal(result, 0)), *_YEARS)
    return result


def _widest(values: pa.Array) -> pa.Array:
    scale = values.type.scale if pa.types.is_decimal(values.type) else 0
    return pc.cast(values, pa.decimal256(_WIDEST, scale))


def _decimals(values: pa.Array, field_type: FieldType) -> pa.Array:
    target = arrow_type(field_type)
    if pa.types.is_decimal(values.type) or pa.types.is_integer(values.type):
        wide = _widest(values)
        if wide.type.scale > target.scale:
            wide = pc.round(wide, target.scale, "half_towards_infinity")
        result = pc.cast(wide, target)
    else:
        _require(pa.types.is_floating(values.type) or pa.types.is_string(values.type))
        unit = Decimal(1).scaleb(-target.scale)
        result = map_distinct(_texts(values), lambda text: _decimal(text, unit), target)
    if field_type.is_unsigned:
        _require(pc.greater_equal(result, pa.scalar(0).cast(target)))
    return result


def _decimal(text: str, unit: Decimal) -> Decimal:
    number = Decimal(text)
    _require(number.is_finite())
    return number.quantize(unit, context=_EXACT)


def _floats(values: pa.Array, field_type: FieldType) -> pa.Array:
    # FLOAT(M,D) rounds; tables with it are not written by statements.
    _require(field_type.decimal < 0)
    # By text, because Arrow's cast of decimals to floats is not correctly rounded.
    is_text = pa.types.is_decimal(values.type) or pa.types.is_string(values.type)
    _require(is_text or pa.types.is_integer(values.type) or pa.types.is_floating(values.type))
    texts = pc.cast(values, pa.string()) if is_text else values
    result = pc.cast(texts, pa.float64(), safe=False)
    result = pc.cast(result, arrow_type(field_type), safe=False)
    _require(pc.is_finite(result))
    if field_type.is_unsigned:
        _require(pc.greater_equal(result, 0.0))
    return result


def _bits(values: pa.Array, field_type: FieldType) -> pa.Array:
    if pa.types.is_binary(values.type):
        return parse_column(values, field_type, "")
    _require(pa.types.is_integer(values.type) or pa.types.is_decimal(values.type))
    result = pc.cast(_widest(values), pa.uint64())
    _require(pc.less_equal(result, pa.scalar(2 ** max(field_type.flen, 1) - 1, pa.uint64())))
    return result


# -- strings


def _texts(values: pa.Array) -> pa.Array:
    """Return numbers as TiDB prints them, and text unchanged."""
    if pa.types.is_floating(values.type):
        _require(pc.is_finite(values))
        return format_column(pc.cast(values, pa.float64()), _DOUBLE)
    is_number = pa.types.is_integer(values.type) or pa.types.is_decimal(values.type)
    _require(is_number or pa.types.is_string(values.type))
    return pc.cast(values, pa.string())


def _strings(values: pa.Array, field_type: FieldType) -> pa.Array:
    texts = pc.cast(values, pa.string()) if pa.types.is_binary(values.type) else _texts(values)
    _require(field_type.charset in ("utf8mb4", "utf8", "ascii"))
    if field_type.charset == "ascii":
        _require(pc.string_is_ascii(texts))
    elif field_type.charset == "utf8":
        _require(pc.invert(pc.match_substring_regex(texts, "[\U00010000-\U0010ffff]")))
    if field_type.tp == MySQLType.STRING:
        texts = pc.ascii_rtrim(texts, " ")
    if field_type.flen >= 0:
        is_of_bytes = field_type.tp in _BYTES_OF_TEXT
        length = pc.binary_length(texts) if is_of_bytes else pc.utf8_length(texts)
        _require(pc.less_equal(length, field_type.flen))
    return texts


def _bytes(values: pa.Array, field_type: FieldType) -> pa.Array:
    raw = pc.cast(_texts(values) if not pa.types.is_binary(values.type) else values, pa.binary())
    if field_type.flen >= 0:
        _require(pc.less_equal(pc.binary_length(raw), field_type.flen))
    return pad(raw, field_type.flen) if field_type.tp == MySQLType.STRING else raw


# -- times


def _dates(values: pa.Array, field_type: FieldType) -> pa.Array:
    if pa.types.is_string(values.type):
        return _parsed(values, field_type)
    if pa.types.is_timestamp(values.type):
        microseconds = _microseconds(values)
        _require(pc.equal(microseconds, pc.multiply(pc.divide(microseconds, DAY_US), DAY_US)))
    else:
        _require(pa.types.is_date(values.type))
    days = pc.cast(values, pa.date32())
    _between(pc.multiply(pc.cast(pc.cast(days, pa.int32()), pa.int64()), DAY_US), *_CALENDAR_US)
    return days


def _microseconds(values: pa.Array) -> pa.Array:
    unit = pa.timestamp("us", tz=values.type.tz)
    # Nanoseconds are cut, as DuckDB does.
    return pc.cast(pc.cast(values, unit, safe=values.type.unit != "ns"), pa.int64())


def _datetimes(values: pa.Array, field_type: FieldType) -> pa.Array:
    target = arrow_type(field_type)
    if pa.types.is_string(values.type):
        microseconds = pc.cast(_parsed(values, field_type), pa.int64())
    else:
        _require(pa.types.is_timestamp(values.type) or pa.types.is_date(values.type))
        if pa.types.is_date(values.type):
            values = pc.cast(values, pa.timestamp("us"))
        microseconds = _microseconds(values)
        _between(microseconds, *_CALENDAR_US)
    microseconds = _rounded(microseconds, field_type)
    if target.tz is not None:
        _between(microseconds, *_TIMESTAMP_US)
    return pc.cast(microseconds, target)


def _times(values: pa.Array, field_type: FieldType) -> pa.Array:
    if pa.types.is_string(values.type):
        microseconds = pc.cast(_parsed(values, field_type), pa.int64())
    elif pa.types.is_interval(values.type):
        microseconds = map_distinct(values, _of_interval, pa.int64())
    else:
        _require(pa.types.is_time(values.type) or pa.types.is_duration(values.type))
        unit = pa.duration if pa.types.is_duration(values.type) else pa.time64
        microseconds = pc.cast(pc.cast(values, unit("us")), pa.int64())
    microseconds = _rounded(microseconds, field_type)
    _between(microseconds, -_TIME_MAX_US, _TIME_MAX_US)
    return pc.cast(microseconds, pa.duration("us"))


def _of_interval(value: pa.MonthDayNano) -> int:
    _require(not value.months and not value.days)
    return int(value.nanoseconds // 1000)


def _rounded(microseconds: pa.Array, field_type: FieldType) -> pa.Array:
    is_null = np.asarray(microseconds.is_null())
    numbers = pc.fill_null(microseconds, 0).to_numpy()
    return pa.array(round_half_up(numbers, field_type.fsp), pa.int64(), mask=is_null)
