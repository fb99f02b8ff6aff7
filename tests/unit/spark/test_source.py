"""The data source as a plain object: what Spark does with it, without Spark."""

import pickle
from contextlib import closing

import pyarrow as pa
import pytest
from pyspark.sql.datasource import InputPartition
from pyspark.sql.types import StringType, StructField, StructType

import pyspark_theflash
from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    ColumnNotFoundError,
    LeaseExpiredError,
    NotCaughtUpError,
    OptionError,
    SnapshotTooOldError,
    StoreNotFoundError,
    TableNotFoundError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import RegionID
from pyspark_theflash.spark.reader import SplitPartition, arrow_schema
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support import every_type

T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR)])
EMPTY = table_info(2, "d.empty", [id_column()])
HEAP = table_info(3, "d.heap", [column("name", MySQLType.VARCHAR)], has_rowid=True)


@pytest.fixture
def builder(tmp_path):
    tables = (T, EMPTY, HEAP, every_type.TABLE)
    return StoreBuilder(tmp_path / "store", *tables).publish(
        200,
        {
            T: [(1, 150, (1, "one")), (2, 160, (2, "two")), (1, 170, None)],
            HEAP: [(7, 150, ("seven",))],
            every_type.TABLE: every_type.VERSIONS,
        },
    )


def source(builder, table="d.t", **options):
    texts = {"store": str(builder.path), "path": table, **{k: str(v) for k, v in options.items()}}
    return pyspark_theflash.DefaultSource(texts)


def read(made, schema=None):
    """The rows as Spark gets them; everything goes through pickle where Spark does that."""
    wanted = schema or made.schema()
    reader = pickle.loads(pickle.dumps(made)).reader(wanted)
    partitions = [pickle.loads(pickle.dumps(p)) for p in reader.partitions()]
    reader = pickle.loads(pickle.dumps(reader))
    batches = [batch for partition in partitions for batch in reader.read(partition)]
    return pa.Table.from_batches(batches, arrow_schema(wanted)).to_pylist()


def leases(builder):
    """The oldest generation that a latch pins."""
    with closing(open_manifest(builder.path, LocalFileSystem())) as manifest:
        return LeaseTable(manifest, SystemClock()).oldest_generation()


def test_name():
    assert pyspark_theflash.DefaultSource.name() == "theflash"


def test_newest(builder):
    assert read(source(builder)) == [{"id": 2, "name": "two"}]


def test_at_a_timestamp(builder):
    assert read(source(builder, snapshot_ts=150)) == [{"id": 1, "name": "one"}]
    assert read(source(builder, snapshot_ts=149)) == []


def test_timestamp_is_fixed_when_the_source_is_made(builder):
    made = source(builder)
    builder.publish(300, {T: [(3, 250, (3, "three"))]})
    assert read(made) == [{"id": 2, "name": "two"}]
    assert len(read(source(builder))) == 2


def test_every_type(builder):
    first, second = sorted(read(source(builder, "d.every_type")), key=lambda row: row["id"])
    assert first == every_type.SHOWN
    assert second == every_type.NULLS


def test_columns(builder):
    assert read(source(builder, columns="NAME,id")) == [{"name": "two", "id": 2}]


def test_rowid(builder):
    rows = read(source(builder, "d.heap", columns="_tidb_rowid,name"))
    assert rows == [{"_tidb_rowid": 7, "name": "seven"}]


def test_schema_of_the_user(builder):
    schema = StructType([StructField("name", StringType())])
    assert read(source(builder), schema) == [{"name": "two"}]


def test_empty_table_has_no_partitions_and_leaves_no_latch(builder):
    made = source(builder, "d.empty")
    reader = made.reader(made.schema())
    assert reader.partitions() == []
    assert list(reader.read(InputPartition(None))) == []
    assert leases(builder) is None


def test_a_plan_leaves_its_latch_to_the_tasks(builder):
    made = source(builder)
    assert leases(builder) is None
    (partition,) = made.reader(made.schema()).partitions()
    assert isinstance(partition, SplitPartition)
    assert leases(builder) is not None


@pytest.fixture
def idle(builder):
    """A reader, and its partition after the read latch has ended and the store has moved on."""
    made = source(builder)
    reader = made.reader(made.schema())
    (partition,) = reader.partitions()
    builder.end_leases()
    builder.publish(300, {T: [(2, 250, (2, "changed")), (3, 250, (3, "three"))]})
    return reader, partition


def test_a_task_that_comes_late_plans_anew(idle):
    reader, partition = idle
    rows = [row for batch in reader.read(partition) for row in batch.to_pylist()]
    assert rows == [{"id": 2, "name": "two"}]


def test_a_late_task_does_not_mix_with_a_plan_of_other_regions(idle):
    reader, partition = idle
    partition.regions |= {RegionID(99)}
    with pytest.raises(LeaseExpiredError):
        next(reader.read(partition))


@pytest.mark.parametrize(
    ("table", "options", "error"),
    [
        ("d.nope", {}, TableNotFoundError),
        ("d.t", {"columns": "nope"}, ColumnNotFoundError),
        ("d.t", {"snapshot_ts": 201}, NotCaughtUpError),
        ("d.t", {"snapshot_ts": 99}, SnapshotTooOldError),
        ("d.t", {"timestampAsOf": "2024-01-01Z"}, NotCaughtUpError),
        ("d.t", {"store": "/no/where"}, StoreNotFoundError),
        ("d.t", {"snapshot": 1}, OptionError),
    ],
)
def test_errors_are_typed(builder, table, options, error):
    made = source(builder, table, **options)
    with pytest.raises(error):
        made.schema()
    with pytest.raises(error):
        pickle.loads(pickle.dumps(made)).reader(StructType([]))
    assert leases(builder) is None


def test_writing_is_refused_whatever_the_options():
    with pytest.raises(UnsupportedError, match="writing"):
        pyspark_theflash.DefaultSource({}).writer(StructType([]), overwrite=True)


def test_streams_are_refused(builder):
    made = pyspark_theflash.DefaultSource({"store": str(builder.path), "path": "d.t"})
    with pytest.raises(UnsupportedError, match="a streaming read with Spark is not supported"):
        made.streamReader(made.schema())
    with pytest.raises(UnsupportedError, match="writing with Spark is not supported"):
        made.streamWriter(made.schema(), overwrite=False)
