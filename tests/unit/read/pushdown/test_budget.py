"""Filters, aggregations and first rows need little memory, and end when the request has to."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.errors import CallCancelledError, SqlMemoryError, UnsupportedError
from pyspark_theflash.read.pushdown import compare, fold, top
from pyspark_theflash.read.pushdown import evaluate as evaluate_module
from pyspark_theflash.read.pushdown.choose import choose
from pyspark_theflash.read.pushdown.evaluate import evaluate, rows_for_which
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    SortKey,
    Term,
)
from pyspark_theflash.read.pushdown.top import FirstRows, first_rows
from pyspark_theflash.read.pushdown.value import Batch, Texts, value_of
from pyspark_theflash.tidb.expression.allowance import in_slices
from tests.support.memory import peak_memory

ROWS = 10_000
SMALL = Budget(4 << 20)
N, S = ColumnTerm("n"), ColumnTerm("s")


def call(name: str, *arguments: Term) -> FunctionTerm:
    return FunctionTerm(name, arguments)


def whole(number: int) -> LiteralTerm:
    return LiteralTerm(LiteralKind.INT, number)


def columns(count: int = ROWS) -> dict[str, pa.Array]:
    return {
        "n": pa.array(np.arange(count)),
        "s": pa.array([f"eleven green elephants {n}" for n in range(count)]),
    }


def stopping(after: int) -> Budget:
    """A budget whose time is over at a check."""
    left = after

    def check() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise CallCancelledError("Scan")

    return Budget(SMALL.memory_bytes, check)


MANY = call("or", *(call("=", N, whole(n)) for n in range(300)))
CASES = call("case", *(x for n in range(100) for x in (call("=", N, whole(n)), S)), S)


@pytest.mark.parametrize(
    ("term", "count"),
    [
        (MANY, 300),
        (call("in", N, *(whole(n) for n in range(4095))), 4095),
        (call("=", CASES, LiteralTerm(LiteralKind.STRING, "x")), 0),
    ],
)
def test_filters_of_many_terms(term: Term, count: int) -> None:
    rows = columns()
    with peak_memory() as peak:
        mask = rows_for_which(term, Batch(rows, ROWS, SMALL))
    assert np.count_nonzero(mask) == count
    assert peak.size_bytes < 2 * SMALL.memory_bytes


def sums(count: int, keys: int) -> Aggregation:
    least = (Aggregate(AggregateFunction.MIN, call("bigint +", N, whole(n))) for n in range(count))
    return Aggregation((), tuple(least), tuple(call("bigint +", N, whole(n)) for n in range(keys)))


def test_aggregates_of_many_groups() -> None:
    batch = pa.RecordBatch.from_pydict(columns())
    folding = Folding(sums(100, 3), batch.schema, SMALL)
    groups = 0
    with peak_memory() as peak:
        for partial in folding.of([batch]):
            groups += partial.num_rows
    assert groups == ROWS
    assert peak.size_bytes < 2 * SMALL.memory_bytes


def test_the_same_partials_from_pieces() -> None:
    rows = columns(2000) | {"n": pa.array(np.arange(2000) % 7)}
    batch = pa.RecordBatch.from_pydict(rows)
    results = []
    for budget in (Budget(1 << 18), Budget()):
        folding = Folding(sums(20, 2), batch.schema, budget)
        parts = list(folding.of([batch]))
        results.append(sorted(map(str, folding.merged(parts).to_pylist())))
    assert results[0] == results[1]
    assert len(results[0]) == 7


def test_dictionaries_are_joined_once() -> None:
    words = pa.array([f"a long word {n}" * 20 for n in range(1000)])
    coded = pa.DictionaryArray.from_arrays(pa.array(np.arange(1000, dtype=np.int32)), words)
    batch = Batch({"n": pa.array(np.arange(1000)), "s": coded}, 1000)
    chosen = evaluate(CASES, batch)
    assert isinstance(chosen, Texts)
    assert len(chosen.values.dictionary) == 1000
    assert chosen.values.to_pylist() == words.to_pylist()


def plus(number: int) -> FunctionTerm:
    return call("bigint +", N, whole(number))


CHOICES = {
    "case": call("case", *(x for n in range(200) for x in (call("=", N, whole(n)), plus(n))), N),
    "case of texts": CASES,
    "coalesce": call("coalesce", *(plus(n) for n in range(200))),
    "coalesce of texts": call("coalesce", *[S] * 200),
}


@pytest.mark.parametrize("term", CHOICES.values(), ids=CHOICES)
def test_choices_of_many_values(term: Term) -> None:
    rows = columns()
    with peak_memory() as peak:
        assert not rows_for_which(call("is null", term), Batch(rows, ROWS, SMALL)).any()
    assert peak.size_bytes < 2 * SMALL.memory_bytes


@pytest.mark.parametrize("name", ["n", "s"])
def test_a_choice_ends_with_the_request(name: str) -> None:
    parts = [value_of(columns(10)[name])] * 20
    with pytest.raises(CallCancelledError):
        choose(parts, np.zeros(10, np.int16), stopping(15))


def test_conditions_are_combined_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each removes a row, so the others are evaluated on fewer rows."""
    read = 0
    names = evaluate_module.column_names

    def counting(term: Term) -> Any:
        nonlocal read
        read += 1
        return names(term)

    monkeypatch.setattr(evaluate_module, "column_names", counting)
    count = 100
    terms = (call(">", plus(0), whole(n)) for n in range(count))
    mask = rows_for_which(call("and", *terms), Batch(columns(1000), 1000))
    assert np.count_nonzero(mask) == 1000 - count
    assert read < 20 * count


