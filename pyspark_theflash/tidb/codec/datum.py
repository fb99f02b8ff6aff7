"""Datums: a flag byte, which identifies the encoding, followed by the value.

    00 NULL                    06 decimal: precision, fraction digits, binary
    01 memcomparable bytes     07 duration: comparable int, nanoseconds
    02 compact bytes           08 varint
    03 comparable int          09 uvarint
    04 comparable uint         0a JSON: as in `json`, without a length prefix
    05 comparable float        14 vector: u32 count, count * float32, little-endian

Keys use 01 03 04 05 06 07, rows of format v1 and binlog handles mostly 00 02 05 06 07 08 09 0a 14.
See TiDB's `util/codec/codec.go`.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.codec import decimal, json, vector
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.number import floats_from_comparable, uvarints_at, varints_at
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.uint64] | npt.NDArray[np.float64]


class DatumFlag(IntEnum):
    """The first byte of a datum."""

    NULL = 0
    BYTES = 1
    COMPACT_BYTES = 2
    INT = 3
    UINT = 4
    FLOAT = 5
    DECIMAL = 6
    DURATION = 7
    VARINT = 8
    UVARINT = 9
    JSON = 10
    VECTOR = 20


class Form(Enum):
    """Kind of an encoded value, independent of its encoding. The values are used in errors."""

    NULL = "NULL"
    INT = "a signed integer"
    UINT = "an unsigned integer"
    FLOAT = "a float"
    DECIMAL = "a decimal"
    BYTES = "bytes"
    JSON = "JSON"
    VECTOR = "a vector"


_FORMS: Final = {
    **dict.fromkeys(INTEGER_TYPES | {MySQLType.TIME}, Form.INT),
    **dict.fromkeys({MySQLType.BIT, MySQLType.ENUM, MySQLType.SET} | DATETIME_TYPES, Form.UINT),
    **dict.fromkeys({MySQLType.FLOAT, MySQLType.DOUBLE}, Form.FLOAT),
    **dict.fromkeys(STRING_TYPES, Form.BYTES),
    MySQLType.NEWDECIMAL: Form.DECIMAL,
    MySQLType.JSON: Form.JSON,
    MySQLType.VECTOR: Form.VECTOR,
}


def form_of(field_type: FieldType) -> Form | None:
    """Return the form of a type's values in keys and in rows of format v2; None if not stored."""
    tp = field_type.tp
    if tp in INTEGER_TYPES and field_type.is_unsigned and tp != MySQLType.YEAR:
        return Form.UINT
    return _FORMS.get(tp)


@dataclass(frozen=True, slots=True)
class Values:
    """Encoded values of one form, located in a buffer.

    `start` and `end` bound the content: a DECIMAL begins at its precision byte, BYTES at the first
    byte, JSON at its type byte, a VECTOR at its count. `numbers` are the values of INT (int64),
    UINT (uint64) and FLOAT (float64), and the headers of DECIMAL.
    """

    form: Form
    start: Positions
    end: Positions
    numbers: Numbers | None = None

    def __len__(self) -> int:
        return len(self.start)

    def take(self, members: Positions) -> "Values":
        """Select values by index."""
        numbers = None if self.numbers is None else self.numbers[members]
        return Values(self.form, self.start[members], self.end[members], numbers)


def values_at(
    reader: Reader, flag: int, at: Positions, limit: Positions, words: Words | None = None
) -> Values:
    """Read the values at the positions `at`, which follow the flag byte `flag`.

    Args:
        words: The first bytes at `at`, if already loaded, padded to eight with 0xFF.

    Raises:
        CodecError: A value extends beyond its `limit`, or the flag is unknown.
    """
    if flag == DatumFlag.NULL:
        return Values(Form.NULL, at, at)
    if flag == DatumFlag.VARINT:
        signed, ends = varints_at(reader, at, limit, words)
        return Values(Form.INT, at, ends, signed)
    if flag == DatumFlag.UVARINT:
        unsigned, ends = uvarints_at(reader, at, limit, words)
        return Values(Form.UINT, at, ends, unsigned)
    if flag == DatumFlag.COMPACT_BYTES:
        return _compact_bytes_at(reader, at, limit, words)
    if flag == DatumFlag.DECIMAL:
        reader.check_ends(at + 2, limit, at)
        headers, sizes = decimal.headers_at(reader, at)
        reader.check_ends(at + sizes, limit, at)
        return Values(Form.DECIMAL, at, at + sizes, headers)
    if flag == DatumFlag.JSON:
        return Values(Form.JSON, at, json.ends_at(reader, at, limit))
    if flag == DatumFlag.VECTOR:
        return Values(Form.VECTOR, at, vector.ends_at(reader, at, limit))
    if flag in (DatumFlag.INT, DatumFlag.UINT, DatumFlag.FLOAT, DatumFlag.DURATION):
        return _comparable_at(reader, flag, at, limit)
    raise reader.error(f"unknown datum flag {flag}", int(at[0]) - 1)


def _compact_bytes_at(
    reader: Reader, at: Positions, limit: Positions, words: Words | None
) -> Values:
    lengths, start = varints_at(reader, at, limit, words)
    # Compared before the addition, which could overflow.
    fits = (lengths >= 0) & (lengths <= limit - start)
    reader.check(fits, "length exceeds the row", at)
    return Values(Form.BYTES, start, start + lengths)


def _comparable_at(reader: Reader, flag: int, at: Positions, limit: Positions) -> Values:
    ends = at + 8
    reader.check_ends(ends, limit, at)
    words = reader.big_endian_at(at, 8)
    if flag == DatumFlag.UINT:
        return Values(Form.UINT, at, ends, words)
    if flag == DatumFlag.FLOAT:
        return Values(Form.FLOAT, at, ends, floats_from_comparable(words))
    return Values(Form.INT, at, ends, (words ^ np.uint64(1 << 63)).view(np.int64))
