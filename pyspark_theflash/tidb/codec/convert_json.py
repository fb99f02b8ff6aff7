"""Conversion to and from JSON.

To JSON, as `convertToMysqlJSON` in TiDB's types/datum.go:

    strings, names of ENUM and SET      parsed as JSON text; NULL if they are not valid JSON
    integers, YEAR                      integers
    DECIMAL, FLOAT, DOUBLE              doubles
    DATE, DATETIME, TIMESTAMP, TIME     JSON dates and times
    BIT                                 a string of the bytes

From JSON to numbers, as `ConvertJSONToInt`, `ConvertJSONToFloat` and `ConvertJSONToDecimal`: true
is 1; containers, null, dates and all other types are 0. A string is parsed like other text, but it
is not clamped to an integer type, so TiDB may store 300 in a TINYINT.

From JSON to dates and times: the printed JSON text is parsed. A string is parsed without its
quotes, and without a second pair of quotes inside the string. JSON dates print with quotes, so they
become zero.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.array import map_distinct
from pyspark_theflash.tidb.codec.arrow import arrow_type, decimal_type
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.convert_number import fit_decimal, integer_range, to_float, to_year
from pyspark_theflash.tidb.codec.convert_string import string_form
from pyspark_theflash.tidb.codec.convert_time import to_datetime, to_time
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.json import JSONType
from pyspark_theflash.tidb.codec.json_text import json_scalar, parse_json, print_json
from pyspark_theflash.tidb.codec.loose_number import (
    MAX_UINT64,
    loose_decimal,
    loose_float,
    loose_int64,
    loose_integer,
)
from pyspark_theflash.tidb.codec.number import encode_uvarint
from pyspark_theflash.tidb.codec.time import packed_times, unpack_fields

_Number = TypeVar("_Number", float, Decimal)

_NAMED_TYPES: Final = STRING_TYPES | {MySQLType.ENUM, MySQLType.SET}
_DATE_CODES: Final = {
    MySQLType.DATE: JSONType.DATE,
    MySQLType.NEWDATE: JSONType.DATE,
    MySQLType.DATETIME: JSONType.DATETIME,
    MySQLType.TIMESTAMP: JSONType.TIMESTAMP,
}
_TEXT: Final = FieldType(MySQLType.LONG_BLOB, 0, -1, 0, "utf8mb4", "utf8mb4_bin")
_DOUBLE: Final = FieldType(MySQLType.DOUBLE, 0, 22, -1, "binary", "binary")
_BIGINT: Final = FieldType(MySQLType.LONGLONG, 0, 20, 0, "binary", "binary")
_ESCAPE: Final = re.compile(rb"\\(u(?P<code>[\s\S]{0,4})|[\s\S]|\Z)")
_ESCAPED: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def to_json(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to binary JSON; null for texts that are not valid JSON."""
    old = change.old
    if old.tp in _NAMED_TYPES:
        raw = pc.cast(string_form(values, old), pa.binary())
        return map_distinct(raw, _parse, pa.binary())
    if old.tp in _DATE_CODES:
        code = _DATE_CODES[old.tp]
        packed = pa.array(packed_times(values), pa.uint64())
        return map_distinct(packed, lambda p: struct.pack("<BQ", code, _core_time(p)), pa.binary())
    if old.tp == MySQLType.BIT:
        size = (max(old.flen, 1) + 7) // 8
        return map_distinct(values, lambda n: _string(n.to_bytes(size, "big")), pa.binary())
    if old.tp == MySQLType.TIME:
        us = pc.cast(values, pa.int64())
        return map_distinct(
            us, lambda n: struct.pack("<BqI", JSONType.TIME, n * 1000, old.fsp), pa.binary()
        )
    if pa.types.is_signed_integer(values.type):
        return map_distinct(values, lambda n: struct.pack("<Bq", JSONType.INT64, n), pa.binary())
    if pa.types.is_unsigned_integer(values.type):
        return map_distinct(values, lambda n: struct.pack("<BQ", JSONType.UINT64, n), pa.binary())
    return map_distinct(
        values, lambda n: struct.pack("<Bd", JSONType.DOUBLE, float(n)), pa.binary()
    )


