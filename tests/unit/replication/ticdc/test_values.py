from datetime import date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, OptionError, UnsupportedError
from pyspark_theflash.replication.ticdc.canal_json import parse_canal_json
from pyspark_theflash.replication.ticdc.rows import BinaryEncoding, SinkFormat
from pyspark_theflash.replication.ticdc.values import stored_values
from pyspark_theflash.tidb.codec.field_type import ColumnFlag
from pyspark_theflash.tidb.codec.text import format_column
from tests.support.golden_vectors import ticdc_messages
from tests.support.ticdc_tables import column, rows_of, table_of

UNSIGNED = ColumnFlag.UNSIGNED
ORACLE = table_of(
    column("id", "LONGLONG"),
    column("u", "LONGLONG", UNSIGNED),
    column("s", "VARCHAR", charset="utf8mb4"),
    column("b", "BLOB", charset="binary"),
    column("d", "NEWDECIMAL", flen=20, decimal=6),
    column("f", "DOUBLE"),
    column("dt", "DATETIME", decimal=6),
    column("j", "JSON"),
    column("n", "LONG"),
    column("e", "ENUM", elems=("a", "b")),
    column("st", "SET", elems=("a", "b", "c")),
    column("bit", "BIT", flen=8),
)


NOTHING = SinkFormat()


def decoded(tp, *texts, sink=NOTHING, is_csv=False, encoded=False, **kind):
    """The values of one column next to a key."""
    table = table_of(column("id", "LONGLONG"), column("c", tp, **kind))
    rows = rows_of(
        {"id": ["1"] * len(texts), "c": texts},
        is_csv=is_csv,
        encoded=frozenset({"c"} if encoded else ()),
    )
    return stored_values(rows, table, sink)[2].to_pylist()


def test_values_of_ticdc():
    """The values that TiCDC's own encoder was given."""
    (rows,) = parse_canal_json(ticdc_messages("canal-json")[0], "file")
    values = stored_values(rows, ORACLE, SinkFormat())
    by_name = {c.name: values[c.id] for c in ORACLE.columns}
    assert format_column(by_name.pop("j"), ORACLE.columns[7].type).to_pylist() == [
        '{"a": [1, null]}'
    ]
    assert {name: value[0].as_py() for name, value in by_name.items()} == {
        "id": 1,
        "u": 2**64 - 1,
        "s": "héllo",
        "b": b"\x00\xff\x10",
        "d": Decimal("-12345678901234.123456"),
        "f": -2.5,
        "dt": datetime(2020, 1, 2, 3, 4, 5, 678901),
        "n": None,
        "e": 2,
        "st": 5,
        "bit": 5,
    }


@pytest.mark.parametrize(
    ("tp", "text", "value", "kind"),
    [
        ("TINY", "-128", -128, {}),
        ("YEAR", "2024", 2024, {}),
        ("YEAR", "0", 0, {}),
        ("FLOAT", "0.1", pytest.approx(0.1), {}),
        ("DOUBLE", "1" + "0" * 300, 1e300, {}),
        ("DATE", "2024-02-29", date(2024, 2, 29), {}),
        ("TIME", "-838:59:59.5", -timedelta(hours=838, minutes=59, seconds=59.5), {"decimal": 1}),
        ("VECTOR", "[1,-0.5]", [1, -0.5], {}),
        ("BIT", str(2**64 - 1), 2**64 - 1, {"flen": 64}),
        ("ENUM", "0", 0, {"elems": ("a",)}),
    ],
)
def test_canal_json(tp, text, value, kind):
    assert decoded(tp, text, None, **kind) == [value, None]


def test_times_in_the_time_zone_of_ticdc():
    texts = ["2020-07-01 08:00:00", "0000-00-00 00:00:00", None]
    table = table_of(column("id", "LONGLONG"), column("c", "TIMESTAMP"))
    rows = rows_of({"id": ["1"] * 3, "c": texts})
    values = stored_values(rows, table, SinkFormat("Asia/Shanghai"))[2]
    shown = format_column(values, table.columns[1].type).to_pylist()
    assert shown == ["2020-07-01 00:00:00", "0000-00-00 00:00:00", None]


