"""What rows and partition bounds are compared by.

Bounds are SQL texts in TableInfo (`10`, `'x'`, `'2020-01-01'`, `NULL`). They are evaluated once for
a table, as values of the type that they bound.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.array import ArrowArray
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.expression.evaluate import evaluate, evaluate_integers, parse
from pyspark_theflash.tidb.expression.load import load_column

MAXVALUE: Final = "MAXVALUE"
DEFAULT: Final = "DEFAULT"


def is_word(text: str, word: str) -> bool:
    """Whether a bound is MAXVALUE or DEFAULT, which are no values."""
    return text.upper() == word


def integer_bound(text: str, where: str) -> int | None:
    """The integer that a bound is, None for NULL.

    Raises:
        UnsupportedError: the bound is not evaluated here.
    """
    values, null = evaluate_integers(parse(text, where), {}, 1, where)
    return None if null[0] else int(values[0])


def typed_bounds(texts: Sequence[str], field_type: FieldType, where: str) -> ArrowArray:
    """Bounds as `comparable` values of a column; NULL is null.

    Raises:
        UnsupportedError: a bound is not evaluated here, or the type is not partitioned by.
    """
    if field_type.tp in INTEGER_TYPES:
        wide = replace(field_type, tp=MySQLType.LONGLONG)
    elif field_type.tp in STRING_TYPES:
        wide = replace(field_type, flen=-1)
    else:
        wide = field_type
    parts = [evaluate(parse(text, where), {}, wide, where, rows=1) for text in texts]
    empty: list[ArrowArray] = [pa.array([], parts[0].type)] if parts else []
    return comparable(pa.concat_arrays(empty + parts), wide, where)


def comparable(values: ArrowArray, field_type: FieldType, where: str) -> ArrowArray:
    """Integers or bytes that order and are equal as the column's values are; nulls stay.

    Raises:
        UnsupportedError: RANGE and LIST COLUMNS of the type, or of its collation, are not known.
    """
    if field_type.tp in STRING_TYPES:
        try:
            return pc.cast(sort_keys(values, field_type), pa.binary())
        except UnsupportedError as error:
            raise UnsupportedError(error.what, where) from None
    if field_type.tp in INTEGER_TYPES or field_type.tp in DATETIME_TYPES:
        vector = load_column(values, field_type)
        return pa.array(vector.data, mask=vector.null)
    raise UnsupportedError(f"partitioning by a column of type {field_type.tp.name}", where)
