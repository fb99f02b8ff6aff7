"""A system and the Parquet of its own Spark: a process that makes both and runs queries on them.

    python -m tests.benchmark.system KIND FOLDER CONNECTION     started by `System`, in any Python

`ours` reads a store; `delta` (deletion vectors) and `iceberg` (merge on read) are tables that Spark
wrote and then changed by MERGE, their jars taken from Maven Central. Each is in a process of its
own because Iceberg needs another Spark, and so that extensions do not slow down other systems. So
this module needs nothing but pyspark.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

PROJECT = Path(__file__).parents[2]
PARQUET = "parquet"
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "ours": {},
    "delta": {
        "spark.jars.packages": "io.delta:delta-spark_4.2_2.13:4.4.0",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "true",
    },
    "iceberg": {
        "spark.jars.packages": "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.ice": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.ice.type": "hadoop",
    },
}
MERGE = "MERGE INTO {} t USING updates u ON t.id = u.id WHEN MATCHED THEN UPDATE SET *"


class System:
    """The process of one system, which does one thing at a time."""

    def __init__(self, kind: str, folder: Path, python: str = sys.executable) -> None:
        """`folder` is for what it makes; `python` has the pyspark that it needs."""
        self.kind, (self._connection, theirs) = kind, Pipe()
        command = [python, "-m", __name__, kind, str(folder), str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=PROJECT, pass_fds=[theirs.fileno()])
        theirs.close()

    def load(self, rows: Path, table: str) -> str:
        """Make Parquet of `rows`/now, and of `rows`/before and its updates the system's table.

        `table` names it; ours is of that name in the store `rows`/store. Returns how it is kept.
        """
        return self._call("load", str(rows), table)

    def answer(self, view: str, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query over {t}; `view` is `PARQUET` or the system's kind."""
        return self._call("answer", view, query)

    def seconds(self, view: str, query: str) -> float:
        """Return the duration of a query."""
        return self._call("seconds", view, query)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.wait()

    def _call(self, name: str, *arguments: str) -> Any:
        try:
            self._connection.send((name, *arguments))
            return self._connection.recv()
        except (EOFError, ConnectionError):
            raise ChildProcessError(f"the process of {self.kind} has ended") from None


def session(kind: str, folder: Path, memory: str) -> SparkSession:
    """A session on two cores with the system's extensions."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master("local[2]").appName("benchmark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": memory,
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.catalog.ice.warehouse": str(folder / "iceberg"),
        **SETTINGS[kind],
    }
    if kind == "ours":
        from pyspark_theflash import configure_spark

        builder = configure_spark(builder)
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


class _Worker:
    """The other side of `System`."""

    def __init__(self, kind: str, folder: Path, spark: SparkSession) -> None:
        self._kind, self._folder, self._spark = kind, folder, spark

    def load(self, rows: str, table: str) -> str:
        raw, path = Path(rows), self._folder / Path(rows).name
        self._spark.read.parquet(str(raw / "now")).write.parquet(str(path / PARQUET))
        self._spark.read.parquet(str(path / PARQUET)).createOrReplaceTempView(PARQUET)
        made, kept = getattr(self, f"_{self._kind}")(raw, path, table)
        made.createOrReplaceTempView(self._kind)
        return kept

    def answer(self, view: str, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._spark.sql(query.format(t=view)).collect()]

    def seconds(self, view: str, query: str) -> float:
        started = time.perf_counter()
        self._spark.sql(query.format(t=view)).collect()
        return time.perf_counter() - started

    def _ours(self, raw: Path, path: Path, table: str) -> tuple[DataFrame, str]:
        reader = self._spark.read.format("theflash").option("store", str(raw / "store"))
        return reader.load(table), "not compacted"

    def _delta(self, raw: Path, path: Path, table: str) -> tuple[DataFrame, str]:
        place = f"delta.`{path / 'delta'}`"
        before = self._spark.read.parquet(str(raw / "before"))
        before.write.format("delta").save(str(path / "delta"))
        self._merge(raw, place)
        (last,) = self._spark.sql(f"DESCRIBE HISTORY {place} LIMIT 1").collect()
        vectors = last["operationMetrics"].get("numTargetDeletionVectorsAdded", "0")
        files = self._spark.read.format("delta").load(str(path / "delta"))
        return files, f"{len(files.inputFiles())} files, {vectors} with deletion vectors"

    def _iceberg(self, raw: Path, path: Path, table: str) -> tuple[DataFrame, str]:
        name = f"ice.{table}_{raw.name}"
        writer = self._spark.read.parquet(str(raw / "before")).writeTo(name).using("iceberg")
        for operation in ("update", "merge", "delete"):
            writer = writer.tableProperty(f"write.{operation}.mode", "merge-on-read")
        # From version 3 on, deletes are vectors.
        writer.tableProperty("format-version", "3").create()
        self._merge(raw, name)
        count = "SELECT count(*) FROM {}.{}"
        ((files,), (deletes,)) = (
            self._spark.sql(count.format(name, kind)).collect()[0]
            for kind in ("data_files", "delete_files")
        )
        return self._spark.table(name), f"{files} files, {deletes} deletion vectors"

    def _merge(self, raw: Path, table: str) -> None:
        updates = self._spark.read.parquet(str(raw / "updates"))
        if not updates.isEmpty():
            updates.createOrReplaceTempView("updates")
            self._spark.sql(MERGE.format(table))


def main() -> None:
    """Execute requests until the connection is closed."""
    kind, folder, descriptor = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    with Connection(int(descriptor)) as connection:
        spark = session(kind, Path(folder), memory="3g")
        worker = _Worker(kind, Path(folder), spark)
        try:
            while True:
                name, *arguments = connection.recv()
                connection.send(getattr(worker, name)(*arguments))
        except (EOFError, ConnectionError):
            spark.stop()


if __name__ == "__main__":
    main()