def _parse(raw: bytes) -> bytes | None:
    """Parse JSON text. As in Go, an invalid UTF-8 byte is U+FFFD."""
    text = raw.decode("utf-8", "surrogateescape")
    try:
        return parse_json(re.sub("[\udc80-\udcff]", "\ufffd", text))
    except CodecError:
        return None


def _string(raw: bytes) -> bytes:
    return bytes([JSONType.STRING]) + encode_uvarint(len(raw)) + raw


def _core_time(packed: int) -> int:
    """Convert a packed time to TiDB's in-memory form, CoreTime (see `json_text`)."""
    year, month, day, hour, minute, second, micro = unpack_fields(packed)
    date = (year << 4 | month) << 5 | day
    return ((((date << 5 | hour) << 6 | minute) << 6 | second) << 20 | micro) << 4


def from_json(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert JSON values to a type other than a string type.

    Raises:
        UnsupportedError: TiDB stores a value outside the range of the column's type, or a date or
            time depends on unknown settings of the session.
    """
    new = change.new
    if new.tp in DATETIME_TYPES or new.tp == MySQLType.TIME:
        texts, from_text = map_distinct(values, _unquote, pa.binary()), replace(change, old=_TEXT)
        if new.tp == MySQLType.TIME:
            return to_time(from_text, texts)
        # A text whose quotes cannot be removed becomes the zero date, like any invalid text.
        return to_datetime(from_text, pc.fill_null(texts, b""))
    if new.tp in (MySQLType.FLOAT, MySQLType.DOUBLE):
        floats = map_distinct(values, _number_reader(loose_float, float), pa.float64())
        return to_float(replace(change, old=_DOUBLE), floats)
    if new.tp == MySQLType.NEWDECIMAL:
        read = _number_reader(loose_decimal, _decimal)
        return map_distinct(values, lambda raw: fit_decimal(read(raw), new), decimal_type(new))
    if new.tp == MySQLType.YEAR:
        numbers = map_distinct(values, _integer_reader(_BIGINT), pa.int64())
        return to_year(replace(change, old=_BIGINT), numbers)
    wide = pa.uint64() if new.is_unsigned else pa.int64()
    numbers = map_distinct(values, _integer_reader(new), wide)
    try:
        result: pa.Array = pc.cast(numbers, arrow_type(new))
    except pa.ArrowInvalid:
        raise change.unsupported("TiDB stored a value outside the column's range") from None
    return result


def _unquote(raw: bytes) -> bytes | None:
    """Return the text of a JSON value without quotes; None if it has an invalid escape."""
    scalar = json_scalar(raw)
    if not isinstance(scalar, bytes):
        return print_json(raw).encode()
    if len(scalar) < 2 or not (scalar.startswith(b'"') and scalar.endswith(b'"')):
        return scalar
    try:
        return _ESCAPE.sub(_unescape, scalar[1:-1])
    except ValueError:
        return None


def _unescape(match: "re.Match[bytes]") -> bytes:
    char, code = match[1], match["code"]
    if code is not None:
        if len(code) < 4:
            raise ValueError
        return chr(int.from_bytes(bytes.fromhex(code.decode()), "big")).encode("utf-8", "replace")
    if not char:
        raise ValueError
    return _ESCAPED.get(char, char)


def _number_reader(
    read_text: Callable[[bytes], _Number], convert: Callable[[float], _Number]
) -> Callable[[bytes], _Number]:
    def read(raw: bytes) -> _Number:
        scalar = json_scalar(raw)
        return read_text(scalar) if isinstance(scalar, bytes) else convert(scalar or 0)

    return read


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number) if isinstance(number, float) else number)


def _integer_reader(new: FieldType) -> Callable[[bytes], int]:
    low, high = integer_range(new)

    def read(raw: bytes) -> int:
        scalar = json_scalar(raw)
        if isinstance(scalar, bytes):
            return _unsigned(scalar) if new.is_unsigned else loose_int64(scalar)
        if isinstance(scalar, float) and new.is_unsigned and round(scalar) >= high:
            return MAX_UINT64
        return min(max(round(scalar or 0), low), high)

    return read


def _unsigned(text: bytes) -> int:
    """Parse a text for an unsigned column: clamped to 0..2^64 - 1 for any width."""
    return min(max(loose_integer(text) or 0, 0), MAX_UINT64)
