"""How a column is to be read: what older rows hold, and that it travels to other processes."""

import pickle
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.codec.field_type import MySQLType
from pyspark_theflash.codec.text import format_column
from pyspark_theflash.errors import UnsupportedError
from pyspark_theflash.mvcc.project import project_column, scan_column
from pyspark_theflash.schema.model import ColumnInfo
from tests.support.stores import column, table_info

T = MySQLType


def _info(tp: MySQLType, **properties: Any) -> ColumnInfo:
    return table_info(1, "d.t", [column("c", tp, **properties)]).columns[0]


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
    info = _info(tp, origin_default=text)
    wanted = scan_column(info)
    again = pickle.loads(pickle.dumps(wanted))
    assert again == wanted
    assert repr(again) == repr(wanted)
    for column_wanted in (wanted, again):
        values = project_column(None, column_wanted.type, column_wanted.absent_value, 2)
        assert values.type == column_wanted.type
        assert format_column(values, info.type).to_pylist() == [text] * 2


def test_a_column_that_is_computed() -> None:
    with pytest.raises(UnsupportedError, match="column c"):
        scan_column(_info(T.LONG, generated_expr_string="`id` + 1", generated_stored=False))


def test_stored_nulls_stay() -> None:
    wanted = scan_column(_info(T.LONGLONG, origin_default="7"))
    stored = pa.array([1, None], pa.int32())
    assert project_column(stored, wanted.type, wanted.absent_value, 2).to_pylist() == [1, None]
