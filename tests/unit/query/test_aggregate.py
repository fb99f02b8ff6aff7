"""Partial aggregates: what they are, what they are put together to, and what is refused."""

import datetime
import decimal
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_theflash.errors import (
    ColumnNotFoundError,
    SqlError,
    SqlMemoryError,
    TheFlashError,
    UnsupportedError,
)
from pyspark_theflash.expression.evaluate import parse
from pyspark_theflash.query.aggregate import Aggregate, AggregateRequest
from pyspark_theflash.query.connection import Limits
from pyspark_theflash.query.partial import PartialAggregation

ONE = Limits(threads=1)
SCHEMA = pa.schema(
    [
        ("word", pa.dictionary(pa.int32(), pa.string())),
        ("Big", pa.uint64()),
        ("price", pa.decimal128(15, 2)),
        ("rate", pa.decimal128(15, 2)),
        ("day", pa.date32()),
        ("moment", pa.timestamp("us", "UTC")),
        ("ratio", pa.float64()),
        ("vector", pa.list_(pa.float32())),
        ("wide", pa.decimal128(38, 0)),
        ("fine", pa.decimal128(30, 20)),
    ]
)


class Rows:
    """A table of Python rows."""

    schema = SCHEMA

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows = rows

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self._rows), 3):
            part = self._rows[start : start + 3]
            arrays = [
                pa.array([row.get(f.name) for row in part], f.type)
                for f in map(SCHEMA.field, columns)
            ]
            empty = pa.StructArray.from_arrays([pa.nulls(len(part))], names=["rows"])
            none = pa.RecordBatch.from_struct_array(empty).select([])
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns)) if columns else none


def request(
    *aggregates: Sequence[str], groups: Sequence[str] = (), where: str | None = None
) -> AggregateRequest:
    condition = None if where is None else parse(where).tree
    return AggregateRequest(tuple(groups), tuple(Aggregate.of(*a) for a in aggregates), condition)


def aggregate(
    wanted: AggregateRequest, *tables: Sequence[dict[str, Any]], limits: Limits = ONE
) -> list[tuple[Any, ...]]:
    """A partial of each table, merged."""
    with PartialAggregation(pickle.loads(pickle.dumps(wanted)), SCHEMA, limits) as aggregation:
        partials = [batch for rows in tables for batch in aggregation.of(Rows(rows))]
        assert all(partial.schema == aggregation.schema for partial in partials)
        merged = aggregation.merge(partials)
        assert merged.schema == aggregation.schema
        return [tuple(row.values()) for row in merged.to_pylist()]


def test_without_groups_there_is_always_one_row() -> None:
    wanted = request(("count",), ("count", "price"), ("sum", "price"), ("min", "word"))
    assert aggregate(wanted) == [(0, 0, None, None)]
    assert aggregate(wanted, [], []) == [(0, 0, None, None)]
    assert aggregate(wanted, [{}], [{"word": "b"}, {"word": "a"}]) == [(3, 0, None, "a")]


def test_moments_are_in_utc() -> None:
    moments = [datetime.datetime(2024, 5, day, tzinfo=datetime.timezone.utc) for day in (1, 2, 3)]
    rows = [{"moment": moment} for moment in moments]
    after = request(("min", "moment"), ("count",), where="moment > '2024-05-01 23:59:59.5'")
    assert aggregate(after, rows) == [(moments[1], 2)]
    assert aggregate(request(("count",), where="moment = '2024-05-03'"), rows) == [(1,)]


def test_with_groups_there_may_be_none() -> None:
    assert aggregate(request(("count",), groups=["word"]), []) == []
    rows = [{"word": "a"}, {}, {"word": "a"}]
    found = aggregate(request(("count",), groups=["word"]), rows, [{}])
    assert sorted(found, key=str) == [("a", 2), (None, 2)]


def test_sums_are_wide() -> None:
    rows = [{"Big": 2**64 - 1, "price": Decimal("9999999999999.99")}] * 5
    wanted = request(("sum", "big"), ("sum", "price"), ("sum", "price * price"))
    assert aggregate(wanted, rows, rows) == [
        (
            10 * (2**64 - 1),
            Decimal("99999999999999.90"),
            Decimal("999999999999998000000000000.0010"),
        )
    ]


def test_a_sum_that_fits_nowhere_raises() -> None:
    rows = [{"wide": 6 * 10**37}]
    with pytest.raises(SqlError):
        aggregate(request(("sum", "wide")), rows * 2)
    with pytest.raises(SqlError):
        aggregate(request(("sum", "wide")), rows, rows)


def test_an_expression_that_fits_nowhere_raises() -> None:
    with pytest.raises(SqlError):
        aggregate(request(("sum", "wide + wide")), [{"wide": 6 * 10**37}])


