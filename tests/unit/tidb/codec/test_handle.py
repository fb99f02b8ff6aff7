"""Common handles: trimming, prefixes, padding, and invalid ones."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, InternalError, UnsupportedError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles, encode_common_handles
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


def _general_ci(text: str) -> bytes:
    """The weights of ASCII text."""
    return b"".join(b"\0" + bytes([byte]) for byte in text.upper().encode())


def test_weights() -> None:
    field_type = _text("utf8mb4_general_ci")
    handles = _encode(["a b", "A B ", "ab"], field_type)
    assert handles == [encode_handle([_general_ci(s)], [field_type]) for s in ("a b", "a b", "ab")]


def test_a_prefix_is_cut_in_characters_before_it_is_weighed() -> None:
    field_type = _text("utf8mb4_0900_ai_ci")
    # One character of three weights, one of none, and a space that counts.
    for text, prefix in (("ﬃb", "ﬃ"), ("e\u0301b", "e\u0301"), ("a b", "a ")):
        length = len(prefix)
        assert _encode([text], field_type, length) == _encode([prefix], field_type)
        assert _encode([text], field_type) != _encode([prefix], field_type)
    assert _encode(["a b"], _text("gbk_bin"), 2) == _encode(["a"], _text("gbk_bin"))


def test_weights_come_back_as_they_are() -> None:
    """The string is in the row; the type of the decoded values indicates this."""
    types = [_text("utf8mb4_general_ci"), INT, _text("utf8mb4_bin")]
    strings = pa.array(["Ab ", "ab"])
    columns = [strings, pa.array([7, -7]), pa.array(["Ab ", "ab"])]
    weights, numbers, plain = decode_common_handles(
        encode_common_handles(columns, types, [-1] * 3), types
    )
    assert weights.equals(pa.array([_general_ci("ab")] * 2, pa.binary()))
    assert numbers.equals(columns[1])
    assert plain.equals(pa.array(["Ab", "ab"]))


@pytest.mark.parametrize("field_type", [_text("utf8mb4_swedish_ci"), _text("")])
def test_unknown_collations_are_refused(field_type: FieldType) -> None:
    with pytest.raises(UnsupportedError, match="collation"):
        _encode([], field_type)


def test_json_is_not_in_a_key() -> None:
    field_type = FieldType(MySQLType.JSON)
    with pytest.raises(UnsupportedError, match="JSON"):
        _encode([], field_type)
    with pytest.raises(UnsupportedError, match="JSON"):
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
    unsigned = FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED)
    handles = pa.array([encode_handle([i], [unsigned]) for i in (1, 2, 2**64 - 1)])
    assert decode_common_handles(handles[1:], [unsigned])[0].to_pylist() == [2, 2**64 - 1]
