"""Results of the jar's push-down, compared with Spark's on the same rows in Parquet."""

import math
from decimal import Decimal

import pytest
from pyspark.errors import ArithmeticException, NumberFormatException, SparkRuntimeException

from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.time import DAY_US
from tests.support import every_type

NUMBERS = table_info(
    1,
    "d.numbers",
    [
        id_column(),
        column("word", MySQLType.VARCHAR, charset="utf8mb4", collate="utf8mb4_general_ci"),
        column("tiny", MySQLType.TINY),
        column("big", MySQLType.LONGLONG),
        column("ubig", MySQLType.LONGLONG, flag=ColumnFlag.UNSIGNED),
        column("money", MySQLType.NEWDECIMAL, flen=4, decimal=2),
        column("wide", MySQLType.NEWDECIMAL, flen=38, decimal=0),
        column("single", MySQLType.FLOAT),
        column("twice", MySQLType.DOUBLE),
        column("day", MySQLType.DATE),
        column("at", MySQLType.DATETIME, decimal=6),
        column("since", MySQLType.TIMESTAMP, decimal=6),
        column("span", MySQLType.TIME),
        column("data", MySQLType.BLOB, charset="binary"),
        column("huge", MySQLType.LONGLONG),
        column("vast", MySQLType.NEWDECIMAL, flen=38, decimal=4),
    ],
)
EMPTY = table_info(2, "d.empty", [id_column(), column("money", MySQLType.LONG)])
MOST = Decimal("99.99")
VAST = 10**34
WORDS = ("tea", "Tea", "tee ", "", None, "öl")


def row(n):
    """Sums of `money` are far beyond its type; `big` and `wide` are near the ends of theirs."""
    if n % 11 == 0:
        return (n, *(None for _ in NUMBERS.public_columns[1:]))
    sign = -1 if n % 5 == 0 else 1
    return (
        n,
        WORDS[n % len(WORDS)],
        sign * (n % 128),
        sign * (2**40 + n),
        2**63 + n,
        sign * (MOST - Decimal(n % 3)),
        sign * (10**30 + n),
        [0.5, -0.0, 0.0, math.inf, math.nan, 1.5][n % 6],
        [0.25, -0.0, 0.0, 4.0][n % 4],
        19_000 + n % 40,
        (19_000 + n % 40) * DAY_US + n,
        (19_000 + n % 40) * DAY_US - n,
        sign * n * 1_000_000,
        bytes([n % 3, 255]),
        2**62 + n,
        # Two of these do not fit a sum; among the others no order of adding up overflows.
        Decimal(f"{VAST - n}.5000") if WORDS[n % len(WORDS)] == "tea" else Decimal(n),
    )


