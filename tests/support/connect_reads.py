"""Reads a store over Spark Connect and prints what came, as JSON: a program, run by a test.

A process of its own, because a Connect server is a plugin that a Spark session has from its start.
Server and client share the process and talk over a loopback port that the system chooses.

    python -m tests.support.connect_reads STORE TABLE FOLDER
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.connect.session import SparkSession as ConnectSession


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
    """What a user would read."""
    try:
        action()
    except PySparkException as error:
        return str(error)
    return "no error"


def main(store: str, table: str, folder: str) -> None:
    """Read a table in several ways."""
    url = f"sc://127.0.0.1:{start_server(folder)}"
    session = ConnectSession.builder.remote(url).create()

    def rows(**options: str) -> list[dict[str, Any]]:
        frame = session.read.format("theflash").options(**{"store": store, **options}).load(table)
        return [row.asDict() for row in frame.orderBy("id").collect()]

    found = {
        "newest": rows(),
        "at_150": rows(snapshot_ts="150"),
        "names": rows(snapshot_ts="160", columns="id"),
        "above": error_of(lambda: rows(snapshot_ts="999")),
        "no_store": error_of(lambda: rows(store="/no/where")),
    }
    sys.stdout.write(json.dumps(found))
    session.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
