"""Conversion to CHAR, VARCHAR, TEXT and the binary string types.

    numbers             digits without an exponent; YEAR 0 is `0`; BIT is printed as a number
    dates, ENUM, SET    as `tidb.codec.text` prints them
    strings             the charset is converted first, then the length is limited

The length of CHAR and VARCHAR counts characters, that of binary strings bytes. A TEXT is cut after
the last character that fits its size in bytes. BINARY(n) is padded with zero bytes; CHAR loses
trailing spaces. A character that the new charset does not have becomes `?`; in a binary string, the
text ends before it. Such texts are not cut. See `convertToString` and `ProduceStrWithSpecifiedTp`
in TiDB's types/datum.go.
"""

import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.array import join_bytes, map_distinct
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column, format_floats

_WHOLE_NUMBER_TYPES: Final = INTEGER_TYPES | {MySQLType.BIT}
_FLOAT_TYPES: Final = frozenset({MySQLType.FLOAT, MySQLType.DOUBLE})
# Types whose length is in bytes, also with a charset.
_LOB_TYPES: Final = STRING_TYPES - {MySQLType.VARCHAR, MySQLType.VARSTRING, MySQLType.STRING}
# Unicode characters missing from a charset. TiDB's latin1 accepts all of them.
_MISSING: Final = {"ascii": "[\u0080-\U0010ffff]", "utf8": "[\U00010000-\U0010ffff]"}


def to_string(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to a string type.

    Raises:
        UnsupportedError: Bytes that are not UTF-8 become latin1 text; TiDB stores them unchanged.
    """
    old, new = change.old, change.new
    if old.is_binary_string and not new.is_binary_string:
        result = _decode(change, values)
    elif old.tp in STRING_TYPES and new.charset in _MISSING:
        missing = _MISSING[new.charset]
        has_missing = pc.match_substring_regex(values, missing)
        replaced = pc.replace_substring_regex(values, missing, "?")
        result = pc.if_else(has_missing, replaced, _cut(values, new))
    else:
        texts = string_form(values, old)
        result = _cut(pc.cast(texts, pa.binary()) if new.is_binary_string else texts, new)
    if new.tp == MySQLType.STRING:
        result = pad(result, new.flen) if new.is_binary_string else pc.ascii_rtrim(result, " ")
    return result


def string_form(values: pa.Array, field_type: FieldType) -> pa.Array:
    """Format values as TiDB's internal casts do: like `format_column`, but without exponents."""
    texts: pa.Array
    if field_type.tp in STRING_TYPES:
        return values
    if field_type.tp in _WHOLE_NUMBER_TYPES:
        texts = pc.cast(values, pa.string())
        return texts
    if field_type.tp in _FLOAT_TYPES:
        return format_floats(values)
    return format_column(values, field_type)


def _decode(change: TypeChange, values: pa.Array) -> pa.Array:
    """Decode bytes to texts of the new charset, up to the first invalid character."""
    charset = change.new.charset
    texts = map_distinct(values, lambda raw: _valid_prefix(raw, charset), pa.string())
    is_invalid = pc.not_equal(pc.binary_length(texts), pc.binary_length(values))
    if charset == "latin1" and pc.any(is_invalid).as_py():
        raise change.unsupported("a value is not valid UTF-8")
    return pc.if_else(is_invalid, texts, _cut(texts, change.new))


def _valid_prefix(raw: bytes, charset: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        text = raw[: error.start].decode()
    if charset not in _MISSING:
        return text
    return re.split(_MISSING[charset], text, maxsplit=1)[0]


def _cut(values: pa.Array, new: FieldType) -> pa.Array:
    """Cut strings to the length of the new type."""
    length, result = new.flen, values
    if length < 0:
        return values
    if new.is_binary_string:
        result = pc.binary_slice(values, 0, length)
    elif new.tp not in _LOB_TYPES:
        result = pc.utf8_slice_codeunits(values, 0, length)
    elif pc.any(too_long := pc.greater(pc.binary_length(values), length)).as_py():
        rest = map_distinct(
            values.filter(too_long), lambda text: _cut_bytes(text, length), pa.string()
        )
        result = pc.replace_with_mask(values, too_long, rest)
    return result


def _cut_bytes(text: str, length: int) -> str:
    return text.encode()[:length].decode(errors="ignore")


def pad(values: pa.Array, length: int) -> pa.Array:
    """Pad to BINARY(n) with zero bytes."""
    pad_size = pc.max_element_wise(pc.subtract(length, pc.binary_length(values)), 0)
    return join_bytes(values, pc.binary_repeat(pa.scalar(b"\0"), pad_size))
