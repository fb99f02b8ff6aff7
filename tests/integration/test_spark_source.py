"""`spark.read.format("theflash")` in a local session, over small stores."""

import shutil

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PythonException, SparkRuntimeException

from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support import every_type

TASK_ERRORS = (PythonException, Py4JJavaError, SparkRuntimeException)
T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR, comment="who")])
EMPTY = table_info(2, "d.empty", [id_column()])


def made(path):
    return StoreBuilder(path, T, EMPTY, every_type.TABLE).publish(
        200,
        {
            T: [(1, 150, (1, "one")), (2, 160, (2, "two")), (1, 170, None)],
            every_type.TABLE: every_type.VERSIONS,
        },
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The path of a store that no test changes."""
    return made(tmp_path_factory.mktemp("source") / "store").path


@pytest.fixture
def builder(tmp_path):
    """A store of the test's own."""
    return made(tmp_path / "store")


@pytest.fixture
def load(source, small):
    """Load a table of a small store."""

    def load(table="d.t", schema=None, store=small, **options):
        reader = source.reader(store, **options)
        return (reader.schema(schema) if schema else reader).load(table)

    return load


def test_newest(load):
    assert load().toArrow().to_pylist() == [{"id": 2, "name": "two"}]


def test_at_a_timestamp(load):
    assert load(snapshot_ts=150).toArrow().to_pylist() == [{"id": 1, "name": "one"}]
    assert load(snapshot_ts=149).count() == 0


def test_every_type(load):
    frame = load("d.every_type")
    assert dict(frame.dtypes) == every_type.SPARK_TYPES
    first, second = frame.orderBy("id").toArrow().to_pylist()
    assert first == every_type.SHOWN
    assert second == every_type.NULLS


def test_spark_computes_with_the_values(load):
    """Nothing but the row whose values are all set passes; each is compared by Spark itself."""
    conditions = [
        "ubig = 18446744073709551615",
        "uint + 1 = 4294967296",
        "decimal < -1.4",
        "date = DATE '9999-12-31'",
        "datetime = TIMESTAMP_NTZ '2024-02-29 12:30:15.123456'",
        "timestamp = TIMESTAMP '2024-02-29 12:30:15.123456Z'",
        "time = INTERVAL '-34 22:59:59' DAY TO SECOND",
        "varchar = 'é🙂'",
        "hex(bit) = '0201'",
        "enum = 'b'",
    ]
    assert load("d.every_type").where(" AND ".join(conditions)).count() == 1


def test_schema(load):
    identity, name = load().schema
    assert (identity.nullable, name.nullable) == (False, True)
    assert name.metadata == {"comment": "who"}


def test_load_fixes_the_timestamp_of_every_action(load, builder):
    frame = load(store=builder.path)
    builder.publish(300, {T: [(3, 250, (3, "three"))]})
    assert frame.count() == 1
    assert frame.toArrow().to_pylist() == [{"id": 2, "name": "two"}]
    assert frame.union(load(store=builder.path)).count() == 3


def test_a_frame_outlives_its_read_latch(load, builder):
    """Spark keeps the plan of the first action."""
    frame = load(store=builder.path)
    assert frame.count() == 1
    builder.end_leases()
    builder.publish(300, {T: [(2, 250, (2, "changed")), (3, 250, (3, "three"))]})
    assert frame.toArrow().to_pylist() == [{"id": 2, "name": "two"}]


def test_empty_table(load):
    frame = load("d.empty")
    assert frame.count() == 0
    assert frame.toArrow().num_rows == 0


def test_columns(load):
    assert load(columns="name").toArrow().to_pylist() == [{"name": "two"}]
    assert load(schema="name string").toArrow().to_pylist() == [{"name": "two"}]


def test_view(spark, source, small):
    spark.sql(
        f"CREATE OR REPLACE TEMPORARY VIEW t_at_160 USING {source.name} "
        f"OPTIONS ({source.sql_options(small)}, table 'd.t', snapshot_ts 160)"
    )
    assert spark.sql("SELECT count(*), max(name) FROM t_at_160").head() == (2, "two")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"table": "d.nope"}, "TableNotFoundError: no table d.nope at timestamp 200"),
        ({"snapshot_ts": 999}, "NotCaughtUpError: timestamp 999 ("),
        ({"snapshot_ts": 7}, "SnapshotTooOldError: timestamp 7 ("),
        ({"snapshot": 7}, "OptionError: option 'snapshot': there is no such option"),
        ({"timestampAsOf": "noon"}, "OptionError: option 'timestampAsOf': 'noon' is neither"),
    ],
)
def test_errors_keep_their_name_and_text(load, options, text):
    with pytest.raises(AnalysisException) as caught:
        load(**options)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["python", "jar"])
def test_no_store(request, name):
    source = request.getfixturevalue(name)
    with pytest.raises(AnalysisException, match="StoreNotFoundError: no store at /no/where"):
        source.reader("/no/where").load("d.t")


def test_schema_that_the_table_does_not_have(load):
    with pytest.raises(AnalysisException, match=r"OptionError: option 'schema'.*'nom'"):
        load(schema="nom string").count()


def test_error_in_a_task_keeps_its_name_and_text(load, builder):
    frame = load(store=builder.path)
    shutil.rmtree(builder.path / "data")
    with pytest.raises(TASK_ERRORS, match=r"CorruptionError: .*parquet: "):
        frame.toArrow()


REFUSALS = {
    "append": lambda frame, writer, name: writer.mode("append").save("d.new"),
    "overwrite": lambda frame, writer, name: writer.mode("overwrite").save("d.new"),
    "saveAsTable": lambda frame, writer, name: writer.saveAsTable("new"),
    "writeTo": lambda frame, writer, name: frame.writeTo("new").using(name).create(),
    "INSERT": lambda frame, writer, name: frame.sparkSession.sql(
        "INSERT INTO t_view VALUES (1, 'x')"
    ),
}


@pytest.mark.parametrize("write", REFUSALS.values(), ids=REFUSALS)
def test_writing_is_refused(spark, source, load, small, write):
    frame = load()
    place = source.place(str(small))
    spark.sql(
        f"CREATE OR REPLACE TEMPORARY VIEW t_view USING {source.name} "
        f"OPTIONS ({source.sql_options(small)}, table 'd.t')"
    )
    with pytest.raises(AnalysisException, match=r"UnsupportedError: .*writing with Spark"):
        write(frame, frame.write.format(source.name).options(**place), source.name)


def test_queries_on_one_frame_do_not_meddle_where_spark_pushes_filters(spark, load):
    """Spark caches the plan of a source with pushed filters for the frame's next query."""
    spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")
    try:
        frame = load("d.every_type").select("id")
        first, second = frame.where("id = 1"), frame.where("id = 2")
        assert [f.count() for f in (frame, first, frame, second, frame)] == [2, 1, 2, 1, 2]
        assert frame.unionAll(first).count() == 3
        assert first.crossJoin(second.withColumnRenamed("id", "other")).count() == 1
    finally:
        spark.conf.unset("spark.sql.python.filterPushdown.enabled")
