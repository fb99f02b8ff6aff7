"""Origin defaults: what rows hold that are older than their column.

ADD COLUMN rewrites no row. It writes down, as text, the default of that moment, and whoever reads
an older row puts it in. The text is what TiDB would cast, not always what it prints:

    integers, DECIMAL, FLOAT,      as a text that becomes a number (`codec.convert`): clamped and
    YEAR                           rounded; NULL for -1 in an unsigned column, zero for `x`
    TIMESTAMP                      in UTC (columns of old TiDBs, of version 0: in the zone of the
                                   server, which nobody tells; taken for UTC, too)
    BIT                            bytes, in a field of their own, or text like b'101'; what is too
                                   large for the column is all ones
    BINARY(n)                      padded with zeros to n bytes
    CHAR                           without trailing spaces
    CHAR.., BINARY..               cut at the column's length
    BINARY.., BLOB                 as the JSON text has them: bytes that are no UTF-8 became U+FFFD
                                   when TiDB wrote it, and that is what TiDB itself reads
    others                         their text form (`tidb.codec.text`)

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
    """What a row holds that does not hold the column, in the type `arrow_type(info.type)`.

    Raises:
        CodecError: the text is no value of the type.
        UnsupportedError: a type that TiDB does not store.
    """
    tp, text = arrow_type(info.type), info.origin_default
    if text is None:
        return pa.scalar(None, tp)
    try:
        return _value(info, text, tp)
    except (ValueError, OverflowError):
        reason = f"column {info.name}: its default is no {info.type.tp.name}"
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
        kept = text[: field_type.flen] if field_type.flen >= 0 else text
        return pa.scalar(kept.rstrip(" ") if kind == MySQLType.STRING else kept, tp)
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
