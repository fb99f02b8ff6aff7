"""Projection of stored columns: values of older rows, pickling of scan columns."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.storage.mvcc.project import (
    Converted,
    ScanColumn,
    copied_columns,
    project,
    scan_column,
    stored_names,
)
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tidb.schema.owners import Past

T = MySQLType


def _table(tp: MySQLType, **properties: Any) -> TableInfo:
    return table_info(1, "d.t", [column("c", tp, **properties)])


def _modified(old: dict[str, Any], new: dict[str, Any]) -> ScanColumn:
    """Return the scan column that MODIFY COLUMN has made from the old one."""
    changing = {**new, "state": 3, "change_state_info": {"relative_col_offset": 0}}
    before, after = (table_info(1, "d.t", columns) for columns in ([old, changing], [old, new]))
    return scan_column(after, after.columns[1], Past((before, after)))


@pytest.mark.parametrize(
    ("tp", "text"),
    [
        (T.DATE, "0000-00-00"),
        (T.DATE, "2020-02-29"),
        (T.DATETIME, "2020-02-31 10:00:00"),
        (T.TIMESTAMP, "0000-00-00 00:00:00"),
        (T.NEWDECIMAL, "7"),
        (T.JSON, '{"a": [1, null]}'),
        (T.VARCHAR, "é"),
        (T.VARCHAR, None),
        (T.VECTOR, None),
    ],
)
def test_what_older_rows_hold(tp: MySQLType, text: str | None) -> None:
    table = _table(tp, origin_default=text)
    info = table.columns[0]
    wanted = scan_column(table, info)
    again = pickle.loads(pickle.dumps(wanted))
    assert again == wanted
    assert repr(again) == repr(wanted)
    for column_wanted in (wanted, again):
        (values,) = project({}, [column_wanted], 2)
        assert values.type == column_wanted.type
        assert format_column(values, info.type).to_pylist() == [text] * 2


def test_a_virtual_column_is_computed_from_what_is_stored() -> None:
    virtual = column("v", T.LONGLONG, generated_expr_string="`a` + 1", generated_stored=False)
    table = table_info(1, "d.t", [column("a", T.LONG, origin_default="5"), virtual])
    wanted = [scan_column(table, c) for c in reversed(table.columns)]
    assert stored_names(wanted) == ["c1", "a1"]
    again = pickle.loads(pickle.dumps(wanted))
    stored = {"c1": pa.array([1, None], pa.int32())}
    assert [c.to_pylist() for c in project(stored, again, 2)] == [[2, None], [1, None]]
    assert [c.to_pylist() for c in project({}, again, 2)] == [[6, 6], [5, 5]]


def test_a_modified_column_is_converted_where_it_is_not_stored() -> None:
    wanted = [_modified(column("old", T.LONG), column("a", T.VARCHAR))]
    assert stored_names(wanted) == ["c2", "a2", "c1"]
    assert project({"c1": pa.array([7, None], pa.int32())}, wanted, 2)[0].to_pylist() == ["7", None]
    assert project({"c2": pa.array(["x", "y"])}, wanted, 2)[0].to_pylist() == ["x", "y"]


def test_stored_nulls_stay() -> None:
    table = _table(T.LONGLONG, origin_default="7")
    wanted = [scan_column(table, table.columns[0])]
    stored = {"c1": pa.array([1, None], pa.int32())}
    assert project(stored, wanted, 2)[0].to_pylist() == [1, None]


def test_a_type_that_does_not_fit_is_corruption() -> None:
    table = _table(T.TINY)
    stored = {"c1": pa.array([1000], pa.int32())}
    with pytest.raises(CorruptionError, match="cannot be cast"):
        project(stored, [scan_column(table, table.columns[0])], 1)


def test_an_integer_beyond_its_type_fails_who_asks_for_it() -> None:
    table = _table(T.TINY, flag=ColumnFlag.UNSIGNED)
    stored = {"c1": pa.array([1, 2**64 - 1], pa.uint64())}
    (wanted,) = (scan_column(table, table.columns[0]),)
    with pytest.raises(UnrepresentableValueError, match=r"d\.t\.c: 18446744073709551615"):
        project(stored, [wanted], 2)
    assert copied_columns(stored, [wanted], 2)["c1"] == stored["c1"]
    assert project({"c1": stored["c1"].slice(0, 1)}, [wanted], 1)[0].to_pylist() == [1]


def test_text_of_a_zero_default_with_a_fraction_is_refused() -> None:
    old = column("old", T.DATETIME, decimal=6, origin_default="0000-00-00 00:00:00")
    wanted = [_modified(old, column("a", T.VARCHAR, flen=40))]
    with pytest.raises(UnsupportedError, match="zero default"):
        project({}, wanted, 1)
    table = table_info(1, "d.t", [old])
    (stored,) = project({}, [scan_column(table, table.columns[0])], 1)
    assert project({"c1": stored}, wanted, 1)[0].to_pylist() == ["0000-00-00 00:00:00.000000"]


def test_text_of_a_zero_default_has_no_fraction_before_a_row_is_rewritten() -> None:
    old = column("old", T.DATETIME, decimal=6, origin_default="0000-00-00 00:00:00")
    changed = _modified(old, column("a", T.VARCHAR, flen=40))
    assert isinstance(changed.fill, Converted)
    wanted = [replace(changed, fill=replace(changed.fill, rows_untouched=True))]
    assert project({}, wanted, 1)[0].to_pylist() == ["0000-00-00 00:00:00"]
    source = changed.fill.source
    (zeros,) = project({}, [source], 2)
    stored = dict(zip(stored_names([source]), [zeros, pa.array([True, False])], strict=True))
    assert project(stored, wanted, 2)[0].to_pylist() == [
        "0000-00-00 00:00:00",
        "0000-00-00 00:00:00.000000",
    ]


SEVEN = column("d", T.LONG, origin_default="7")
NONE = column("d", T.LONG)


def _past(*tables: Sequence[dict[str, Any]], has_base: bool = False) -> Past:
    """Return tables that are exchanged one after the other."""
    infos = (table_info(n, "d.t", columns) for n, columns in enumerate(tables, 1))
    return Past(tuple(infos), has_base)


def _of_last(past: Past, name: str) -> ScanColumn:
    (info,) = (c for c in past.tables[-1].columns if c.name == name)
    return scan_column(past.tables[-1], info, past)


def test_rows_that_were_written_anew_keep_the_default_of_that_time() -> None:
    changing = column("b", T.VARCHAR, state=3, change_state_info={"relative_col_offset": 1})
    old, b = column("b", T.LONG), column("b", T.VARCHAR)
    past = _past([SEVEN, old], [SEVEN, old, changing], [SEVEN, old, b], [NONE, old, b])
    stored = {
        "c1": pa.array([None, None, 5], pa.int32()),
        "a1": pa.array([True, True, False]),
        "c3": pa.array([None, "new", None]),
        "a3": pa.array([True, False, True]),
        "c2": pa.array([1, 2, 3], pa.int32()),
    }
    assert project(stored, [_of_last(past, "d")], 3)[0].to_pylist() == [7, None, 5]
    # A copy has the values rewritten by TiDB, and the same absent ones.
    last = past.tables[-1]
    columns = [
        scan_column(last, c, past, for_copy=True) for c in (last.columns[0], last.columns[2])
    ]
    copied = copied_columns(stored, columns, 3)
    assert copied["c1"].to_pylist() == [7, None, 5]
    assert copied["a1"].to_pylist() == [False, True, False]
    assert copied["c3"].to_pylist() == ["1", "new", "3"]
    assert project({**stored, **copied}, [_of_last(past, "d")], 3)[0].to_pylist() == [7, None, 5]


def test_what_nobody_knows_after_an_exchange_is_refused() -> None:
    lacking = {"c1": pa.array([None, 5], pa.int32()), "a1": pa.array([True, False])}
    held = {"c1": lacking["c1"].slice(1)}
    refused = column("x", T.VARCHAR, state=3, change_state_info={"relative_col_offset": 0})
    for past, reason in (
        (_past([SEVEN], [NONE], has_base=True), "rows of a base"),
        (_past([SEVEN], [SEVEN, refused], [SEVEN], [NONE]), "failed MODIFY"),
    ):
        wanted = [_of_last(past, "d")]
        with pytest.raises(UnsupportedError, match=reason):
            project(lacking, wanted, 2)
        assert project(held, wanted, 1)[0].to_pylist() == [5]
        alike = Past((*past.tables[:-1], table_info(9, "d.t", [SEVEN])), past.has_base)
        assert project(lacking, [_of_last(alike, "d")], 2)[0].to_pylist() == [7, 5]
    past = _past([column("d", T.VARCHAR)], [column("e", T.LONG, id=2)], [NONE])
    with pytest.raises(UnsupportedError, match="belonged to another"):
        project(held, [_of_last(past, "d")], 1)


def test_defaults_beyond_2_gib() -> None:
    wanted = scan_column(table := _table(T.BLOB, origin_default="x" * 65_000), table.columns[0])
    with pytest.raises(pa.ArrowCapacityError):
        project({}, [wanted], 33_100)
