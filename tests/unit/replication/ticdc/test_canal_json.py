import json

import pytest

from pyspark_theflash.base.errors import CorruptionError, OptionError, UnsupportedError
from pyspark_theflash.replication.ticdc import canal_json
from pyspark_theflash.replication.ticdc.canal_json import parse_canal_json
from tests.support.golden_vectors import ticdc_messages


def parsed(*messages):
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    return list(parse_canal_json(data, "file"))


def message(**changes):
    return {
        "database": "d",
        "table": "t",
        "isDdl": False,
        "type": "INSERT",
        "sqlType": {"id": -5},
        "data": [{"id": "1"}],
        "_tidb": {"commitTs": 7},
    } | changes


def test_messages_of_ticdc():
    (rows,) = parse_canal_json(b"".join(ticdc_messages("canal-json")), "file")
    assert rows.full_name == "bl.t"
    assert rows.is_delete.tolist() == [False, False, True]
    assert rows.commit_ts.tolist() == [470613076829274115, 470613076829274117, 470613076829274119]
    values = dict(zip(rows.names, (texts.to_pylist() for texts in rows.texts), strict=True))
    assert values["s"] == ["héllo", "new", "new"]
    assert values["u"] == ["18446744073709551615"] * 3
    assert values["n"] == [None] * 3
    assert rows.encoded == {"b"}


def test_a_part_of_a_file_at_a_time(monkeypatch):
    monkeypatch.setattr(canal_json, "CHUNK_BYTES", 100)
    parts = parsed(*(message(data=[{"id": str(n)}]) for n in range(20)))
    assert len(parts) > 5
    assert [text for part in parts for text in part.texts[0].to_pylist()] == [
        str(n) for n in range(20)
    ]


def test_rows_with_other_columns_are_separate():
    parts = parsed(message(), message(data=[{"id": "2", "x": None}], sqlType={"id": -5, "x": 12}))
    assert [part.names for part in parts] == [("id",), ("id", "x")]


def test_the_extension_is_required():
    without = message()
    del without["_tidb"]
    with pytest.raises(OptionError, match="enable-tidb-extension=true"):
        parsed(without)


@pytest.mark.parametrize("mark", [{"onlyHandleKey": True}, {"claimCheckLocation": "s3://x"}])
def test_messages_without_values(mark):
    with pytest.raises(UnsupportedError, match="only the key"):
        parsed(message(_tidb={"commitTs": 7} | mark))


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "TRUNCATE"},
        {"data": None},
        {"data": [{}]},
        {"data": [{"id": 1}]},
        {"data": [{"id": "\ud800"}]},
        {"isDdl": 0},
        {"_tidb": {"commitTs": "7"}},
        {"sqlType": None},
    ],
)
def test_damaged_rows(wrong):
    good = message()
    with pytest.raises(CorruptionError) as caught:
        parsed(good, message(**wrong))
    assert caught.value.offset >= len(json.dumps(good))
    assert caught.value.file == "file"
