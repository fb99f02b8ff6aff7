"""Batches in exactly the form that Spark compares the first one with."""

import pyarrow as pa
import pytest
from pyspark.sql.types import LongType, StructField, StructType

from pyspark_theflash.codec.field_type import MySQLType
from pyspark_theflash.datasource import convert
from pyspark_theflash.datasource.convert import arrow_schema, spark_batches
from pyspark_theflash.errors import CorruptionError
from tests.support.stores import column, id_column, table_info

ID = table_info(1, "d.t", [id_column()]).public_columns
ID_SCHEMA = arrow_schema(StructType([StructField("id", LongType(), nullable=False)]))


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(convert, "MAX_BATCH_ROWS", 4)
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


def test_bit_is_as_wide_as_its_type():
    bits = table_info(1, "d.t", [column("b", MySQLType.BIT, flen=17)]).public_columns
    schema = pa.schema([pa.field("b", pa.binary())])
    batch = pa.record_batch({"b": pa.array([1, None], pa.uint64())})
    (part,) = spark_batches(batch, bits, schema)
    assert part.column("b").to_pylist() == [b"\x00\x00\x01", None]
