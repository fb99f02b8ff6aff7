"""Stored columns in the form of the reader."""

from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import UnrepresentableValueError
from pyspark_theflash.read.present import NATIVE, TEXT, Presentation, ZeroDates
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import parse_column

DATES = ["2024-02-29", "0000-00-00", "2024-02-31", None]
ENUM = FieldType(MySQLType.ENUM, elems=("a", "b"))
BIT = FieldType(MySQLType.BIT, flen=9)
JSON = FieldType(MySQLType.JSON)
DATE = FieldType(MySQLType.DATE)
INT = FieldType(MySQLType.LONG)
BLOB = FieldType(MySQLType.BLOB, charset="binary", collate="binary")


def shown(presentation: Presentation, texts: list[Any], field_type: FieldType) -> list[Any]:
    stored = parse_column(pa.array(texts), field_type, "c")
    values: list[Any] = presentation.apply(stored, field_type, "d.t.c").to_pylist()
    return values


def test_what_means_nothing_as_a_number_is_text() -> None:
    assert shown(NATIVE, ["b", None], ENUM) == ["b", None]
    assert shown(NATIVE, ['{"a": 1}'], JSON) == ['{"a": 1}']
    assert shown(NATIVE, [b"\x01\x02"], BIT) == [b"\x01\x02"]
    assert shown(NATIVE, ["7"], INT) == [7]


def test_everything_as_text() -> None:
    assert shown(TEXT, ["7", None], INT) == ["7", None]
    assert shown(TEXT, DATES, DATE) == DATES
    assert shown(TEXT, [b"\xff"], BLOB) == [b"\xff"]


def test_impossible_dates_are_the_readers_choice() -> None:
    with pytest.raises(UnrepresentableValueError, match=r"column d\.t\.c: 0000-00-00 cannot"):
        shown(NATIVE, DATES, DATE)
    as_null = shown(Presentation(ZeroDates.NULL), DATES, DATE)
    assert [str(value) for value in as_null] == ["2024-02-29", "None", "None", "None"]
    assert shown(Presentation(ZeroDates.STRING), DATES, DATE) == DATES
    assert shown(Presentation(ZeroDates.STRING), ["7"], INT) == [7]
