from dataclasses import replace

import numpy as np
import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    SchemaOutdatedError,
    TransactionConflictError,
    UnsupportedError,
)
from pyspark_theflash.base.types import TableID
from pyspark_theflash.replication.ticdc.rows import SinkFormat
from pyspark_theflash.replication.ticdc.versions import (
    TableNames,
    decode_rows,
    version_batches,
)
from pyspark_theflash.tidb.codec.field_type import ColumnFlag
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import PartitionDefinition, PartitionInfo
from tests.support.ticdc_tables import column, history_of, rows_of, table_of

TABLE = table_of(column("id", "LONGLONG"), column("c", "LONG"))


def decoded(rows, table=TABLE):
    return decode_rows(rows, table, SinkFormat(), lambda table, ts: table)


def merged(*rows):
    (versions,) = version_batches([decoded(each) for each in rows])
    columns = (column.to_pylist() for column in versions.batch.columns)
    return [(h, ts, op, c) for h, ts, _, op, _, c in zip(*columns, strict=True)]


def rows(ids, values, commits=(), deletes=()):
    return rows_of({"id": ids, "c": values}, commits, deletes)


def test_rows_are_sorted_by_key_and_commit():
    first = rows(["2", "1"], ["5", "6"], [10, 12])
    assert merged(first, rows(["1"], ["7"], [11])) == [(1, 11, 1, 7), (1, 12, 1, 6), (2, 10, 1, 5)]


def test_rows_that_are_sent_again():
    again = rows(["1"], [None])
    assert merged(rows(["1", "2"], [None, "3"]), again, again) == [(1, 10, 1, None), (2, 10, 1, 3)]


def test_an_update_in_two_parts():
    """TiCDC sends the delete first; after a restart, the parts may be in different files."""
    parts = rows(["1"], ["5"], [10], [True]), rows(["1"], ["6"])
    assert merged(*parts) == merged(*reversed(parts)) == [(1, 10, 1, 6)]


def test_a_row_with_other_contents():
    with pytest.raises(TransactionConflictError, match="commit_ts=10"):
        merged(rows(["1"], ["5"]), rows(["1"], ["6"]))


def test_deletes_have_no_values():
    assert merged(rows(["1", "2"], ["5", "x"], [10, 10], [False, True])) == [
        (1, 10, 1, 5),
        (2, 10, 0, None),
    ]


def test_deletes_may_have_their_key_only():
    assert merged(rows_of({"id": ["1"]}, [9], [True]), rows(["1"], ["5"])) == [
        (1, 9, 0, None),
        (1, 10, 1, 5),
    ]


def test_columns_that_the_changefeed_leaves_out():
    with pytest.raises(UnsupportedError, match="column-selectors"):
        decoded(rows_of({"id": ["1"]}))


def test_rows_without_their_key():
    with pytest.raises(CodecError, match="key column id"):
        decoded(rows_of({"c": ["1"]}))


def test_nulls():
    table = table_of(column("id", "LONGLONG"), column("c", "LONG", ColumnFlag.NOT_NULL))
    with pytest.raises(CodecError, match="NOT NULL"):
        decoded(rows(["1"], [None]), table)


def test_a_partition_in_the_path():
    parts = tuple(PartitionDefinition(i, f"p{i}", (str(i),)) for i in (20, 30))
    table = replace(TABLE, partition=PartitionInfo(1, "`id`", (), parts))
    # The value belongs to the first partition; the path decides.
    placed = decoded(replace(rows(["1"], ["5"]), physical_id=30), table)
    assert placed.physical.tolist() == [30]
    assert decoded(rows(["1"], ["5"]), table).physical.tolist() == [20]
    with pytest.raises(SchemaOutdatedError, match="partition 40"):
        decoded(replace(rows(["1"], ["5"]), physical_id=40), table)


def ids(history, commits):
    each = rows([str(ts) for ts in commits], ["1"] * len(commits), commits)
    return {
        ts: table.id
        for table, part in TableNames(history).definitions(each)
        for ts in part.commit_ts.tolist()
    }


def test_tables_by_name_and_time():
    """TRUNCATE replaces a table, and RENAME gives its name to another one."""
    second, other = (replace(TABLE, id=TableID(i), name=n) for i, n in ((8, "T"), (9, "o")))
    renamed = replace(other, name="t")
    events = [
        TableEvent(1, "d", TABLE.id, TABLE),
        TableEvent(1, "d", other.id, other),
        TableEvent(20, "d", TABLE.id, None),
        TableEvent(20, "d", second.id, second),
        TableEvent(30, "d", second.id, replace(second, name="gone")),
        TableEvent(40, "d", other.id, renamed),
    ]
    history = SchemaHistory(1, 100, events, [])
    assert ids(history, [19, 20, 29, 40]) == {19: 7, 20: 8, 29: 8, 40: 9}
    with pytest.raises(SchemaOutdatedError, match=r"table d\.t"):
        ids(history, [35])


def test_an_unknown_table():
    with pytest.raises(SchemaOutdatedError):
        ids(history_of(), [5])


def test_order_of_definitions():
    """The batches of a table are in order of time, which an engine relies on."""
    wider = table_of(column("id", "LONGLONG"), column("c", "LONGLONG"))
    new, old = decoded(rows(["1"], ["5"], [30]), wider), decoded(rows(["1"], ["5"], [20]))
    batches = version_batches([new, old])
    assert [each.batch.column(1).to_pylist() for each in batches] == [[20], [30]]
    assert np.unique([each.physical_id for each in batches]).tolist() == [7]
