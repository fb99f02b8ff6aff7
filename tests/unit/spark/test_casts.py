"""Batches in exactly the form that Spark compares the first one with."""

from decimal import Decimal

import pyarrow as pa
import pytest
from pyspark.sql.types import LongType, StructField, StructType

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.spark import reader
from pyspark_theflash.spark.reader import arrow_schema, spark_batches
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

ID = table_info(1, "d.t", [id_column()]).public_columns
ID_SCHEMA = arrow_schema(StructType([StructField("id", LongType(), nullable=False)]))


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(reader, "MAX_BATCH_ROWS", 4)
    batch = pa.record_batch({"id": pa.array(range(10))})
    parts = list(spark_batches(batch, ID, ID_SCHEMA))
    assert [part.num_rows for part in parts] == [4, 4, 2]
    assert pa.Table.from_batches(parts).column("id").to_pylist() == list(range(10))


def test_schema_is_the_wanted_one():
    (part,) = spark_batches(pa.record_batch({"id": pa.array([1])}), ID, ID_SCHEMA)
    assert part.schema.equals(ID_SCHEMA, check_metadata=True)


def test_no_rows_no_batch():
    assert (
        list(spark_batches(pa.record_batch({"id": pa.array([], pa.int64())}), ID, ID_SCHEMA)) == []
    )


def test_null_in_a_not_null_column_is_not_handed_on():
    with pytest.raises(CorruptionError, match="column id"):
        list(spark_batches(pa.record_batch({"id": pa.array([1, None])}), ID, ID_SCHEMA))


def test_decimals_that_spark_has_no_room_for_are_texts():
    table = table_info(1, "d.t", [column("d", MySQLType.NEWDECIMAL, flen=50, decimal=2)])
    schema = pa.schema([pa.field("d", pa.string())])
    batch = pa.record_batch({"d": pa.array([Decimal("1.5"), None], pa.decimal256(50, 2))})
    (part,) = spark_batches(batch, table.public_columns, schema)
    assert part.column("d").to_pylist() == ["1.50", None]
