"""Vectorised placement equals looking for each row's partition by itself."""

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import NoPartitionError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.testing.stores import column
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support import partition_oracle as oracle

INFOS = {
    "i": column("i", MySQLType.TINY),
    "u": column("u", MySQLType.LONGLONG, flag=ColumnFlag.UNSIGNED),
    "s": column("s", MySQLType.VARCHAR, flen=3, collate="utf8mb4_0900_bin"),
    "d": column("d", MySQLType.DATE),
}
ARROW = {"i": pa.int8(), "u": pa.uint64(), "s": pa.string(), "d": pa.date32()}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-3, 3) | st.sampled_from([-128, 127]),
    "u": st.integers(0, 3) | st.sampled_from([2**63, 2**64 - 1]),
    "s": st.text("ab é", max_size=2),
    "d": st.dates(dt.date(2019, 12, 30), dt.date(2020, 1, 2)) | st.just(dt.date(1969, 12, 31)),
}
NAMES = st.lists(st.sampled_from(sorted(INFOS)), min_size=1, max_size=3, unique=True)


def _rows(names: list[str]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    row = st.tuples(*(st.none() | VALUES[name] for name in names))
    return st.lists(row, min_size=1, max_size=12)


def _text(value: Any) -> str:
    if value is None or value is oracle.MAXVALUE or value is oracle.DEFAULT:
        return {None: "NULL", oracle.MAXVALUE: "MAXVALUE", oracle.DEFAULT: "DEFAULT"}[value]
    return str(value) if isinstance(value, int) else f"'{value}'"


def _table(kind: int, names: list[str], expr: str, bounds: list[dict[str, Any]]) -> TableInfo:
    infos = [{"id": n + 1, "offset": n, **INFOS[name]} for n, name in enumerate(names)]
    definitions = [{"id": n, "name": {"O": f"p{n}"}, **bound} for n, bound in enumerate(bounds)]
    partition = {"type": kind, "enable": True, "expr": expr, "definitions": definitions}
    partition["columns"] = [] if expr else [{"O": name} for name in names]
    info = {"id": 9, "name": {"O": "t"}, "pk_is_handle": False, "cols": infos}
    return parse_table_info("x", {**info, "partition": partition})


def _check(table: TableInfo, names: list[str], rows: list[Any], expected: list[int | None]) -> None:
    values = zip(*rows, strict=True)
    columns = {
        ColumnID(n + 1): pa.array(column_values, ARROW[name])
        for n, (name, column_values) in enumerate(zip(names, values, strict=True))
    }
    homeless = expected.count(None)
    if not homeless:
        assert assign_partitions(table, columns, len(rows)).tolist() == expected
        return
    with pytest.raises(NoPartitionError) as refused:
        assign_partitions(table, columns, len(rows))
    assert refused.value.rows == homeless


def _key(bound: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sorts MAXVALUE last."""
    return tuple(
        (value is oracle.MAXVALUE, 0 if value is oracle.MAXVALUE else value) for value in bound
    )


@given(st.data(), NAMES)
def test_range_columns(data: st.DataObject, names: list[str]) -> None:
    bound = st.tuples(*(VALUES[name] | st.just(oracle.MAXVALUE) for name in names))
    bounds = data.draw(
        st.lists(bound, min_size=1, max_size=5, unique_by=_key).map(
            lambda drawn: sorted(drawn, key=_key)
        )
    )
    rows = data.draw(_rows(names))
    table = _table(1, names, "", [{"less_than": [*map(_text, b)]} for b in bounds])
    _check(table, names, rows, [oracle.range_place(row, bounds) for row in rows])


@given(st.data(), st.sampled_from("iu"))
def test_range_of_an_expression(data: st.DataObject, name: str) -> None:
    limits = data.draw(st.lists(VALUES[name], min_size=1, max_size=5, unique=True).map(sorted))
    bounds: list[tuple[Any]] = [(limit,) for limit in limits]
    if data.draw(st.booleans()):
        bounds.append((oracle.MAXVALUE,))
    rows = data.draw(_rows([name]))
    table = _table(1, [name], f"`{name}`", [{"less_than": [_text(b[0])]} for b in bounds])
    _check(table, [name], rows, [oracle.range_place(row, bounds) for row in rows])


@given(st.data(), NAMES)
def test_list_columns(data: st.DataObject, names: list[str]) -> None:
    value = st.tuples(*(st.none() | VALUES[name] for name in names))
    listed = data.draw(st.lists(value, min_size=1, max_size=8, unique=True))
    _check_list(data, names, "", listed)


@given(st.data(), st.sampled_from("iu"))
def test_list_of_an_expression(data: st.DataObject, name: str) -> None:
    value = st.tuples(st.none() | VALUES[name])
    listed = data.draw(st.lists(value, min_size=1, max_size=8, unique=True))
    _check_list(data, [name], f"`{name}`", listed)


def _check_list(data: st.DataObject, names: list[str], expr: str, listed: list[Any]) -> None:
    places: dict[Any, int] = {value: data.draw(st.integers(0, 2)) for value in listed}
    if data.draw(st.booleans()):
        places[oracle.DEFAULT] = data.draw(st.integers(0, 2))
    bounds: list[dict[str, Any]] = [{"in_values": []} for _ in range(3)]
    for value, place in places.items():
        texts = ["DEFAULT"] if value is oracle.DEFAULT else [*map(_text, value)]
        bounds[place]["in_values"].append(texts)
    rows = data.draw(_rows(names))
    table = _table(3, names, expr, bounds)
    _check(table, names, rows, [oracle.list_place(row, places) for row in rows])
