"""Text forms of values: formatting as in TiDB's text protocol, and parsing.

A replica can be verified by comparing its text with TiDB's. The forms, at time zone +00:00:

    TINYINT..BIGINT      -128         never padded: TiDB ignores the flag ZEROFILL
    YEAR                 2024, 0000
    FLOAT, DOUBLE        0.1, 1e15    the fewest digits that parse back to the value; an exponent
                                      below 1e-15 and from 1e15 on, where a FLOAT has 6 digits only,
                                      which may not parse back to the value. FLOAT(M,D) prints like
                                      FLOAT: TiDB rounds expressions to D digits, but not columns
    DECIMAL(p, s)        -0.0712      always s digits after the point
    DATE                 2024-02-29
    DATETIME, TIMESTAMP  2024-02-29 12:00:00.500      as many fractional digits as the type has
    TIME                 -838:59:59.000000
    ENUM, SET            b; a,c       '' for index 0 of an ENUM, which TiDB stores for invalid input
    CHAR, VARCHAR, TEXT  unchanged
    BINARY.., BLOB       unchanged, as bytes
    BIT(n)               (n + 7) // 8 bytes, big-endian
    JSON                 {"a": [1, null]}             see `json_text`
    VECTOR               [1,0.5]      the fewest digits, never an exponent

Zero and impossible dates print like other dates: 0000-00-00, 2020-02-31 10:00:00.500.

The forms follow `DumpTextRow` and `AppendFormatFloat` in TiDB's pkg/server/internal, and rows
captured from a TiDB server.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.tidb.codec.array import map_distinct
from pyspark_theflash.tidb.codec.arrow import arrow_type, decimal_type
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.json import check_values
from pyspark_theflash.tidb.codec.json_text import parse_json, print_json
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import RowBuffer
from pyspark_theflash.tidb.codec.time import (
    DAY_US,
    has_impossible,
    impossible,
    packed_text,
    packed_times,
    unpack_dates,
)

_MAX_HOURS: Final = 838
_FRACTION_DIGITS: Final = 6
_SECOND_US: Final = 10**_FRACTION_DIGITS
_DATE: Final = r"\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])"
_CLOCK: Final = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
_TIME: Final = (
    r"^(?P<sign>-?)(?P<hours>\d{2,3}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)"
    r"(?:\.(?P<fraction>\d{1,6}))?$"
)


def format_column(values: pa.Array, field_type: FieldType) -> pa.Array:
    """Format stored values as text, or as bytes for binary strings and BIT. Nulls remain null.

    Args:
        values: Values of type `arrow_type(field_type)`.

    Returns:
        An array of type `string`, or `binary` for binary strings and BIT.

    Raises:
        CodecError: A value is invalid for the type.
        UnsupportedError: TiDB does not store columns of this type.
    """
    return _form(field_type).format(values, field_type)


def parse_column(texts: pa.Array, field_type: FieldType, column_name: str) -> pa.Array:
    """Parse texts of `format_column` into stored values. Missing fractional digits are zeros.

    Args:
        texts: An array of type `string`, or `binary` for binary strings and BIT. An array of nulls
            may be of any type.
        column_name: Name of the column for errors, which never contain a value.

    Returns:
        An array of type `arrow_type(field_type)`.

    Raises:
        CodecError: A text is not a valid value of the type.
        UnsupportedError: TiDB does not store columns of this type.
    """
    form, stored = _form(field_type), arrow_type(field_type)
    values: pa.Array
    try:
        if texts.null_count == len(texts):
            values = pc.cast(pa.nulls(len(texts)), stored)
        elif texts.type != form.text_type:
            raise ValueError
        else:
            values = form.parse(texts, field_type)
    except (ValueError, KeyError, CodecError):
        # Not chained, because Arrow's message contains the value.
        reason = f"column {column_name}: a text is not a valid {field_type.tp.name}"
        raise CodecError("text form", reason) from None
    return values


# The functions below do not handle nulls: Arrow's functions preserve them. The parsers raise
# ValueError, the base class of pa.ArrowInvalid, for an invalid text.


def _require(texts: pa.Array, pattern: str) -> None:
    if not pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py():
        raise ValueError


def _require_all(condition: pa.Array) -> None:
    if not pc.all(condition, min_count=0).as_py():
        raise ValueError


def _format_integer(values: pa.Array, _: FieldType) -> pa.Array:
    return pc.cast(values, pa.string())


def _parse_integer(texts: pa.Array, field_type: FieldType) -> pa.Array:
    _require(texts, r"^-?\d+$")
    return pc.cast(texts, arrow_type(field_type))


def _format_year(values: pa.Array, _: FieldType) -> pa.Array:
    return pc.ascii_lpad(pc.cast(values, pa.string()), 4, "0")


def _format_positional(value: np.floating[Any]) -> str:
    return np.format_float_positional(value, trim="-")


def format_floats(
    values: pa.Array, format_extreme: Callable[[np.floating[Any]], str] = _format_positional
) -> pa.Array:
    """Format floats with the fewest digits that parse back to the value.

    Arrow formats zero and magnitudes in [1e-6, 1e14), `format_extreme` all others; by default
    without an exponent.
    """
    texts = pc.cast(values, pa.string())
    exponential = pc.fill_null(pc.match_substring(texts, "e"), False)
    if pc.any(exponential, min_count=0).as_py():
        to_scalar = np.float32 if values.type == pa.float32() else np.float64
        extremes = values.filter(exponential)
        rest = map_distinct(extremes, lambda value: format_extreme(to_scalar(value)), pa.string())
        texts = pc.replace_with_mask(texts, exponential, rest)
    return texts


def _format_float(values: pa.Array, _: FieldType) -> pa.Array:
    return format_floats(values, _format_extreme_float)


def _format_extreme_float(value: np.floating[Any]) -> str:
    """Format as Go's 'f' or 'e', without the exponent's '+' and, in a FLOAT, trailing zeros."""
    to_scalar = type(value)
    if to_scalar(1e-15) <= abs(value) < to_scalar(1e15):
        return _format_positional(value)
    single = to_scalar is np.float32
    text = f"{value:.6g}" if single else np.format_float_scientific(value, trim="-")
    return text.replace("+", "")


def _parse_float(texts: pa.Array, field_type: FieldType) -> pa.Array:
    _require(texts, r"^-?\d+(\.\d+)?(e-?\d+)?$")
    values = pc.cast(texts, arrow_type(field_type))
    _require_all(pc.is_finite(values))
    return values


def _format_decimal(values: pa.Array, _: FieldType) -> pa.Array:
    """Format the unscaled integers and insert the point: Arrow's cast prints 1E-7."""
    scale = values.type.scale
    make_type = pa.decimal128 if values.type.bit_width == 128 else pa.decimal256
    unscaled = pa.Array.from_buffers(
        make_type(values.type.precision, 0), len(values), values.buffers(), offset=values.offset
    )
    texts = pc.cast(unscaled, pa.string())
    if scale == 0:
        return texts
    digits = pc.ascii_lpad(pc.ascii_ltrim(texts, "-"), scale + 1, "0")
    whole = pc.utf8_slice_codeunits(digits, 0, -scale)
    fraction = pc.utf8_slice_codeunits(digits, -scale)
    return _join(_minus_if(pc.starts_with(texts, "-")), whole, ".", fraction)


