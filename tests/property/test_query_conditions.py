"""Conditions that DuckDB passes to a table select the rows that DuckDB selects."""

import decimal
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_theflash.read.sql.session import QueryLimits
from pyspark_theflash.read.sql.sql import run_sql

WORDS = st.sampled_from(["a", "b", "B", "", "c0", "ä", "a "])
CONDITIONS = [
    "s = 'a'",
    "s <> 'a'",
    "s > 'B' AND n < 3",
    "s IN ('a', 'ä', 'c0') OR n IS NULL",
    "s IS NULL",
    "NOT (s = 'a' AND n > 0)",
    "n BETWEEN -1 AND 2 AND s IS NOT NULL",
    "s IS DISTINCT FROM 'a'",
    "s LIKE 'a%'",
    "n IN (1, 2, NULL)",
    "d >= 0.5 OR s = ''",
    "f > 0 AND t > INTERVAL '-1 second'",
    "day < DATE '1970-01-03' OR day IS NULL",
    "u > 9223372036854775807",
]


class One:
    """A catalog of one table."""

    def __init__(self, table: pa.Table) -> None:
        self._table, self.schema = table, table.schema

    def names(self) -> list[tuple[str, str]]:
        return [("shop", "t")]

    def open(self, db: str, table: str) -> "One":
        return self

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return iter(self._table.select(columns).to_batches(3))


def kept(table: pa.Table, source: str) -> list[tuple[object, ...]]:
    """Return the rows that each of the conditions selects."""
    parts = [
        f"SELECT {at} AS which, row FROM {source} WHERE {condition}"
        for at, condition in enumerate(CONDITIONS)
    ]
    with run_sql(" UNION ALL ".join(parts), One(table), limits=QueryLimits(threads=1)) as result:
        return sorted(tuple(row.values()) for batch in result for row in batch.to_pylist())


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.none() | WORDS, st.none() | st.integers(-2, 4)), max_size=12),
    st.booleans(),
)
def test_conditions_keep_what_they_should(
    values: list[tuple[str | None, int | None]], is_dictionary: bool
) -> None:
    """The oracle is DuckDB itself, over rows that it cannot hand anything down to."""
    words = pa.array([s for s, _ in values], pa.string())
    numbers = pa.array([n for _, n in values], pa.int32())
    halves = pc.multiply(numbers.cast(pa.decimal128(11, 1)), pa.scalar(decimal.Decimal("0.5")))
    unsigned = [None if n is None else n % 2**64 for _, n in values]
    table = pa.table(
        {
            "s": words.dictionary_encode() if is_dictionary else words,
            "n": numbers,
            "d": halves.cast(pa.decimal128(14, 2)),
            "f": numbers.cast(pa.float32()),
            "t": numbers.cast(pa.int64()).cast(pa.duration("us")),
            "day": numbers.cast(pa.date32()),
            "u": pa.array(unsigned, pa.uint64()),
            "row": pa.array(range(len(values)), pa.int64()),
        }
    )
    shuffled = "(SELECT * FROM shop.t ORDER BY random() LIMIT 1000)"
    assert kept(table, "shop.t") == kept(table, shuffled)
