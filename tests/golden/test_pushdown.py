"""Scripts of pushdown: filters, aggregates and first rows computed by a scan.

    column      add a column to the table (the first is `id`, an integer key): int, unsigned,
                decimal (two digits after the point), float, double, text, date or vector
    row         add a row: its cells in order, `NULL`, and `NaN` or `inf` in floats
    store       write the rows; each handle in `split` begins another region
    filter      read the rows for which a condition is true by Spark's rules
    rows        read rows; `limit` is that of each region
    top         read the first rows of each region by an order, as in `price desc nulls first, id`
    aggregate   read partial aggregates: `count`, `count(x)`, `sum(x)`, `min(x)` and `max(x)`

Conditions are written as in SQL: `price > 1.5 and not (name like 'a%')`. LIKE with a % at the end,
at the beginning or at both stands for `starts with`, `ends with` and `contains`. The output begins
with each region that is read; rows without an order are sorted for display.
"""

import math
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.read import read_task
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.read.pushdown.pushdown import Pushdown
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
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.testing.script import check_script
from pyspark_theflash.testing.stores import StoreBuilder, Version, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.expression.parser import parse_text
from pyspark_theflash.tidb.expression.syntax import Call, Column, Literal, Node
from tests.support.golden_scripts import script_paths

FS, CLOCK = LocalFileSystem(), SystemClock()
EPOCH_DAY = date(1970, 1, 1)
TYPES: dict[str, dict[str, Any]] = {
    "int": {"tp": MySQLType.LONGLONG},
    "unsigned": {"tp": MySQLType.LONGLONG, "flag": ColumnFlag.UNSIGNED},
    "decimal": {"tp": MySQLType.NEWDECIMAL, "flen": 10, "decimal": 2},
    "float": {"tp": MySQLType.FLOAT},
    "double": {"tp": MySQLType.DOUBLE},
    "text": {"tp": MySQLType.VARCHAR, "collate": "utf8mb4_general_ci"},
    "date": {"tp": MySQLType.DATE},
    "vector": {"tp": MySQLType.VECTOR},
}
CELLS = {
    "int": int,
    "unsigned": int,
    "decimal": Decimal,
    "float": float,
    "double": float,
    "text": str,
    "date": date.fromisoformat,
    "vector": list,
}
KINDS: list[tuple[type, LiteralKind]] = [
    (type(None), LiteralKind.NULL),
    (int, LiteralKind.INT),
    (Decimal, LiteralKind.DECIMAL),
    (float, LiteralKind.DOUBLE),
    (str, LiteralKind.STRING),
]


