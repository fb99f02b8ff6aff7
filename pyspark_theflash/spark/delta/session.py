"""Spark sessions of commands that use a store of the engine delta."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from pyspark import SparkContext
from pyspark.sql import SparkSession

from pyspark_theflash.spark.delta.publication import Publications
from pyspark_theflash.spark.jar import DELTA_CONF, DELTA_PACKAGE
from pyspark_theflash.storage.store.manifest import Record


def delta_session(undo: ExitStack) -> SparkSession:
    """Return the session of a job of spark-submit, or a local one until `undo` is closed.

    A local session gets Delta Lake's jars from Maven Central, unless `PYSPARK_SUBMIT_ARGS` has any.
    """
    running = SparkContext._active_spark_context
    builder = SparkSession.builder
    for name, value in DELTA_CONF.items():
        builder = builder.config(name, value)
    if running is None and "PYSPARK_SUBMIT_ARGS" not in os.environ:
        builder = builder.master("local[*]").config("spark.jars.packages", DELTA_PACKAGE)
        builder = builder.config("spark.ui.enabled", "false")
    session = builder.getOrCreate()
    if running is None:
        undo.callback(session.stop)
    return session


def create_store(path: Path, settings: Iterable[Record]) -> None:
    """Create an empty store in a folder of this machine. Raises `StoreExistsError`."""
    with ExitStack() as undo:
        Publications(delta_session(undo), str(path.absolute())).create(settings)
