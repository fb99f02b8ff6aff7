"""A table with a column of every type that Spark can read, and its rows in Spark."""

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

from pyspark_theflash.testing.stores import Version, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.json_text import parse_json

_UNSIGNED: Final = ColumnFlag.UNSIGNED
_TEXT: Final = {"charset": "utf8mb4"}
_BYTES: Final = {"charset": "binary"}
_JSON: Final = '{"a": [1, null, "é"]}'
_LONG: Final = Decimal("12345678901234567890123456789012345.000000000000000000000000000001")
_MOMENT: Final = datetime(2024, 2, 29, 12, 30, 15, 123456)
_INSTANT: Final = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone.utc)
_TIME: Final = -timedelta(hours=838, minutes=59, seconds=59)

# name, type, properties, Spark's type, the stored value, what Spark shows
_COLUMNS: Final[list[tuple[str, MySQLType, dict[str, Any], str, Any, Any]]] = [
    ("tiny", MySQLType.TINY, {}, "tinyint", -128, -128),
    ("utiny", MySQLType.TINY, {"flag": _UNSIGNED}, "smallint", 255, 255),
    ("small", MySQLType.SHORT, {}, "smallint", -32768, -32768),
    ("usmall", MySQLType.SHORT, {"flag": _UNSIGNED}, "int", 65535, 65535),
    ("medium", MySQLType.INT24, {}, "int", -(2**23), -(2**23)),
    ("umedium", MySQLType.INT24, {"flag": _UNSIGNED}, "int", 2**24 - 1, 2**24 - 1),
    ("int", MySQLType.LONG, {}, "int", -(2**31), -(2**31)),
    ("uint", MySQLType.LONG, {"flag": _UNSIGNED}, "bigint", 2**32 - 1, 2**32 - 1),
    ("big", MySQLType.LONGLONG, {}, "bigint", -(2**63), -(2**63)),
    (
        *("ubig", MySQLType.LONGLONG, {"flag": _UNSIGNED}, "decimal(20,0)"),
        *(2**64 - 1, Decimal(2**64 - 1)),
    ),
    ("year", MySQLType.YEAR, {}, "smallint", 2155, 2155),
    ("float", MySQLType.FLOAT, {}, "float", 0.5, 0.5),
    ("double", MySQLType.DOUBLE, {}, "double", -1e300, -1e300),
    (
        *("decimal", MySQLType.NEWDECIMAL, {"flen": 10, "decimal": 2}, "decimal(10,2)"),
        *(Decimal("-1.50"), Decimal("-1.50")),
    ),
    (
        *("decimal38", MySQLType.NEWDECIMAL, {"flen": 38, "decimal": 0}, "decimal(38,0)"),
        *(Decimal(10**38 - 1), Decimal(10**38 - 1)),
    ),
    (
        *("decimal65", MySQLType.NEWDECIMAL, {"flen": 65, "decimal": 30}, "string"),
        *(_LONG, str(_LONG)),
    ),
    ("date", MySQLType.DATE, {}, "date", date(9999, 12, 31), date(9999, 12, 31)),
    ("datetime", MySQLType.DATETIME, {"decimal": 6}, "timestamp_ntz", _MOMENT, _MOMENT),
    ("timestamp", MySQLType.TIMESTAMP, {"decimal": 6}, "timestamp", _INSTANT, _INSTANT),
    ("time", MySQLType.TIME, {"decimal": 0}, "interval day to second", _TIME, _TIME),
    ("varchar", MySQLType.VARCHAR, _TEXT, "string", "é🙂", "é🙂"),
    ("char", MySQLType.STRING, _TEXT, "string", "", ""),
    ("text", MySQLType.BLOB, _TEXT, "string", "a text", "a text"),
    ("varbinary", MySQLType.VARCHAR, _BYTES, "binary", b"\xff\x00", b"\xff\x00"),
    ("blob", MySQLType.LONG_BLOB, _BYTES, "binary", b"", b""),
    ("bit", MySQLType.BIT, {"flen": 10}, "binary", 0x201, b"\x02\x01"),
    ("enum", MySQLType.ENUM, {"elems": ["a", "b"]}, "string", 2, "b"),
    ("set", MySQLType.SET, {"elems": ["x", "y", "z"]}, "string", 5, "x,z"),
    ("json", MySQLType.JSON, {}, "string", parse_json(_JSON), _JSON),
    ("vector", MySQLType.VECTOR, {"flen": 2}, "array<float>", [0.5, -2.0], [0.5, -2.0]),
    ("virtual", MySQLType.LONG, {"generated_expr_string": "`id` + 1"}, "int", None, 2),
]

TABLE: Final = table_info(
    30, "d.every_type", [id_column(), *(column(n, tp, **props) for n, tp, props, *_ in _COLUMNS)]
)
VERSIONS: Final[list[Version]] = [
    (1, 110, (1, *(stored for *_, stored, _ in _COLUMNS))),
    (2, 110, (2, *(None for _ in _COLUMNS))),
]
SPARK_TYPES: Final = {"id": "bigint", **{name: shown for name, _, _, shown, _, _ in _COLUMNS}}
SHOWN: Final = {"id": 1, **{name: shown for name, *_, shown in _COLUMNS}}
"""Row 1 as Spark shows it."""
NULLS: Final = {name: {"id": 2, "virtual": 3}.get(name) for name in SHOWN}
"""Row 2, which has only its id and values computed from it."""
