"""The session that the Spark tests share is the one they count on."""

import sys
from datetime import datetime

import pytest

pytest.importorskip("pyspark")


def test_workers_run_this_interpreter(spark):
    executables = spark.sparkContext.parallelize([0], 1).map(lambda _: sys.executable).collect()
    assert executables == [sys.executable]


def test_time_is_utc(spark):
    assert spark.sql("SELECT date_format(timestamp_seconds(0), 'yyyy-MM-dd HH:mm')").head() == (
        "1970-01-01 00:00",
    )


def test_arrow_reaches_pandas(spark):
    frame = spark.createDataFrame([(1, "a", datetime(2026, 1, 1))], "id int, s string, t timestamp")
    assert frame.toArrow().to_pydict()["id"] == [1]
    assert frame.toPandas()["s"].tolist() == ["a"]
