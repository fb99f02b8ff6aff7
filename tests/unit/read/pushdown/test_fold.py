"""Partial aggregates at the limits: wide sums, many groups."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import SqlOverflowError
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    FunctionTerm,
)

WIDE = pa.decimal128(38, 0)
SUM = (Aggregate(AggregateFunction.SUM, ColumnTerm("v")),)


def folded(aggregation: Aggregation, *columns: Sequence[pa.Array]) -> pa.RecordBatch:
    """The aggregate of batches with the columns `k` and `v`, or `v` alone."""
    names = ["k", "v"][-len(columns[0]) :]
    batches = [pa.RecordBatch.from_arrays(list(each), names=names) for each in columns]
    folding = Folding(aggregation, batches[0].schema)
    partials = list(folding.of(batches))
    assert {partial.schema for partial in partials} == {folding.schema}
    return folding.merged(partials)


def total(values: Sequence[Any], tp: pa.DataType) -> Any:
    (row,) = folded(Aggregation((), SUM), [pa.array(values, tp)]).to_pylist()
    return row["a0"]


def test_sums_are_wide() -> None:
    assert total([2**63 - 1] * 5, pa.int64()) == 5 * (2**63 - 1)
    assert total([-(2**63), -(2**63), None], pa.int64()) == -(2**64)
    assert total([2**64 - 1] * 3, pa.uint64()) == 3 * (2**64 - 1)
    assert total([Decimal(10**37)] * 9, WIDE) == 9 * 10**37
    assert total([None], WIDE) is None
    assert total([], WIDE) is None


def test_wide_sums_of_groups() -> None:
    keys = pa.array(["a", "b", "a", None, "b"])
    values = pa.array([2**63 - 1, None, 2**63 - 1, -(2**63), None], pa.int64())
    rows = folded(Aggregation(("k",), SUM), [keys, values], [keys, values]).to_pylist()
    expected = {"a": 4 * (2**63 - 1), "b": None, None: -(2**64)}
    assert {row["k"]: row["a0"] for row in rows} == expected


def test_sums_have_more_digits_than_what_is_added_up() -> None:
    most, least = Decimal("9" * 38), Decimal("-" + "9" * 38)
    assert total([most] * 5, WIDE) == Decimal(5 * (10**38 - 1))
    assert total([most, most, least, least, least], WIDE) == least
    keys, values = pa.array(["a", "b", "a"]), pa.array([most, least, most], WIDE)
    rows = folded(Aggregation(("k",), SUM), [keys, values], [keys, values]).to_pylist()
    expected = {"a": 4 * (10**38 - 1), "b": -2 * (10**38 - 1)}
    assert {row["k"]: row["a0"] for row in rows} == expected


def test_what_fits_nowhere_raises() -> None:
    widest = pa.decimal256(76, 0)
    largest = pa.array([6 * 10**75], widest)
    with pytest.raises(SqlOverflowError):
        total([6 * 10**75] * 2, widest)
    with pytest.raises(SqlOverflowError):
        folded(Aggregation((), SUM), [largest], [largest])
    large = pa.array([6 * 10**37], WIDE)
    twice = Aggregate(AggregateFunction.MAX, FunctionTerm("+", (ColumnTerm("v"), ColumnTerm("v"))))
    with pytest.raises(SqlOverflowError):
        folded(Aggregation((), (twice,)), [large])


def test_many_groups_come_in_pieces() -> None:
    """There are at most as many result rows as input rows, and memory is bounded."""
    size, count = 1 << 16, 8
    schema = pa.schema([("k", pa.int64()), ("v", pa.int64())])
    folding = Folding(Aggregation(("k",), SUM), schema)
    taken = 0

    def batches() -> Any:
        nonlocal taken
        for start in range(count):
            taken += 1
            keys = pa.array(range(start * size, (start + 1) * size))
            yield pa.RecordBatch.from_arrays([keys, keys], schema=schema)

    seen = [(batch.num_rows, taken) for batch in folding.of(batches())]
    assert sum(rows for rows, _ in seen) == size * count
    assert seen[0][1] <= 2


@pytest.mark.parametrize("is_dictionary", [False, True])
def test_many_groups_are_put_together_from_more_rows(is_dictionary: bool) -> None:
    """Groups of one row in each batch have many rows in all batches."""
    count, share = 120_000, 4
    values = pa.array(range(count // share))
    batches = []
    for first in range(share):
        keys = pa.array([str(n) for n in range(first, count, share)])
        column = keys.dictionary_encode() if is_dictionary else keys.cast(pa.int64())
        batches.append(pa.RecordBatch.from_arrays([column, values], names=["k", "v"]))
    folding = Folding(Aggregation(("k",), SUM), batches[0].schema)
    partials = list(folding.of(batches * 25))
    assert sum(partial.num_rows for partial in partials) <= 100 * len(values) / 2
    once = folding.merged(partials).to_pydict()
    assert len(once["k"]) == len(set(once["k"])) == count
    assert set(once["a0"]) == {25 * n for n in range(len(values))}


def test_few_groups_of_many_rows_come_once() -> None:
    keys = pa.array(list(range(1000)) * 64)
    batches = [pa.RecordBatch.from_arrays([keys, keys], names=["k", "v"])] * 3
    (partial,) = Folding(Aggregation(("k",), SUM), batches[0].schema).of(batches)
    assert partial.num_rows == 1000
    assert partial.to_pylist()[7]["a0"] == 7 * 64 * 3


def test_least_and_largest_conditions() -> None:
    ends = tuple(
        Aggregate(function, ColumnTerm("v"))
        for function in (AggregateFunction.MIN, AggregateFunction.MAX)
    )
    keys = pa.array(["a", "b", "a", "b", "c", "d"])
    values = pa.array([True, False, None, True, None, False])
    rows = folded(Aggregation(("k",), ends), [keys, values], [keys, values]).to_pylist()
    by_key = {row["k"]: (row["a0"], row["a1"]) for row in rows}
    assert by_key == {"a": (True, True), "b": (False, True), "c": (None, None), "d": (False, False)}
    (row,) = folded(Aggregation((), ends), [values], [values]).to_pylist()
    assert row == {"a0": False, "a1": True}
    (row,) = folded(Aggregation((), ends), [values.slice(2, 1)]).to_pylist()
    assert row == {"a0": None, "a1": None}