def test_a_time_zone_must_be_specified():
    with pytest.raises(OptionError, match=r"add \?time-zone=ZONE"):
        decoded("TIMESTAMP", "2020-07-01 08:00:00")


def test_an_ambiguous_time():
    zone = SinkFormat(time_zone="Europe/Berlin")
    with pytest.raises(UnsupportedError, match="clocks"):
        decoded("TIMESTAMP", "2020-10-25 02:30:00", sink=zone)


def test_text_that_ticdc_encodes_as_bytes():
    """A text column with the attribute BINARY."""
    assert decoded("VARCHAR", "h\u00c3\u00a9", charset="utf8mb4", encoded=True) == ["hé"]


@pytest.mark.parametrize(
    ("tp", "text", "value", "kind"),
    [
        ("FLOAT", "1e-05", pytest.approx(1e-5), {}),
        ("DOUBLE", "1e+21", 1e21, {}),
        ("ENUM", "b", 2, {"elems": ("a", "b")}),
        ("SET", "a,c", 5, {"elems": ("a", "b", "c")}),
        ("BIT", "5", 5, {"flen": 8}),
        ("VARCHAR", "a", "a", {"charset": "utf8mb4"}),
    ],
)
def test_csv(tp, text, value, kind):
    assert decoded(tp, text, None, is_csv=True, **kind) == [value, None]


@pytest.mark.parametrize(("encoding", "text"), [("BASE64", "6Zi/5pav"), ("HEX", "e998bfe696af")])
def test_binary_strings_of_csv(encoding, text):
    sink = SinkFormat(binary_encoding=BinaryEncoding[encoding])
    value = "阿斯".encode()
    assert decoded("BLOB", text, None, sink=sink, is_csv=True, charset="binary") == [value, None]
    with pytest.raises(CodecError, match=encoding.lower()):
        decoded("BLOB", "?", sink=sink, is_csv=True, charset="binary")


def test_the_encoding_of_csv_must_be_specified():
    with pytest.raises(OptionError, match="binary-encoding-method=base64"):
        decoded("BLOB", "YQ==", is_csv=True, charset="binary")


def test_the_encoding_of_a_text_column_of_csv_is_unknown():
    with pytest.raises(UnsupportedError, match="attribute BINARY"):
        decoded("VARCHAR", "a", is_csv=True, charset="utf8mb4", flag=ColumnFlag.BINARY)


@pytest.mark.parametrize(
    ("tp", "text", "kind"),
    [
        ("TINY", "128", {}),
        ("BIT", "x", {"flen": 8}),
        ("DATE", "yesterday", {}),
        ("JSON", "{", {}),
        ("BLOB", "\u0100", {"charset": "binary", "encoded": True}),
        ("BLOB", "a", {"charset": "binary"}),
        ("VARCHAR", "\u00ff", {"charset": "utf8mb4", "encoded": True}),
    ],
)
def test_invalid_texts(tp, text, kind):
    with pytest.raises(CodecError, match=r"column d\.t\.c"):
        decoded(tp, text, **kind)


def test_a_column_that_the_table_does_not_have():
    with pytest.raises(CodecError, match=r"d\.t has no column 'x'"):
        stored_values(rows_of({"id": ["1"], "x": ["1"]}), ORACLE, SinkFormat())


def test_a_column_replaces_one_that_is_being_dropped():
    table = table_of(column("id", "LONGLONG"), column("c", "LONG", state=2), column("C", "VARCHAR"))
    values = stored_values(rows_of({"id": ["1"], "c": ["a"]}), table, SinkFormat())
    assert values[3].equals(pa.array(["a"]))
