"""The options of `spark.read.format("theflash")`, each in a real session."""

import threading

import pytest
from chispa import assert_df_equality
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PythonException

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import from_physical_ms
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.time import DAY_US, IMPOSSIBLE_DAY
from tests.support import every_type

NOT_NULL = {"flag": ColumnFlag.NOT_NULL}
T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR, collate="utf8mb4_bin")])
DATES = table_info(
    2,
    "d.dates",
    [
        id_column(),
        column("day", MySQLType.DATE, comment="may be zero", **NOT_NULL),
        column("at", MySQLType.DATETIME, decimal=1),
        column("since", MySQLType.TIMESTAMP),
    ],
)
LEAP_DAY = 19_782
LEAP_DAY_US = LEAP_DAY * DAY_US
ZERO_US = IMPOSSIBLE_DAY * DAY_US
ROWS = {
    T: [(1, 150, (1, "one")), (2, 160, (2, "two")), (1, 170, None)],
    DATES: [
        (1, 150, (1, LEAP_DAY, LEAP_DAY_US + 100_000, LEAP_DAY_US)),
        (2, 150, (2, IMPOSSIBLE_DAY, ZERO_US, ZERO_US)),
        (3, 150, (3, LEAP_DAY, None, None)),
    ],
    every_type.TABLE: every_type.VERSIONS,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A store that no test changes."""
    builder = StoreBuilder(tmp_path_factory.mktemp("options") / "store", *ROWS)
    return builder.publish(200, ROWS).path


@pytest.fixture
def load(source, small):
    def load(table="d.t", store=small, **options):
        return source.reader(store, **options).load(table)

    return load


@pytest.fixture
def expect(spark):
    """Compare a frame with rows, in any order; types and names count, nullability does not."""

    def expect(frame, schema, *rows):
        expected = spark.createDataFrame(list(rows), schema)
        assert_df_equality(frame, expected, ignore_nullable=True, ignore_row_order=True)

    return expect


@pytest.mark.parametrize("name", ["snapshot_ts", "versionAsOf", "VERSIONASOF"])
def test_version(load, expect, name):
    expect(load(**{name: 165}), "id bigint, name string", (1, "one"), (2, "two"))


def test_where(load, expect):
    expect(load(snapshot_ts=165, where="name > 'one'"), "id bigint, name string", (2, "two"))
    expect(load(snapshot_ts=165, where="id = 1", columns="name"), "name string", ("one",))
    expect(load(where="id > 2"), "id bigint, name string")
    assert load("d.dates", where="day = 0", columns="id").head() == (2,)


def test_columns_and_a_schema_leave_zero_dates_unread(source, small, load):
    assert load("d.dates", columns="id").count() == 3
    reader = source.reader(small)
    assert reader.schema("id bigint").load("d.dates").count() == 3
    assert load("d.dates", where="id <> 2").count() == 2


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ("id,day", "column day: 0000-00-00 cannot be represented as a date"),
        ("at", "column at: 0000-00-00 00:00:00 cannot"),
        ("since", "column since: 0000-00-00 00:00:00 cannot"),
    ],
)
def test_a_zero_date_that_is_read_raises(load, columns, text):
    with pytest.raises(
        (PythonException, Py4JJavaError), match=f"UnrepresentableValueError: {text}"
    ):
        load("d.dates", columns=columns).toArrow()


def test_zero_dates_as_null(load):
    frame = load("d.dates", zero_dates="null")
    assert [field.nullable for field in frame.schema] == [False, True, True, True]
    texts = frame.selectExpr("id", "string(day)", "string(at)", "string(since)").orderBy("id")
    assert [tuple(row) for row in texts.collect()] == [
        (1, "2024-02-29", "2024-02-29 00:00:00.1", "2024-02-29 00:00:00"),
        (2, None, None, None),
        (3, "2024-02-29", None, None),
    ]


def test_zero_dates_as_string(load, expect):
    frame = load("d.dates", zero_dates="string")
    assert [field.nullable for field in frame.schema] == [False, False, True, True]
    assert frame.schema["day"].metadata == {"comment": "may be zero"}
    expect(
        frame.drop("day"),
        "id bigint, at string, since string",
        (1, "2024-02-29 00:00:00.1", "2024-02-29 00:00:00"),
        (2, "0000-00-00 00:00:00.0", "0000-00-00 00:00:00"),
        (3, None, None),
    )


def test_all_as_text(load):
    frame = load("d.every_type", all_as_text=True)
    assert {kind for _, kind in frame.dtypes} == {"string", "binary"}
    first, second = (row.asDict() for row in frame.orderBy("id").collect())
    assert first == {
        **{name: str(shown) for name, shown in every_type.SHOWN.items()},
        "datetime": "2024-02-29 12:30:15.123456",
        "timestamp": "2024-02-29 12:30:15.123456",
        "time": "-838:59:59",
        "double": "-1e300",
        "vector": "[0.5,-2]",
        **{name: every_type.SHOWN[name] for name in ("varbinary", "blob", "bit")},
    }
    assert second == {**every_type.NULLS, "id": "2", "virtual": "3"}


def test_waiting_for_a_timestamp(load, tmp_path):
    builder = StoreBuilder(tmp_path / "store", T).publish(200, {T: [(1, 150, (1, "one"))]})
    with pytest.raises(
        AnalysisException, match=r"NotCaughtUpError: timestamp 300 \(.*Z\) is above"
    ):
        load(store=builder.path, snapshot_ts=300, wait_for_ts=0.2)
    later = threading.Timer(1, builder.publish, [300, {T: [(2, 250, (2, "two"))]}])
    later.start()
    assert load(store=builder.path, snapshot_ts=300, wait_for_ts=60).count() == 2
    later.join()


def test_staleness_is_bounded(load, tmp_path):
    now = from_physical_ms(SystemClock().wall_ms())
    builder = StoreBuilder(tmp_path / "store", T).publish(200, {T: [(1, 150, (1, "one"))]})
    with pytest.raises(AnalysisException, match="NotCaughtUpError"):
        load(store=builder.path, max_staleness=3600)
    builder.publish(now)
    assert load(store=builder.path, max_staleness=3600).count() == 1
    later = threading.Timer(1, builder.publish, [from_physical_ms((now >> 18) + 600_000)])
    later.start()
    # No data is as new as this machine's clock until the writer continues.
    assert load(store=builder.path, max_staleness=0, wait_for_ts=60).count() == 1
    later.join()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"snapshot_ts": 150, "versionAsOf": 150}, "'versionAsOf': cannot be given together"),
        ({"versionAsOf": 1, "timestampAsOf": "2024-01-01Z"}, "'timestampAsOf': cannot be given"),
        ({"snapshot_ts": 150, "max_staleness": 1}, "'max_staleness': cannot be given together"),
        ({"wait_for_ts": 1}, "'wait_for_ts': has no effect without a timestamp"),
        ({"all_as_text": True, "zero_dates": "null"}, "'zero_dates': cannot be null together"),
        ({"zero_dates": "ignore"}, "'zero_dates': 'ignore' is none of raise, null, string"),
        ({"all_as_text": "yes"}, "'all_as_text': 'yes' is neither true nor false"),
        ({"wait_for_ts": "long"}, "'wait_for_ts': 'long' is not a number of seconds"),
        ({"max_staleness": -1}, "'max_staleness': '-1' is not a number of seconds"),
        ({"where": ""}, "'where': there is no expression"),
        ({"where": "id ="}, "'where': expression text"),
        ({"where": "nome = 1"}, "no column 'nome' in d.t"),
        ({"staleness": 1}, "'staleness': there is no such option; there are store, table"),
    ],
)
def test_what_contradicts_or_means_nothing_is_refused(load, options, text):
    with pytest.raises(AnalysisException) as caught:
        load(**options)
    assert text in str(caught.value)


def test_tables_about_a_table(load, small):
    files = load("d.t$files").select("path", "versions").collect()
    on_disk = {str(f.relative_to(small / "data")) for f in (small / "data").rglob("*.parquet")}
    assert {file.path for file in files} <= on_disk
    assert sum(file.versions for file in files) == len(ROWS[T])
    (progress,) = load("d.t$progress").collect()
    assert progress.resolved_ts == 200
