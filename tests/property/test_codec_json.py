"""Binary JSON: the oracle's bytes, a text that any JSON parser reads, no bad surprise."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.json import check_values, ends_at
from pyspark_theflash.tidb.codec.json_text import parse_json, print_json
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import RowBuffer
from tests.support.json_oracle import FRACTIONS, encode_json, json_values

LISTS = st.lists(json_values(), min_size=1, max_size=5)


def _check(values: list[bytes]) -> None:
    reader = Reader(RowBuffer.from_list(values), "JSON")
    check_values(reader, reader.starts, reader.ends)


@given(LISTS)
def test_values_are_known_for_what_they_are(values: list[Any]) -> None:
    encoded = [encode_json(value) for value in values]
    _check(encoded)
    reader = Reader(RowBuffer.from_list([value + b"\1\2\3" for value in encoded]), "JSON")
    sizes = ends_at(reader, reader.starts, reader.ends) - reader.starts
    assert sizes.tolist() == [len(value) for value in encoded]


@given(json_values(FRACTIONS))
def test_the_text_says_the_value(value: Any) -> None:
    assert json.loads(print_json(encode_json(value))) == value


@given(json_values(FRACTIONS))
def test_what_is_printed_reads_back(value: Any) -> None:
    assert parse_json(print_json(encode_json(value))) == encode_json(value)


@given(json_values(), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_notation_of_a_text(value: Any, indent: int | str | None, ensure_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)
    expected = encode_json(value)
    assert parse_json(text) == expected
    assert parse_json(print_json(expected)) == parse_json(print_json(parse_json(text)))


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    _check_or_refuse([data])


@given(LISTS, st.data())
def test_mangled_values(values: list[Any], data: st.DataObject) -> None:
    """Accepted values can be formatted, alone and among others."""
    encoded = []
    for value in values:
        raw = bytearray(encode_json(value))
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] = data.draw(st.integers(0, 255))
        encoded.append(bytes(raw))
    alone = [_check_or_refuse([raw]) for raw in encoded]
    assert _check_or_refuse(encoded) == all(alone)


def _check_or_refuse(values: list[bytes]) -> bool:
    try:
        _check(values)
    except CodecError:
        return False
    for value in values:
        print_json(value)
    return True


@given(st.text(max_size=30) | st.text('[]{},:"\\u0019.eE+- \n', max_size=30))
def test_any_text(text: str) -> None:
    try:
        value = parse_json(text)
    except CodecError:
        return
    _check([value])
    assert print_json(parse_json(print_json(value))) == print_json(value)
