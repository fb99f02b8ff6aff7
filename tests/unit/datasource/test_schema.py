"""TiDB's columns as Spark's."""

import pytest
from pyspark.sql.types import IntegerType, LongType, StringType, StructField, StructType

from pyspark_theflash.codec.field_type import MySQLType
from pyspark_theflash.datasource.schema import columns_of, spark_schema
from pyspark_theflash.errors import OptionError, UnsupportedError
from tests.support import every_type
from tests.support.stores import column, id_column, table_info

NAMED = table_info(
    1, "d.named", [id_column(), column("Name", MySQLType.VARCHAR, comment="who it is")]
)


def schema_of(table, *names):
    wanted = names or [c.name for c in table.public_columns]
    return spark_schema([c for c in table.public_columns if c.name in wanted], table.full_name)


def test_every_type():
    schema = schema_of(every_type.TABLE)
    assert {field.name: field.dataType.simpleString() for field in schema} == every_type.SPARK_TYPES


def test_nullability_and_comment():
    identity, name = schema_of(NAMED)
    assert (identity.nullable, name.nullable) == (False, True)
    assert (identity.metadata, name.metadata) == ({}, {"comment": "who it is"})


@pytest.mark.parametrize("tp", [MySQLType.JSON, MySQLType.VECTOR])
def test_what_spark_cannot_see_raises_only_when_asked_for(tp):
    table = table_info(1, "d.t", [id_column(), column("j", tp)])
    with pytest.raises(UnsupportedError, match=f"column j of d.t.*'columns'.*{tp.name}"):
        schema_of(table)
    assert schema_of(table, "id").names == ["id"]


def test_virtual_column_is_not_read_as_null():
    virtual = column("v", MySQLType.LONG, generated_expr_string="`id` + 1")
    with pytest.raises(UnsupportedError, match="virtual"):
        schema_of(table_info(1, "d.t", [virtual]))


def given(*fields):
    return columns_of(StructType(list(fields)), NAMED.public_columns, NAMED.full_name)


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
