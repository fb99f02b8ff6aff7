"""Binary JSON: TiDB's values are valid in all parts, and invalid bytes are rejected."""

import struct

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.json import MAX_DEPTH, check_values, ends_at
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import RowBuffer
from tests.support.golden_vectors import codec_vectors, value_vectors
from tests.support.json_oracle import encode_json


def _check(*values: bytes) -> None:
    reader = Reader(RowBuffer.from_list(values), "JSON")
    check_values(reader, reader.starts, reader.ends)


def test_what_tidb_made() -> None:
    values = [bytes.fromhex(v["hex"]) for v in value_vectors("json_print")]
    values += [bytes.fromhex(v["hex"]) for v in codec_vectors("json.binary")]
    _check(*values)
    _check()
    for value in values:
        _check(value)


def test_where_they_end() -> None:
    values = [bytes.fromhex(v["hex"]) for v in value_vectors("json_print")]
    reader = Reader(RowBuffer.from_list([v + b"\xff" * 3 for v in values]), "JSON")
    sizes = ends_at(reader, reader.starts, reader.ends) - reader.starts
    assert sizes.tolist() == [len(value) for value in values]


def test_every_cut_is_refused() -> None:
    value = encode_json({"a": [1, "x", None, {}], "b": 1.5, "c": {"d": [True, []]}})
    _check(value)
    for end in range(len(value)):
        with pytest.raises(CodecError):
            _check(encode_json(1), value[:end], encode_json([]))
    with pytest.raises(CodecError, match="after a JSON value"):
        _check(value + b"\0")


def _array(*entries: tuple[int, int], content: bytes = b"", size: int | None = None) -> bytes:
    packed = b"".join(struct.pack("<BI", *entry) for entry in entries)
    total = 8 + len(packed) + len(content)
    return b"\3" + struct.pack("<II", len(entries), size or total) + packed + content


def _object(keys: list[tuple[int, int]], content: bytes) -> bytes:
    entries = b"".join(struct.pack("<IH", *key) for key in keys) + b"\4\0\0\0\0" * len(keys)
    return (
        b"\1" + struct.pack("<II", len(keys), 8 + len(entries) + len(content)) + entries + content
    )


INT = struct.pack("<q", 7)


def test_parts_may_lie_apart() -> None:
    _check(_array((9, 20), (9, 30), content=bytes(2) + INT + bytes(2) + INT + bytes(3)))
    _check(_object([(19, 1)], b"k"), _object([(20, 1)], b" k "))


@pytest.mark.parametrize(
    "value",
    [
        _array((9, 18), (9, 18), content=INT),
        _array((9, 26), (9, 18), content=INT + INT),
        _array((9, 18), (9, 25), content=INT + INT),
        _array((9, 13), content=b""),
        _array((9, 8), content=INT),
        _array((9, 0), content=INT),
        _array((9, 2**32 - 1), content=INT),
        _array((3, 13), content=_array((3, 13))[1:-5] + struct.pack("<BI", 3, 0)),
        _array((2, 13), content=INT),
        _array((4, 3)),
        _array((12, 13), content=b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        _array((12, 13), content=b"\x05abcd"),
        _array((13, 13), content=b"\xfc\x05abcd"),
        _array((17, 13), content=bytes(11)),
        _array((1, 13), content=bytes(7)),
        _array(size=7),
        b"\3" + struct.pack("<II", 2**32 - 1, 13) + bytes(5),
        b"\1" + struct.pack("<II", 1, 18) + bytes(10),
        _object([(19, 2)], b"k"),
        _object([(18, 1)], b"k"),
        _object([(30, 1), (30, 1)], b"k"),
        _object([(31, 1), (30, 1)], b"kl"),
        b"\x0b" + struct.pack("<d", float("nan")),
        _array((11, 13), content=struct.pack("<d", float("-inf"))),
        b"",
        b"\0",
        b"\5\0\0",
        b"\4\3",
    ],
)
def test_what_is_no_value(value: bytes) -> None:
    good = encode_json({"a": [1]})
    for values in ([value], [good, value, good]):
        with pytest.raises(CodecError) as caught:
            _check(*values)
        assert caught.value.layer == "JSON"


@pytest.mark.parametrize(("empty", "levels"), [(True, MAX_DEPTH), (False, MAX_DEPTH - 1)])
def test_depth_is_limited(empty: bool, levels: int) -> None:
    value: list[object] = [] if empty else [1]
    for _ in range(levels - 1):
        value = [value]
    _check(encode_json(value), encode_json(1))
    with pytest.raises(CodecError, match="nested too deep"):
        _check(encode_json(1), encode_json([value]), encode_json(1))
