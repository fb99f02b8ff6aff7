"""Functions of values by Spark's rules, in ANSI mode.

    tinyint, smallint, int, bigint +, -, *, %   integers of that type; raise on overflow; the
                                                divisor is a literal other than 0
    double +, -, *, /                           IEEE 754; divisor as above
    as TYPE                                     cast to a wider type, to DOUBLE, and from DOUBLE to
                                                INT or BIGINT, which truncates
    floor, ceil                                 DOUBLE -> BIGINT
    year, quarter, month, day, day of year,     DATE -> INT; ISO weeks
    day of week, week, year of week
    hour, minute, second                        TIMESTAMP_NTZ -> INT
    date                                        TIMESTAMP_NTZ -> DATE
    trunc, date_trunc                           start of the unit, the first argument, a literal
    local, instant                              TIMESTAMP to TIMESTAMP_NTZ and back; the second
                                                argument is a literal UTC offset in microseconds
    substring                                   literal start, from 1, and literal length
    length                                      in characters

A function with a type in its name takes and returns values of exactly that type. Functions of days
use a lookup table of the days between the smallest and the largest if these are few.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import SqlOverflowError, UnsupportedError
from pyspark_theflash.read.pushdown.term import LiteralKind, LiteralTerm
from pyspark_theflash.read.pushdown.value import (
    LITERAL_TYPES,
    NTZ,
    WHERE,
    ZONED,
    Constant,
    Exact,
    Ints,
    Mask,
    Ordered,
    Rows,
    Texts,
    Value,
    both,
    constant_ints,
    magnitude,
)
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS

Days = npt.NDArray[np.int64]
_WHOLE: Final = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
}
_CAST: Final = "as "
_DECIMAL: Final = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
_NAMED: Final = {
    **_WHOLE,
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": ZONED,
    "timestamp_ntz": NTZ,
}
_DOUBLE_DIGITS: Final = 15
"""Up to so many digits, unscaled / 10.0 ** scale is the double nearest to the decimal."""
_LONG_FLOAT: Final = 2.0**63
_TABLE_DAYS: Final = 1 << 20
_NUMBER_MAX: Final = 1 << 62
"""The largest literal argument; sums with microseconds or other arguments fit 64 bits."""
_SECOND_US: Final = 1_000_000
_DAY_US: Final = 86_400 * _SECOND_US
_UNITS_US: Final = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": _SECOND_US,
    "minute": 60 * _SECOND_US,
    "hour": 3_600 * _SECOND_US,
    "day": _DAY_US,
}
_PARTS: Final = {"hour": (3_600 * _SECOND_US, 24), "minute": (60 * _SECOND_US, 60)} | {
    "second": (_SECOND_US, 60)
}


def applied(name: str, arguments: Sequence[Value], rows: int) -> Rows:
    """Apply a function to values of a batch of `rows` rows.

    Raises:
        UnsupportedError: There is no such function for values of these types.
        SqlOverflowError: A result does not fit its type.
    """
    if name.startswith(_CAST) and len(arguments) == 1:
        return _cast(arguments[0], named_type(name.removeprefix(_CAST)), rows)
    type_name, _, operator = name.partition(" ")
    if len(arguments) == 2 and type_name in _WHOLE and operator in ("+", "-", "*", "%"):
        return _whole(operator, arguments[0], arguments[1], _WHOLE[type_name])
    if len(arguments) == 2 and type_name == "double" and operator in ("+", "-", "*", "/"):
        return _double(operator, *arguments)
    if name not in _FUNCTIONS:
        raise UnsupportedError(f"{name} as a value", WHERE)
    function, counts = _FUNCTIONS[name]
    if len(arguments) not in counts:
        raise UnsupportedError(f"{name} of {len(arguments)} arguments", WHERE)
    return function(*arguments)


def named_type(name: str) -> pa.DataType:
    """Return the type with a name in Spark's SQL. Raises `UnsupportedError`."""
    decimal = _DECIMAL.fullmatch(name)
    if decimal is None and name in _NAMED:
        return _NAMED[name]
    if decimal is not None:
        precision, scale = map(int, decimal.groups())
        if scale <= precision and 1 <= precision <= DECIMAL128_DIGITS:
            return pa.decimal128(precision, scale)
    raise UnsupportedError(f"a cast to {name}", WHERE)