def _parse_decimal(texts: pa.Array, field_type: FieldType) -> pa.Array:
    _require(texts, r"^-?\d+(\.\d+)?$")
    return pc.cast(texts, decimal_type(field_type))


def _format_date(values: pa.Array, _: FieldType) -> pa.Array:
    return _print_times(values, lambda day: packed_text(day, with_time=False))


def _parse_date(texts: pa.Array, _: FieldType) -> pa.Array:
    _require(texts, f"^{_DATE}$")
    return _parse_times(texts, pa.date32())


def _format_datetime(values: pa.Array, field_type: FieldType) -> pa.Array:
    fsp = field_type.fsp
    local = pc.cast(values, pa.timestamp("us"))
    texts = _print_times(local, lambda at: packed_text(at, with_time=True, fsp=fsp))
    without_fraction = len("2024-02-29 12:00:00")
    return pc.utf8_slice_codeunits(texts, 0, without_fraction + (1 + fsp if fsp else 0))


def _parse_datetime(texts: pa.Array, field_type: FieldType) -> pa.Array:
    _require(texts, f"^{_DATE} {_CLOCK}$")
    return pc.cast(_parse_times(texts, pa.timestamp("us")), arrow_type(field_type))


def _print_times(values: pa.Array, print_packed: Callable[[int], str]) -> pa.Array:
    """Format dates with Arrow's cast, and impossible dates with `print_packed`."""
    if not has_impossible(values):
        return pc.cast(values, pa.string())
    mask = pc.fill_null(impossible(values), False)
    texts = pc.cast(pc.if_else(mask, pa.scalar(None, values.type), values), pa.string())
    rest = pa.array(packed_times(values.filter(mask)))
    return pc.replace_with_mask(texts, mask, map_distinct(rest, print_packed, pa.string()))


def _parse_times(texts: pa.Array, to: pa.DataType) -> pa.Array:
    """Parse texts of valid syntax, for which Arrow's cast fails only at impossible dates."""
    try:
        return pc.cast(texts, to)
    except pa.ArrowInvalid:
        return _parse_impossible_times(texts, to)


