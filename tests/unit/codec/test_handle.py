"""Common handles: trimming, prefixes, padding, and what is refused."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.codec.field_type import FieldType, Flag, MySQLType
from pyspark_theflash.codec.handle import decode_common_handles, encode_common_handles
from pyspark_theflash.errors import CodecError, InternalError, UnsupportedError
from tests.support.row_oracle import encode_handle

INT = FieldType(MySQLType.LONGLONG)
ENUM = FieldType(MySQLType.ENUM, 0, -1, -1, "utf8mb4", "utf8mb4_bin")


def _text(collate: str) -> FieldType:
    charset = "binary" if collate == "binary" else collate.split("_")[0]
    return FieldType(MySQLType.VARCHAR, 0, 64, -1, charset, collate)


def _encode(values: list[Any], field_type: FieldType, prefix_length: int = -1) -> list[Any]:
    column = pa.array(values, arrow_type(field_type))
    handles: list[Any] = encode_common_handles([column], [field_type], [prefix_length]).to_pylist()
    return handles


@pytest.mark.parametrize("collate", ["ascii_bin", "latin1_bin", "utf8_bin", "utf8mb4_bin"])
def test_trailing_spaces_do_not_count(collate: str) -> None:
    field_type = _text(collate)
    trimmed = encode_handle(["a b"], [field_type])
    assert _encode(["a b", "a b  "], field_type) == [trimmed, trimmed]
    assert _encode(["  "], field_type) == [encode_handle([""], [field_type])]


@pytest.mark.parametrize(("collate", "value"), [("utf8mb4_0900_bin", "a "), ("binary", b"a \xff ")])
def test_trailing_spaces_count(collate: str, value: str | bytes) -> None:
    assert _encode([value], _text(collate)) == [encode_handle([value], [_text(collate)])]


def test_prefixes() -> None:
    text, binary = _text("utf8mb4_bin"), _text("binary")
    assert _encode(["éa b", "é"], text, 2) == [
        encode_handle(["éa"], [text]),
        encode_handle(["é"], [text]),
    ]
    assert _encode(["é  b"], text, 2) == [encode_handle(["é"], [text])]
    assert _encode([b"\xff\xfe\xfd"], binary, 2) == [encode_handle([b"\xff\xfe"], [binary])]


@pytest.mark.parametrize(
    "field_type",
    [_text("utf8mb4_general_ci"), _text("gbk_chinese_ci"), FieldType(MySQLType.JSON)],
)
def test_what_is_not_encoded_yet(field_type: FieldType) -> None:
    with pytest.raises(UnsupportedError):
        _encode([], field_type)
    with pytest.raises(UnsupportedError):
        decode_common_handles(pa.array([], pa.binary()), [field_type])


def test_an_enum_is_its_index_under_any_collation() -> None:
    assert _encode([2], ENUM) == [bytes.fromhex("040000000000000002")]


def test_short_handles_are_padded() -> None:
    small = FieldType(MySQLType.NEWDECIMAL, 0, 1, 0)
    column = pa.array([Decimal(1), Decimal(-9)], pa.decimal128(1, 0))
    handles = encode_common_handles([column], [small], [-1])
    assert handles.to_pylist()[0].hex() == "060100810000000000"
    assert decode_common_handles(handles, [small])[0].equals(column)


def test_nulls_are_our_own_mistake() -> None:
    with pytest.raises(InternalError):
        _encode([None], INT)


@pytest.mark.parametrize(
    "handle",
    [
        "",
        "03",
        "0380000000000000",
        "040000000000000001",
        "00" * 9,
        "03800000000000000100",
        "0380000000000000010380000000000000",
    ],
)
def test_bytes_that_are_no_handle(handle: str) -> None:
    good = encode_handle([1], [INT])
    handles = pa.array([good, bytes.fromhex(handle), good], pa.binary())
    with pytest.raises(CodecError) as caught:
        decode_common_handles(handles, [INT])
    assert caught.value.layer == "common handle"


def test_padding_must_be_zeros() -> None:
    small = FieldType(MySQLType.NEWDECIMAL, 0, 1, 0)
    with pytest.raises(CodecError, match="padding"):
        decode_common_handles(pa.array([bytes.fromhex("060100810000000001")]), [small])


def test_strings_must_be_utf8() -> None:
    handle = b"\1\xff" + bytes(7) + b"\xf8"
    with pytest.raises(CodecError, match="UTF-8"):
        decode_common_handles(pa.array([handle]), [_text("utf8mb4_bin")])


def test_a_slice_of_handles() -> None:
    unsigned = FieldType(MySQLType.LONGLONG, Flag.UNSIGNED)
    handles = pa.array([encode_handle([i], [unsigned]) for i in (1, 2, 2**64 - 1)])
    assert decode_common_handles(handles[1:], [unsigned])[0].to_pylist() == [2, 2**64 - 1]
