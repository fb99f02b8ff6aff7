"""TiDB's columns as Spark's."""

import pytest
from pyspark.sql.types import IntegerType, LongType, StringType, StructField, StructType

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.read.present import NATIVE, TEXT, Presentation, ZeroDates
from pyspark_theflash.spark.schema import columns_of, spark_schema
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from tests.support import every_type

NAMED = table_info(
    1, "d.named", [id_column(), column("Name", MySQLType.VARCHAR, comment="who it is")]
)


def schema_of(table, *names, presentation=NATIVE):
    wanted = names or [c.name for c in table.public_columns]
    return spark_schema([c for c in table.public_columns if c.name in wanted], presentation)


def test_every_type():
    schema = schema_of(every_type.TABLE)
    assert {field.name: field.dataType.simpleString() for field in schema} == every_type.SPARK_TYPES


def test_nullability_and_comment():
    identity, name = schema_of(NAMED)
    assert (identity.nullable, name.nullable) == (False, True)
    assert (identity.metadata, name.metadata) == ({}, {"comment": "who it is"})


def test_what_becomes_of_impossible_dates_shows_in_the_schema():
    dates = table_info(1, "d.t", [column("d", MySQLType.DATE, flag=ColumnFlag.NOT_NULL)])
    (native,) = schema_of(dates)
    assert (native.dataType.simpleString(), native.nullable) == ("date", False)
    (as_null,) = schema_of(dates, presentation=Presentation(ZeroDates.NULL))
    assert (as_null.dataType.simpleString(), as_null.nullable) == ("date", True)
    (as_string,) = schema_of(dates, presentation=Presentation(ZeroDates.STRING))
    assert (as_string.dataType.simpleString(), as_string.nullable) == ("string", False)


def test_everything_as_text():
    fields = schema_of(every_type.TABLE, presentation=TEXT)
    assert {field.dataType.simpleString() for field in fields} == {"string", "binary"}


def given(*fields):
    return columns_of(StructType(list(fields)), NAMED.public_columns, NAMED.full_name, NATIVE)


def test_schema_of_the_user_prunes_and_orders():
    chosen = given(StructField("name", StringType()), StructField("id", LongType()))
    assert [c.name for c in chosen] == ["Name", "id"]


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (StructField("nome", StringType()), "not in d.named"),
        (StructField("id", IntegerType()), "int; in d.named it is bigint"),
        (StructField("name", StringType(), nullable=False), "not nullable"),
    ],
)
def test_schema_of_the_user_must_agree(field, reason):
    with pytest.raises(OptionError, match=reason):
        given(field)


def test_schema_of_the_user_must_name_something():
    with pytest.raises(OptionError, match="no column"):
        given()
