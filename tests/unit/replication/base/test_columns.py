"""Expressions, texts and literals of columns in SQL."""

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.replication.base.columns import (
    after,
    decode_column,
    expression,
    literal,
    quoted,
    selected_columns,
)
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

TEXT = {"charset": "utf8mb4"}
BYTES = {"charset": "binary"}


def info(tp: MySQLType, **properties):
    return table_info(1, "d.t", [id_column(), column("c", tp, **properties)]).columns[1]


def test_names_are_quoted():
    assert quoted("a`b") == "`a``b`"
    assert expression(info(MySQLType.ENUM, elems=["a"])) == "CAST(`c` AS UNSIGNED)"
    assert expression(info(MySQLType.FLOAT)) == "CAST(`c` AS DOUBLE)"
    assert expression(info(MySQLType.DOUBLE)) == "`c`"


def test_columns_that_are_not_stored_are_not_selected():
    table = table_info(
        1,
        "d.t",
        [
            id_column(),
            column("v", MySQLType.LONG, generated_expr_string="`id` + 1"),
            column("s", MySQLType.LONG, generated_expr_string="`id`", generated_stored=True),
        ],
    )
    assert [each.name for each in selected_columns(table)] == ["id", "s"]


@pytest.mark.parametrize(
    ("tp", "properties", "texts", "values"),
    [
        (MySQLType.ENUM, {"elems": ["a", "b"]}, [b"2", b"0", None], [2, 0, None]),
        (MySQLType.SET, {"elems": ["a", "b"]}, [b"3"], [3]),
        (MySQLType.FLOAT, {}, [b"0.10000000149011612", b"1.234567807609214e20"], None),
        (MySQLType.DOUBLE, {}, [b"1e+21", b"-5e-324"], [1e21, -5e-324]),
        (MySQLType.BIT, {"flen": 9}, [b"\x01\xff"], [511]),
        (MySQLType.VARCHAR, TEXT, ["né".encode(), b""], ["né", ""]),
        (MySQLType.VARCHAR, BYTES, [b"\xff\x00", None], [b"\xff\x00", None]),
        (MySQLType.LONGLONG, {}, [None], [None]),
    ],
)
def test_texts_are_decoded(tp, properties, texts, values):
    decoded = decode_column(texts, info(tp, **properties), "d.t")
    wanted = pa.array([0.1, 1.2345678e20], pa.float32()).to_pylist() if values is None else values
    assert decoded.to_pylist() == wanted


@pytest.mark.parametrize(
    ("tp", "properties", "text"),
    [
        (MySQLType.ENUM, {"elems": ["a"]}, b"a"),
        (MySQLType.VARCHAR, TEXT, b"\xff"),
        (MySQLType.LONG, {}, b"x"),
        (MySQLType.DATE, {}, b"2024-13-01"),
    ],
)
def test_other_texts_are_errors_that_do_not_show_them(tp, properties, text):
    with pytest.raises(CodecError) as failure:
        decode_column([text], info(tp, **properties), "d.t")
    assert "d.t.c" in str(failure.value)
    assert text.decode(errors="replace") + "'" not in str(failure.value)


@pytest.mark.parametrize(
    ("tp", "properties", "text", "wanted"),
    [
        (MySQLType.LONGLONG, {}, b"-5", "-5"),
        (MySQLType.NEWDECIMAL, {"flen": 9, "decimal": 2}, b"-0.50", "-0.50"),
        (MySQLType.DOUBLE, {}, b"0.1", "0.1e0"),
        (MySQLType.DOUBLE, {}, b"1e15", "1e15"),
        (MySQLType.ENUM, {"elems": ["a"]}, b"1", "1"),
        (MySQLType.BIT, {"flen": 16}, b"\x01\x00", "256"),
        (MySQLType.DATETIME, {"decimal": 3}, b"2024-01-01 00:00:00.500", None),
        (MySQLType.VARCHAR, BYTES, b"a'\x00", "x'612700'"),
        (MySQLType.VARCHAR, TEXT, b"a'\\\x00", r"'a\'\\\0'"),
    ],
)
def test_literals_of_key_values(tp, properties, text, wanted):
    wanted = f"'{text.decode()}'" if wanted is None else wanted
    assert literal(text, info(tp, **properties).type, "d.t.c") == wanted


@pytest.mark.parametrize("text", [b"1 OR 1=1", b"", b"--", b"'", b"\xff"])
@pytest.mark.parametrize("tp", [MySQLType.LONG, MySQLType.DOUBLE, MySQLType.NEWDECIMAL])
def test_a_number_is_not_sql(tp, text):
    with pytest.raises(CodecError):
        literal(text, info(tp).type, "d.t.c")


def test_a_time_is_not_sql():
    with pytest.raises(CodecError):
        literal(b"2024-01-01' OR '1", info(MySQLType.DATETIME).type, "d.t.c")
    with pytest.raises(CodecError):
        literal(b"\xff", info(MySQLType.VARCHAR, **TEXT).type, "d.t.c")


def test_the_condition_of_keys_of_several_columns():
    table = table_info(1, "d.t", [id_column(), column("b", MySQLType.LONG)])
    wanted = "(`id` > 1) OR (`id` = 1 AND `b` > 2)"
    assert after(table.columns, ["1", "2"]) == wanted