def test_too_many_groups_raise() -> None:
    rows = [{"Big": n, "word": f"{n:0100}"} for n in range(200_000)]
    with pytest.raises(SqlMemoryError):
        aggregate(request(("count",), groups=["Big", "word"]), rows, limits=Limits(8, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: request(("sum", "word")),
        lambda: request(("sum", "day")),
        lambda: request(("sum",)),
        lambda: request(("max", "vector")),
        lambda: request(groups=["ratio"]),
        lambda: request(groups=["vector"]),
        lambda: request(("sum", "big * price")),
        lambda: request(("sum", "ratio + 1")),
        lambda: request(("sum", "price / rate")),
        lambda: request(("sum", "fine * fine")),
        lambda: request(("sum", "length(word)")),
        lambda: request(("sum", "price * 1e0")),
        lambda: request(("count",), where="price < rate"),
        lambda: request(("count",), where="1 < price"),
        lambda: request(("count",), where="ratio < 1"),
        lambda: request(("count",), where="word < 1"),
        lambda: request(("count",), where="price < '1'"),
        lambda: request(("count",), where="day < '2020-02-31'"),
        lambda: request(("count",), where="day < '2020-02-01 10:00:00'"),
        lambda: request(("count",), where="day < 'yesterday'"),
        lambda: request(("count",), where="word like 'a%'"),
        lambda: request(("count",), where="price"),
    ],
)
def test_what_would_not_be_exact_is_refused(make: Callable[[], AggregateRequest]) -> None:
    with pytest.raises(UnsupportedError):
        aggregate(make())


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ColumnNotFoundError, match="nope"):
        aggregate(request(("sum", "nope")))


def test_an_error_of_the_rows_keeps_its_type() -> None:
    class Broken(Rows):
        def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            raise TheFlashError("broken")

    wanted = request(("sum", "price"))
    with (
        PartialAggregation(wanted, SCHEMA, ONE) as aggregation,
        pytest.raises(TheFlashError, match="broken"),
    ):
        list(aggregation.of(Broken([])))


CENTS = st.none() | st.integers(-(10**15) + 1, 10**15 - 1)
ROW = st.fixed_dictionaries(
    {
        "word": st.none() | st.sampled_from(["", "a", "A", "b ", "ä", "it's"]),
        "Big": st.none() | st.sampled_from([0, 1, 2**63, 2**64 - 1]),
        "price": CENTS.map(lambda n: None if n is None else Decimal(n).scaleb(-2)),
        "rate": CENTS.map(lambda n: None if n is None else Decimal(n % 100).scaleb(-2)),
        "day": st.none() | st.dates(),
    }
)
WANTED = request(
    ("count",),
    ("count", "price"),
    ("sum", "price"),
    ("sum", "price * (1 - rate)"),
    ("min", "word"),
    ("max", "Big"),
    ("min", "day"),
    ("sum", "Big"),
    groups=["word"],
    where="word <> 'b ' and (price >= -12.5 or big in (1, 18446744073709551615)) or day is null",
)


@settings(max_examples=12)
@given(st.lists(st.lists(ROW, max_size=8), max_size=4))
def test_partials_merge_to_what_python_adds_up(tables: list[list[dict[str, Any]]]) -> None:
    with decimal.localcontext(decimal.Context(prec=60)):
        assert sorted(aggregate(WANTED, *tables), key=repr) == sorted(expected(tables), key=repr)


def expected(tables: list[list[dict[str, Any]]]) -> list[tuple[Any, ...]]:
    """The same row by row, with three-valued logic spelled out."""
    groups: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for row in (row for rows in tables for row in rows):
        known = [row["word"] is not None and row["word"] != "b "]
        known.append(
            (row["price"] is not None and row["price"] >= Decimal("-12.5"))
            or row["Big"] in (1, 2**64 - 1)
        )
        if all(known) or row["day"] is None:
            groups[row["word"]].append(row)
    return [
        (
            word,
            len(rows),
            len(values(rows, "price")),
            total(values(rows, "price"), "0.00"),
            total(
                [r["price"] * (1 - r["rate"]) for r in rows if None not in (r["price"], r["rate"])],
                "0.0000",
            ),
            word,
            max(values(rows, "Big"), default=None),
            min(values(rows, "day"), default=None),
            total([Decimal(v) for v in values(rows, "Big")], "0"),
        )
        for word, rows in groups.items()
    ]


def values(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows if row[name] is not None]


def total(numbers: Sequence[Decimal], zero: str) -> Decimal | None:
    return sum(numbers, Decimal(zero)) if numbers else None
