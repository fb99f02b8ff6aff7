"""Sort keys: an order that is the collation's own, and weights that no neighbour changes."""

import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType

WEIGHED = (
    *("gbk_bin", "gbk_chinese_ci", "utf8mb4_0900_ai_ci"),
    *("utf8mb4_general_ci", "utf8mb4_unicode_ci"),
)


def _keys(strings: list[str], collate: str) -> list[bytes]:
    field_type = FieldType(MySQLType.VARCHAR, 0, 64, -1, collate.split("_")[0], collate)
    keys: list[Any] = sort_keys(pa.array(strings, pa.string()), field_type).to_pylist()
    return keys


def _general_ci(text: str) -> str:
    """Letters without their accents, as capitals."""
    return "".join(unicodedata.normalize("NFD", c)[0].upper() for c in text)


def _gbk(text: str) -> bytes:
    return text.encode("gbk", "replace")


@given(st.lists(st.text("aAbBzZ àÁêÉïÖüÑçý09~_[\t", max_size=8), min_size=1, max_size=10))
def test_general_ci_orders_letters_without_case_and_accents(texts: list[str]) -> None:
    plain = [_general_ci(text.rstrip(" ")) for text in texts]
    keys = _keys(texts, "utf8mb4_general_ci")
    for text, key in zip(plain, keys, strict=True):
        assert (plain[0] < text, plain[0] == text) == (keys[0] < key, keys[0] == key)


_HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5) | st.sampled_from("az 09~😀ế")


@given(st.lists(st.text(_HAN, max_size=8), min_size=1, max_size=10))
def test_gbk_bin_orders_by_the_bytes_of_gbk(texts: list[str]) -> None:
    assert _keys(texts, "gbk_bin") == [_gbk(text.rstrip(" ")) for text in texts]


@pytest.mark.parametrize("collate", ["utf8mb4_unicode_ci", "utf8mb4_0900_ai_ci"])
@given(st.text("abcxyz", max_size=6), st.data())
def test_uca_ignores_case_and_marks(collate: str, text: str, data: st.DataObject) -> None:
    marks = st.text("\u0300\u0301\u0327", max_size=2)
    other = "".join(data.draw(st.sampled_from([c, c.upper()])) + data.draw(marks) for c in text)
    composed = unicodedata.normalize("NFC", other)
    assert len(set(_keys([text, other, composed], collate))) == 1


@pytest.mark.parametrize("collate", WEIGHED)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.text(max_size=3))
def test_weights_are_the_characters_own(collate: str, texts: list[str], behind: str) -> None:
    """`|` ends each string, so that no space is a trailing one."""
    closed = [text + behind + "|" for text in texts]
    (end,) = _keys(["|"], collate)
    for text, key in zip(closed, _keys(closed, collate), strict=True):
        alone = [k.removesuffix(end) for k in _keys([c + "|" for c in text[:-1]], collate)]
        assert key == b"".join(alone) + end
