"""How a column is to be read: what older rows hold, and that it travels to other processes."""

import pickle
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.codec.field_type import Flag, MySQLType
from pyspark_theflash.codec.text import format_column
from pyspark_theflash.errors import CorruptionError, UnrepresentableValueError, UnsupportedError
from pyspark_theflash.mvcc.project import carried, project, scan_column, stored_names
from pyspark_theflash.schema.model import TableInfo
from tests.support.stores import column, table_info

T = MySQLType


def _table(tp: MySQLType, **properties: Any) -> TableInfo:
    return table_info(1, "d.t", [column("c", tp, **properties)])


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
    table = table_info(1, "d.t", [column("a", T.VARCHAR), column("old", T.LONG)])
    new, old = table.columns
    wanted = [scan_column(table, new, lambda i: old if i == new.id else None)]
    assert stored_names(wanted) == ["c1", "a1", "c2", "a2"]
    assert project({"c2": pa.array([7, None], pa.int32())}, wanted, 2)[0].to_pylist() == ["7", None]
    assert project({"c1": pa.array(["x", "y"])}, wanted, 2)[0].to_pylist() == ["x", "y"]


def test_stored_nulls_stay() -> None:
    table = _table(T.LONGLONG, origin_default="7")
    wanted = [scan_column(table, table.columns[0])]
    stored = {"c1": pa.array([1, None], pa.int32())}
    assert project(stored, wanted, 2)[0].to_pylist() == [1, None]


def test_a_type_that_does_not_fit_is_corruption() -> None:
    table = _table(T.TINY)
    stored = {"c1": pa.array([1000], pa.int32())}
    with pytest.raises(CorruptionError, match="does not fit"):
        project(stored, [scan_column(table, table.columns[0])], 1)


def test_an_integer_beyond_its_type_fails_who_asks_for_it() -> None:
    table = _table(T.TINY, flag=Flag.UNSIGNED)
    stored = {"c1": pa.array([1, 2**64 - 1], pa.uint64())}
    (wanted,) = (scan_column(table, table.columns[0]),)
    with pytest.raises(UnrepresentableValueError, match=r"d\.t\.c: 18446744073709551615"):
        project(stored, [wanted], 2)
    assert carried(stored, [wanted], 2)["c1"] == stored["c1"]
    assert project({"c1": stored["c1"].slice(0, 1)}, [wanted], 1)[0].to_pylist() == [1]


def test_text_of_a_zero_default_with_a_fraction_is_refused() -> None:
    old = column("old", T.DATETIME, decimal=6, origin_default="0000-00-00 00:00:00")
    table = table_info(1, "d.t", [column("a", T.VARCHAR, flen=40), old])
    new, source = table.columns
    wanted = [scan_column(table, new, lambda i: source if i == new.id else None)]
    with pytest.raises(UnsupportedError, match="zero default"):
        project({}, wanted, 1)
    (stored,) = project({}, [scan_column(table, source)], 1)
    assert project({"c2": stored}, wanted, 1)[0].to_pylist() == ["0000-00-00 00:00:00.000000"]