ROWS = {
    NUMBERS: [(n, 150, row(n)) for n in range(1, 1001)],
    every_type.TABLE: every_type.VERSIONS,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """`NUMBERS` has two regions with rows, for two readers, and one without a file."""
    builder = StoreBuilder(
        tmp_path_factory.mktemp("push") / "store", NUMBERS, EMPTY, *list(ROWS)[1:]
    )
    path = builder.publish(200, ROWS).path
    with connect(str(path)) as api:
        (whole,) = api.regions(NUMBERS.full_name).regions
        api.split_region(whole.physical_id, whole.region_id, "600")
        *_, upper = api.regions(NUMBERS.full_name).regions
        api.split_region(whole.physical_id, upper.region_id, "5000")
    return path


@pytest.fixture(scope="module")
def views(spark, store, tmp_path_factory):
    """`NAME` is the store's table, `NAME_copy` the same rows in Parquet."""
    folder = tmp_path_factory.mktemp("copies")
    for name in ("numbers", "empty"):
        reader = spark.read.format("theflash").option("store", store)
        reader.load(f"d.{name}").createOrReplaceTempView(name)
        copied = reader.option("pushdown", "false").load(f"d.{name}")
        copied.write.parquet(f"{folder}/{name}")
        spark.read.parquet(f"{folder}/{name}").createOrReplaceTempView(f"{name}_copy")


@pytest.fixture(params=["true", "false"], ids=["ansi", "not ansi"])
def ansi(request, spark):
    spark.conf.set("spark.sql.ansi.enabled", request.param)
    yield request.param
    spark.conf.unset("spark.sql.ansi.enabled")


@pytest.fixture
def check(spark, views):
    """Compare a query over the store with the same over the copy; returns how it is planned."""

    def check(query):
        ours = spark.sql(query)
        copy = query.replace("FROM numbers", "FROM numbers_copy").replace(
            "FROM empty", "FROM empty_copy"
        )
        assert shown(ours) == shown(spark.sql(copy)), query
        return ours._jdf.queryExecution().executedPlan().toString()

    return check


def shown(frame):
    """Rows that can be compared: NaN is not equal to itself, and 0.0 is to -0.0."""
    rows = [tuple(v + 0.0 if isinstance(v, float) else v for v in row) for row in frame.collect()]
    return sorted(map(repr, rows))


FILTERS = [
    "tiny = 5",
    "tiny <> 5 AND tiny < 10.5",
    "NOT (tiny = 5 OR big > 0)",
    "big IN (1099511627777, 3, NULL)",
    "NOT big IN (1099511627777, NULL)",
    "ubig >= 9223372036854775900",
    "money <=> NULL",
    "money <=> 98.99",
    "money > 98.99 OR money IS NULL",
    "wide < -1000000000000000000000000000001",
    "single = double('NaN')",
    "single > 1.0",
    "twice = 0.0",
    "twice >= -0.0",
    "day = DATE '2022-01-20' OR day > DATE '2022-02-01'",
    "at > TIMESTAMP_NTZ '2022-02-01 00:00:00.000100'",
    "since < TIMESTAMP '2022-01-20 00:00:00Z'",
    "span > INTERVAL '0 00:05:00' DAY TO SECOND",
    "data = X'01FF'",
    "word = 'tea'",
    "word LIKE 'te%' AND word LIKE '%a'",
    "word LIKE '%ee%' OR word > 't'",
    "word IS NOT NULL AND word < 'a'",
    "word = '' AND tiny IS NULL",
]


@pytest.mark.parametrize("condition", FILTERS)
def test_filters(check, condition):
    check(f"SELECT id FROM numbers WHERE {condition}")


def test_filters_are_pushed(check):
    plan = check("SELECT id FROM numbers WHERE tiny = 5 AND word LIKE 'te%' AND length(word) = 3")
    assert "PushedFilters: [" in plan
    assert "Filter (length(word" in plan
    assert "(tiny" not in plan.partition("BatchScan")[0]


AGGREGATES = [
    "count(*), count(word), count(money)",
    "sum(money), avg(money), min(money), max(money)",
    "sum(tiny), avg(tiny), sum(ubig), sum(wide)",
    "sum(big), avg(big)",
    "sum(twice), min(twice), max(twice)",
    "min(single), max(single)",
    "min(word), max(word), min(day), max(at), min(since), max(span), max(ubig)",
    "sum(money * (1 - money)), sum(money + money), sum(money * tiny)",
    "min(data)",
    "count(DISTINCT word), sum(DISTINCT tiny)",
]


@pytest.mark.parametrize("aggregates", AGGREGATES)
@pytest.mark.usefixtures("ansi")
def test_aggregates(check, aggregates):
    check(f"SELECT {aggregates} FROM numbers")
    check(f"SELECT word, {aggregates} FROM numbers WHERE id > 7 GROUP BY word")


GROUPS = ["tiny, word", "day", "data", "money", "single", "ubig, span"]


@pytest.mark.parametrize("group", GROUPS)
def test_groups(check, group):
    check(f"SELECT {group}, count(*), sum(money) FROM numbers GROUP BY {group}")


@pytest.mark.usefixtures("ansi")
def test_sums_that_their_type_does_not_hold(check, spark):
    """Spark takes parts in the summands' type, where 99.99 is the most; it would make NULL."""
    plan = check("SELECT sum(money), sum(wide), count(*), max(id) FROM numbers WHERE tiny > 0")
    assert "PushedAggregates: [SUM(" in plan
    (total,) = spark.sql("SELECT sum(money) FROM numbers WHERE tiny > 0").head()
    assert total > 100 * MOST
    check("SELECT word, sum(money), sum(tiny), count(*), min(day) FROM numbers GROUP BY word")


def test_overflow_is_sparks(check, spark):
    """A sum of 64-bit numbers that does not fit is an error, or wraps around, as elsewhere."""
    query = "SELECT sum(huge) FROM numbers"
    plan = spark.sql(query)._jdf.queryExecution().executedPlan().toString()
    assert "PushedAggregates: [SUM(huge)]" in plan
    with pytest.raises(ArithmeticException):
        spark.sql(query).collect()
    spark.conf.set("spark.sql.ansi.enabled", "false")
    try:
        check(query)
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")


UNTRANSLATABLE = [
    "(case when tiny > double('inf') then id else 0 end) <> 99999999999999999999999999999999999999",
    "(case when tiny > 2147483648 then tiny else 0 end) > money",
    "tiny > 2147483648 OR big > 5",
    "NOT (tiny > 2147483648)",
    "NOT (tiny < 2147483648 AND big > 5)",
    "tiny > 3 AND (word = 'tea' OR NULL)",
    "coalesce(tiny > 2147483648, true)",
    "cast(tiny AS boolean)",
    "NOT cast(tiny AS boolean)",
    "cast(tiny AS boolean) OR big > 5",
    "case when id > 5000 then 1 / 0 else 1 end > 0",
    "id > 5000 AND 1 / 0 > tiny",
    "case when id > 5000 then cast('x' AS int) else 1 end > 0",
    "tiny IN (SELECT tiny FROM numbers WHERE NOT cast(id AS boolean))",
]


@pytest.mark.parametrize("condition", UNTRANSLATABLE)
def test_what_cannot_be_translated_is_sparks(spark, views, condition):
    """Spark fails, or does not end, while it translates some expressions for sources."""
    query = f"SELECT id FROM numbers{{}} WHERE {condition}"
    ours, copy = (outcome(spark, query.format(name)) for name in ("", "_copy"))
    assert ours == copy
    for query in (
        f"SELECT count(*) FROM numbers WHERE {condition}",
        f"SELECT sum(CASE WHEN {condition} THEN 1 ELSE 0 END), count({condition}) FROM numbers",
        f"SELECT {condition}, count(*) FROM numbers GROUP BY {condition}",
        f"SELECT id FROM numbers ORDER BY {condition}, id LIMIT 5",
        "SELECT sum(CASE WHEN NOT t THEN 1 END), sum(CASE WHEN t OR NULL THEN 2 END) "
        f"FROM (SELECT {condition} AS t FROM numbers)",
        f"SELECT 1 FROM (SELECT id AS other FROM empty) JOIN numbers ON other = id OR {condition}",
    ):
        if isinstance(copy, list) and "SELECT" not in condition:
            spark.sql(query)._jdf.queryExecution().executedPlan()


@pytest.mark.parametrize(
    "aggregates",
    [
        "sum(vast)",
        "sum(vast), count(*), sum(money), min(vast), max(vast)",
        "avg(vast), sum(tiny)",
        "sum(vast - 1), sum(-vast)",
        "sum(cast(vast AS decimal(34, 0)))",
    ],
)
@pytest.mark.usefixtures("ansi")
def test_sums_of_more_than_38_digits_are_sparks(spark, views, aggregates):
    """NULL without ANSI, an error with it, of the groups that overflow alone."""
    for rest in (
        "",
        "WHERE tiny > 5",
        "WHERE word <> 'tea'",
        "GROUP BY word",
        "WHERE word <> 'tea' GROUP BY word",
    ):
        by = "word, " if "GROUP" in rest else ""
        ours, copy = (
            outcome(spark, f"SELECT {by}{aggregates} FROM numbers{name} {rest}")
            for name in ("", "_copy")
        )
        assert ours == copy, rest


ARITHMETIC = [
    "sum(wide + wide), sum(wide - wide), avg(wide + wide)",
    "sum(wide * wide), avg(wide * money)",
    "sum(money / tiny), avg(money / 3)",
    "sum(tiny + tiny), sum(big * 2), avg(tiny * big)",
    "sum(cast(big AS int)), sum(cast(word AS int))",
    "sum(huge + huge)",
    "sum(cast(wide AS decimal(31, 0))), avg(cast(money AS decimal(3, 1)))",
    "avg(wide), avg(ubig), avg(huge), avg(twice), avg(single)",
    "min(money + money), max(tiny * 2), count(money / 0)",
]


@pytest.mark.parametrize("group", ["", "word"])
@pytest.mark.parametrize("aggregates", ARITHMETIC)
@pytest.mark.usefixtures("ansi")
@pytest.mark.slow
def test_arithmetic_that_overflows_or_rounds(spark, views, aggregates, group):
    """NULL or around the corner without ANSI, an error of the same name with it; never another."""
    by = f" GROUP BY {group}" if group else ""
    query = f"SELECT {group or 1}, {aggregates} FROM numbers{{}}{by}"
    ours, copy = (outcome(spark, query.format(name)) for name in ("", "_copy"))
    assert ours == copy


def outcome(spark, query):
    """The rows of a query, or the condition that it fails with."""
    try:
        return shown(spark.sql(query))
    except (ArithmeticException, NumberFormatException, SparkRuntimeException) as error:
        return error.getCondition()


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
@pytest.mark.usefixtures("ansi")
@pytest.mark.slow
def test_in_another_time_zone(spark, check, zone):
    """Literals are interpreted in the session's time zone, where a day begins at another time."""
    spark.conf.set("spark.sql.session.timeZone", zone)
    try:
        for condition in (
            "since < TIMESTAMP '2022-01-20 00:00:00'",
            "since >= DATE '2022-01-20'",
            "at > TIMESTAMP '2022-02-01 00:00:00'",
            "at = since",
            "day = to_date(since)",
            "since IN (TIMESTAMP '2022-01-10 18:59:59.999990', NULL)",
        ):
            check(f"SELECT id, since, at FROM numbers WHERE {condition}")
        check("SELECT min(since), max(since), min(at), max(day) FROM numbers WHERE tiny > 3")
        check("SELECT date(since), count(*), sum(money) FROM numbers GROUP BY 1")
        check("SELECT id, since FROM numbers ORDER BY since DESC, id LIMIT 9")
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")


@pytest.mark.slow
def test_without_ansi(spark, check):
    """Filters, groups and first rows as well."""
    spark.conf.set("spark.sql.ansi.enabled", "false")
    try:
        for condition in [*FILTERS, "tiny = '5'", "big + big > 0", "money / tiny > 1", "word = 5"]:
            check(f"SELECT id FROM numbers WHERE {condition}")
        for group in GROUPS:
            check(f"SELECT {group}, count(*), sum(money), avg(wide) FROM numbers GROUP BY {group}")
        for order in ORDERS:
            check(f"SELECT id, word FROM numbers ORDER BY {order} LIMIT 7")
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")


ORDERS = ["word, id", "word DESC NULLS FIRST, id", "single DESC, id", "money NULLS LAST, id DESC"]


@pytest.mark.usefixtures("ansi")
def test_nothing(check):
    check("SELECT count(*), sum(money), min(id) FROM empty")
    check("SELECT money, count(*) FROM empty GROUP BY money")
    check("SELECT count(*), sum(money), min(id) FROM numbers WHERE id > 5000")
    check("SELECT word, count(*) FROM numbers WHERE id > 5000 GROUP BY word")


@pytest.mark.parametrize("order", ORDERS)
def test_first_rows(check, order):
    plan = check(f"SELECT id, word FROM numbers ORDER BY {order} LIMIT 7")
    assert "PushedTopN: [" in plan


TOTALS = [
    "SELECT count(*), count(word), sum(tiny), sum(money) FROM numbers",
    "SELECT sum(wide), max(wide) FROM numbers WHERE id > 590 AND id < 610",
    "SELECT sum(single), sum(twice), max(single), min(single) FROM numbers WHERE id < 900",
    "SELECT min(word), max(word), min(data), max(data), min(day), max(since) FROM numbers",
    "SELECT min(span), max(at), min(ubig), max(huge) FROM numbers WHERE tiny > 3",
    "SELECT sum(money) + count(*) * 2, sum(money) FROM numbers HAVING count(*) > 3",
    "SELECT sum(money), count(id) FROM empty",
    "SELECT sum(money), max(id) FROM numbers WHERE id > 5000",
]


@pytest.mark.parametrize("query", TOTALS)
@pytest.mark.usefixtures("ansi")
def test_one_row_is_put_together_by_one_task(check, query):
    plan = check(query)
    assert "Exchange" not in plan
    assert "Aggregate(" not in plan


@pytest.mark.parametrize("aggregates", ["avg(money)", "sum(big)", "sum(tiny), avg(tiny)"])
def test_what_spark_puts_together(check, aggregates):
    """Averages, and sums that may exceed their type."""
    plan = check(f"SELECT {aggregates} FROM numbers")
    assert "Exchange" in plan
    assert "PushedAggregates: [" in plan


def test_totals_among_others(check):
    """Sorted, computed, and beside parts of the same table."""
    check("SELECT sum(money) AS money FROM numbers ORDER BY money LIMIT 1")
    assert "Exchange" not in check("SELECT sum(money + money), sum(wide + 1) FROM numbers")
    check(
        "SELECT a.s, b.s FROM (SELECT sum(money) AS s FROM numbers) a "
        "CROSS JOIN (SELECT avg(money) AS s FROM numbers) b"
    )


FEW = [
    "SELECT count(*) FROM numbers",
    "SELECT count(1) + 1, count(*) FROM numbers",
    "SELECT count(*) FROM empty",
    "SELECT * FROM numbers WHERE id = 7",
    "SELECT word, money FROM numbers WHERE 7 = id AND tiny > 0",
    "SELECT id FROM numbers WHERE id = 7 AND length(word) > 100",
    "SELECT word FROM numbers WHERE id = 100000",
    "SELECT * FROM empty LIMIT 5",
    "SELECT * FROM numbers LIMIT 1000",
    "SELECT a.word, b.money FROM numbers a JOIN numbers b ON a.tiny = b.tiny WHERE a.id = 7",
]
MANY = [
    "SELECT count(*) FROM numbers WHERE tiny > 3",
    "SELECT count(*), max(id) FROM numbers",
    "SELECT word, count(*) FROM numbers GROUP BY word",
    "SELECT id FROM numbers WHERE id = tiny",
    "SELECT id FROM numbers WHERE id = 7 OR tiny = 7",
    "SELECT id FROM numbers WHERE id > 998",
]


@pytest.mark.parametrize("query", FEW)
def test_few_rows_are_read_while_planning(check, query):
    assert "LocalTableScan" in check(query)


@pytest.mark.parametrize("query", MANY)
def test_other_rows_are_read_by_tasks(check, query):
    assert "LocalTableScan" not in check(query)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT * FROM numbers WHERE id = 7", 1),
        ("SELECT * FROM numbers LIMIT 7", 7),
    ],
)
def test_few_rows_take_no_task(spark, views, query, rows):
    spark.sparkContext.setJobGroup(query, "")
    try:
        assert len(spark.sql(query).collect()) == rows
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    assert not spark.sparkContext.statusTracker().getJobIdsForGroup(query)


