"""Virtual generated columns as a real TiDB computed them."""

from typing import Any

import numpy as np
import pytest

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.expression.cast import cast
from pyspark_theflash.tidb.expression.convert import to_text
from pyspark_theflash.tidb.expression.functions import FUNCTIONS
from pyspark_theflash.tidb.expression.load import load_literal
from pyspark_theflash.tidb.expression.parser import parse_text
from pyspark_theflash.tidb.expression.syntax import Call, Literal
from pyspark_theflash.tidb.expression.vector import Kind, Vector
from pyspark_theflash.tidb.schema.generated import compute_column, stored_inputs
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.support.golden_vectors import (
    generated_columns,
    live_tables,
    shown_values,
    stored_columns,
)

CAPTURED = generated_columns()
TABLE = parse_table_info("x", CAPTURED["table_info"])
STORED = stored_columns(TABLE, CAPTURED["columns"], CAPTURED["rows"])
VIRTUAL = [column for column in TABLE.columns if column.is_virtual]
LACKING = {
    "concat(if(`i` > 0, `dt`, `dt0`))": "mixing DATE and DATETIME",
    "ifnull(`dt`, `dt0`)": "mixing DATE and DATETIME",
    "concat(`d` / 3)": "a quotient as text",
    "concat(`i` / 3)": "a quotient as text",
    "unhex(_utf8mb4'41')": "function UNHEX",
    "hour(`sd`)": "a time text of an unusual form",
}


@pytest.mark.parametrize("column", VIRTUAL, ids=lambda c: f"{c.generated} {c.type.tp.name}")
def test_value_is_what_tidb_selects(column: Any) -> None:
    rows = len(CAPTURED["rows"])
    if column.generated in LACKING and column.type.tp.name in ("VARCHAR", "LONGLONG"):
        with pytest.raises(UnsupportedError, match=LACKING[column.generated]) as refused:
            compute_column(TABLE, column, STORED, rows)
        assert f"x.generated.{column.name}" in str(refused.value)
        return
    computed = format_column(compute_column(TABLE, column, STORED, rows), column.type)
    expected = shown_values(CAPTURED["values"][column.name], column.type)
    assert computed.to_pylist() == expected.to_pylist()


def test_virtual_column_of_a_captured_table() -> None:
    captured = next(t for t in live_tables() if t["table"] == "h8")
    table = parse_table_info(captured["db"], captured["table_info"])
    virtual = next(c for c in table.columns if c.is_virtual)
    assert [c.name for c in stored_inputs(table, [virtual.name])] == ["a"]
    stored = stored_columns(table, captured["select_cols"], captured["rows"])
    shown = [row[captured["select_cols"].index(virtual.name)] for row in captured["rows"]]
    computed = compute_column(table, virtual, stored, len(shown))
    assert format_column(computed, virtual.type).to_pylist() == shown
    assert len(shown) > 1


IMPOSSIBLE = CAPTURED["impossible_dates"]


def _packed(text: str) -> int:
    date, clock = text.split(" ")
    year, month, day = map(int, date.split("-"))
    hour, minute, second = map(int, clock.split(":"))
    days = (year * 13 + month) << 5 | day
    return days << 41 | hour << 36 | minute << 30 | second << 24


@pytest.mark.parametrize("expression", IMPOSSIBLE["values"])
def test_dates_that_no_calendar_has(expression: str) -> None:
    rows, expected = IMPOSSIBLE["rows"], IMPOSSIBLE["values"][expression]
    if expression == "date(t)":
        # For 0000-00-00 it depends on the SQL mode, which was '' when this was captured.
        assert rows[0].startswith("0000-00-00")
        rows, expected = rows[1:], expected[1:]
    packed = np.array([_packed(text) for text in rows], np.uint64)
    dates = Vector(Kind.TIME, packed, np.zeros(len(packed), np.bool_))
    call = parse_text(expression)
    assert isinstance(call, Call)
    operands = [
        load_literal(argument).spread(len(packed)) if isinstance(argument, Literal) else dates
        for argument in call.arguments
    ]
    result = cast(dates, call.type) if call.type else FUNCTIONS[call.name].apply(operands)
    assert to_text(result).data.to_pylist() == expected
