"""`PrepareRead`: the parsed options of a Spark read, for other languages."""

from contextlib import closing

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    ColumnNotFoundError,
    NotCaughtUpError,
    OptionError,
    TheFlashError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.client.transport import LocalTransport
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import METHODS
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType

T = table_info(
    1,
    "d.t",
    [id_column(), column("day", MySQLType.DATE, flag=ColumnFlag.NOT_NULL, comment="when")],
)
LONG = table_info(2, "d.long", [column("text", MySQLType.LONG_BLOB, flen=2**32 - 1)])


@pytest.fixture
def prepare(tmp_path):
    path = StoreBuilder(tmp_path / "store", T, LONG).publish(200, {T: [(1, 150, (1, 7))]}).path
    with closing(LocalTransport(path, fs=LocalFileSystem(), clock=SystemClock())) as transport:

        def prepare(**texts):
            settings = tuple(message.Setting(name, text) for name, text in texts.items())
            request = message.ReadOptions(settings)
            return transport.call(METHODS["PrepareRead"], request, 1000)

        yield prepare


def test_the_moment_is_fixed_and_the_table_told(prepare):
    prepared = prepare(path="D.T")
    assert prepared.request == message.PlanRequest(
        message.Moment(200), "d.t", presentation=message.Presentation("raise", False)
    )
    identity, day = prepared.table.columns
    assert (identity.name, identity.nullable, identity.in_handle) == ("id", False, True)
    assert (day.name, day.nullable, day.comment) == ("day", False, "when")
    schema = pa.ipc.read_schema(pa.py_buffer(prepared.table.arrow_schema))
    assert schema == pa.schema([("id", pa.int64()), ("day", pa.date32())])


def test_the_longest_column(prepare):
    (text,) = prepare(table="d.long").table.columns
    assert text.flen == 2**32 - 1


def test_options_become_a_request(prepare):
    prepared = prepare(
        TABLE="d.t", versionAsOf="160", columns="day", where="id > 1", zero_dates="null"
    )
    assert prepared.request == message.PlanRequest(
        message.Moment(160),
        "d.t",
        ("day",),
        where="id > 1",
        presentation=message.Presentation("null", False),
    )
    assert [(c.name, c.nullable) for c in prepared.table.columns] == [("day", True)]


@pytest.mark.parametrize(
    ("texts", "kind", "text"),
    [
        ({}, OptionError, "'table': is missing"),
        ({"table": "d.t", "nope": "1"}, OptionError, "'nope': there is no such option"),
        ({"table": "d.t", "token": "x"}, OptionError, "'token': is for servers"),
        ({"table": "d.t", "pushdown": "x"}, OptionError, "'pushdown': 'x' is neither"),
        ({"table": "d.t", "columns": "nope"}, ColumnNotFoundError, "nope"),
        ({"table": "d.t", "where": "nope = 1"}, TheFlashError, "nope"),
        ({"table": "d.t", "snapshot_ts": "999"}, NotCaughtUpError, "999"),
    ],
)
def test_what_is_wrong_is_told_as_by_the_python_source(prepare, texts, kind, text):
    with pytest.raises(kind, match=text):
        prepare(**texts)
