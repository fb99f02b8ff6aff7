"""A Spark application that executes queries from its standard input, for tests that kill processes.

    python -m tests.support.spark_driver MASTER FOLDER CONF

Each line of input is a query, each line of output its result, both as JSON. A query's rows pass a
gate on the executors: a task that has its first rows writes a file into a folder, and then follows
the query's `tasks`. So a test can detect that a query is running.

    {"table": ..., "options": {...}, "gate": FOLDER, "tasks": "wait"}
    {"sql": ..., "options": {...}}       over the table, which is called `t`

    wait        wait until there is a file `open` in the gate's folder
    fail        fail the first attempt
    straggle    block the first attempt of partition 0 until it is released
    pass        continue
"""

import gc
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash import configure_spark
from pyspark_theflash.base.clock import SystemClock

Batches = Iterator[pa.RecordBatch]


def start(master: str, folder: str, conf: dict[str, str]) -> SparkSession:
    """A session on that master."""
    builder = (
        configure_spark(SparkSession.builder)
        .master(master)
        .appName("pyspark_theflash tests")
        .config("spark.theflash.idle", "2")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", folder)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", f"{folder}/warehouse")
        # Small, so that Spark cannot hide a whole region between store and gate.
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "20")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    for name, value in conf.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


def gated(folder: str, tasks: str) -> Callable[[Batches], Batches]:
    """Return the function of a task, which digests its rows after the gate."""

    def run(batches: Batches) -> Batches:
        context = TaskContext.get()
        assert context is not None
        clock = SystemClock()
        partition, attempt = context.partitionId(), context.attemptNumber()
        has_begun = False
        for batch in batches:
            if not has_begun:
                has_begun = True
                (Path(folder) / f"began-{partition}-{attempt}").touch()
                while (tasks == "wait" and not (Path(folder) / "open").exists()) or (
                    tasks == "straggle" and partition == attempt == 0
                ):
                    clock.sleep_ms(10)
            digests = [hashlib.md5(data.as_py()).hexdigest() for data in batch.column(1)]
            yield pa.RecordBatch.from_arrays(
                [batch.column(0), pa.array(digests)], names=["id", "digest"]
            )
            if tasks == "fail" and attempt == 0:
                raise RuntimeError("a task that fails")

    return run


def answer(frame: DataFrame, query: dict[str, Any]) -> list[list[Any]]:
    """The rows of a query."""
    if "sql" in query:
        frame.createOrReplaceTempView("t")
        rows = frame.sparkSession.sql(query["sql"]).collect()
        frame.sparkSession.catalog.dropTempView("t")
        return [[str(value) for value in row] for row in rows]
    read = frame.mapInArrow(gated(query["gate"], query["tasks"]), "id bigint, digest string")
    return [list(row) for row in read.collect()]


def main(master: str, folder: str, conf: str) -> None:
    """Answer queries until the input ends."""
    session = start(master, folder, json.loads(conf))
    sys.stdout.write(json.dumps({"applicationId": session.sparkContext.applicationId}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        query = json.loads(line)
        result: dict[str, Any]
        try:
            reader = session.read.format("theflash").options(**query["options"])
            result = {"rows": answer(reader.load(query["table"]), query)}
        except Exception as error:  # noqa: BLE001 (returned to the test)
            result = {"error": str(error)}
        # Java releases the query's resources when its objects are collected.
        gc.collect()
        session._jvm.System.gc()  # type: ignore[union-attr]
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    session.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
