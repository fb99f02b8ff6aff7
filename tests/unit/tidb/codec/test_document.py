"""Foreign JSON: values of the expected type, or one of a fixed set of errors."""

import pytest

from pyspark_theflash.base.errors import CodecError, SchemaFileError
from pyspark_theflash.tidb.codec.document import (
    SHAPE_ERRORS,
    boolean,
    brief,
    int64,
    items,
    load,
    shaped,
    text,
    texts,
    uint64,
)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (int64, -(2**63)),
        (int64, 2**63 - 1),
        (uint64, 0),
        (uint64, 2**64 - 1),
        (boolean, False),
        (text, ""),
        (text, "é\0"),
    ],
)
def test_what_is_right_comes_back(read, value):
    assert read(value) == value


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (int64, 2**63),
        (int64, True),
        (int64, 1.0),
        (int64, "1"),
        (int64, None),
        (uint64, -1),
        (uint64, 2**64),
        (uint64, float("inf")),
        (boolean, 1),
        (boolean, None),
        (text, None),
        (text, 1),
        (text, "\ud800"),
        (texts, "ab"),
        (texts, [1]),
        (items, "ab"),
        (items, {"a": 1}),
        (load, b"\xff"),
        (load, b""),
        (load, b"[" * 100_000),
        (load, b"9" * 5000),
    ],
)
def test_what_is_wrong(read, value):
    with pytest.raises(SHAPE_ERRORS):
        read(value)


def test_lists():
    assert items(None) == []
    assert items([1, "a"]) == [1, "a"]
    assert texts(None) == ()
    assert texts(["a", "b"]) == ("a", "b")


def test_a_block_has_one_error():
    for wrong in ({}, [], None, {"a": float("inf")}):
        with pytest.raises(CodecError, match=r"^thing: "), shaped("thing"):
            int(wrong["a"])
    with pytest.raises(SchemaFileError), shaped("thing"):
        raise SchemaFileError("f", "typed ones pass")


def test_an_error_in_a_line_is_short():
    with pytest.raises(UnicodeDecodeError) as caught:
        (b"\xff" * 100_000).decode()
    assert len(repr(caught.value)) > 100_000
    assert len(brief(caught.value)) < 250
