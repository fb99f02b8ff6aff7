"""Sort keys: the bytes of TiDB's own collators, for values of every Arrow type."""

import gzip
import hashlib
import json
import re
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.tidb.codec import collation
from pyspark_theflash.tidb.codec.array import variable_width
from pyspark_theflash.tidb.codec.collation import is_bytewise, sort_keys
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from tests.support.golden_vectors import VECTORS

GOLDEN: dict[str, Any] = json.loads(
    gzip.decompress((VECTORS / "collation_keys.json.gz").read_bytes())
)
BYTEWISE = {"ascii_bin", "binary", "latin1_bin", "utf8_bin", "utf8mb4_0900_bin", "utf8mb4_bin"}
GENERAL_CI = "utf8mb4_general_ci"


def text_type(collate: str) -> FieldType:
    charset = "binary" if collate == "binary" else collate.split("_")[0]
    return FieldType(MySQLType.VARCHAR, 0, 64, -1, charset, collate)


def keys(values: "pa.Array[Any]", collate: str) -> list[bytes | None]:
    encoded = sort_keys(values, text_type(collate))
    encoded.validate(full=True)
    assert encoded.type == pa.binary()
    as_python: list[bytes | None] = encoded.to_pylist()
    return as_python


@pytest.mark.parametrize("collate", GOLDEN["keys"])
def test_keys_are_those_of_tidb(collate: str) -> None:
    strings = pa.array([bytes.fromhex(s) for s in GOLDEN["strings"]])
    expected = [bytes.fromhex(key) for key in GOLDEN["keys"][collate]]
    assert keys(strings, collate) == expected
    assert keys(strings.cast(pa.string()), collate) == expected


@cache
def _every_code_point() -> "pa.Array[Any]":
    """Return every code point, followed by "a", so that the space is not a trailing one."""
    panics = int(re.findall(r"U\+(\w+), at which TiDB panics", GOLDEN["about"])[0], 16)
    codes = np.setdiff1d(np.arange(0x110000), [*range(0xD800, 0xE000), panics])
    both = np.stack([codes, np.full(len(codes), ord("a"))], axis=1).astype("<u4")
    text = both.tobytes().decode("utf-32-le").encode()
    sizes = 2 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), len(codes), buffers)


@pytest.mark.parametrize("collate", GOLDEN["every_code_point"])
def test_every_code_point_weighs_what_it_does_in_tidb(collate: str) -> None:
    strings = _every_code_point()
    data, ends = variable_width(sort_keys(strings, text_type(collate)))
    (behind,) = keys(pa.array(["a"]), collate)
    assert behind is not None
    lengths = np.diff(ends) - len(behind)
    keep = np.ones(len(data), np.bool_)
    keep[(ends[1:, None] - np.arange(1, len(behind) + 1)).ravel()] = False
    digest = hashlib.sha256(lengths.astype("<u4").tobytes() + data[keep].tobytes())
    assert digest.hexdigest() == GOLDEN["every_code_point"][collate]


@pytest.mark.parametrize("collate", GOLDEN["keys"])
def test_any_array_of_the_strings_gives_the_same_keys(collate: str) -> None:
    strings = [None, "a ", "Straße", "", None, "é日😀  ", "x" * 300, None]
    plain = pa.array(strings, pa.string())
    expected = [keys(pa.array([s]), collate)[0] if s is not None else None for s in strings]
    for tp in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        array = plain.cast(tp)
        assert keys(array, collate) == expected
        assert keys(array.slice(2, 4), collate) == expected[2:6]
        assert keys(array.slice(4, 1), collate) == [None]
        assert keys(array.slice(3, 0), collate) == keys(pa.array([], tp), collate) == []
    assert keys(pa.nulls(2, pa.string()), collate) == [None, None]


@pytest.mark.parametrize("collate", [GENERAL_CI, "utf8mb4_unicode_ci", "gbk_bin"])
def test_what_lies_under_a_null_does_not_matter(collate: str) -> None:
    bounds = np.array([0, 1, 3, 4], np.int32)
    buffers = [pa.py_buffer(b"\x05"), pa.py_buffer(bounds), pa.py_buffer(b"a\xc3\xffb")]
    array = pa.Array.from_buffers(pa.string(), 3, buffers)
    assert keys(array, collate) == keys(pa.array(["a", None, "b"]), collate)


@pytest.mark.parametrize("collate", [GENERAL_CI, "utf8mb4_0900_ai_ci"])
def test_more_text_than_is_looked_up_at_a_time(
    collate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strings = pa.array(["", "a", "日本語", "é" * 40, "", "b ", "😀", "", "c" * 9, ""])
    whole = keys(strings, collate)
    for size in (1, 2, 7, 30, 1000):
        monkeypatch.setattr(collation, "_PIECE_BYTES", size)
        assert keys(strings, collate) == whole
        assert keys(strings.slice(3, 5), collate) == whole[3:8]


@pytest.mark.parametrize("collate", [GENERAL_CI, "utf8mb4_bin"])
def test_keys_have_a_largest_size(collate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collation, "_MAX_BYTES", 16)
    strings = pa.array(["abcdefgh", None, "ijklmnopq"], pa.large_string())
    assert keys(strings.slice(0, 2), collate)[1] is None
    with pytest.raises(UnsupportedError, match="2 GiB"):
        keys(strings, collate)


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_weighed_text_is_utf8(raw: bytes) -> None:
    assert keys(pa.array([raw]), "utf8mb4_bin") == [raw]
    with pytest.raises(CodecError, match="UTF-8"):
        keys(pa.array([raw]), GENERAL_CI)
    buffers = [None, pa.py_buffer(np.array([0, len(raw)], np.int32)), pa.py_buffer(raw)]
    with pytest.raises(CodecError, match="UTF-8"):
        keys(pa.Array.from_buffers(pa.string(), 1, buffers), GENERAL_CI)


def test_halves_of_a_character_do_not_make_one() -> None:
    with pytest.raises(CodecError, match="UTF-8"):
        keys(pa.array([b"\xc3", b"\xa9"]), GENERAL_CI)


@pytest.mark.parametrize("collate", ["", "utf8mb4_zh_pinyin_tidb_as_cs", "gb18030_chinese_ci"])
def test_other_collations_are_refused(collate: str) -> None:
    with pytest.raises(UnsupportedError, match=f"collation {collate}"):
        sort_keys(pa.array(["a"]), text_type(collate))


def test_collations_that_compare_bytes() -> None:
    assert {c for c in GOLDEN["keys"] if is_bytewise(text_type(c))} == BYTEWISE
