"""Spark's queries over a store that changes, against Spark on clean Parquet, and Delta beside them.

    python -m tests.benchmark.spark [--rows N] [--rounds N] [--percent 0,1,10] [--beside ours,delta]

A table of eight columns, of which a share of the rows was updated after it was written. `ours`
reads the store, `parquet` files that Spark wrote of just the visible rows, `delta` (deletion
vectors on) and `iceberg` (merge on read) tables that got the same updates by MERGE; their jars come
from Maven Central. Each round runs a query once in each, one after the other; a figure is the
median of parquet's time / theirs over all rounds, with its 95% interval (higher is better). All
must give the same answer.

Iceberg knows no Spark 4.2, so it is measured in an environment of its own, which needs pyspark
4.1.1 besides what this package needs: `OTHER/bin/python -m tests.benchmark.spark --beside iceberg`.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.codec.field_type import MySQLType
from tests.benchmark.bulk import make_store, publish
from tests.benchmark.report import Line
from tests.support.stores import column, id_column, table_info

DELTA = {
    "spark.jars.packages": "io.delta:delta-spark_4.2_2.13:4.4.0",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.databricks.delta.properties.defaults.enableDeletionVectors": "true",
}
ICEBERG = {
    "spark.jars.packages": "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "spark.sql.catalog.ice": "org.apache.iceberg.spark.SparkCatalog",
    "spark.sql.catalog.ice.type": "hadoop",
}
MERGE = "MERGE INTO {} t USING updates u ON t.id = u.id WHEN MATCHED THEN UPDATE SET *"
FILES = 12
MONEY = {"flen": 15, "decimal": 2}
UTF8 = {"flen": 10, "collate": "utf8mb4_bin"}
TABLE = table_info(
    1,
    "bench.lines",
    [
        id_column(),
        column("quantity", MySQLType.NEWDECIMAL, **MONEY),
        column("price", MySQLType.NEWDECIMAL, **MONEY),
        column("discount", MySQLType.NEWDECIMAL, **MONEY),
        column("tax", MySQLType.NEWDECIMAL, **MONEY),
        column("status", MySQLType.VARCHAR, **UTF8),
        column("shipped", MySQLType.DATE),
        column("mode", MySQLType.VARCHAR, **UTF8),
    ],
)
MODES = np.array(["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"])
QUERIES = {
    "count(*)": "SELECT count(*) FROM {t}",
    "count(col)": "SELECT count(tax) FROM {t}",
    "sum of 1 of 8": "SELECT sum(price) FROM {t}",
    "Q6": "SELECT sum(price * discount) FROM {t} WHERE shipped >= DATE '1994-01-01' "
    "AND shipped < DATE '1995-01-01' AND discount BETWEEN 0.05 AND 0.07 AND quantity < 24",
    "Q1": "SELECT status, mode, sum(quantity), sum(price), sum(price * (1 - discount)), "
    "sum(price * (1 - discount) * (1 + tax)), avg(quantity), avg(price), avg(discount), count(*) "
    "FROM {t} WHERE shipped <= DATE '1998-09-02' GROUP BY status, mode ORDER BY status, mode",
    "group by string": "SELECT mode, sum(quantity), count(*) FROM {t} GROUP BY mode ORDER BY mode",
    "top 10": "SELECT * FROM {t} ORDER BY price DESC, id LIMIT 10",
    "limit 10": "SELECT * FROM {t} LIMIT 10",
    "point lookup": "SELECT * FROM {t} WHERE id = 654321",
}
ANY_ROWS = frozenset({"limit 10"})
"""What may be answered in more than one way."""


@dataclass(frozen=True)
class Data:
    """The rows as they were, and which of them are others now."""

    before: pa.Table
    updates: pa.Table

    @property
    def now(self) -> pa.Table:
        """What a reader must see."""
        ids = self.updates["id"].to_numpy()
        places = np.arange(len(self.before))
        places[ids] = len(self.before) + np.arange(len(ids))
        return pa.concat_tables([self.before, self.updates]).take(pa.array(places))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--percent", default="0,1,10", help="of the rows that were updated")
    parser.add_argument("--beside", default="ours", help="parquet: ours, delta, iceberg")
    parser.add_argument("--queries", default=",".join(QUERIES), help="which ones")
    asked = parser.parse_args()
    systems = asked.beside.split(",")
    chosen = {name: QUERIES[name] for name in asked.queries.split(",")}
    print(f"Spark, {asked.rows:,} rows: parquet's time / theirs (higher is better)")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        rows = _rows(asked.rows, np.random.default_rng(1))
        if "ours" in systems:
            make_store(base, [TABLE])
            publish(base, TABLE, rows, rows["id"].to_numpy(), 10, everything=True)
        spark = session(Path(folder), systems)
        try:
            for percent in map(int, asked.percent.split(",")):
                data = Data(rows, _updates(rows, percent))
                where = Path(folder) / str(percent)
                tables = {"parquet": _parquet(spark, where / "parquet", data.now)}
                tables |= {name: MAKERS[name](spark, base, where, data) for name in systems}
                _compare(spark, tables, chosen, asked.rounds, f"{percent}%")
                shutil.rmtree(where)
        finally:
            spark.stop()


def session(folder: Path, systems: Sequence[str]) -> SparkSession:
    """A session on two cores that has what the systems need."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").appName("benchmark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "6g",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    if "ours" in systems:
        from pyspark_theflash import configure_spark

        builder = configure_spark(builder)
    if "delta" in systems:
        settings |= DELTA
    if "iceberg" in systems:
        settings |= ICEBERG | {"spark.sql.catalog.ice.warehouse": str(folder / "iceberg")}
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def _rows(count: int, rng: np.random.Generator) -> pa.Table:
    """Rows of `TABLE`, `id` counting up."""
    columns = {
        "id": pa.array(np.arange(count)),
        "quantity": _money(rng.integers(1, 51, count) * 100),
        "price": _money(rng.integers(90_000, 10_500_000, count)),
        "discount": _money(rng.integers(0, 11, count)),
        "tax": _money(rng.integers(0, 9, count)),
        "status": pa.array(np.array(["A", "N", "R"])[rng.integers(0, 3, count)]),
        "shipped": pa.array(rng.integers(8036, 10_562, count).astype(np.int32)).cast(pa.date32()),
        "mode": pa.array(MODES[rng.integers(0, len(MODES), count)]),
    }
    return pa.table(columns)


def _updates(rows: pa.Table, percent: int) -> pa.Table:
    """A share of the rows, spread over all of them, with other values."""
    rng = np.random.default_rng(percent + 2)
    ids = np.sort(rng.choice(len(rows), len(rows) * percent // 100, replace=False))
    changed = _rows(len(ids), rng)
    return changed.set_column(0, "id", pa.array(ids))


def _money(cents: np.ndarray) -> pa.Array:
    """decimal(15, 2), of which Arrow has 128 bits."""
    words = np.zeros((len(cents), 2), np.int64)
    words[:, 0], words[:, 1] = cents, cents >> 63
    return pa.Array.from_buffers(pa.decimal128(15, 2), len(cents), [None, pa.py_buffer(words)])


def _ours(spark: SparkSession, base: Path, folder: Path, data: Data) -> DataFrame:
    store = folder / "store"
    shutil.copytree(base, store)
    publish(store, TABLE, data.updates, data.updates["id"].to_numpy(), 1 << 30)
    return spark.read.format("theflash").option("store", str(store)).load(TABLE.full_name)


def _parquet(spark: SparkSession, path: Path, rows: pa.Table) -> DataFrame:
    """The rows as Spark itself writes them."""
    raw = path.with_name(f"{path.name}.raw")
    raw.mkdir(parents=True)
    step = -(-len(rows) // FILES) or 1
    for n, start in enumerate(range(0, len(rows), step)):
        pq.write_table(rows.slice(start, step), raw / f"{n:02}.parquet")
    spark.read.parquet(str(raw)).write.parquet(str(path))
    shutil.rmtree(raw)
    return spark.read.parquet(str(path))


def _delta(spark: SparkSession, base: Path, folder: Path, data: Data) -> DataFrame:
    path = folder / "delta"
    before = _parquet(spark, folder / "before", data.before)
    before.write.format("delta").save(str(path))
    if len(data.updates):
        _parquet(spark, folder / "updates", data.updates).createOrReplaceTempView("updates")
        spark.sql(MERGE.format(f"delta.`{path}`"))
    return spark.read.format("delta").load(str(path))


def _iceberg(spark: SparkSession, base: Path, folder: Path, data: Data) -> DataFrame:
    name = f"ice.bench.lines{folder.name}"
    writer = _parquet(spark, folder / "before", data.before).writeTo(name).using("iceberg")
    for operation in ("update", "merge", "delete"):
        writer = writer.tableProperty(f"write.{operation}.mode", "merge-on-read")
    writer.tableProperty("format-version", "2").create()
    if len(data.updates):
        _parquet(spark, folder / "updates", data.updates).createOrReplaceTempView("updates")
        spark.sql(MERGE.format(name))
    return spark.table(name)


MAKERS = {"ours": _ours, "delta": _delta, "iceberg": _iceberg}


def _compare(
    spark: SparkSession,
    tables: Mapping[str, DataFrame],
    queries: Mapping[str, str],
    rounds: int,
    what: str,
) -> None:
    for name, table in tables.items():
        table.createOrReplaceTempView(name)
    for query, text in queries.items():
        runs = {
            name: (lambda name=name, text=text: spark.sql(text.format(t=name)).collect())
            for name in tables
        }
        answers = {name: run() for name, run in runs.items()}
        for name, answer in answers.items():
            if query not in ANY_ROWS and answer != answers["parquet"]:
                raise AssertionError(f"{query}: {name} has another answer than parquet")
        seconds = _together(runs, rounds)
        base = seconds.pop("parquet")
        figures = ", ".join(f"{name} {_ratio(base, theirs)}" for name, theirs in seconds.items())
        Line(f"{what} updated, {query}", figures, f"{statistics.median(base):.2f} s").show()


def _together(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The times of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs)
        # Nobody always comes after the same one.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            runs[name]()
            taken[name].append(time.perf_counter() - started)
    return taken


def _ratio(base: Sequence[float], theirs: Sequence[float]) -> str:
    """The median, and between which order statistics it lies 19 times in 20."""
    ratios = sorted(b / t for b, t in zip(base, theirs, strict=True))
    middle = statistics.median(ratios)
    aside = max(int(len(ratios) / 2 - 0.98 * len(ratios) ** 0.5), 0)
    low, high = ratios[aside], ratios[-1 - aside]
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
