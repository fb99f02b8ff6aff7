"""Conditions of a request need little memory, and end when the request has to."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.errors import (
    CallCancelledError,
    SqlMemoryError,
    UnsupportedError,
)
from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.expression import evaluate, strings
from tests.support.memory import peak_memory

ROWS = 3_000
SMALL = Budget(4 << 20)
TABLE = table_info(
    7,
    "shop.item",
    [
        id_column(),
        column("c", MySQLType.VARCHAR, collate="utf8mb4_bin"),
        column("n", MySQLType.LONGLONG),
        column("d", MySQLType.NEWDECIMAL, flen=10, decimal=2),
        column("f", MySQLType.DOUBLE),
        column("b", MySQLType.VARCHAR, charset="binary", collate="binary"),
        column("ci", MySQLType.VARCHAR, collate="utf8mb4_general_ci"),
        column("day", MySQLType.DATETIME),
    ],
)


def stored(count: int = ROWS) -> pa.RecordBatch:
    numbers = np.arange(count)
    texts = [f"eleven green elephants {n}" for n in range(count)]
    hundredths = [Decimal(n) / 100 for n in range(count)]
    arrays = [
        pa.array(numbers),
        pa.array(texts),
        pa.array([None if n % 5 == 0 else n % 1000 for n in range(count)], pa.int64()),
        pa.array(hundredths, pa.decimal128(10, 2)),
        pa.array(numbers / 4),
        pa.array([b"a" * 60 + str(n).encode() for n in range(count)]),
        pa.array([f"Item {n % 50}" for n in range(count)]),
        pa.array(numbers * 1_000_000, pa.timestamp("us")),
    ]
    names = [column_name(each.id) for each in TABLE.columns]
    return pa.RecordBatch.from_arrays(arrays, names)


def rows(where: str, budget: Budget = SMALL, count: int = ROWS) -> list[int]:
    mask = Condition.parse(where, TABLE).rows(stored(count), budget)
    return [int(n) for n in np.flatnonzero(mask)]


def replaced(times: int) -> str:
    text = "c"
    for _ in range(times):
        text = f"replace({text}, 'e', 'eeeeeeeeee')"
    return text


HUGE = {
    "nested replace": f"length({replaced(3)}) < 10",
    "concat": f"length(concat({', '.join(['c'] * 300)})) < 10",
    "concat_ws": f"length(concat_ws('-', {', '.join(['c'] * 300)})) < 10",
    "greatest": f"greatest({', '.join(['d', 'n'] * 40)}) < 0",
    "least of texts": f"least({', '.join(['c'] * 100)}) = 'a'",
    "coalesce": f"coalesce({', '.join(['nullif(c, c)'] * 60)}, 'x') = 'a'",
    "case": f"CASE {' '.join(['WHEN n = -1 THEN concat(c, id)'] * 40)} ELSE 'b' END = 'a'",
    "nested if": f"{'if(n > 0, concat(c, id), ' * 30}'b'{')' * 30} = 'a'",
    "nested case": f"{'CASE WHEN n < 0 THEN c ELSE concat(c, ' * 15}c{') END' * 15} = 'a'",
    "hex": "length(hex(hex(hex(hex(hex(hex(hex(c)))))))) < 10",
    "a long constant": f"concat(c, '{'x' * 20_000}') = 'a'",
    "a long constant of another function": f"left('{'x' * 20_000}', n) = 'a'",
    "numbers": f"n IN ({', '.join(str(n) for n in range(4095))}) AND n < 0",
    "choices of several types": "c IN (" + ", ".join(f"{n}, 'x{n}'" for n in range(1, 200)) + ")",
}


@pytest.mark.parametrize("where", HUGE.values(), ids=HUGE)
def test_results_much_larger_than_the_rows(where: str) -> None:
    condition, batch, budget = Condition.parse(where, TABLE), stored(ROWS // 2), Budget(2 << 20)
    condition.rows(batch.slice(0, 10))
    with peak_memory() as peak:
        assert not condition.rows(batch, budget).any()
    assert peak.size_bytes < 2 * budget.memory_bytes


def test_a_row_that_needs_more_than_the_budget() -> None:
    assert rows(f"length({replaced(5)}) > 1", count=1) == [0]
    with pytest.raises(SqlMemoryError, match="limit of 4 MiB"), peak_memory() as peak:
        rows(f"length({replaced(7)}) > 1", count=1)
    assert peak.size_bytes < 2 * SMALL.memory_bytes


@pytest.mark.parametrize(
    ("where", "predicate"),
    [
        ("n IN (1, 2, 7000)", lambda n: n % 5 and n % 1000 in (1, 2)),
        ("n NOT IN (1, 2)", lambda n: n % 5 and n % 1000 not in (1, 2)),
        ("n NOT IN (1, NULL)", lambda n: False),
        ("n IN (NULL, 18446744073709551615)", lambda n: False),
        ("n IN (1.5, 2.0, '7')", lambda n: n % 1000 in (2, 7)),
        ("n IN (1, id)", lambda n: n % 5 and (n % 1000 == 1 or n < 1000)),
        ("4 IN (id, 7)", lambda n: n == 4),
        ("4 IN (id, 4)", lambda n: True),
        ("d IN (0.01, 1, 2.5)", lambda n: n in (1, 100, 250)),
        ("d IN ('0.01', 1, 1e0)", lambda n: n in (1, 100)),
        ("f IN (0.5, 1, '2.25')", lambda n: n in (2, 4, 9)),
        ("c IN ('eleven green elephants 3', NULL)", lambda n: n == 3),
        ("ci IN ('ITEM 3', 'item 4 ')", lambda n: n % 50 in (3, 4)),
        ("day IN ('1970-01-01 00:00:02', 19700101000003, 'x')", lambda n: n in (2, 3)),
        ("day NOT IN ('1970-01-01 00:00:02', 'x')", lambda n: False),
        ("b IN ('a', NULL) IS NULL", lambda n: True),
        ("n BETWEEN 1 AND '2'", lambda n: n % 5 and n % 1000 in (1, 2)),
        ("'b' > c", lambda n: False),
        ("'b' < c", lambda n: True),
        ("c <=> NULL", lambda n: False),
        ("trim('e' FROM left(c, 2)) = 'l'", lambda n: True),
        ("concat('a', n, 'b') = 'a7b'", lambda n: n % 1000 == 7),
        ("concat_ws('-', 'a', n, NULL, 'b') = 'a-7-b'", lambda n: n % 1000 == 7),
        ("concat_ws(c, 'a', 'b') LIKE 'ae%n_ 7b'", lambda n: False),
        ("replace('abc', 'b', n) = 'a7c'", lambda n: n % 1000 == 7),
        ("concat(c, NULL) IS NULL", lambda n: True),
    ],
)
def test_constants_beside_rows(where: str, predicate: Any) -> None:
    assert rows(where, count=8000) == [n for n in range(8000) if predicate(n)]


def test_slices_give_the_same_rows() -> None:
    where = f"n IN (1, 2) OR (length({replaced(2)}) > 1 AND d * d < 9) OR id % 7 = 3"
    assert rows(where, Budget(1 << 20), 5000) == rows(where, Budget(1 << 30), 5000)


def stopping(after: int) -> Budget:
    """A budget whose time is over at a check."""
    left = after

    def check() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise CallCancelledError("Scan")

    return Budget(SMALL.memory_bytes, check)


def test_a_request_ends_within_a_batch() -> None:
    with pytest.raises(CallCancelledError):
        rows(f"length({replaced(3)}) < 10", stopping(3))


UPPER = f"{'upper(' * 36}c{')' * 36} = 'a'"


@pytest.mark.parametrize(
    "where", [HUGE["greatest"], HUGE["least of texts"], HUGE["coalesce"], f"{UPPER} OR {UPPER}"]
)
def test_a_request_ends_within_a_function(where: str) -> None:
    """Also while it is planned."""
    with pytest.raises(CallCancelledError):
        Condition.parse(where, TABLE, stopping(40))
    with pytest.raises(CallCancelledError):
        Condition.parse(where, TABLE).rows(stored(2), stopping(40))


@pytest.mark.parametrize("error", [pa.ArrowCapacityError, pa.ArrowInvalid, MemoryError])
def test_limits_of_arrow(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error("offset overflow")

    condition = Condition.parse("replace(c, 'a', 'b') = 'b'", TABLE)
    monkeypatch.setattr(strings, "map_rows", fail)
    with pytest.raises(UnsupportedError, match=f"where: .*{error.__name__}"):
        condition.rows(stored(10))


def test_patterns_take_no_exponential_time() -> None:
    assert rows(f"b LIKE '{'%a' * 25}%b'", count=100) == []
    assert rows("b LIKE 'a%aa9'", count=100) == [9]


def test_long_patterns_on_long_texts() -> None:
    with pytest.raises(UnsupportedError, match="LIKE with a pattern as long as this"):
        rows(f"{replaced(6)} LIKE '{'%a' * 20_000}'", Budget(), 1)


def test_long_conditions_are_not_cached() -> None:
    parse_cache = evaluate._parse.cache_info
    entries = parse_cache().misses
    for number in range(3):
        Condition.parse(f"n IN ({number}, {', '.join(map(str, range(4000)))})", TABLE)
    assert parse_cache().misses == entries


@pytest.mark.parametrize(
    "where", [f"c = '{'x' * 20_000}'", f"n IN ({', '.join(str(n) for n in range(2000, 6000))})"]
)
def test_constants_are_compared_once(where: str) -> None:
    """A constant is not repeated for each row, and a list is one set: there is one slice."""
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1

    budget = Budget(SMALL.memory_bytes, check)
    with peak_memory() as peak:
        assert rows(where, budget) == []
    assert checks < 10
    assert peak.size_bytes < 2 * budget.memory_bytes


def test_sort_keys_of_texts_need_memory() -> None:
    at = [each.name for each in TABLE.columns].index("ci")
    texts = pa.array([f"{'Item ' * 200}{n}" for n in range(ROWS)])
    batch = stored().set_column(at, column_name(TABLE.columns[at].id), texts)
    condition = Condition.parse(f"ci = '{'ITEM ' * 200}7'", TABLE)
    condition.rows(batch.slice(0, 10))
    with peak_memory() as peak:
        assert np.flatnonzero(condition.rows(batch, SMALL)) == [7]
    assert peak.size_bytes < 2 * SMALL.memory_bytes
