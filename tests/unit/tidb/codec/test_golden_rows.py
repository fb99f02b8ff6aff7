"""Rows and keys written by TiDB's own code."""

import datetime as dt
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.collation import is_bytewise
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles
from pyspark_theflash.tidb.codec.key import RawKey, decode_record_key
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_rows_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support.captured_rows import column_specs
from tests.support.decoded import as_python
from tests.support.golden_vectors import VECTORS, codec_vectors, live_tables
from tests.support.json_oracle import encode_json
from tests.support.row_oracle import (
    OddTime,
    decode_row_v1,
    decode_row_v2,
    encode_row_v1,
    encode_row_v2,
)

INT = FieldType(MySQLType.LONGLONG)
UINT = FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED)
TEXT = FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_bin")


def _decode(row: bytes, columns: list[ColumnSpec]) -> DecodedRows:
    decode = decode_rows_v2 if row[0] == 128 else decode_rows_v1
    return decode(RowBuffer.from_list([row]), columns)


@pytest.mark.parametrize("kind", ["row.v1", "row.v2"])
def test_rows_of_numbers_and_strings(kind: str) -> None:
    for vector in codec_vectors(kind):
        row = bytes.fromhex(vector["hex"])
        if isinstance(vector["in"], int):
            types = [INT] * vector["in"]
            expected = [None if i % 3 == 0 else i * 1000 - 500 for i in range(vector["in"])]
        else:
            types = [INT, UINT, TEXT, INT]
            expected = [*map(int, vector["in"][:2]), vector["in"][2], None]
        ids = map(ColumnID, vector["extra"])
        columns = [ColumnSpec(i, f"c{i}", t) for i, t in zip(ids, types, strict=True)]
        decoded = _decode(row, columns)
        assert [column.values[0].as_py() for column in decoded.columns] == expected
        assert all(column.absent is None for column in decoded.columns)


def _decimal(precision: int, scale: int) -> FieldType:
    return FieldType(MySQLType.NEWDECIMAL, 0, precision, scale)


DATETIME = FieldType(MySQLType.DATETIME, decimal=6)
DURATION = FieldType(MySQLType.TIME, decimal=6)
JSON = FieldType(MySQLType.JSON)
# By the label in vectors.txt.
SINGLE_VALUES: dict[str, tuple[FieldType, Any]] = {
    "int 1": (INT, 1),
    "int -1": (INT, -1),
    "int 128": (INT, 128),
    "int -129": (INT, -129),
    "int 2^31": (INT, 2**31),
    "uint 255": (UINT, 255),
    "uint 256": (UINT, 256),
    "uint 2^64-1": (UINT, 2**64 - 1),
    "double 1.5": (FieldType(MySQLType.DOUBLE), 1.5),
    "double -1.5": (FieldType(MySQLType.DOUBLE), -1.5),
    "double 0": (FieldType(MySQLType.DOUBLE), 0.0),
    "float32 1.1 stored as f64": (FieldType(MySQLType.FLOAT), 1.100000023841858),
    "dec 1.10 (15,2)": (_decimal(15, 2), Decimal("1.10")),
    "dec -1.10 (15,2)": (_decimal(15, 2), Decimal("-1.10")),
    "dec 0 (15,2)": (_decimal(15, 2), Decimal("0.00")),
    "dec -0.00 (15,2)": (_decimal(15, 2), Decimal("0.00")),
    "dec 1234567890.1234 precision unset": (_decimal(20, 6), Decimal("1234567890.123400")),
    "dec (65,30)": (
        _decimal(65, 30),
        Decimal("12345678901234567890123456789012345.123456789012345678901234567890"),
    ),
    "date 1998-12-01": (FieldType(MySQLType.DATE), dt.date(1998, 12, 1)),
    "datetime(6) 2020-02-29 23:59:59.123456": (
        DATETIME,
        dt.datetime(2020, 2, 29, 23, 59, 59, 123456),
    ),
    "timestamp 2020-01-01 08:00:00 at +08:00": (
        FieldType(MySQLType.TIMESTAMP),
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),
    ),
    "zero datetime": (DATETIME, OddTime(0, 0, 0)),
    "datetime 2020-00-10": (DATETIME, OddTime(2020, 0, 10)),
    "time 01:02:03.5": (DURATION, dt.timedelta(hours=1, minutes=2, seconds=3.5)),
    "time -838:59:59": (DURATION, -dt.timedelta(hours=838, minutes=59, seconds=59)),
    "enum value 2": (FieldType(MySQLType.ENUM), 2),
    "set value 5": (FieldType(MySQLType.SET), 5),
    "bit(9) 0x1ff": (FieldType(MySQLType.BIT, flen=9), 0x1FF),
    # TiDB flags YEAR as unsigned and writes it signed.
    "year 2020 (int64)": (FieldType(MySQLType.YEAR, ColumnFlag.UNSIGNED), 2020),
    "str 'abc'": (TEXT, "abc"),
    "str ''": (TEXT, ""),
    'json {"a":[1,"x",null],"b":1.5}': (JSON, encode_json({"a": [1, "x", None], "b": 1.5})),
    "json 1": (JSON, encode_json(1)),
    'json "s"': (JSON, encode_json("s")),
    "NULL": (INT, None),
}


