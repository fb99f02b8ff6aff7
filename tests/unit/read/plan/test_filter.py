"""A pushed filter and invisible rows, whose values make no difference."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import SqlOverflowError, UnrepresentableValueError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import (
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    Term,
)
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.time import IMPOSSIBLE_DAY

TABLE = table_info(
    7,
    "shop.orders",
    [
        id_column(),
        column("day", MySQLType.DATE),
        column("price", MySQLType.NEWDECIMAL, flen=38, decimal=0),
    ],
)
LATER = FunctionTerm(">", (ColumnTerm("day"), LiteralTerm(LiteralKind.DATE, 5)))
DOUBLED = FunctionTerm(
    ">",
    (
        FunctionTerm("+", (ColumnTerm("price"), ColumnTerm("price"))),
        LiteralTerm(LiteralKind.DECIMAL, Decimal(0)),
    ),
)
BEFORE, AFTER = 200, 300


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Until 300, row 1 had a value that can be neither formatted nor doubled."""
    path = tmp_path / "store"
    builder = StoreBuilder(path, TABLE)
    rows = [(1, 110, [1, IMPOSSIBLE_DAY + 32, Decimal(6 * 10**37)]), (2, 110, [2, 9, Decimal(1)])]
    builder.publish(BEFORE, {TABLE: rows})
    builder.publish(AFTER, {TABLE: [(1, 250, [1, 8, Decimal(2)])]})
    return path


def ids(store: Path, ts: int, filter: Term) -> list[Any]:
    with open_snapshot(store, TimeStamp(ts)) as snapshot:
        plan = snapshot.plan("shop.orders", ["id"], pushed=Pushdown(filter))
        return sorted(n for batch in snapshot.held(plan) for n in batch.column("id").to_pylist())


def test_hidden_rows_do_not_raise(store: Path) -> None:
    assert ids(store, AFTER, LATER) == [1, 2]
    assert ids(store, AFTER, DOUBLED) == [1, 2]


def test_visible_rows_do(store: Path) -> None:
    with pytest.raises(UnrepresentableValueError):
        ids(store, BEFORE, LATER)
    with pytest.raises(SqlOverflowError):
        ids(store, BEFORE, DOUBLED)


def test_rows_that_are_left_out_before_do_not_raise(store: Path) -> None:
    """A conjunct, also one that overflows, is evaluated only for rows that the others select."""
    small = FunctionTerm("<", (ColumnTerm("price"), LiteralTerm(LiteralKind.INT, 100)))
    assert ids(store, BEFORE, FunctionTerm("and", (DOUBLED, small))) == [2]