def _parse_impossible_times(texts: pa.Array, to: pa.DataType) -> pa.Array:
    def field(start: int, end: int) -> npt.NDArray[np.int64]:
        digits = pc.cast(pc.utf8_slice_codeunits(texts, start, end), pa.int64())
        return pc.fill_null(digits, 0).to_numpy()  # type: ignore[no-any-return]

    year, month, day = field(0, 4), field(5, 7), field(8, 10)
    packed = ((year * 13 + month) << 5 | day).astype(np.uint64) << np.uint64(41)
    is_null = texts.is_null().to_numpy(zero_copy_only=False)
    days, _ = unpack_dates(packed)
    if to == pa.date32():
        return pa.array(days.astype(np.int32), mask=is_null).view(to)
    seconds = (field(11, 13) * 60 + field(14, 16)) * 60 + field(17, 19)
    fraction = pc.ascii_rpad(pc.utf8_slice_codeunits(texts, 20, 26), _FRACTION_DIGITS, "0")
    micros = pc.fill_null(pc.cast(fraction, pa.int64()), 0).to_numpy()
    return pa.array(days * DAY_US + seconds * _SECOND_US + micros, mask=is_null).view(to)


def _format_time(values: pa.Array, field_type: FieldType) -> pa.Array:
    signed = pc.cast(values, pa.int64())
    microseconds = pc.abs(signed)
    seconds = pc.divide(microseconds, _SECOND_US)
    minutes = pc.divide(seconds, 60)
    sign, hours = _minus_if(pc.less(signed, 0)), _digits(pc.divide(minutes, 60), 2)
    clock = _digits(_remainder(minutes, 60), 2), ":", _digits(_remainder(seconds, 60), 2)
    if not (fsp := field_type.fsp):
        return _join(sign, hours, ":", *clock)
    unit = 10 ** (_FRACTION_DIGITS - fsp)
    fraction = pc.divide(_remainder(microseconds, _SECOND_US), unit)
    return _join(sign, hours, ":", *clock, ".", _digits(fraction, fsp))


def _parse_time(texts: pa.Array, _: FieldType) -> pa.Array:
    parts = pc.extract_regex(texts, _TIME)
    if parts.null_count != texts.null_count:
        raise ValueError
    hours, minutes, seconds = (
        pc.cast(pc.struct_field(parts, name), pa.int64())
        for name in ("hours", "minutes", "seconds")
    )
    _require_all(pc.less_equal(hours, _MAX_HOURS))
    fraction = pc.ascii_rpad(pc.struct_field(parts, "fraction"), _FRACTION_DIGITS, "0")
    total = pc.add(pc.multiply(pc.add(pc.multiply(hours, 60), minutes), 60), seconds)
    microseconds = pc.add(pc.multiply(total, _SECOND_US), pc.cast(fraction, pa.int64()))
    is_negative = pc.equal(pc.struct_field(parts, "sign"), "-")
    signed = pc.if_else(is_negative, pc.negate(microseconds), microseconds)
    return pc.cast(signed, pa.duration("us"))


def _format_enum(values: pa.Array, field_type: FieldType) -> pa.Array:
    """Format element names. As in TiDB, an index without an element prints as index 0."""
    names = pa.array(["", *field_type.elems], pa.string())
    last, zero = (pa.scalar(n, pa.uint64()) for n in (len(field_type.elems), 0))
    return names.take(pc.if_else(pc.less_equal(values, last), values, zero))


def _parse_enum(texts: pa.Array, field_type: FieldType) -> pa.Array:
    """Parse element names; '' is index 0, unless it is the name of an element."""
    elements = pa.array(field_type.elems, pa.string())
    element_index = pc.add(pc.index_in(texts, value_set=elements), 1)
    zero = pa.scalar(0, pa.int32())
    index = pc.coalesce(element_index, pc.if_else(pc.equal(texts, ""), zero, None))
    if index.null_count != texts.null_count:
        raise ValueError
    return pc.cast(index, pa.uint64())


def _format_set(values: pa.Array, field_type: FieldType) -> pa.Array:
    elements = field_type.elems

    def names(mask: int) -> str:
        if mask >> len(elements):
            raise CodecError("text form", f"SET value has bits beyond its {len(elements)} elements")
        return ",".join(name for bit, name in enumerate(elements) if mask >> bit & 1)

    return map_distinct(values, names, pa.string())


def _parse_set(texts: pa.Array, field_type: FieldType) -> pa.Array:
    bits = {name: 1 << bit for bit, name in enumerate(field_type.elems)}

    def mask(text: str) -> int:
        return sum(bits[name] for name in set(text.split(","))) if text else 0

    return map_distinct(texts, mask, pa.uint64())


def _format_bit(values: pa.Array, field_type: FieldType) -> pa.Array:
    width = _bit_width(field_type)
    big_endian = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(">u8")
    tails = big_endian.view(np.uint8).reshape(-1, 8)[:, 8 - width :]
    fixed = pa.Array.from_buffers(
        pa.binary(width), len(values), [None, pa.py_buffer(tails.tobytes())]
    )
    return pc.if_else(pc.is_valid(values), pc.cast(fixed, pa.binary()), None)