def _single_values() -> Iterator[tuple[str, bytes, bytes]]:
    """(label, row v2, row v1) of the table in vectors.txt."""
    lines = (VECTORS / "vectors.txt").read_text().splitlines()
    for label, v2, v1 in re.findall(r"^\| (.*?) \| `(\w+)` \| `(\w+)` \|", "\n".join(lines), re.M):
        counts = "00000100" if label == "NULL" else "01000000"
        yield label, bytes.fromhex("8000" + counts + v2), bytes.fromhex(v1)


def test_all_single_values_are_expected() -> None:
    assert {label for label, *_ in _single_values()} == set(SINGLE_VALUES)


@pytest.mark.parametrize(("label", "v2", "v1"), list(_single_values()))
def test_single_values(label: str, v2: bytes, v1: bytes) -> None:
    field_type, expected = SINGLE_VALUES[label]
    columns = [ColumnSpec(ColumnID(1), "c", field_type)]
    for row in (v1, v2):
        assert as_python(_decode(row, columns).columns[0].values) == [expected]


@pytest.mark.parametrize("table", live_tables(), ids=lambda t: f"{t['table']}-{t['kind']}")
def test_tables_as_select_shows_them(table: dict[str, Any]) -> None:
    """Values are in the row, or else in the handle."""
    info = parse_table_info(table["db"], table["table_info"])
    for (key, row), shown in zip(table["records"], table["rows"], strict=True):
        texts = dict(zip(table["select_cols"], shown, strict=True))
        handle = decode_record_key(RawKey(bytes.fromhex(key))).handle
        for encoded in _both_formats(info, bytes.fromhex(row)):
            _check_row(info, handle, encoded, texts)


def _both_formats(info: TableInfo, row: bytes) -> tuple[bytes, bytes]:
    """Return a row in its format and in the other one."""
    types = {column.id: column.type for column in info.columns}
    if row[0] == 128:
        return row, encode_row_v1(decode_row_v2(row, types), types)
    return row, encode_row_v2(decode_row_v1(row, types), types)


def _check_row(info: TableInfo, handle: int | bytes, row: bytes, texts: dict[str, Any]) -> None:
    in_key = _from_handle(info, handle)
    decoded = _decode(row, column_specs(info.public_columns))
    for column, decoded_column in zip(info.public_columns, decoded.columns, strict=True):
        if column.is_virtual:
            continue
        absent = decoded_column.absent is not None and column.name in in_key
        values = in_key[column.name] if absent else decoded_column.values
        assert format_column(values, column.type)[0].as_py() == _as_shown(
            texts[column.name], column.type
        )
    if "_tidb_rowid" in texts:
        assert str(handle) == texts["_tidb_rowid"]


def _from_handle(info: TableInfo, handle: int | bytes) -> dict[str, "pa.Array[Any]"]:
    types = [column.type for column in info.handle_columns]
    if isinstance(handle, int):
        return {
            c.name: pa.array([handle % 2**64 if c.type.is_unsigned else handle], arrow_type(c.type))
            for c in info.handle_columns
        }
    columns = decode_common_handles(pa.array([handle]), types)
    return {
        c.name: v
        for c, v in zip(info.handle_columns, columns, strict=True)
        if c.type.tp not in STRING_TYPES or is_bytewise(c.type)
    }


def _as_shown(text: Any, field_type: FieldType) -> str | bytes | None:
    if isinstance(text, dict):
        raw = bytes.fromhex(text["hex"])
        binary = field_type.is_binary_string or field_type.tp == MySQLType.BIT
        return raw if binary else raw.decode()
    if text is not None and (field_type.is_binary_string or field_type.tp == MySQLType.BIT):
        return str(text).encode()
    return None if text is None else str(text)
