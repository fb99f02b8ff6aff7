"""Filters, partial aggregates and first rows against an oracle that goes row by row."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.read.pushdown import fold
from pyspark_theflash.read.pushdown.evaluate import rows_for_which
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.top import FirstRows, first_rows
from pyspark_theflash.read.pushdown.value import Batch
from pyspark_theflash.service.api.pushed import pushed_of
from pyspark_theflash.service.wire.message import PlanRequest
from pyspark_theflash.tidb.codec.narrow import widened
from tests.support.pushed_cases import (
    CONDITIONS,
    ORDERS,
    TYPES,
    aggregations,
    python_rows,
    rows,
)
from tests.support.pushed_oracle import aggregated, keeps, merged, same, sort_key


@given(rows(narrow=True), CONDITIONS, st.randoms(use_true_random=False))
def test_filters(columns, condition, random):
    term = pushed_of(PlanRequest(filter=condition)).filter
    count = len(columns["big"])
    # Only the types determine whether it can be evaluated.
    rows_for_which(term, Batch({n: v.slice(0, 0) for n, v in columns.items()}, 0))
    kept = rows_for_which(term, Batch(columns, count))
    truth = np.array([keeps(condition, row) for row in python_rows(columns)], np.bool_)
    assert kept.tolist() == truth.tolist()
    among = np.array([random.random() < 0.7 for _ in range(count)], np.bool_)
    assert rows_for_which(term, Batch(columns, count), among).tolist() == (among & truth).tolist()


@given(st.lists(rows(narrow=True), max_size=3), aggregations(), st.booleans())
def test_partial_aggregates(parts, aggregation, in_pieces):
    pushed = pushed_of(PlanRequest(aggregation=aggregation)).aggregation
    schema = pa.schema(list(TYPES.items()))
    folding = Folding(pushed, schema)
    # Groups are values that are handed out.
    for part in parts:
        if "price" in pushed.groups:
            part["price"] = widened(part["price"], TYPES["price"])
    batches = list(map(_batch, parts))
    with pytest.MonkeyPatch.context() as patch:
        if in_pieces:
            patch.setattr(fold, "MERGED_ROWS", 5)
            patch.setattr(fold, "GROUPS_MAX", 4)
            patch.setattr(fold, "SMALL_ROWS", 2)
            patch.setattr(fold, "WIDE_ROWS", 6)
        partials = list(folding.of(batches))
    assert {partial.schema for partial in partials} <= {folding.schema}
    totals = merged(aggregation, [row for partial in partials for row in partial.to_pylist()])
    expected = aggregated(aggregation, [row for part in parts for row in python_rows(part)])
    assert totals.keys() == expected.keys()
    for key, values in expected.items():
        assert all(map(same, totals[key], values)), key


@given(st.lists(rows(), max_size=3), ORDERS, st.integers(1, 20))
def test_first_rows(parts, order, limit):
    keys = pushed_of(PlanRequest(order=order, limit=limit)).order
    schema = pa.schema(list(TYPES.items()))
    batches = list(first_rows(map(_batch, parts), keys, limit, schema))
    assert {batch.schema for batch in batches} <= {schema}
    first = [row for batch in batches for row in batch.to_pylist()]
    every = [row for part in parts for row in python_rows(part)]
    expected = sorted(every, key=lambda row: sort_key(order, row))[:limit]
    assert [sort_key(order, row) for row in first] == [sort_key(order, row) for row in expected]


@given(st.lists(rows(), max_size=4), ORDERS, st.integers(1, 20))
def test_leaders_are_enough_for_the_first_rows(parts, order, limit):
    """`FirstRows` receives the columns of the order only, and the rows in several parts."""
    keys = pushed_of(PlanRequest(order=order, limit=limit)).order
    leaders = FirstRows(keys, limit)
    leading = []
    for part in parts:
        kept = leaders.rows(pa.table({key.column: part[key.column] for key in keys}))
        assert np.count_nonzero(kept) <= limit
        leading += [row for row, is_kept in zip(python_rows(part), kept, strict=True) if is_kept]
    every = [sort_key(order, row) for part in parts for row in python_rows(part)]
    assert sorted(sort_key(order, row) for row in leading)[:limit] == sorted(every)[:limit]


def _batch(columns):
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
