"""Functions of values, against Python's own dates and numbers."""

from collections import Counter
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import SqlOverflowError, UnsupportedError
from pyspark_theflash.read.pushdown.evaluate import evaluate, rows_for_which
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.function import named_type
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
)
from pyspark_theflash.read.pushdown.value import Batch

UTC = timezone.utc
X, Y = ColumnTerm("x"), ColumnTerm("y")
DAYS = [date(1, 1, 1), date(1582, 10, 10), date(1969, 12, 31), date(2024, 2, 29), None]
DAYS += [date(2021, 1, 3) + timedelta(n) for n in range(800)] + [date(9999, 12, 31)]
TIMES = [datetime(1900, 2, 28, 23, 59, 59, 999999), datetime(2024, 12, 30, 5, 7, 9, 1), None]


def text(words):
    return LiteralTerm(LiteralKind.STRING, words)


def whole(number):
    return LiteralTerm(LiteralKind.INT, number)


def call(name, *arguments):
    return FunctionTerm(name, arguments)


def keys(term, **columns):
    """Return a term's values of these rows as group keys; a value may have several parts."""
    arrays = list(columns.values())
    rows = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    folding = Folding(Aggregation((), (Aggregate(AggregateFunction.COUNT),), (term,)), rows.schema)
    counts = Counter[Any]()
    for part in folding.of([rows]):
        for row in part.to_pylist():
            counts[row["k0"]] += row["a0"]
    assert counts.total() == len(rows)
    return counts


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("year", lambda d: d.year),
        ("quarter", lambda d: (d.month + 2) // 3),
        ("month", lambda d: d.month),
        ("day", lambda d: d.day),
        ("day of year", lambda d: d.timetuple().tm_yday),
        ("day of week", lambda d: d.isoweekday()),
        ("week", lambda d: d.isocalendar().week),
        ("year of week", lambda d: d.isocalendar().year),
    ],
)
@pytest.mark.parametrize("days", [DAYS, DAYS[5:400], DAYS[:5]], ids=["far", "near", "few"])
def test_parts_of_days(name, of, days):
    wanted = [None if day is None else of(day) for day in days]
    counts = keys(call(name, X), x=pa.array(days, pa.date32()))
    assert counts == {each: wanted.count(each) for each in wanted}


