"""Which Spark type shows which TiDB column.

    TINYINT, SMALLINT, MEDIUMINT, INT, BIGINT    tinyint, smallint, int, int, bigint
    the same UNSIGNED                            smallint, int, int, bigint, decimal(20,0)
    YEAR                                         smallint
    FLOAT, DOUBLE                                float, double
    DECIMAL(p, s)                                decimal(p, s) to 38 digits; above, a string
    DATE                                         date
    DATETIME                                     timestamp_ntz
    TIMESTAMP                                    timestamp
    TIME                                         interval day to second
    CHAR, VARCHAR, TEXT, ENUM, SET, JSON         string
    BINARY, VARBINARY, BLOB, BIT                 binary
    VECTOR                                       array of float

What a reader asks for as text is a string, binary where it is bytes. NOT NULL becomes nullable =
false (unless dates that no calendar has become NULL), a comment goes into the field's metadata.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    ByteType,
    DataType,
    DateType,
    DayTimeIntervalType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.read.present import NATIVE, Presentation
from pyspark_theflash.tidb.codec.arrow import decimal_type
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.schema.model import ColumnInfo

_SIGNED: Final = {
    MySQLType.TINY: ByteType(),
    MySQLType.SHORT: ShortType(),
    MySQLType.INT24: IntegerType(),
    MySQLType.LONG: IntegerType(),
    MySQLType.LONGLONG: LongType(),
}
_UNSIGNED: Final = {
    MySQLType.TINY: ShortType(),
    MySQLType.SHORT: IntegerType(),
    MySQLType.INT24: IntegerType(),
    MySQLType.LONG: LongType(),
    MySQLType.LONGLONG: DecimalType(20, 0),
}
_OTHER: Final = {
    MySQLType.YEAR: ShortType(),
    MySQLType.FLOAT: FloatType(),
    MySQLType.DOUBLE: DoubleType(),
    MySQLType.DATE: DateType(),
    MySQLType.NEWDATE: DateType(),
    MySQLType.DATETIME: TimestampNTZType(),
    MySQLType.TIMESTAMP: TimestampType(),
    MySQLType.TIME: DayTimeIntervalType(),
    MySQLType.VECTOR: ArrayType(FloatType(), containsNull=False),
}


def spark_type(field_type: FieldType, presentation: Presentation = NATIVE) -> DataType:
    """The Spark type of a TiDB type.

    Raises:
        UnsupportedError: a type of a later TiDB.
    """
    tp = field_type.tp
    if tp == MySQLType.BIT or field_type.is_binary_string:
        return BinaryType()
    if presentation.is_text(field_type) or tp in STRING_TYPES:
        return StringType()
    if tp in _SIGNED:
        return (_UNSIGNED if field_type.is_unsigned else _SIGNED)[tp]
    if tp == MySQLType.NEWDECIMAL:
        stored = decimal_type(field_type)
        if isinstance(stored, pa.Decimal128Type):
            return DecimalType(stored.precision, stored.scale)
        return StringType()
    if tp not in _OTHER:
        raise UnsupportedError(f"type {tp.name}", "column")
    return _OTHER[tp]


def spark_field(column: ColumnInfo, presentation: Presentation) -> StructField:
    """A column as Spark sees it."""
    data_type = spark_type(column.type, presentation)
    metadata = {"comment": column.comment} if column.comment else None
    return StructField(column.name, data_type, presentation.may_be_null(column.type), metadata)


def spark_schema(columns: Sequence[ColumnInfo], presentation: Presentation) -> StructType:
    """The schema of a scan of these columns."""
    return StructType([spark_field(column, presentation) for column in columns])


def columns_of(
    schema: StructType, columns: Sequence[ColumnInfo], table: str, presentation: Presentation
) -> tuple[ColumnInfo, ...]:
    """Those of `columns` that a user's `.schema(...)` names, in its order.

    A field may be nullable where the column is not, never the other way round.

    Raises:
        OptionError: it names another column, or another type, or nothing.
    """
    if not schema.fields:
        raise OptionError("schema", "names no column")
    by_name = {column.name.lower(): column for column in columns}
    return tuple(
        _column_of(field, by_name.get(field.name.lower()), table, presentation) for field in schema
    )


def _column_of(
    field: StructField, column: ColumnInfo | None, table: str, presentation: Presentation
) -> ColumnInfo:
    if column is None:
        raise OptionError("schema", f"names the column {field.name!r}, which is not in {table}")
    real = spark_field(column, presentation)
    if field.dataType != real.dataType:
        given, known = field.dataType.simpleString(), real.dataType.simpleString()
        raise OptionError(
            "schema", f"says that {field.name!r} is {given}; in {table} it is {known}"
        )
    if real.nullable and not field.nullable:
        raise OptionError("schema", f"says that {field.name!r} is not nullable; in {table} it is")
    return column
