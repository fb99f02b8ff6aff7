"""Memcomparable bytes, one by one and as arrays."""

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.bytes import (
    bytes_at,
    decode_bytes,
    encode_bytes,
    encode_bytes_array,
)
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import RowBuffer
from tests.support.golden_vectors import codec_vectors

VALUES = [bytes(range(1, n + 1)) for n in (0, 1, 7, 8, 9, 15, 16, 17, 64, 100)] + [bytes(8)]


def test_as_tidb_writes_them() -> None:
    for vector in codec_vectors("codec.EncodeBytes"):
        raw = bytes.fromhex(vector["in"])
        assert encode_bytes(raw).hex() == vector["hex"]
        assert decode_bytes(bytes.fromhex("00" + vector["hex"]), 1) == (
            raw,
            1 + len(encode_bytes(raw)),
        )


def test_arrays() -> None:
    values = pa.array([b"left out", *VALUES], pa.binary())[1:]
    encoded = encode_bytes_array(values)
    assert encoded.to_pylist() == [encode_bytes(value) for value in VALUES]
    reader = Reader(RowBuffer.from_arrow(encoded), "test")
    decoded, ends = bytes_at(reader, reader.starts, reader.ends)
    assert decoded.to_pylist() == VALUES
    assert ends.tolist() == reader.ends.tolist()


@pytest.mark.parametrize("damage", [b"", b"\xf0", b"\xff"])
def test_long_values(damage: bytes) -> None:
    values = [bytes(n) for n in (8 * 70_000, 0, 7, 8 * 65_535, 24)]
    encoded = [encode_bytes(value) for value in values]
    if damage:
        encoded[3] = encoded[3][:-1] + damage
    reader = Reader(RowBuffer.from_list(encoded), "test")
    if damage:
        with pytest.raises(CodecError):
            bytes_at(reader, reader.starts, reader.ends)
    else:
        assert bytes_at(reader, reader.starts, reader.ends)[0].to_pylist() == values


def test_empty_arrays() -> None:
    encoded = encode_bytes_array(pa.array([], pa.string()))
    assert len(encoded) == 0
    reader = Reader(RowBuffer.from_arrow(encoded), "test")
    assert len(bytes_at(reader, reader.starts, reader.ends)[0]) == 0


@pytest.mark.parametrize(
    "data",
    [
        "",
        "0000000000000000",
        "0000000000000000f6",
        "6162000000000001f9",
        "6162636465666768ff",
        "6162636465666768ff0000000000000001f7",
    ],
)
def test_bad_bytes(data: str) -> None:
    bad = bytes.fromhex(data)
    with pytest.raises(CodecError):
        decode_bytes(bad)
    reader = Reader(RowBuffer.from_list([encode_bytes(b"abc"), bad, encode_bytes(b"")]), "test")
    with pytest.raises(CodecError):
        bytes_at(reader, reader.starts, reader.ends)