@pytest.mark.parametrize(
    ("unit", "of"),
    [
        ("year", lambda d: d.replace(month=1, day=1)),
        ("quarter", lambda d: d.replace(month=(d.month - 1) // 3 * 3 + 1, day=1)),
        ("month", lambda d: d.replace(day=1)),
        ("week", lambda d: d - timedelta(d.weekday())),
    ],
)
def test_begins_of_days_and_times(unit, of):
    days = DAYS[1:]
    wanted = {None if day is None else of(day) for day in days}
    assert set(keys(call("trunc", text(unit), X), x=pa.array(days, pa.date32()))) == wanted
    times = pa.array(TIMES, pa.timestamp("us"))
    midnight = {t and datetime.combine(of(t.date()), datetime.min.time()) for t in TIMES}
    assert set(keys(call("date_trunc", text(unit), X), x=times)) == midnight


def test_times():
    times = pa.array(TIMES, pa.timestamp("us"))
    assert set(keys(call("hour", X), x=times)) == {23, 5, None}
    assert set(keys(call("minute", X), x=times)) == {59, 7, None}
    assert set(keys(call("second", X), x=times)) == {59, 9, None}
    assert set(keys(call("date", X), x=times)) == {t and t.date() for t in TIMES}
    hours = {t and t.replace(minute=0, second=0, microsecond=0) for t in TIMES}
    assert set(keys(call("date_trunc", text("hour"), X), x=times)) == hours


def test_zones():
    """East of UTC the day begins earlier."""
    offset = whole(8 * 3_600_000_000)
    moments = pa.array([datetime(2024, 2, 29, 17, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    local = call("local", X, offset)
    assert set(keys(call("date", local), x=moments)) == {date(2024, 3, 1)}
    month = call("instant", call("date_trunc", text("month"), local), offset)
    assert set(keys(month, x=moments)) == {datetime(2024, 2, 29, 16, tzinfo=UTC)}


@pytest.mark.parametrize(("a", "b"), [(7, 3), (-7, 3), (7, -3), (-(2**63), 10), (-128, -1)])
def test_remainders_have_the_sign_of_what_is_divided(a, b):
    wanted = abs(a) % abs(b) * (-1 if a < 0 else 1)
    assert set(keys(call("bigint %", X, whole(b)), x=pa.array([a]))) == {wanted}


@pytest.mark.parametrize(
    ("name", "tp", "a", "b"),
    [
        ("tinyint +", pa.int8(), 127, 1),
        ("int -", pa.int32(), -(2**31), 1),
        ("int *", pa.int32(), 1 << 16, 1 << 15),
        ("bigint *", pa.int64(), 1 << 62, 2),
        ("bigint +", pa.int64(), -(2**63), -1),
    ],
)
def test_numbers_that_do_not_fit(name, tp, a, b):
    term = call(name, X, whole(b))
    with pytest.raises(SqlOverflowError):
        keys(term, x=pa.array([0, a], tp))
    # It is in no row that is evaluated.
    only = call("case", call("<>", X, whole(a)), term, call(f"as {name.split()[0]}", whole(9)))
    assert 9 in keys(only, x=pa.array([0, a], tp))


def test_casts_of_doubles():
    values = pa.array([2.9, -2.9, -0.0, None, 2147483647.5])
    assert keys(call("as int", X), x=values) == {2: 1, -2: 1, 0: 1, None: 1, 2147483647: 1}
    for bad in (2147483648.0, float("nan"), float("-inf")):
        with pytest.raises(SqlOverflowError):
            keys(call("as int", X), x=pa.array([0.0, bad]))
    assert keys(call("as bigint", X), x=pa.array([2.0**63])) == {2**63 - 1: 1}
    floors = pa.array([-0.5, float("nan"), float("inf"), -1e300])
    assert set(keys(call("floor", X), x=floors)) == {-1, 0, 2**63 - 1, -(2**63)}


WORDS = ["tea", "öl", "", None, "🙂x"]


@pytest.mark.parametrize("encode", [False, True])
def test_texts(encode):
    words = pa.array(WORDS * 3)
    words = words.dictionary_encode() if encode else words
    for begin, count in ((1, 1), (2, 5), (0, 2)):
        wanted = {w and w[max(begin - 1, 0) :][:count] for w in WORDS}
        counts = keys(call("substring", X, whole(begin), whole(count)), x=words)
        assert set(counts) == wanted
    assert set(keys(call("length", X), x=words)) == {3, 2, 0, None}
    none = call("coalesce", X, call("as string", text("tea")))
    assert keys(none, x=words) == {"tea": 6, "öl": 3, "": 3, "🙂x": 3}


def test_case():
    """The first true condition decides; without any the result is NULL, or that of ELSE."""
    x, y = pa.array([1, 2, 3, None], pa.int32()), pa.array(["a", "b", None, "d"])
    words = call(
        "case", call(">", X, whole(2)), call("as string", text("b")), call("is null", X), Y
    )
    assert keys(words, x=x, y=y) == {None: 2, "b": 1, "d": 1}
    numbers = call("case", call("<", X, whole(3)), X, call("as int", whole(7)))
    assert keys(numbers, x=x) == {1: 1, 2: 1, 7: 2}
    assert keys(call(">", X, whole(1)), x=x) == {False: 1, True: 2, None: 1}


REFUSED = [
    call("int +", whole(1), whole(2)),
    call("int %", X, whole(0)),
    call("int %", X, X),
    call("double /", Y, Y),
    call("as decimal(39,0)", X),
    call("as tinyint(1)", X),
    call("as int", ColumnTerm("t")),
    call("year", X),
    call("trunc", text("hour"), ColumnTerm("d")),
    call("substring", ColumnTerm("t"), whole(-1)),
    call("coalesce", X, Y),
    call("case", X),
    call("upper", ColumnTerm("t")),
    call("substring", ColumnTerm("t"), whole(10**30)),
    call("substring", ColumnTerm("t"), whole(1), whole(10**30)),
    call("instant", ColumnTerm("z"), whole(10**30)),
    call("coalesce", call("as int"), X),
    whole(1),
]


@pytest.mark.parametrize("term", REFUSED)
def test_what_is_not_told_exactly_is_refused_before_any_row(term):
    types = {"x": pa.int32(), "y": pa.float64(), "t": pa.string(), "d": pa.date32()}
    types["z"] = pa.timestamp("us")
    with pytest.raises(UnsupportedError):
        Folding(Aggregation((), (), (term,)), pa.schema(list(types.items())))


def test_types():
    assert named_type("decimal(10,2)") == pa.decimal128(10, 2)
    rows = Batch({"x": pa.array([1, None], pa.int8())}, 2)
    assert evaluate(call("as decimal(5,2)", X), rows).ints.tolist()[0] == 100
    assert evaluate(call("as double", X), rows).type == pa.float64()
    assert np.asarray(evaluate(call("as bigint", whole(4)), rows).ints).tolist() == [4, 4]


def test_conditions_compare_what_conditions_choose():
    """CASE and COALESCE in a filter: an error in a branch is raised for its own rows only."""
    rows = Batch({"x": pa.array([1, 2, None, 2**31 - 1], pa.int32())}, 4)
    one, zero = call("as int", whole(1)), call("as int", whole(0))
    is_last = call("=", X, whole(2**31 - 1))
    case = call("case", is_last, zero, call("int +", X, one))
    assert rows_for_which(call("=", case, whole(3)), rows).tolist() == [False, True, False, False]
    first = call("coalesce", X, zero)
    assert rows_for_which(call("<", first, whole(2)), rows).tolist() == [True, False, True, False]
    with pytest.raises(SqlOverflowError):
        rows_for_which(call("=", call("int +", X, one), whole(3)), rows)
    with pytest.raises(UnsupportedError, match="literals only"):
        rows_for_which(call("=", call("int +", whole(1), whole(2)), X), rows)