# -- casts


def _cast(value: Value, to: pa.DataType, rows: int) -> Rows:
    if isinstance(value, Constant):
        return _repeated(value.literal, to, rows)
    if value.type == to:
        return value
    if isinstance(value, Exact):
        if to == pa.float64():
            return _exact_as_double(value)
        if pa.types.is_integer(value.type) and pa.types.is_signed_integer(to):
            return Exact(_checked(value.ints, value.valid, to), to, value.valid)
        if pa.types.is_decimal(to) and to.scale >= value.scale:
            return _exact_as_decimal(value, to)
    if isinstance(value, Ordered) and value.type == pa.float32() and to == pa.float64():
        return Ordered.of_floats(value.floats, to, value.valid)
    if isinstance(value, Ordered) and value.type == pa.float64() and to in _CUT:
        return _cut(value, to)
    raise UnsupportedError(f"a cast of {value.type} to {to}", WHERE)


def _repeated(literal: LiteralTerm, to: pa.DataType, rows: int) -> Rows:
    is_null = literal.kind is LiteralKind.NULL
    valid = np.zeros(rows, np.bool_) if is_null else None
    if pa.types.is_integer(to) or pa.types.is_decimal(to):
        number, scale = (0, 0) if is_null else constant_ints(literal)
        if scale and pa.types.is_integer(to):
            raise UnsupportedError(f"a cast of a decimal literal to {to}", WHERE)
        exact = Exact(_ints_of([number]), pa.decimal128(DECIMAL128_DIGITS, scale))
        is_decimal = pa.types.is_decimal(to)
        ints = _exact_as_decimal(exact, to).ints if is_decimal else _checked(exact.ints, None, to)
        return Exact(np.broadcast_to(ints, (rows,)), to, valid)
    if not is_null and LITERAL_TYPES.get(literal.kind) != to:
        raise UnsupportedError(f"a cast of a literal of kind {literal.kind.value} to {to}", WHERE)
    if pa.types.is_string(to) or pa.types.is_binary(to):
        words = pa.array([] if is_null else [literal.value], to)
        places = pa.nulls(rows, pa.int32()) if is_null else pa.array(np.zeros(rows, np.int32))
        return Texts(pa.DictionaryArray.from_arrays(places, words), to)
    if pa.types.is_floating(to):
        floats = np.array([literal.value or 0.0], np.float64)
        return Ordered.of_floats(np.broadcast_to(floats, (rows,)), to, valid)
    one = np.array([literal.value or 0], np.int64)
    return Ordered(np.broadcast_to(one, (rows,)), to, valid)


def _ints_of(numbers: Sequence[int]) -> Ints:
    ints: Ints = np.array(numbers, object)
    return ints.astype(np.int64) if magnitude(ints) < 1 << 63 else ints


def _exact_as_double(value: Exact) -> Ordered:
    is_exact = pa.types.is_decimal(value.type) and value.type.precision <= _DOUBLE_DIGITS
    if not is_exact and not pa.types.is_signed_integer(value.type):
        raise UnsupportedError(f"a cast of {value.type} to double", WHERE)
    floats = value.ints.astype(np.float64) / 10.0**value.scale
    return Ordered.of_floats(floats, pa.float64(), value.valid)


def _exact_as_decimal(value: Exact, to: pa.DataType) -> Exact:
    if to.scale < value.scale:
        raise UnsupportedError(f"a cast of {value.type} to {to}", WHERE)
    ints = value.scaled(to.scale)
    if magnitude(ints if value.valid is None else ints[value.valid]) >= 10**to.precision:
        raise SqlOverflowError(f"a number outside of {to}")
    return Exact(ints, to, value.valid)


