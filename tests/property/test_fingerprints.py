"""Fingerprints of transactions: the same for the same rows in any order and cut, else another."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.storage.mvcc.fingerprint import (
    added,
    digest,
    row_fingerprints,
    transaction_fingerprints,
)

TYPES: dict[str, tuple[pa.DataType, Any]] = {
    "a": (pa.int8(), st.integers(-128, 127)),
    "b": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "c": (pa.string(), st.text(max_size=5)),
    "d": (pa.binary(), st.binary(max_size=5)),
    "e": (pa.decimal128(20, 2), st.decimals(-999, 999, places=2)),
    "f": (pa.decimal256(60, 2), st.decimals(-999, 999, places=2)),
    "g": (pa.float64(), st.floats(allow_nan=False)),
    "h": (pa.list_(pa.float32()), st.lists(st.floats(width=32, allow_nan=False), max_size=3)),
    "i": (pa.timestamp("us"), st.integers(0, 2**40)),
}
ROWS = st.lists(
    st.tuples(st.integers(1, 4), *(st.one_of(st.none(), values) for _, values in TYPES.values())),
    min_size=1,
    max_size=12,
)
Row = tuple[Any, ...]


def fingerprints(rows: list[Row], cuts: list[int]) -> dict[int, bytes]:
    """Of each transaction, its rows in batches that end at `cuts`."""
    total: dict[int, tuple[int, ...]] = defaultdict(lambda: (0, 0))
    bounds = [0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]
    for first, last in pairwise(bounds):
        part = rows[first:last]
        if not part:
            continue
        cells = list(zip(*part, strict=True))
        columns = {
            name: pa.array(list(cells[n]), tp) for n, (name, (tp, _)) in enumerate(TYPES.items(), 1)
        }
        starts = np.array(cells[0], np.uint64)
        by_start_ts = transaction_fingerprints(starts, row_fingerprints(7, columns))
        for start_ts, words in by_start_ts.items():
            total[start_ts] = added(total[start_ts], words)
    return {start_ts: digest(words) for start_ts, words in total.items()}


@given(ROWS, st.randoms(), st.lists(st.integers(0, 20), max_size=3))
def test_order_and_cuts_mean_nothing(rows: list[Row], rng: Any, cuts: list[int]) -> None:
    expected = fingerprints(rows, [])
    assert set(expected) == {row[0] for row in rows}
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert fingerprints(shuffled, cuts) == expected


@given(ROWS, st.data())
def test_another_value_is_another_content(rows: list[Row], data: Any) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(1, len(TYPES)))
    tp, values = list(TYPES.values())[column - 1]
    value = data.draw(st.one_of(st.none(), values))
    changed = list(rows)
    changed[at] = (*rows[at][:column], value, *rows[at][column + 1 :])
    same = pa.array([rows[at][column]], tp).equals(pa.array([value], tp))
    bits = [
        np.array([v], "<f8").tobytes() if isinstance(v, float) else v
        for v in (value, rows[at][column])
    ]
    is_same = same and bits[0] == bits[1]
    if isinstance(value, list) and same:
        return  # -0.0 in a list
    assert (fingerprints(changed, []) == fingerprints(rows, [])) is is_same


@pytest.mark.parametrize("swap", [(0, 1), (1, 0)])
def test_values_do_not_change_places(swap: tuple[int, int]) -> None:
    """Neither between columns, nor between rows, nor between tables."""
    one = {"a": pa.array([1, 2]), "b": pa.array([2, 1])}
    words = row_fingerprints(7, one)
    assert (words[0] != words[1]).all()
    other = {"a": pa.array([2, 1]), "b": pa.array([1, 2])}
    assert (row_fingerprints(7, other)[list(swap)] == words[list(reversed(swap))]).all()
    assert (row_fingerprints(8, one) != words).all()
    assert (row_fingerprints(7, {"b": one["a"], "c": one["b"]}) != words).all()
