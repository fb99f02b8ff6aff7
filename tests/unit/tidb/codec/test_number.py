"""Numbers in keys and varints, against TiDB's own bytes; and invalid bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec import number
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import RowBuffer
from tests.support.encoding import encode_varint
from tests.support.golden_vectors import codec_vectors

Function = Callable[..., Any]


@pytest.mark.parametrize(
    ("kind", "encode", "decode", "of"),
    [
        ("codec.EncodeInt", number.encode_int, number.decode_int, int),
        ("codec.EncodeUint", number.encode_uint, number.decode_uint, int),
        ("codec.EncodeUintDesc(ts)", number.encode_uint_desc, number.decode_uint_desc, int),
    ],
)
def test_comparable(kind: str, encode: Function, decode: Function, of: Function) -> None:
    for vector in codec_vectors(kind):
        assert encode(of(vector["in"])).hex() == vector["hex"]
        assert decode(bytes.fromhex("ff" + vector["hex"]), 1) == of(vector["in"])
    with pytest.raises(CodecError):
        decode(bytes(8), 1)


def test_comparable_floats() -> None:
    vectors = codec_vectors("codec.EncodeFloat")
    values = np.array([float(vector["in"]) for vector in vectors])
    words = np.array([int(vector["hex"], 16) for vector in vectors], np.uint64)
    assert number.comparable_from_floats(values).tolist() == words.tolist()
    assert number.floats_from_comparable(words).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("kind", "encode", "decode", "decode_many"),
    [
        ("codec.EncodeVarint", encode_varint, number.decode_varint, number.varints_at),
        ("codec.EncodeUvarint", number.encode_uvarint, number.decode_uvarint, number.uvarints_at),
    ],
)
def test_varints(kind: str, encode: Function, decode: Function, decode_many: Function) -> None:
    vectors = codec_vectors(kind)
    values = [int(vector["in"]) for vector in vectors]
    encoded = [bytes.fromhex(vector["hex"]) for vector in vectors]
    assert [encode(value) for value in values] == encoded
    assert [decode(b"\xff" + data, 1) for data in encoded] == [
        (value, len(data) + 1) for value, data in zip(values, encoded, strict=True)
    ]
    reader = Reader(RowBuffer.from_list(encoded), "test")
    decoded, ends = decode_many(reader, reader.starts, reader.ends)
    assert decoded.tolist() == values
    assert ends.tolist() == reader.ends.tolist()


@pytest.mark.parametrize(
    "data", ["", "80", "ff" * 9, "ff" * 10, "ff" * 9 + "02", "80" * 9 + "8000"]
)
def test_bad_varints(data: str) -> None:
    with pytest.raises(CodecError):
        number.decode_uvarint(bytes.fromhex(data))
    reader = Reader(RowBuffer.from_list([b"\1", bytes.fromhex(data), bytes(10)]), "test")
    with pytest.raises(CodecError):
        number.uvarints_at(reader, reader.starts, reader.ends)


def test_overlong_varints_are_read_as_go_reads_them() -> None:
    reader = Reader(RowBuffer.from_list([bytes.fromhex("808000"), b"\x80" * 9 + b"\1"]), "test")
    values, ends = number.uvarints_at(reader, reader.starts, reader.ends)
    assert values.tolist() == [0, 2**63]
    assert ends.tolist() == [3, 13]
