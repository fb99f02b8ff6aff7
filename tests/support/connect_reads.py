"""Program that reads a store over Spark Connect and prints the results as JSON.

It is a separate process, because a Connect server is a plugin that a Spark session loads when it
starts. Server and client are in the same process, and use a loopback port chosen by the system.

    python -m tests.support.connect_reads STORE FOLDER
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.connect.session import SparkSession as ConnectSession

from pyspark_theflash import SparkSnapshot


def start_server(folder: str) -> int:
    """Start Spark with a Connect server and return its port."""
    server = (
        SparkSession.builder.master("local[2]")
        .config("spark.plugins", "org.apache.spark.sql.connect.SparkConnectPlugin")
        .config("spark.connect.grpc.binding.address", "127.0.0.1")
        .config("spark.connect.grpc.binding.port", "0")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", folder)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.warehouse.dir", f"{folder}/warehouse")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    server.sparkContext.setLogLevel("OFF")
    jvm: Any = server.sparkContext._jvm
    service = getattr(jvm, "org.apache.spark.sql.connect.service.SparkConnectService$")
    return int(getattr(service, "MODULE$").localPort())


def error_of(action: Callable[[], object]) -> str:
    """The text of the error that a user sees."""
    try:
        action()
    except PySparkException as error:
        return str(error)
    return "no error"


def main(store: str, folder: str) -> None:
    """Read tables in several ways."""
    url = f"sc://127.0.0.1:{start_server(folder)}"
    session = ConnectSession.builder.remote(url).create()

    def rows(table: str = "d.t", **options: str) -> list[dict[str, Any]]:
        frame = session.read.format("theflash").options(**{"store": store, **options}).load(table)
        return [row.asDict() for row in frame.orderBy("id").collect()]

    def joined() -> list[dict[str, Any]]:
        snapshot = SparkSnapshot(session, store, 160, zero_dates="string")
        snapshot.create_views()
        query = "SELECT id, name, day FROM t JOIN dates USING (id) ORDER BY id"
        return [row.asDict() for row in session.sql(query).collect()]

    def meddled() -> list[int]:
        session.conf.set("spark.sql.python.filterPushdown.enabled", "true")
        frame = session.read.format("theflash").options(store=store, snapshot_ts="160").load("d.t")
        frame.createOrReplaceTempView("both")
        both = session.table("both")
        return [both.where("id = 1").count(), both.count(), both.where("id = 2").count()]

    def write() -> None:
        frame = session.createDataFrame([(1,)], "id bigint")
        frame.write.format("theflash").option("store", store).mode("append").save("d.t")

    answers = {
        "newest": rows(),
        "at_150": rows(snapshot_ts="150"),
        "version_150": rows(versionAsOf="150"),
        "names": rows(snapshot_ts="160", columns="id"),
        "where": rows(snapshot_ts="160", where="name = 'one'"),
        "text": rows(all_as_text="true"),
        "waited": rows(snapshot_ts="200", wait_for_ts="1"),
        "dates_null": rows("d.dates", zero_dates="null"),
        "dates_string": rows("d.dates", zero_dates="string"),
        "joined": joined(),
        "meddled": meddled(),
        "above": error_of(lambda: rows(snapshot_ts="999")),
        "no_store": error_of(lambda: rows(store="/no/where")),
        "dates": error_of(lambda: rows("d.dates")),
        "contradiction": error_of(lambda: rows(snapshot_ts="150", versionAsOf="150")),
        "unknown": error_of(lambda: rows(snapshotts="150")),
        "stale": error_of(lambda: rows(max_staleness="60")),
        "write": error_of(write),
    }
    sys.stdout.write(json.dumps(answers))
    session.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
