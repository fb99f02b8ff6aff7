"""Random queries through the jar, with and without pushing down, beside Spark's own over Parquet.

A seed is a table of random rows and some queries of it, each with ANSI mode on and off. Where Spark
fails, the jar may answer, for it may not have to look at what made Spark fail; where Spark answers,
it must answer the same. An overflow is of another class where it happens beside the data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.testing.stores import StoreBuilder
from tests.soak.outcome import Outcome
from tests.soak.random_queries import TABLE, Queries, random_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

QUERIES: Final = 40
_ANSI: Final = "spark.sql.ansi.enabled"
_CLOCK: Final = SystemClock()
VIEWS: Final = ("t_pushed", "t_whole", "t_parquet")


def run(folder: Path, *, first_seed: int, seconds: float, outcome: Outcome) -> None:
    """Seeds from `first_seed` on until the time is up, at least one."""
    end_ms = _CLOCK.boottime_ms() + round(1000 * seconds)
    with _session(folder) as spark:
        seed = first_seed
        while seed == first_seed or _CLOCK.boottime_ms() < end_ms:
            compare(spark, folder / str(seed), seed, outcome)
            seed += 1


def compare(
    spark: "SparkSession", folder: Path, seed: int, outcome: Outcome, queries: int = QUERIES
) -> None:
    """Run the queries of one seed over its rows, which come into a new folder."""
    chance = Random(seed)
    _make_views(spark, folder, chance)
    made = Queries(chance)
    for number in range(queries):
        query = made.next()
        spark.conf.set(_ANSI, str(number % 2 == 0).lower())
        try:
            pushed, whole, parquet = (_answer(spark, query.format(t=view)) for view in VIEWS)
        finally:
            spark.conf.unset(_ANSI)
        outcome.counts["queries"] += 1
        outcome.counts["rows"] += len(parquet) if isinstance(parquet, list) else 0
        for name, actual in (("pushed down", pushed), ("not pushed down", whole)):
            if isinstance(parquet, str):
                outcome.refused[parquet] += 1
            elif actual != parquet:
                where = f"seed {seed}, query {number}, {name}: {query}"
                outcome.differs(f"{where}\n  got  {actual}\n  not  {parquet}")


def _make_views(spark: "SparkSession", folder: Path, chance: Random) -> None:
    folder.mkdir()
    store = StoreBuilder(folder / "store", TABLE).publish(200, {TABLE: random_rows(chance)}).path
    with connect(store) as api:
        for cut in (str(chance.randint(2, 250)), "5000"):
            *_, last = api.regions(TABLE.full_name).regions
            api.split_region(last.physical_id, last.region_id, cut)
    reader = spark.read.format("theflash").option("store", str(store))
    reader.load(TABLE.full_name).createOrReplaceTempView(VIEWS[0])
    whole = reader.option("pushdown", "false").load(TABLE.full_name)
    whole.createOrReplaceTempView(VIEWS[1])
    whole.write.parquet(f"{folder}/parquet")
    spark.read.parquet(f"{folder}/parquet").createOrReplaceTempView(VIEWS[2])


def _answer(spark: "SparkSession", query: str) -> list[str] | str:
    """The rows, sorted, or the condition or message of Spark's error."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        rows = spark.sql(query).collect()
    except PySparkException as error:
        return error.getCondition() or str(error)[:300]
    except Py4JJavaError as error:
        return str(error.java_exception)[:300]
    return sorted(repr(tuple(map(_shown, row))) for row in rows)


def _shown(value: Any) -> Any:
    """0.0 is -0.0."""
    return value + 0.0 if isinstance(value, float) else value


@contextmanager
def _session(folder: Path) -> Iterator["SparkSession"]:
    from pyspark.sql import SparkSession

    from pyspark_theflash import configure_spark

    session = (
        configure_spark(SparkSession.builder)
        .master("local[2]")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", str(folder / "spark"))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    try:
        yield session
    finally:
        session.stop()