@pytest.mark.parametrize("after", [1, 5, 50])
def test_a_request_ends_within_a_batch(after: int) -> None:
    batch = pa.RecordBatch.from_pydict(columns(100))
    with pytest.raises(CallCancelledError):
        rows_for_which(MANY, Batch(columns(100), 100, stopping(after)))
    with pytest.raises(CallCancelledError):
        list(Folding(sums(100, 3), batch.schema, stopping(after + 200)).of([batch]))


def test_first_rows_larger_than_the_budget() -> None:
    texts = pa.array(["x" * 1000 + str(n) for n in range(5000)])
    batch = pa.RecordBatch.from_pydict({"s": texts})
    order = [SortKey("s")]
    with pytest.raises(SqlMemoryError):
        list(first_rows([batch], order, 5000, batch.schema, Budget(4 << 20)))
    (few,) = first_rows([batch], order, 10, batch.schema, Budget(4 << 20))
    assert few["s"].to_pylist() == sorted(texts.to_pylist())[:10]


@pytest.mark.parametrize("error", [pa.ArrowCapacityError, pa.ArrowInvalid, MemoryError])
def test_limits_of_arrow(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error("offset overflow")

    monkeypatch.setitem(compare.MATCHES, "contains", fail)
    term = call("contains", S, LiteralTerm(LiteralKind.STRING, "a"))
    with pytest.raises(UnsupportedError, match=f"filter: .*{error.__name__}"):
        rows_for_which(term, Batch(columns(10), 10))


def test_first_rows_of_long_repeated_texts() -> None:
    words = pa.array(["x" * 10_000, "y" * 10_000])
    coded = pa.DictionaryArray.from_arrays(pa.array(np.arange(5000, dtype=np.int32) % 2), words)
    batch = pa.RecordBatch.from_pydict({"s": coded})
    schema = pa.schema({"s": pa.string()})
    with peak_memory() as peak:
        (few,) = first_rows([batch], [SortKey("s", True)], 10, schema, SMALL)
    assert few["s"].to_pylist() == ["y" * 10_000] * 10
    assert peak.size_bytes < 2 * SMALL.memory_bytes


def test_limits_of_arrow_in_groups_and_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise pa.ArrowInvalid("offset overflow")

    batch = pa.RecordBatch.from_pydict(columns(10))
    monkeypatch.setattr(fold, "groups_of", fail)
    monkeypatch.setattr(top, "_first", fail)
    with pytest.raises(UnsupportedError):
        list(Folding(sums(1, 1), batch.schema, SMALL).of([batch]))
    with pytest.raises(UnsupportedError):
        list(first_rows([batch], [SortKey("s")], 3, batch.schema, SMALL))


def test_a_choice_between_dictionaries_larger_than_the_budget() -> None:
    def coded(letter: str) -> pa.DictionaryArray:
        words = pa.array([letter * 1_000 + str(n) for n in range(800)])
        return pa.DictionaryArray.from_arrays(pa.array(np.arange(800, dtype=np.int32)), words)

    rows = {"n": pa.array(np.arange(800)), "s": coded("a"), "t": coded("b")}
    choice = call("case", call("<", N, whole(5)), S, ColumnTerm("t"))
    chosen = evaluate(choice, Batch(rows, 800, SMALL))
    assert isinstance(chosen, Texts)
    assert chosen.values.to_pylist()[4:6] == ["a" * 1_000 + "4", "b" * 1_000 + "5"]
    with pytest.raises(SqlMemoryError):
        evaluate(choice, Batch(rows, 800, Budget(1 << 20)))


def coded(words: list[str], count: int) -> pa.Array:
    places = pa.array(np.arange(count, dtype=np.int32) % len(words))
    return pa.DictionaryArray.from_arrays(places, pa.array(words))


def test_maxima_of_long_repeated_texts() -> None:
    rows = {"n": pa.array(np.arange(2000)), "s": coded(["x" * 10_000, "y" * 10_000], 2000)}
    batch = pa.RecordBatch.from_pydict(rows)
    schema = pa.schema([("n", pa.int64()), ("s", pa.string())])
    by_key = Aggregation(("n",), (Aggregate(AggregateFunction.MAX, S),))
    groups = 0
    with peak_memory() as peak:
        for partial in Folding(by_key, schema, SMALL).of([batch]):
            groups += partial.num_rows
            assert partial["a0"][0].as_py() == rows["s"][partial["n"][0].as_py()].as_py()
    assert groups == 2000
    assert peak.size_bytes < 4 * SMALL.memory_bytes


def test_long_literals_of_each_group() -> None:
    batch = pa.RecordBatch.from_pydict({"n": pa.array(np.arange(2000))})
    text = call("as string", LiteralTerm(LiteralKind.STRING, "x" * 10_000))
    folding = Folding(
        Aggregation(("n",), (Aggregate(AggregateFunction.MAX, text),), (text,)), batch.schema, SMALL
    )
    groups = 0
    with peak_memory() as peak:
        for partial in folding.of([batch]):
            groups += partial.num_rows
    assert groups == 2000
    assert peak.size_bytes < 4 * SMALL.memory_bytes


def test_many_maxima_of_a_text() -> None:
    batch = pa.RecordBatch.from_pydict({"s": pa.array(["x" * 10_000] * 10)})
    maxima = (Aggregate(AggregateFunction.MAX, S),) * 1_000
    with peak_memory() as peak, pytest.raises(SqlMemoryError):
        list(Folding(Aggregation((), maxima), batch.schema, SMALL).of([batch]))
    assert peak.size_bytes < 4 * SMALL.memory_bytes


def test_leaders_among_long_repeated_texts() -> None:
    leaders = FirstRows([SortKey("s", descending=True)], 2, SMALL)
    keys = pa.table({"s": coded(["x" * 1_000, "y" * 1_000], 20_000)})
    with peak_memory() as peak:
        masks = in_slices(
            20_000,
            SMALL,
            "scan",
            lambda start, count: leaders.rows(keys.slice(start, count)),
            20_000,
        )
        chosen = np.concatenate(list(masks))
    assert np.count_nonzero(chosen) == 2
    assert peak.size_bytes < 4 * SMALL.memory_bytes


def test_comparing_long_repeated_texts() -> None:
    words = coded(["x" * 1_000, "y" * 1_000], 20_000)
    columns = {"s": words, "t": words}

    def equal(start: int, count: int) -> Any:
        batch = Batch({name: each.slice(start, count) for name, each in columns.items()}, count)
        return rows_for_which(call("=", S, ColumnTerm("t")), batch)

    with peak_memory() as peak:
        assert np.concatenate(list(in_slices(20_000, SMALL, "scan", equal, 20_000))).all()
    assert peak.size_bytes < 4 * SMALL.memory_bytes
