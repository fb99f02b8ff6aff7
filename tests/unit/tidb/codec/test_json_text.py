"""JSON as text, as TiDB's own code formats and parses it."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.json_text import parse_json, print_json
from tests.support.golden_vectors import codec_vectors, value_vectors


def test_as_tidb_prints_them() -> None:
    for vector in value_vectors("json_print"):
        assert print_json(bytes.fromhex(vector["hex"])) == vector["text"]


def test_as_tidb_parses_them() -> None:
    refused = 0
    for vector in value_vectors("json_parse"):
        text = bytes.fromhex(vector["text_hex"]).decode("utf-8", "surrogateescape")
        if vector["hex"]:
            value = parse_json(text)
            assert value.hex() == vector["hex"]
            assert print_json(value) == vector["prints"]
        else:
            refused += 1
            with pytest.raises(CodecError):
                parse_json(text)
    assert refused > 20
    for vector in codec_vectors("json.binary"):
        assert parse_json(vector["in"]).hex() == vector["hex"]


@pytest.mark.parametrize(("size", "fits"), [(65_535, True), (65_536, False)])
def test_the_longest_key(size: int, fits: bool) -> None:
    text = f'{{"{"k" * size}": 1}}'
    if fits:
        assert print_json(parse_json(text)) == text
    else:
        with pytest.raises(CodecError):
            parse_json(text)


def test_errors_do_not_show_the_text() -> None:
    with pytest.raises(CodecError) as caught:
        parse_json('{"secret": }')
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
