"""Regions that are not planned have no matching row: results are the same with all regions.

Conditions are random, as a WHERE of TiDB and as a filter of Spark; a table's regions are those that
`theflash split` made, of a signed and of an unsigned key. An oracle goes row by row.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.scan_plan import ScanPlan
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import (
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    SortKey,
    Term,
)
from pyspark_theflash.testing.stores import StoreBuilder, column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType

HALF: Final = 1 << 63
SIGNED: Final = table_info(
    1,
    "d.signed",
    [column("id", MySQLType.LONGLONG, flag=ColumnFlag.PRI_KEY), column("v", MySQLType.LONG)],
)
UNSIGNED: Final = table_info(
    2,
    "d.unsigned",
    [
        column("id", MySQLType.LONGLONG, flag=ColumnFlag.PRI_KEY | ColumnFlag.UNSIGNED),
        column("v", MySQLType.LONG),
    ],
)
KEYS: Final = {
    "d.signed": [-HALF, -HALF + 1, *range(-40, 41, 2), HALF - 2, HALF - 1],
    "d.unsigned": [*range(0, 81, 2), HALF - 1, HALF, HALF + 5, 2 * HALF - 2, 2 * HALF - 1],
}
CUTS: Final = {"d.signed": (-20, 0, 1, 20), "d.unsigned": (-6, 0, 20, 41)}
VALUES: Final = (0, 1, 2, 7, 20, 21, 40, HALF - 1, HALF, 2 * HALF - 1, 10**25)
NUMBERS: Final = st.sampled_from(VALUES).flatmap(
    lambda n: st.sampled_from([n, max(-n, -HALF), n - 1, n + 1]) | st.integers(-45, 85)
)
COMPARED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, values: value in values,
}
NAMES: Final = [*COMPARED, "<=>"]
Row: TypeAlias = tuple[int, int | None]
ROWS: Final[dict[str, list[Row]]] = {
    name: [(key, n % 9 or None) for n, key in enumerate(keys)] for name, keys in KEYS.items()
}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadSnapshot]:
    store = tmp_path_factory.mktemp("pruning") / "store"
    rows = {
        table: [
            ((key + HALF) % (2 * HALF) - HALF, 200, (key, value))
            for key, value in ROWS[table.full_name]
        ]
        for table in (SIGNED, UNSIGNED)
    }
    StoreBuilder(store, SIGNED, UNSIGNED).publish(300, rows)
    for table in (SIGNED, UNSIGNED):
        for cut in CUTS[table.full_name]:
            with open_snapshot(store) as opened:
                stats = opened.region_stats(opened.table(table.full_name))
            (last,) = [key for key, region in stats.items() if region.end is None]
            assert main(["split", str(store), *map(str, last), str(cut)]) == 0
    with open_snapshot(store) as opened:
        yield opened


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> tuple[str, Term]:
    """A condition as TiDB's text, and as Spark's term."""
    if depth and draw(st.integers(0, 2)):
        name = draw(st.sampled_from(["and", "or", "not"]))
        parts = [draw(conditions(depth - 1)) for _ in range(1 if name == "not" else 2)]
        terms = tuple(term for _, term in parts)
        text = (
            f"NOT ({parts[0][0]})"
            if name == "not"
            else f" {name} ".join(f"({part})" for part, _ in parts)
        )
        return text, FunctionTerm(name, terms)
    left = ColumnTerm(draw(st.sampled_from(["id", "id", "id", "v"])))
    name = draw(st.sampled_from(NAMES))
    if name == "in":
        numbers = draw(st.lists(NUMBERS, min_size=1, max_size=3))
        terms = tuple(LiteralTerm(LiteralKind.INT, n) for n in numbers)
        return f"{left.name} IN ({', '.join(map(str, numbers))})", FunctionTerm(
            "in", (left, *terms)
        )
    number = draw(NUMBERS)
    sides: list[tuple[str, Term]] = [
        (left.name, left),
        (str(number), LiteralTerm(LiteralKind.INT, number)),
    ]
    if draw(st.booleans()):
        sides.reverse()
    texts, terms = zip(*sides, strict=True)
    return f" {name} ".join(texts), FunctionTerm(name, terms)


@pytest.mark.parametrize("name", KEYS)
@given(condition=conditions())
def test_where(snapshot: ReadSnapshot, name: str, condition: tuple[str, Term]) -> None:
    text, term = condition
    every = [task.region for task in snapshot.plan(name).tasks]
    pruned = snapshot.plan(name, where=text)
    rows = _rows(snapshot, pruned)
    assert rows == _rows(snapshot, snapshot.plan(name, where=text, regions=every))
    assert [task.region for task in pruned.tasks if task.region not in every] == []
    assert rows == _expected(name, term)


@pytest.mark.parametrize("name", KEYS)
@given(condition=conditions(), limit=st.integers(1, 9), descending=st.booleans())
def test_filters_and_first_rows(
    snapshot: ReadSnapshot, name: str, condition: tuple[str, Term], limit: int, descending: bool
) -> None:
    _, term = condition
    every = [task.region for task in snapshot.plan(name).tasks]
    filtered = _rows(snapshot, snapshot.plan(name, pushed=Pushdown(term)))
    assert filtered == _rows(snapshot, snapshot.plan(name, pushed=Pushdown(term), regions=every))
    assert filtered == _expected(name, term)
    first = Pushdown(term, limit=limit, order=(SortKey("id", descending),))
    first_rows = _rows(snapshot, snapshot.plan(name, pushed=first))
    assert (
        sorted(first_rows, reverse=descending)[:limit]
        == sorted(filtered, reverse=descending)[:limit]
    )
    some = _rows(snapshot, snapshot.plan(name, pushed=Pushdown(term, limit=limit)))
    assert len(some) >= min(limit, len(filtered))
    assert set(some) <= set(filtered)


@pytest.mark.parametrize("name", KEYS)
def test_regions_are_left_out(snapshot: ReadSnapshot, name: str) -> None:
    assert len(snapshot.plan(name).tasks) == 5
    for text, count in [
        ("id = 20", 1),
        ("id IN (0, 40)", 2),
        ("v = 1 AND id > 20", 4),
        ("v = 1", 5),
    ]:
        assert len(snapshot.plan(name, where=text).tasks) <= count


def _rows(snapshot: ReadSnapshot, plan: ScanPlan) -> list[Row]:
    rows = (row for batch in snapshot.held(plan) for row in batch.to_pylist())
    return sorted((int(row["id"]), row["v"]) for row in rows)


def _expected(name: str, term: Term) -> list[Row]:
    return sorted(row for row in ROWS[name] if _truth(term, row))


def _truth(term: Term, row: Row) -> bool | None:
    """By hand; None where a NULL leaves it open."""
    assert isinstance(term, FunctionTerm)
    if term.name in ("and", "or", "not"):
        truths = [_truth(argument, row) for argument in term.arguments]
        if term.name == "not":
            return None if truths[0] is None else not truths[0]
        decides = term.name == "or"
        return decides if decides in truths else None if None in truths else not decides
    values = [_value(argument, row) for argument in term.arguments]
    if term.name == "<=>":
        return values[0] == values[1]
    if None in values:
        return None
    return COMPARED[term.name](values[0], values[1:] if term.name == "in" else values[1])


def _value(term: Term, row: Row) -> int | None:
    if isinstance(term, ColumnTerm):
        return row[0] if term.name == "id" else row[1]
    assert isinstance(term, LiteralTerm)
    assert isinstance(term.value, int)
    return term.value
