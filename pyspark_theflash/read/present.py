"""Conversion of stored columns to the form that a reader gets.

Most columns are returned as stored. ENUM, SET and JSON are returned as text and BIT as bytes,
because their stored form has no meaning outside of TiDB. Dates that do not exist (0000-00-00,
2020-02-31) are stored exactly but have no Arrow date; the reader chooses how they are returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import pyarrow as pa

from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.codec.time import ImpossibleDates, resolve_impossible
from pyspark_theflash.tidb.schema.model import ColumnInfo

_SHOWN_AS_TEXT: Final = frozenset({MySQLType.ENUM, MySQLType.SET, MySQLType.JSON, MySQLType.BIT})


class ZeroDates(Enum):
    """Treatment of dates that do not exist."""

    RAISE = "raise"
    NULL = "null"
    STRING = "string"
    """All DATE, DATETIME and TIMESTAMP columns are returned as TiDB's text."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """Options of the returned form. With `as_text`, every column is returned as TiDB prints it."""

    zero_dates: ZeroDates = ZeroDates.RAISE
    as_text: bool = False

    def is_text(self, field_type: FieldType) -> bool:
        """Whether a column is returned as text (BIT and binary strings: as bytes)."""
        is_date_text = self.zero_dates is ZeroDates.STRING and field_type.tp in DATETIME_TYPES
        return self.as_text or is_date_text or field_type.tp in _SHOWN_AS_TEXT

    def keeps(self, field_type: FieldType) -> bool:
        """Whether the values of a column are returned as stored."""
        return not self.is_text(field_type) and field_type.tp not in DATETIME_TYPES

    def may_be_null(self, field_type: FieldType) -> bool:
        """Whether a returned column can contain NULL."""
        may_become_null = self.zero_dates is ZeroDates.NULL and field_type.tp in DATETIME_TYPES
        return may_become_null or not field_type.is_not_null

    def type_of(self, field_type: FieldType) -> pa.DataType:
        """Return the Arrow type of a returned column. Raises `UnsupportedError`."""
        stored = arrow_type(field_type)
        if not self.is_text(field_type):
            return stored
        is_bytes = field_type.tp == MySQLType.BIT or field_type.is_binary_string
        return pa.binary() if is_bytes else pa.string()

    def apply(self, values: pa.Array, field_type: FieldType, name: str) -> pa.Array:
        """Convert a stored column to the returned form.

        Raises:
            UnrepresentableValueError: A date does not exist, and `zero_dates` is RAISE.
        """
        if self.is_text(field_type):
            return format_column(values, field_type)
        if field_type.tp in DATETIME_TYPES:
            becomes_null = self.zero_dates is ZeroDates.NULL
            policy = ImpossibleDates.NULL if becomes_null else ImpossibleDates.RAISE
            return resolve_impossible(values, policy, name)
        return values


NATIVE: Final = Presentation()
TEXT: Final = Presentation(as_text=True)


def as_texts(columns: Sequence[pa.Array], infos: Sequence[ColumnInfo]) -> list[pa.Array]:
    """Convert stored columns to the text of TiDB."""
    return [TEXT.apply(c, i.type, i.name) for c, i in zip(columns, infos, strict=True)]