def test_few_rows_of_every_type(spark, store):
    reader = spark.read.format("theflash").options(store=store, zero_dates="null")
    every = reader.load(every_type.TABLE.full_name)
    (key,) = (c.name for c in every_type.TABLE.handle_columns)
    copied = reader.option("pushdown", "false").load(every_type.TABLE.full_name)
    for row in copied.collect():
        selected = every.where(every[key] == row[key])
        assert shown(selected) == [repr(tuple(row))]
        assert "LocalTableScan" in selected._jdf.queryExecution().executedPlan().toString()


def test_limit_among_filtered_rows(spark, views):
    limited = spark.sql("SELECT id FROM numbers WHERE tiny > 3 LIMIT 7")
    assert len(limited.collect()) == 7
    assert "PushedLimit: 7" in limited._jdf.queryExecution().executedPlan().toString()


COUNTED = [
    "SELECT count(*) FROM (SELECT * FROM numbers LIMIT 10)",
    "SELECT count(*) FROM (SELECT * FROM numbers LIMIT 999)",
    "SELECT count(*) FROM (SELECT * FROM numbers LIMIT 5000)",
    "SELECT count(*) FROM (SELECT * FROM numbers WHERE tiny > 3 LIMIT 10)",
    "SELECT count(*) FROM (SELECT * FROM numbers WHERE tiny > 3 LIMIT 5000)",
    "SELECT count(*) FROM (SELECT * FROM numbers WHERE length(word) = 3 LIMIT 10)",
    "SELECT count(*) FROM (SELECT * FROM numbers ORDER BY word LIMIT 10)",
    "SELECT count(*) FROM (SELECT * FROM numbers LIMIT 10 OFFSET 4)",
    "SELECT count(*) FROM (SELECT 1 FROM numbers UNION ALL SELECT 2 FROM numbers)",
    "SELECT 1 FROM numbers LIMIT 3",
    "SELECT 1 WHERE EXISTS (SELECT * FROM numbers)",
    "SELECT 1 WHERE EXISTS (SELECT * FROM numbers WHERE tiny > 3)",
    "SELECT 1 WHERE NOT EXISTS (SELECT * FROM empty)",
    "SELECT 1 WHERE EXISTS (SELECT * FROM empty)",
    "SELECT count(*) FROM (SELECT * FROM empty LIMIT 10)",
    "SELECT count(*) FROM numbers CROSS JOIN (SELECT * FROM empty)",
    "SELECT count(*) FROM numbers a CROSS JOIN (SELECT 1 FROM numbers LIMIT 2)",
]


