"""Column types: MySQL's type byte, flags, length and charset.

Corresponds to TiDB's `types.FieldType` and its JSON form in TableInfo.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final


class MySQLType(IntEnum):
    """Type byte of MySQL's protocol, as in the field `Tp` of TableInfo."""

    UNSPECIFIED = 0
    TINY = 1
    SHORT = 2
    LONG = 3
    FLOAT = 4
    DOUBLE = 5
    NULL = 6
    TIMESTAMP = 7
    LONGLONG = 8
    INT24 = 9
    DATE = 10
    TIME = 11
    DATETIME = 12
    YEAR = 13
    NEWDATE = 14
    VARCHAR = 15
    BIT = 16
    VECTOR = 0xE1
    JSON = 0xF5
    NEWDECIMAL = 0xF6
    ENUM = 0xF7
    SET = 0xF8
    TINY_BLOB = 0xF9
    MEDIUM_BLOB = 0xFA
    LONG_BLOB = 0xFB
    BLOB = 0xFC
    VARSTRING = 0xFD
    STRING = 0xFE


class ColumnFlag(IntFlag):
    """Column flags of MySQL's protocol."""

    NOT_NULL = 1
    PRI_KEY = 2
    UNIQUE = 4
    MULTIPLE = 8
    BLOB = 16
    UNSIGNED = 32
    ZEROFILL = 64
    BINARY = 128


INTEGER_TYPES: Final = frozenset(
    {
        MySQLType.TINY,
        MySQLType.SHORT,
        MySQLType.INT24,
        MySQLType.LONG,
        MySQLType.LONGLONG,
        MySQLType.YEAR,
    }
)
STRING_TYPES: Final = frozenset(
    {
        MySQLType.VARCHAR,
        MySQLType.VARSTRING,
        MySQLType.STRING,
        MySQLType.TINY_BLOB,
        MySQLType.BLOB,
        MySQLType.MEDIUM_BLOB,
        MySQLType.LONG_BLOB,
    }
)
DATETIME_TYPES: Final = frozenset(
    {MySQLType.DATE, MySQLType.NEWDATE, MySQLType.DATETIME, MySQLType.TIMESTAMP}
)


@dataclass(frozen=True, slots=True)
class FieldType:
    """A column's type.

    `decimal` is the scale of a DECIMAL or the fractional-second digits (0-6) of a time type. `flen`
    and `decimal` are -1 if TiDB leaves them unspecified.
    """

    tp: MySQLType
    flag: int = 0
    flen: int = -1
    decimal: int = -1
    charset: str = ""
    collate: str = ""
    elems: tuple[str, ...] = ()

    @property
    def is_unsigned(self) -> bool:
        return bool(self.flag & ColumnFlag.UNSIGNED)

    @property
    def is_not_null(self) -> bool:
        return bool(self.flag & ColumnFlag.NOT_NULL)

    @property
    def is_binary_string(self) -> bool:
        """Whether this is BINARY, VARBINARY or a BLOB: bytes without a charset."""
        return self.tp in STRING_TYPES and self.charset == "binary"

    @property
    def fsp(self) -> int:
        """Fractional-second digits of a time type, 0 where unspecified."""
        return max(self.decimal, 0)
