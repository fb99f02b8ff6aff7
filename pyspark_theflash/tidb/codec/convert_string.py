"""Changes of type to CHAR, VARCHAR, TEXT and their binary kin.

    numbers             their digits, never an exponent; YEAR 0 is `0`, BIT is a number too
    dates, ENUM, SET    as `tidb.codec.text` prints them
    strings             charset first, then length

A string longer than the column is cut: at characters; TEXT at the last character that fits its
bytes; binary strings at bytes. BINARY(n) is filled up with zeros, CHAR loses spaces at its end.
What the new charset lacks becomes `?`; in bytes, which had no charset, it ends the text. Such texts
are not cut. As `convertToString` and `ProduceStrWithSpecifiedTp` of TiDB's types/datum.go.
"""

import re
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pyspark_theflash.tidb.codec.array import ArrowArray, join_bytes, map_distinct
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column

pc: Any = pyarrow.compute

_WHOLE_NUMBER_TYPES: Final = INTEGER_TYPES | {MySQLType.BIT}
_FLOAT_TYPES: Final = frozenset({MySQLType.FLOAT, MySQLType.DOUBLE})
# TiDB counts the length of these in bytes, also where they have a charset.
_LOB_TYPES: Final = STRING_TYPES - {MySQLType.VARCHAR, MySQLType.VARSTRING, MySQLType.STRING}
# Characters of Unicode that a charset lacks. TiDB's latin1 takes them all.
_LACKING: Final = {"ascii": "[\u0080-\U0010ffff]", "utf8": "[\U00010000-\U0010ffff]"}


def to_string(change: TypeChange, values: ArrowArray) -> ArrowArray:
    """The old values as strings of the new type.

    Raises:
        UnsupportedError: bytes that TiDB stores in a latin1 text as they are.
    """
    old, new = change.old, change.new
    if old.is_binary_string and not new.is_binary_string:
        result = _decoded(change, values)
    elif old.tp in STRING_TYPES and new.charset in _LACKING:
        lacking = _LACKING[new.charset]
        is_spoilt = pc.match_substring_regex(values, lacking)
        replaced = pc.replace_substring_regex(values, lacking, "?")
        result = pc.if_else(is_spoilt, replaced, _cut(values, new))
    else:
        texts = string_form(values, old)
        result = _cut(pc.cast(texts, pa.binary()) if new.is_binary_string else texts, new)
    if new.tp == MySQLType.STRING:
        result = _pad(result, new.flen) if new.is_binary_string else pc.ascii_rtrim(result, " ")
    return result


def string_form(values: ArrowArray, field_type: FieldType) -> ArrowArray:
    """Values as TiDB makes strings of them inside: unlike what it prints, without exponents."""
    texts: ArrowArray
    if field_type.tp in STRING_TYPES:
        return values
    if field_type.tp in _WHOLE_NUMBER_TYPES:
        texts = pc.cast(values, pa.string())
        return texts
    if field_type.tp in _FLOAT_TYPES:
        return _float_digits(values)
    return format_column(values, field_type)


def _float_digits(values: ArrowArray) -> ArrowArray:
    """The shortest digits that read back, with as many zeros as it takes."""
    texts: ArrowArray = pc.cast(values, pa.string())
    exponential = pc.match_substring(texts, "e")
    if not pc.any(exponential).as_py():
        return texts
    to_scalar = np.float32 if values.type == pa.float32() else np.float64
    rest = map_distinct(
        values.filter(exponential),
        lambda value: np.format_float_positional(to_scalar(value), trim="-"),
        pa.string(),
    )
    result: ArrowArray = pc.replace_with_mask(texts, exponential, rest)
    return result


def _decoded(change: TypeChange, values: ArrowArray) -> ArrowArray:
    """Bytes as texts of the new charset, as far as they are."""
    charset = change.new.charset
    texts = map_distinct(values, lambda raw: _longest_text(raw, charset), pa.string())
    is_spoilt = pc.not_equal(pc.binary_length(texts), pc.binary_length(values))
    if charset == "latin1" and pc.any(is_spoilt).as_py():
        raise change.unsupported("bytes that are not UTF-8")
    result: ArrowArray = pc.if_else(is_spoilt, texts, _cut(texts, change.new))
    return result


def _longest_text(raw: bytes, charset: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        text = raw[: error.start].decode()
    if charset not in _LACKING:
        return text
    return re.split(_LACKING[charset], text, maxsplit=1)[0]


def _cut(values: ArrowArray, new: FieldType) -> ArrowArray:
    """At the length of the new type."""
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


def _pad(values: ArrowArray, length: int) -> ArrowArray:
    """Zeros at the end of shorter ones."""
    missing = pc.max_element_wise(pc.subtract(length, pc.binary_length(values)), 0)
    return join_bytes(values, pc.binary_repeat(pa.scalar(b"\0"), missing))
