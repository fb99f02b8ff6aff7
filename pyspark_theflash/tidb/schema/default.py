"""Origin defaults: values of columns that were added after a row was written.

ADD COLUMN does not rewrite rows. TiDB stores the column's default at that time as text, and fills
it in when it reads an older row. The text is cast to the column's type, by type:

    integers, DECIMAL, FLOAT,      as text converted to a number (`codec.convert`): clamped and
    YEAR                           rounded; NULL for -1 in an unsigned column, zero for `x`
    TIMESTAMP                      in UTC; columns of version 0 (old TiDB) are in the server's time
                                   zone, which is not recorded: read as UTC, too
    BIT                            bytes, in a separate field, or text like b'101'; a value too
                                   large for the column becomes all ones
    BINARY(n)                      padded with zeros to n bytes
    CHAR                           without trailing spaces
    CHAR.., BINARY..               cut at the column's length
    BINARY.., BLOB                 as in the JSON text, where TiDB replaced invalid UTF-8 by U+FFFD;
                                   TiDB reads the same
    others                         the text form of `tidb.codec.text`

As in TiDB's `table/column.go` (`getColDefaultValue`).
"""

from typing import Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.schema.model import ColumnInfo

_TRUTHS: Final = {"true": 1, "1": 1, "false": 0, "0": 0}
_NUMBER_TYPES: Final = INTEGER_TYPES | {
    MySQLType.NEWDECIMAL,
    MySQLType.FLOAT,
    MySQLType.DOUBLE,
}
_TEXT: Final = FieldType(MySQLType.VARCHAR, 0, -1, 0, "utf8mb4", "utf8mb4_bin")


def origin_value(info: ColumnInfo) -> pa.Scalar:
    """Return the value of a column for rows without it, in the type `arrow_type(info.type)`.

    Raises:
        CodecError: The text is not a value of the type.
        UnsupportedError: TiDB does not store the type.
    """
    tp, text = arrow_type(info.type), info.origin_default
    if text is None:
        return pa.scalar(None, tp)
    try:
        return _value(info, text, tp)
    except (ValueError, OverflowError):
        reason = f"column {info.name}: its default is not a valid {info.type.tp.name}"
        raise CodecError("origin default", reason) from None


def _value(info: ColumnInfo, text: str, tp: pa.DataType) -> pa.Scalar:
    field_type = info.type
    kind = field_type.tp
    if kind in _NUMBER_TYPES:
        return convert_column(pa.array([text]), _TEXT, field_type, info.name)[0]
    if kind == MySQLType.BIT:
        raw = text.encode() if info.origin_default_bit is None else info.origin_default_bit
        return pa.scalar(_bits(raw, max(field_type.flen, 1)), tp)
    if field_type.is_binary_string:
        return pa.scalar(_binary(text, field_type), tp)
    if kind in STRING_TYPES:
        cut = text[: field_type.flen] if field_type.flen >= 0 else text
        return pa.scalar(cut.rstrip(" ") if kind == MySQLType.STRING else cut, tp)
    return parse_column(pa.array([text], pa.string()), field_type, info.name)[0]


def _bits(raw: bytes, length: int) -> int:
    """As `convertToMysqlBit` in types/datum.go: also `b101`, and `true` for a single bit."""
    text = raw.decode("latin-1")
    if length == 1 and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    digits = None
    if text[:1] in ("b", "B"):
        digits = text[1:].strip("'")
    elif text.startswith("0b"):
        digits = text[2:]
    is_bits = digits is not None and set(digits) <= {"0", "1"}
    number = int(digits or "0", 2) if is_bits else int.from_bytes(raw, "big")
    return min(number, (1 << length) - 1)


def _binary(text: str, field_type: FieldType) -> bytes:
    raw = text.encode()[: field_type.flen] if field_type.flen >= 0 else text.encode()
    return raw.ljust(field_type.flen, b"\0") if field_type.tp == MySQLType.STRING else raw