def _parse_bit(texts: pa.Array, field_type: FieldType) -> pa.Array:
    width = _bit_width(field_type)
    _require_all(pc.equal(pc.binary_length(texts), width))
    tails = b"".join(pc.fill_null(texts, bytes(width)).to_pylist())
    padded = np.zeros((len(texts), 8), np.uint8)
    padded[:, 8 - width :] = np.frombuffer(tails, np.uint8).reshape(-1, width)
    values = padded.view(">u8").ravel().astype(np.uint64)
    if field_type.flen < 64 and (values >> np.uint64(max(field_type.flen, 1))).any():
        raise ValueError
    return pa.array(values, mask=pc.is_null(texts).to_numpy(zero_copy_only=False))


def _format_json(values: pa.Array, _: FieldType) -> pa.Array:
    present = RowBuffer.from_arrow(pc.drop_null(values))
    reader = Reader(present, "JSON")
    check_values(reader, reader.starts, reader.ends)
    return map_distinct(values, print_json, pa.string())


def _parse_json(texts: pa.Array, _: FieldType) -> pa.Array:
    return map_distinct(texts, parse_json, pa.binary())


def _format_vector(values: pa.Array, _: FieldType) -> pa.Array:
    texts = format_floats(values.flatten())
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    bounds = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(bounds, texts), ",")
    return pc.if_else(values.is_valid(), _join("[", joined, "]"), None)


def _parse_vector(texts: pa.Array, field_type: FieldType) -> pa.Array:
    number = r"-?\d+(\.\d+)?"
    _require(texts, rf"^\[({number}(,{number})*)?\]$")
    parts = pc.split_pattern(pc.utf8_slice_codeunits(texts, 1, -1), ",")
    parts = pc.if_else(pc.equal(texts, "[]"), pa.scalar([], parts.type), parts)
    vectors = pc.cast(parts, arrow_type(field_type))
    _require_all(pc.is_finite(vectors.flatten()))
    return vectors


def _bit_width(field_type: FieldType) -> int:
    return (max(field_type.flen, 1) + 7) // 8


def _unchanged(values: pa.Array, _: FieldType) -> pa.Array:
    return values


def _minus_if(is_negative: pa.Array) -> pa.Array:
    return pc.if_else(is_negative, "-", "")


def _digits(numbers: pa.Array, width: int) -> pa.Array:
    return pc.ascii_lpad(pc.cast(numbers, pa.string()), width, "0")


def _remainder(numbers: pa.Array, divisor: int) -> pa.Array:
    return pc.subtract(numbers, pc.multiply(pc.divide(numbers, divisor), divisor))


def _join(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


class _Form(NamedTuple):
    format: Callable[[pa.Array, FieldType], pa.Array]
    parse: Callable[[pa.Array, FieldType], pa.Array]
    text_type: pa.DataType = pa.string()


_INTEGER: Final = _Form(_format_integer, _parse_integer)
_FLOAT: Final = _Form(_format_float, _parse_float)
_DATETIME: Final = _Form(_format_datetime, _parse_datetime)
_TEXT: Final = _Form(_unchanged, _unchanged)
_BYTES: Final = _Form(_unchanged, _unchanged, pa.binary())
_FORMS: Final[Mapping[MySQLType, _Form]] = {
    **dict.fromkeys(INTEGER_TYPES, _INTEGER),
    MySQLType.YEAR: _Form(_format_year, _parse_integer),
    MySQLType.FLOAT: _FLOAT,
    MySQLType.DOUBLE: _FLOAT,
    MySQLType.NEWDECIMAL: _Form(_format_decimal, _parse_decimal),
    MySQLType.DATE: _Form(_format_date, _parse_date),
    MySQLType.NEWDATE: _Form(_format_date, _parse_date),
    MySQLType.DATETIME: _DATETIME,
    MySQLType.TIMESTAMP: _DATETIME,
    MySQLType.TIME: _Form(_format_time, _parse_time),
    MySQLType.ENUM: _Form(_format_enum, _parse_enum),
    MySQLType.SET: _Form(_format_set, _parse_set),
    MySQLType.BIT: _Form(_format_bit, _parse_bit, pa.binary()),
    MySQLType.JSON: _Form(_format_json, _parse_json),
    MySQLType.VECTOR: _Form(_format_vector, _parse_vector),
}


def _form(field_type: FieldType) -> _Form:
    if field_type.tp in STRING_TYPES:
        return _BYTES if field_type.is_binary_string else _TEXT
    if field_type.tp not in _FORMS:
        raise UnsupportedError(f"type {field_type.tp.name}", "text form")
    return _FORMS[field_type.tp]