@pytest.mark.parametrize("query", COUNTED)
def test_rows_without_columns_are_counted(check, query):
    check(query)


def test_frames_without_columns_are_counted(spark, views):
    for name, expected in (("numbers", 3), ("empty", 0)):
        frame = spark.table(name)
        assert frame.limit(3).count() == expected
        assert frame.isEmpty() == (expected == 0)
        assert frame.limit(3).isEmpty() == (expected == 0)
        assert len(frame.select().limit(3).collect()) == expected
    assert spark.table("numbers").where("tiny > 3").limit(3).count() == 3
    assert not spark.table("numbers").where("tiny > 3").isEmpty()
    assert spark.table("numbers").where("length(word) > 30").isEmpty()


def test_switched_off(spark, store):
    reader = spark.read.format("theflash").options(store=store, pushdown="false")
    frame = reader.load("d.numbers").where("tiny = 5").groupBy("word").count()
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert "Pushed" not in plan
    assert frame.count() > 0


def test_group_by_what_tells_rows_apart_is_left_to_spark(check):
    assert "Pushed" not in check("SELECT id, count(*) FROM numbers GROUP BY id")


def test_columns_of_a_join(check):
    check(
        "SELECT a.word, sum(b.money) FROM numbers a JOIN numbers b USING (id) "
        "WHERE a.tiny > 3 AND b.big > 0 GROUP BY a.word"
    )
