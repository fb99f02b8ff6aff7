"""Partition bounds, and values in a form that can be compared with them.

Bounds are SQL texts in TableInfo (`10`, `'x'`, `'2020-01-01'`, `NULL`). They are evaluated once per
table, as values of the column's type.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
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
    """Return whether a bound is the keyword MAXVALUE or DEFAULT instead of a value."""
    return text.upper() == word


def integer_bound(text: str, where: str) -> int | None:
    """Return the integer value of a bound, None for NULL. Raises `UnsupportedError`."""
    values, null = evaluate_integers(parse(text, where), {}, 1, where)
    return None if null[0] else int(values[0])


def typed_bounds(texts: Sequence[str], field_type: FieldType, where: str) -> pa.Array:
    """Return bounds of a column as `comparable` values; NULL is null. Raises `UnsupportedError`."""
    if field_type.tp in INTEGER_TYPES:
        wide = replace(field_type, tp=MySQLType.LONGLONG)
    elif field_type.tp in STRING_TYPES:
        wide = replace(field_type, flen=-1)
    else:
        wide = field_type
    parts = [evaluate(parse(text, where), {}, wide, where, rows=1) for text in texts]
    empty: list[pa.Array] = [pa.array([], parts[0].type)] if parts else []
    return comparable(pa.concat_arrays(empty + parts), wide, where)


def comparable(values: pa.Array, field_type: FieldType, where: str) -> pa.Array:
    """Convert values to integers or bytes that compare as the column's values; nulls stay null.

    Raises:
        UnsupportedError: RANGE and LIST COLUMNS are not supported for the type or its collation.
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
