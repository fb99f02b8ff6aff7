"""Values of Dumpling as columns of the store."""

from datetime import UTC, datetime

import pytest

from pyspark_theflash.base.errors import CodecError, OptionError, UnsupportedError
from pyspark_theflash.replication.base.dump_values import decode_dumped, decoded_bytes
from tests.support.ticdc_tables import column


def decode(info, *values, zone="UTC"):
    return decode_dumped(values, info, "d.t.c", zone).to_pylist()


def test_floats():
    single, double = column("c", "FLOAT"), column("c", "DOUBLE")
    assert decode(double, b"1e+21", b"-1.5e-30", None) == [1e21, -1.5e-30, None]
    assert decode(single, b"0.5", b"16777216") == [0.5, 16777216]
    with pytest.raises(UnsupportedError, match="only 6 digits"):
        decode(single, b"1.23457e20")


def test_times_in_the_zone_of_the_dump():
    stamp = column("c", "TIMESTAMP")
    at = datetime(2024, 2, 3, 20, tzinfo=UTC)
    assert decode(stamp, b"2024-02-04 04:00:00", zone="+08:00") == [at]
    assert decode(stamp, b"2024-02-03 20:00:00", None) == [at, None]
    assert decode_dumped([None], stamp, "d.t.c", None).to_pylist() == [None]
    with pytest.raises(OptionError, match=r"add \?time-zone=ZONE"):
        decode(stamp, b"2024-02-03 20:00:00", zone=None)
    with pytest.raises(UnsupportedError, match="when the clocks of Europe/Berlin changed"):
        decode(stamp, b"2024-10-27 02:30:00", zone="Europe/Berlin")


def test_elements():
    enum, choices = column("c", "ENUM", elems=("a", "b")), column("c", "SET", elems=("a", "b"))
    assert decode(enum, b"b", b"", None) == [2, 0, None]
    assert decode(choices, b"a,b", b"", None) == [3, 0, None]
    with pytest.raises(UnsupportedError, match="empty or not unique"):
        decode(column("c", "ENUM", elems=("a", "")), b"a", b"")
    with pytest.raises(UnsupportedError, match="empty or not unique"):
        decode(column("c", "SET", elems=("a", "b", "b")), b"a,b")
    assert decode(column("c", "SET", elems=("a", "b", "b")), b"a") == [1]


def test_bytes_of_dialects():
    assert decoded_bytes([b"\xff", None], "", "c") == [b"\xff", None]
    assert decoded_bytes([b"ff00", None], "redshift", "c") == [b"\xff\0", None]
    assert decoded_bytes([b"/wA=", None], "bigquery", "c") == [b"\xff\0", None]
    for dialect in ("snowflake", "bigquery"):
        with pytest.raises(CodecError, match=f"not bytes in {dialect}'s form"):
            decoded_bytes([b"xyz"], dialect, "c")


def test_texts_that_are_not_utf8():
    with pytest.raises(CodecError, match="not UTF-8"):
        decode(column("c", "VARCHAR", charset="utf8mb4"), b"\xff")
    assert decode(column("c", "BLOB", charset="binary"), b"\xff") == [b"\xff"]
