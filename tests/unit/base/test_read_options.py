"""Options parsed from texts, and errors that name the option."""

import pickle
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.read_options import SCAN_OPTIONS, ReadPoint, ScanOptions
from pyspark_theflash.base.timestamp import parse_timestamp


def parse(**texts: str) -> ScanOptions:
    return ScanOptions.parse({"store": "/s", "table": "d.t", **texts})


def test_defaults():
    assert parse() == ScanOptions(Path("/s"), "d.t")


def test_all_given():
    options = parse(snapshot_ts=" 470613569635876866 ", columns="id, name")
    assert options == ScanOptions(Path("/s"), "d.t", ReadPoint(470613569635876866), ("id", "name"))
    assert pickle.loads(pickle.dumps(options)) == options


def test_all_of_the_rest():
    options = parse(
        versionAsOf="7", wait_for_ts="1.5", where=" id > 1 ", zero_dates="NULL", all_as_text="FALSE"
    )
    moment = ReadPoint(7, 1.5)
    assert options == ScanOptions(Path("/s"), "d.t", moment, None, "id > 1", "null", False)
    assert parse(max_staleness="60", wait_for_ts="1").moment == ReadPoint(None, 1.0, 60.0)


def test_names_count_whatever_their_case():
    assert ScanOptions.parse(
        {"STORE": "/s", "Table": "d.t", "SNAPSHOT_TS": "5"}
    ).moment == ReadPoint(5)


def test_path_is_the_table():
    assert ScanOptions.parse({"store": "/s", "path": "d.t"}).table == "d.t"
    assert parse(path="D.T").table == "d.t"


def test_store_becomes_absolute():
    assert ScanOptions.parse({"store": "s", "table": "d.t"}).store == Path.cwd() / "s"
    assert parse(store="file:/s").store == Path("/s")


@pytest.mark.parametrize("name", ["snapshot_ts", "versionAsOf", "timestampAsOf"])
def test_every_way_to_name_a_moment_takes_the_same(name):
    for text in ("470613571969220631", "2024-02-29T00:00:00Z", "2024-02-29 08:00:00+08:00"):
        assert parse(**{name: text}).moment.snapshot_ts == parse_timestamp(text)
    for text in ("2024-02-29 00:00:00", "1709164800000", str(2**64 - 1), "09:05:30"):
        with pytest.raises(OptionError) as caught:
            parse(**{name: text})
        assert caught.value.key == name


@pytest.mark.parametrize(
    ("texts", "key"),
    [
        ({"table": "d.t"}, "store"),
        ({"store": "", "table": "d.t"}, "store"),
        ({"store": "s3://bucket/s", "table": "d.t"}, "store"),
        ({"store": "/s"}, "table"),
        ({"store": "/s", "table": "t"}, "table"),
        ({"store": "/s", "table": ".t"}, "table"),
        ({"store": "/s", "path": "d."}, "path"),
        ({"store": "/s", "table": "d.t", "path": "d.u"}, "table"),
        ({"store": "/s", "table": "d.t", "snapshot_ts": "-1"}, "snapshot_ts"),
        ({"store": "/s", "table": "d.t", "snapshot_ts": str(2**64)}, "snapshot_ts"),
        ({"store": "/s", "table": "d.t", "snapshot_ts": "now"}, "snapshot_ts"),
        ({"store": "/s", "table": "d.t", "timestampAsOf": "yesterday"}, "timestampAsOf"),
        ({"store": "/s", "table": "d.t", "timestampAsOf": "2023-02-29Z"}, "timestampAsOf"),
        ({"store": "/s", "table": "d.t", "timestampAsOf": "1969-12-31Z"}, "timestampAsOf"),
        ({"store": "/s", "table": "d.t", "timestampAsOf": "9999-12-31Z"}, "timestampAsOf"),
        ({"store": "/s", "table": "d.t", "timestampAsOf": "0001-01-01+14"}, "timestampAsOf"),
        (
            {"store": "/s", "table": "d.t", "snapshot_ts": "1", "timestampAsOf": "2024-01-01Z"},
            "timestampAsOf",
        ),
        ({"store": "/s", "table": "d.t", "columns": ""}, "columns"),
        ({"store": "/s", "table": "d.t", "columns": "a,,b"}, "columns"),
        ({"store": "/s", "table": "d.t", "columns": "a,A"}, "columns"),
        ({"store": "/s", "table": "d.t", "snapshotts": "1"}, "snapshotts"),
        ({"store": "/s", "table": "d.t", "where": " "}, "where"),
        ({"store": "/s", "table": "d.t", "wait_for_ts": "soon"}, "wait_for_ts"),
        ({"store": "/s", "table": "d.t", "wait_for_ts": "5"}, "wait_for_ts"),
        ({"store": "/s", "table": "d.t", "max_staleness": "nan"}, "max_staleness"),
        ({"store": "/s", "table": "d.t", "max_staleness": "inf"}, "max_staleness"),
        (
            {"store": "/s", "table": "d.t", "max_staleness": "5", "versionAsOf": "7"},
            "max_staleness",
        ),
        ({"store": "/s", "table": "d.t", "zero_dates": "0"}, "zero_dates"),
        ({"store": "/s", "table": "d.t", "all_as_text": "1"}, "all_as_text"),
        (
            {"store": "/s", "table": "d.t", "all_as_text": "true", "zero_dates": "NULL"},
            "zero_dates",
        ),
    ],
)
def test_mistakes_are_named(texts, key):
    with pytest.raises(OptionError) as caught:
        ScanOptions.parse(texts)
    assert caught.value.key == key


def test_unknown_option_names_the_known_ones():
    with pytest.raises(OptionError) as caught:
        parse(snapshot="1")
    assert all(option.name in str(caught.value) for option in SCAN_OPTIONS)


def test_every_option_is_documented():
    assert all(option.doc.endswith(".") for option in SCAN_OPTIONS)
