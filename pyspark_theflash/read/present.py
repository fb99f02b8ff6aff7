"""Stored columns in the form a reader gets.

What Arrow holds as it is stays so. ENUM, SET and JSON become their texts and BIT its bytes, since
numbers and binary JSON mean nothing without TiDB. Dates that no calendar has (0000-00-00,
2020-02-31) are stored exactly, but no date can show them: what becomes of them is the reader's
choice.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

import pyarrow as pa

from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.codec.time import ImpossibleDates, resolve_impossible

_SHOWN_AS_TEXT: Final = frozenset({MySQLType.ENUM, MySQLType.SET, MySQLType.JSON, MySQLType.BIT})


class ZeroDates(Enum):
    """What becomes of dates that no calendar has."""

    RAISE = "raise"
    NULL = "null"
    STRING = "string"
    """All DATE, DATETIME and TIMESTAMP columns come as TiDB's text."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """A reader's choices. With `as_text`, every column comes as TiDB prints it."""

    zero_dates: ZeroDates = ZeroDates.RAISE
    as_text: bool = False

    def is_text(self, field_type: FieldType) -> bool:
        """Whether a column comes as text (BIT and binary strings: as bytes)."""
        is_date_text = self.zero_dates is ZeroDates.STRING and field_type.tp in DATETIME_TYPES
        return self.as_text or is_date_text or field_type.tp in _SHOWN_AS_TEXT

    def keeps(self, field_type: FieldType) -> bool:
        """Whether the reader gets the values of a column as they are stored."""
        return not self.is_text(field_type) and field_type.tp not in DATETIME_TYPES

    def may_be_null(self, field_type: FieldType) -> bool:
        """Whether the reader may get a NULL in a column."""
        may_become_null = self.zero_dates is ZeroDates.NULL and field_type.tp in DATETIME_TYPES
        return may_become_null or not field_type.is_not_null

    def type_of(self, field_type: FieldType) -> pa.DataType:
        """The Arrow type in which the reader gets a column. Raises `UnsupportedError`."""
        stored = arrow_type(field_type)
        if not self.is_text(field_type):
            return stored
        is_bytes = field_type.tp == MySQLType.BIT or field_type.is_binary_string
        return pa.binary() if is_bytes else pa.string()

    def apply(self, values: pa.Array, field_type: FieldType, name: str) -> pa.Array:
        """A stored column as the reader gets it.

        Raises:
            UnrepresentableValueError: a date that no calendar has, and `zero_dates` is RAISE.
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
