"""MyDecimal against TiDB's own bytes, in every width; and invalid bytes."""

import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.decimal import decimals_at, encode_decimals, headers_at
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import RowBuffer
from tests.support.golden_vectors import codec_vectors


def _type(precision: int, scale: int) -> pa.DataType:
    return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)


def _decode(encoded: list[str], target: pa.DataType) -> list[Decimal]:
    reader = Reader(RowBuffer.from_list([bytes.fromhex(e) for e in encoded]), "test")
    headers, _ = headers_at(reader, reader.starts)
    values = decimals_at(reader, reader.starts, headers, target)
    values.validate(full=True)
    assert values.type == target
    decoded: list[Decimal] = values.to_pylist()
    return decoded


def test_as_tidb_writes_them() -> None:
    for vector in codec_vectors("codec.EncodeDecimal"):
        precision, scale = map(int, re.findall(r"\d+", vector["type"]))
        value = Decimal(vector["in"])
        assert _decode([vector["hex"]], _type(precision, scale)) == [value]
        encoded = encode_decimals(pa.array([value], _type(precision, scale)))
        assert encoded.tobytes().hex() == vector["hex"]


def test_other_widths_and_mixed_headers_are_rescaled() -> None:
    # 1.10 as (15,2), -1.5 as (2,1), 12 as (2,0)
    encoded = ["0f028000000000010a", "02017efa", "02008c", "02017efa"]
    expected = [Decimal("1.10"), Decimal("-1.50"), Decimal("12.00"), Decimal("-1.50")]
    assert _decode(encoded, pa.decimal128(15, 2)) == expected
    assert _decode(encoded, pa.decimal256(60, 2)) == expected


def test_one_digit_more_than_the_precision_says() -> None:
    # Precision 4, no fraction, but five digits in two bytes: TiDB reads it.
    encoded = f"0400{0x8000 | 12345:04x}"
    assert _decode([encoded], pa.decimal128(5, 0)) == [Decimal(12345)]
    with pytest.raises(CodecError, match="does not fit"):
        _decode([encoded], pa.decimal128(4, 0))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("0000", "precision"),
        ("420080", "precision"),
        ("0203", "precision"),
        ("411f", "precision"),
        ("0a00" + "80ffffffff", "digit group"),
        ("0202" + "e4", "digit group"),
        ("0302" + "8063", "does not fit"),
    ],
)
def test_bad_decimals(encoded: str, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        _decode([encoded], pa.decimal128(1, 1))


def test_slices_are_encoded() -> None:
    values = pa.array([Decimal("1.1"), Decimal("-2.2"), Decimal("3.3")], pa.decimal128(3, 1))
    assert np.array_equal(encode_decimals(values[1:]), encode_decimals(values)[1:])
