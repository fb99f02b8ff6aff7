"""Groups and aggregates of expressions and DISTINCT, done beside the data, against Spark's own."""

import pytest

from pyspark_theflash.testing.stores import StoreBuilder
from tests.integration.test_spark_pushdown import NUMBERS, ROWS, shown


@pytest.fixture(scope="module")
def views(spark, tmp_path_factory):
    """`computed` is the store's table, `computed_copy` the same rows in Parquet."""
    folder = tmp_path_factory.mktemp("computed")
    builder = StoreBuilder(folder / "store", NUMBERS)
    store = builder.publish(200, {NUMBERS: ROWS[NUMBERS]}).path
    reader = spark.read.format("theflash").option("store", store)
    reader.load(NUMBERS.full_name).createOrReplaceTempView("computed")
    copied = reader.option("pushdown", "false").load(NUMBERS.full_name)
    copied.write.parquet(f"{folder}/copy")
    spark.read.parquet(f"{folder}/copy").createOrReplaceTempView("computed_copy")


@pytest.fixture
def check(spark, views):
    """Compare a query over the store with the same over the copy; returns how it is planned."""

    def check(query):
        ours, copy = (spark.sql(query.format(t=name)) for name in ("computed", "computed_copy"))
        assert shown(ours) == shown(copy), query
        return ours._jdf.queryExecution().executedPlan().toString()

    return check


PUSHED = [
    "date_trunc('MONTH', since)",
    "date_trunc('quarter', since), date_trunc('WEEK', at)",
    "date_trunc('HOUR', since)",
    "date_trunc('DD', at)",
    "trunc(day, 'YEAR'), trunc(day, 'WEEK')",
    "year(day), month(day), day(day), quarter(since)",
    "dayofweek(day), weekday(day), dayofyear(at), weekofyear(at)",
    "extract(YEAROFWEEK FROM day)",
    "hour(since), minute(since), second(at)",
    "to_date(since)",
    "CASE WHEN money < 0 THEN 'less' WHEN money < 98 THEN word ELSE 'more' END",
    "CASE WHEN tiny > 100 THEN tiny WHEN tiny > 50 THEN 7 END",
    "CASE WHEN tiny < 100 THEN tiny + 20Y ELSE 0Y END",
    "if(word IS NULL, day, to_date(since))",
    "coalesce(money, 0), coalesce(word, 'none')",
    "substring(word, 2), substring(word, 1, 1), length(word)",
    "tiny % 7, (big - 1) % 1000, tiny * 3",
    "tiny > 5 AND word <> 'tea', word IS NULL",
    "cast(twice AS int), floor(twice / 3), cast(tiny AS double)",
    "twice * 2 + 1, ceil(twice - 0.5D)",
]


@pytest.mark.parametrize("groups", PUSHED)
def test_groups_of_expressions(check, groups):
    plan = check(f"SELECT {groups}, count(*), sum(money) FROM {{t}} GROUP BY ALL")
    assert "PushedGroupBy: [" in plan
    check(f"SELECT {groups}, max(id) FROM {{t}} WHERE tiny > 3 OR id = 11 GROUP BY ALL")


@pytest.mark.parametrize(
    "groups", ["upper(word)", "substring(word, -2)", "md5(word)", "round(money)"]
)
def test_groups_that_are_sparks(check, groups):
    plan = check(f"SELECT {groups}, count(*) FROM {{t}} GROUP BY 1")
    assert "PushedGroupBy: [" not in plan


@pytest.mark.parametrize(
    "aggregates",
    [
        "sum(length(word)), max(length(word)), avg(length(word))",
        "sum(CASE WHEN word = 'tea' THEN money ELSE 0 END), count(CASE WHEN tiny > 5 THEN 1 END)",
        "min(date_trunc('MONTH', since)), max(year(day)), count(hour(at))",
        "min(coalesce(word, 'x')), sum(if(tiny > 9, tiny, NULL)), avg(big)",
    ],
)
def test_aggregates_of_expressions(check, aggregates):
    assert "PushedAggregates: [" in check(f"SELECT {aggregates} FROM {{t}}")
    check(f"SELECT word, {aggregates} FROM {{t}} GROUP BY word")


def test_what_is_not_looked_at_does_not_raise(check, spark):
    """A branch of a CASE is computed where its condition is true, and nowhere else."""
    case = "CASE WHEN tiny < 100 THEN tiny + 27Y WHEN tiny > 126 THEN NULL ELSE tiny END"
    assert "PushedGroupBy" in check(f"SELECT {case}, count(*) FROM {{t}} GROUP BY 1")
    with pytest.raises(Exception, match="SqlOverflowError: "):
        spark.sql("SELECT tiny + 27Y, count(*) FROM computed GROUP BY 1").collect()


@pytest.mark.parametrize("zone", ["+08:00", "-03:30", "America/New_York", "Asia/Kolkata"])
def test_time_zones(check, spark, zone):
    """Zones with one constant offset are computed in the store; others in Spark."""
    spark.conf.set("spark.sql.session.timeZone", zone)
    try:
        for group in ("date_trunc('MONTH', since)", "to_date(since)", "hour(since)", "year(since)"):
            plan = check(f"SELECT {group}, count(*), min(since) FROM {{t}} GROUP BY 1")
            assert ("PushedGroupBy: [" in plan) is (zone[0] in "+-")
        check("SELECT date_trunc('DAY', at), hour(at), count(*) FROM {t} GROUP BY 1, 2")
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")


DISTINCT = [
    "count(DISTINCT tiny)",
    "count(DISTINCT word), count(*), count(money), max(at)",
    "count(DISTINCT word, tiny), sum(tiny), sum(money)",
    "sum(DISTINCT tiny), avg(DISTINCT tiny), min(word)",
    "count(DISTINCT date_trunc('DAY', since)), sum(tiny)",
    "count(DISTINCT tiny) + count(DISTINCT tiny), count(*) + 1",
]


@pytest.mark.parametrize("ansi", ["true", "false"])
@pytest.mark.parametrize("aggregates", DISTINCT)
def test_distinct_is_a_group(check, spark, aggregates, ansi):
    spark.conf.set("spark.sql.ansi.enabled", ansi)
    try:
        assert "PushedGroupBy: [" in check(f"SELECT {aggregates} FROM {{t}}")
        assert "PushedGroupBy: [" in check(f"SELECT word, {aggregates} FROM {{t}} GROUP BY word")
        check(f"SELECT {aggregates} FROM {{t}} WHERE id < 0")
        check(f"SELECT year(day) y, {aggregates} FROM {{t}} GROUP BY 1 HAVING count(*) > 3")
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")


@pytest.mark.parametrize(
    "aggregates",
    [
        "count(DISTINCT word), count(DISTINCT tiny)",
        "count(DISTINCT tiny) FILTER (WHERE word = 'tea'), count(*)",
        "count(DISTINCT tiny), avg(money), sum(wide)",
        "count(DISTINCT 1), count(tiny)",
    ],
)
def test_distinct_that_is_sparks(check, aggregates):
    check(f"SELECT {aggregates} FROM {{t}}")


@pytest.mark.parametrize(
    "window",
    [
        "row_number() OVER (PARTITION BY word ORDER BY id)",
        "sum(tiny) OVER (PARTITION BY word ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)",
        "lag(money, 2, 0) OVER (ORDER BY id)",
    ],
)
def test_windows(check, window):
    """Their definitions have no type: asking for it raises."""
    check(f"SELECT id, {window} FROM {{t}} WHERE tiny > 3")