class Pushdowns:
    """A table, and scans of it with a pushdown."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store"
        self._columns: dict[str, str] = {}
        self._rows: list[Version] = []

    def close(self) -> None:
        pass

    def do_column(self, name: str, type: str) -> None:
        self._columns[name] = type

    def do_row(self, *cells: str) -> None:
        types = ["int", *self._columns.values()]
        values = [
            None if cell == "NULL" else CELLS[tp](cell)
            for cell, tp in zip(cells, types, strict=True)
        ]
        self._rows.append((int(cells[0]), 110, values))

    def do_store(self, split: str = "") -> None:
        made = [column(name, **TYPES[tp]) for name, tp in self._columns.items()]
        info = table_info(1, "db.t", [id_column(), *made])
        StoreBuilder(self._path, info).publish(200, {info: self._rows})
        columns = [scan_column(info, each) for each in info.public_columns]
        table = PhysicalTableID(info.id)
        with closing(MagicEngine(self._path, FS, CLOCK)) as engine:
            engine.compact(table, columns, everything=True)
            for at in map(int, split.split(",") if split else ()):
                *_, last = engine.regions(engine.read([]), table)
                engine.split(table, last.region_id, at, columns)

    def do_filter(self, condition: str, columns: str = "id") -> list[str]:
        return self._read(Pushdown(filter=_term(parse_text(condition))), columns, in_order=False)

    def do_rows(self, columns: str = "id", limit: str = "0", where: str | None = None) -> list[str]:
        pushed = Pushdown(filter=_condition(where), limit=int(limit))
        return self._read(pushed, columns, in_order=False)

    def do_top(
        self, order: str, limit: str = "0", columns: str = "id", where: str | None = None
    ) -> list[str]:
        keys = tuple(map(_sort_key, order.split(",")))
        pushed = Pushdown(filter=_condition(where), limit=int(limit), order=keys)
        return self._read(pushed, columns, in_order=True)

    def do_aggregate(
        self, *aggregates: str, by: str = "", where: str | None = None, limit: str = "0"
    ) -> list[str]:
        groups = tuple(by.split(",")) if by else ()
        aggregation = Aggregation(groups, tuple(map(_aggregate, aggregates)))
        pushed = Pushdown(_condition(where), aggregation, int(limit))
        return self._read(pushed, None, in_order=False)

    def _read(self, pushed: Pushdown, columns: str | None, *, in_order: bool) -> list[str]:
        names = None if columns is None else columns.split(",")
        with ReadSnapshot(self._path, TimeStamp(200), FS, CLOCK) as snapshot:
            plan = snapshot.plan("db.t", names, pushed=pushed)
            return list(_lines(plan, in_order)) or ["no regions"]


def _lines(plan: Any, in_order: bool) -> Iterator[str]:
    for task in plan.tasks:
        rows = [tuple(row.values()) for b in read_task(task) for row in b.to_pylist()]
        texts = [", ".join(map(_text, row)) for row in rows]
        yield f"region {task.region.region_id}"
        yield from (f"  {text}" for text in (texts if in_order else sorted(texts)))


def _text(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(value)
    return f"'{value}'" if isinstance(value, str) else str(value)


def _condition(text: str | None) -> Term | None:
    return None if text is None else _term(parse_text(text))


def _term(node: Node) -> Term:
    """Spark's condition for a text that is parsed as TiDB's."""
    if isinstance(node, Column):
        return ColumnTerm(node.name)
    if isinstance(node, Literal):
        (kind,) = (kind for tp, kind in KINDS if type(node.value) is tp)
        return LiteralTerm(kind, node.value)
    if node.name == "cast":
        return _typed_literal(node)
    if node.name == "negate":
        inner = _term(node.arguments[0])
        assert isinstance(inner, LiteralTerm)
        return LiteralTerm(inner.kind, -inner.value)  # type: ignore[operator]
    if node.name == "like":
        return _like(node.arguments[0], node.arguments[1])
    if node.name == "between":
        value, low, high = map(_term, node.arguments)
        above, below = FunctionTerm(">=", (value, low)), FunctionTerm("<=", (value, high))
        return FunctionTerm("and", (above, below))
    return FunctionTerm(node.name, tuple(map(_term, node.arguments)))


def _typed_literal(cast: Call) -> LiteralTerm:
    """`cast('NaN' as double)` and `cast('2024-02-29' as date)`."""
    (text,) = cast.arguments[:1]
    assert isinstance(text, Literal)
    assert cast.type is not None
    if cast.type.tp is MySQLType.DATE:
        days = (date.fromisoformat(str(text.value)) - EPOCH_DAY).days
        return LiteralTerm(LiteralKind.DATE, days)
    number = float(str(text.value))
    if cast.type.tp is MySQLType.FLOAT:
        return LiteralTerm(LiteralKind.FLOAT, float(np.float32(number)))
    return LiteralTerm(LiteralKind.DOUBLE, number)


def _like(value: Node, pattern: Node) -> Term:
    assert isinstance(pattern, Literal)
    text = str(pattern.value)
    names = {(True, True): "contains", (True, False): "ends with", (False, True): "starts with"}
    name = names[text.startswith("%"), text.endswith("%")]
    return FunctionTerm(name, (_term(value), LiteralTerm(LiteralKind.STRING, text.strip("%"))))


def _sort_key(text: str) -> SortKey:
    name, *words = text.split()
    return SortKey(name, "desc" in words, nulls_first=words[-2:] == ["nulls", "first"])


def _aggregate(text: str) -> Aggregate:
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
    assert match is not None
    name, argument = match.groups()
    return Aggregate(AggregateFunction(name), _condition(argument))


@pytest.mark.parametrize("path", script_paths("pushdown"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, Pushdowns(tmp_path))