_CUT: Final = {pa.int32(): float(2**31), pa.int64(): _LONG_FLOAT}


def _cut(value: Ordered, to: pa.DataType) -> Exact:
    """Truncate to integers; 2^63 becomes 2^63 - 1, as in Spark."""
    floats, most = _floats(value), _CUT[to]
    with np.errstate(invalid="ignore"):
        fits = (np.floor(floats) <= (most - 1 if most < _LONG_FLOAT else most)) & (
            np.ceil(floats) >= -most
        )
    if not fits.all():
        if not (fits if value.valid is None else fits | ~value.valid).all():
            raise SqlOverflowError(f"a number outside of {to}")
        floats = np.where(fits, floats, 0.0)
    return Exact(_longs(np.trunc(floats)).astype(np.int64, copy=False), to, value.valid)


def _longs(floats: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Convert integral floats to int64 as Java does: saturate, and 0 for NaN."""
    inside = (floats >= -_LONG_FLOAT) & (floats < _LONG_FLOAT)
    if inside.all():
        return floats.astype(np.int64)
    ends = np.where(floats > 0, (1 << 63) - 1, -(1 << 63))
    ends = np.where(np.isnan(floats), 0, ends)
    return np.where(inside, np.where(inside, floats, 0.0).astype(np.int64), ends)


# -- numbers

_OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "%": np.fmod,
    "/": np.divide,
}


def _whole(operator: str, left: Value, right: Value, tp: pa.DataType) -> Exact:
    if operator == "%" and not _is_nonzero(right):
        raise UnsupportedError("% by a divisor other than a literal", WHERE)
    a, b = _integers(left, tp), _integers(right, tp)
    bound = magnitude(a.ints) * magnitude(b.ints) if operator == "*" else 0
    is_small = max(magnitude(a.ints), magnitude(b.ints), bound) < 1 << 62
    x, y = (v.ints.astype(np.int64 if is_small else object, copy=False) for v in (a, b))
    if is_small or operator != "%":
        ints = _OPERATORS[operator](x, y)
    else:
        # Python's % has the sign of the divisor, SQL's that of the dividend.
        ints = np.where(x < 0, -(-x % abs(y)), x % abs(y))
    valid = both(a.valid, b.valid)
    return Exact(_checked(ints, valid, tp), tp, valid)


def _is_nonzero(value: Value) -> bool:
    return isinstance(value, Constant) and bool(value.literal.value)


def _integers(value: Value, tp: pa.DataType) -> Exact:
    if isinstance(value, Exact) and value.type == tp:
        return value
    if isinstance(value, Constant) and value.literal.kind is LiteralKind.INT:
        return Exact(_ints_of([constant_ints(value.literal)[0]]), tp)
    raise UnsupportedError(f"arithmetic of {tp} with another type", WHERE)


def _double(operator: str, left: Value, right: Value) -> Ordered:
    if operator == "/" and not _is_nonzero(right):
        raise UnsupportedError("/ by a divisor other than a literal", WHERE)
    a, b = _floats(left), _floats(right)
    with np.errstate(all="ignore"):
        floats = _OPERATORS[operator](a, b)
    masks = [v.valid if isinstance(v, Ordered) else None for v in (left, right)]
    return Ordered.of_floats(floats, pa.float64(), both(*masks))


def _floats(value: Value) -> npt.NDArray[np.float64]:
    if isinstance(value, Ordered) and value.type == pa.float64():
        return value.floats
    if isinstance(value, Constant) and value.literal.kind is LiteralKind.DOUBLE:
        return np.array([value.literal.value], np.float64)
    raise UnsupportedError("arithmetic of doubles with another type", WHERE)


def _checked(ints: Ints, valid: Mask | None, tp: pa.DataType) -> npt.NDArray[np.int64]:
    """Return the integers as int64. Raises `SqlOverflowError`: One does not fit the type."""
    half = 1 << tp.bit_width - 1
    valid_ints = ints if valid is None else ints[valid]
    if len(valid_ints) and not -half <= int(valid_ints.min()) <= int(valid_ints.max()) < half:
        raise SqlOverflowError(f"a number outside of {tp}")
    if ints.dtype == object and valid is not None:
        ints = np.where(valid, ints, 0)
    return ints.astype(np.int64, copy=False)


def _rounded(function: Callable[..., Any], value: Value) -> Rows:
    valid = value.valid if isinstance(value, Ordered) else None
    return Exact(_longs(function(_floats(value))), pa.int64(), valid)


# -- days and times


def _years(days: Days) -> Days:
    return days.astype("M8[D]").astype("M8[Y]").astype(np.int64)


def _months(days: Days) -> Days:
    return days.astype("M8[D]").astype("M8[M]").astype(np.int64)


def _first_day(units: Days, unit: str) -> Days:
    """Return the first day of a year or month that is counted from 1970."""
    return units.astype(f"M8[{unit}]").astype("M8[D]").astype(np.int64)


def _weekday(days: Days) -> Days:
    """Return the day of the week, Monday is 0; 1970-01-01 was a Thursday."""
    weekday: Days = (days + 3) % 7
    return weekday


def _thursday(days: Days) -> Days:
    """Return the Thursday of the same ISO week, which is in the year that the week belongs to."""
    return days - _weekday(days) + 3


def _day_of_year(days: Days) -> Days:
    return days - _first_day(_years(days), "Y") + 1


_OF_DAY: Final[dict[str, Callable[[Days], Days]]] = {
    "year": lambda days: _years(days) + 1970,
    "quarter": lambda days: _months(days) % 12 // 3 + 1,
    "month": lambda days: _months(days) % 12 + 1,
    "day": lambda days: days - _first_day(_months(days), "M") + 1,
    "day of year": _day_of_year,
    "day of week": lambda days: _weekday(days) + 1,
    "week": lambda days: (_day_of_year(_thursday(days)) - 1) // 7 + 1,
    "year of week": lambda days: _years(_thursday(days)) + 1970,
}
_TRUNC: Final[dict[str, Callable[[Days], Days]]] = {
    "week": lambda days: days - _weekday(days),
    "month": lambda days: _first_day(_months(days), "M"),
    "quarter": lambda days: _first_day(_months(days) // 3 * 3, "M"),
    "year": lambda days: _first_day(_years(days), "Y"),
}


def _each_day(days: Days, function: Callable[[Days], Days]) -> Days:
    if not len(days):
        return days
    low, high = int(days.min()), int(days.max())
    if high - low >= min(_TABLE_DAYS, len(days)):
        return function(days)
    return function(np.arange(low, high + 1))[days - low]


def _of_day(name: str, value: Value) -> Rows:
    dates = _times(value, pa.date32())
    return Exact(_each_day(dates.ints.astype(np.int64), _OF_DAY[name]), pa.int32(), dates.valid)


def _part(name: str, value: Value) -> Rows:
    unit_us, count = _PARTS[name]
    times = _times(value, NTZ)
    return Exact(times.ints // unit_us % count, pa.int32(), times.valid)


def _date(value: Value) -> Rows:
    times = _times(value, NTZ)
    return Ordered(times.ints // _DAY_US, pa.date32(), times.valid)


def _trunc(unit: Value, value: Value) -> Rows:
    dates = _times(value, pa.date32())
    days = _each_day(dates.ints.astype(np.int64), _TRUNC[_unit(unit, _TRUNC)])
    return Ordered(days, dates.type, dates.valid)


def _date_trunc(unit: Value, value: Value) -> Rows:
    times, name = _times(value, NTZ), _unit(unit, _TRUNC | _UNITS_US)
    if name in _UNITS_US:
        us = times.ints - times.ints % _UNITS_US[name]
    else:
        us = _each_day((times.ints // _DAY_US).astype(np.int64), _TRUNC[name]) * _DAY_US
    return Ordered(us, times.type, times.valid)


def _unit(value: Value, units: dict[str, Any]) -> str:
    if isinstance(value, Constant) and value.literal.value in units:
        return str(value.literal.value)
    raise UnsupportedError("another unit of time", WHERE)


def _shifted(to: pa.DataType, value: Value, offset: Value) -> Rows:
    source, sign = (ZONED, 1) if to == NTZ else (NTZ, -1)
    times = _times(value, source)
    return Ordered(times.ints + sign * _number(offset), to, times.valid)


def _times(value: Value, tp: pa.DataType) -> Ordered:
    if isinstance(value, Ordered) and value.type == tp:
        return value
    raise UnsupportedError(f"a function of {tp} with an argument of another type", WHERE)


def _number(value: Value) -> int:
    if isinstance(value, Constant) and value.literal.kind is LiteralKind.INT:
        number = constant_ints(value.literal)[0]
        if abs(number) <= _NUMBER_MAX:
            return number
    raise UnsupportedError("an argument that must be a literal integer", WHERE)


# -- texts


def _substring(value: Value, begin: Value, count: Value | None = None) -> Rows:
    first = _number(begin)
    length = None if count is None else _number(count)
    if first < 0:
        raise UnsupportedError("a substring from the end", WHERE)
    # Positions start at 1; Spark treats 0 as 1.
    start = max(first - 1, 0)
    stop = None if length is None else start + max(length, 0)
    if stop == start:
        raise UnsupportedError("a substring of no characters", WHERE)
    return _each_text(value, lambda texts: pc.utf8_slice_codeunits(texts, start, stop))


def _each_text(value: Value, function: Callable[[pa.Array], pa.Array]) -> Texts:
    """Map strings to strings, or once for each dictionary value."""
    if not isinstance(value, Texts) or not pa.types.is_string(value.type):
        raise UnsupportedError("a string function of another type", WHERE)
    values = value.values
    if not pa.types.is_dictionary(values.type):
        return Texts(function(values), value.type)
    encoded = pc.dictionary_encode(function(values.dictionary))
    if not len(values.dictionary):
        return value
    places = encoded.indices.take(values.indices)
    return Texts(pa.DictionaryArray.from_arrays(places, encoded.dictionary), value.type)


def _length(value: Value) -> Rows:
    if not isinstance(value, Texts) or not pa.types.is_string(value.type):
        raise UnsupportedError("the length of another type than a string", WHERE)
    values = value.values
    if pa.types.is_dictionary(values.type):
        lengths = pc.utf8_length(values.dictionary).take(values.indices)
    else:
        lengths = pc.utf8_length(values)
    valid = None
    if lengths.null_count:
        valid, lengths = lengths.is_valid().to_numpy(zero_copy_only=False), pc.fill_null(lengths, 0)
    return Exact(lengths.to_numpy(zero_copy_only=False), pa.int32(), valid)


_FUNCTIONS: Final[dict[str, tuple[Callable[..., Rows], tuple[int, ...]]]] = {
    **{name: (partial(_of_day, name), (1,)) for name in _OF_DAY},
    **{name: (partial(_part, name), (1,)) for name in _PARTS},
    "date": (_date, (1,)),
    "trunc": (_trunc, (2,)),
    "date_trunc": (_date_trunc, (2,)),
    "local": (partial(_shifted, NTZ), (2,)),
    "instant": (partial(_shifted, ZONED), (2,)),
    "floor": (partial(_rounded, np.floor), (1,)),
    "ceil": (partial(_rounded, np.ceil), (1,)),
    "substring": (_substring, (2, 3)),
    "length": (_length, (1,)),
}
