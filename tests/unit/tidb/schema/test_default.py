"""Origin defaults: values of rows older than their column, in TiDB and computed."""

import gzip
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.testing.stores import column
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.default import origin_value
from pyspark_theflash.tidb.schema.model import ColumnInfo, parse_table_info
from tests.support.golden_vectors import VECTORS, value_vectors

T = MySQLType


def _info(column_json: dict[str, Any]) -> ColumnInfo:
    numbered = {"id": 1, "offset": 0, **column_json}
    table = {"id": 1, "name": {"O": "t"}, "cols": [numbered], "pk_is_handle": False}
    return parse_table_info("d", table).columns[0]


def _shown(info: ColumnInfo) -> object:
    value = origin_value(info)
    assert value.type == arrow_type(info.type)
    text = format_column(pa.array([value], value.type), info.type)[0].as_py()
    return {"x": text.hex()} if isinstance(text, bytes) else text


@pytest.mark.parametrize("entry", value_vectors("origin_defaults"), ids=lambda e: e["column"]["id"])
def test_as_tidb_shows_them(entry: dict[str, Any]) -> None:
    assert _shown(_info(entry["column"])) == entry["shown"]


def test_every_captured_one_converts() -> None:
    document = json.loads(gzip.decompress((VECTORS / "ddl_schema.json.gz").read_bytes()))
    events = document["initial"] + document["changes"]
    tables = [event["table"] for event in events if event.get("table")]
    tables += [entry["table_info"] for entry in value_vectors("rows")]
    converted = set()
    for table in tables:
        for info in parse_table_info("d", table).columns:
            if info.origin_default is not None:
                assert origin_value(info).is_valid
                converted.add((info.type.tp, info.origin_default))
    assert len(converted) > 30


def test_none() -> None:
    value = origin_value(_info(column("c", T.DATE)))
    assert not value.is_valid
    assert value.type == pa.date32()


@pytest.mark.parametrize(
    ("tp", "properties", "text", "value"),
    [
        (T.LONG, {}, " -5 ", -5),
        (T.LONG, {}, "1.5", 2),
        (T.LONG, {}, "-1.5", -2),
        (T.LONGLONG, {"flag": ColumnFlag.UNSIGNED}, "1e3", 1000),
        (T.LONGLONG, {}, "-9223372036854775808", -(2**63)),
        (T.YEAR, {}, "5", 2005),
        (T.YEAR, {}, "70", 1970),
        (T.YEAR, {}, "0", 2000),
        (T.YEAR, {}, "0000", 0),
        (T.YEAR, {}, "2155", 2155),
        (T.YEAR, {}, "1800", 1901),
        (T.YEAR, {}, "-1", 0),
        (T.TINY, {"flag": ColumnFlag.UNSIGNED}, "10000000000", 255),
        (T.TINY, {"flag": ColumnFlag.UNSIGNED}, "-1", None),
        (T.TINY, {}, "-300", -128),
        (T.INT24, {"flag": ColumnFlag.UNSIGNED}, "20000000", 2**24 - 1),
        (T.LONGLONG, {"flag": ColumnFlag.UNSIGNED}, "1" + "0" * 30, None),
        (T.LONGLONG, {}, "1" + "0" * 30, 2**63 - 1),
        (T.LONG, {}, "12x", 12),
        (T.NEWDECIMAL, {"flen": 3, "decimal": 1}, "99.99", Decimal("99.9")),
        (
            T.NEWDECIMAL,
            {"flen": 3, "decimal": 1, "flag": ColumnFlag.UNSIGNED},
            "-5",
            Decimal("0.0"),
        ),
        (T.NEWDECIMAL, {"flen": 5, "decimal": 1}, "x", Decimal("0.0")),
        (T.FLOAT, {}, "1e300", 3.4028234663852886e38),
        (T.DOUBLE, {"flag": ColumnFlag.UNSIGNED}, "-5", 0.0),
        (T.DOUBLE, {"flen": 5, "decimal": 1}, "99999", 9999.9),
        (T.NEWDECIMAL, {"flen": 5, "decimal": 2}, "1.555", Decimal("1.56")),
        (T.NEWDECIMAL, {"flen": 5, "decimal": 2}, "-1e2", Decimal("-100.00")),
        (T.NEWDECIMAL, {"flen": 65, "decimal": 30}, "9" * 35, Decimal("9" * 35)),
        (T.FLOAT, {}, "1E5", 100000.0),
        (T.DOUBLE, {}, "0." + "0" * 300 + "1", 1e-301),
        (T.BIT, {"flen": 64, "origin_default_bit": "//////////8="}, "\ufffd" * 8, 2**64 - 1),
        (T.BIT, {"flen": 8}, "\x05", 5),
        (T.BIT, {"flen": 7, "origin_default_bit": "bnVsbA=="}, "null", 127),
        (T.BIT, {"flen": 33, "origin_default_bit": "Yg=="}, "b", 0),
        (T.BIT, {"flen": 8}, "b'101'", 5),
        (T.BIT, {"flen": 8}, "0b11", 3),
        (T.BIT, {"flen": 1}, "True", 1),
        (T.BIT, {"flen": 24}, "b2", 0x6232),
        (T.STRING, {"charset": "binary", "flen": 4}, "ab", b"ab\0\0"),
        (T.VARCHAR, {"charset": "binary", "flen": 4}, "ab", b"ab"),
        (T.STRING, {"flen": 4}, "ab  ", "ab"),
        (T.VARCHAR, {"flen": 4}, "ab  ", "ab  "),
        (T.VARCHAR, {"flen": 3}, "éabcd", "éab"),
        (T.STRING, {"flen": 3}, "é a", "é a"),
        (T.VARCHAR, {"charset": "binary", "flen": 3}, "éab", "éa".encode()),
        (T.VARCHAR, {"charset": "gbk", "flen": 4}, "中", "中"),
        (T.ENUM, {"elems": ["a", "b"]}, "b", 2),
        (T.SET, {"elems": ["a", "b"]}, "", 0),
        (T.JSON, {}, "null", b"\4\0"),
    ],
)
def test_as_tidb_casts_them(
    tp: MySQLType, properties: dict[str, Any], text: str, value: object
) -> None:
    info = _info(column("c", tp, origin_default=text, **properties))
    assert origin_value(info).as_py() == value


@pytest.mark.parametrize(
    ("tp", "properties", "text"),
    [
        (T.DATE, {}, "2020-13-01"),
        (T.ENUM, {"elems": ["a"]}, "secret"),
    ],
)
def test_what_is_no_default(tp: MySQLType, properties: dict[str, Any], text: str) -> None:
    with pytest.raises(CodecError, match="column c") as caught:
        origin_value(_info(column("c", tp, origin_default=text, **properties)))
    assert "secret" not in str(caught.value)
