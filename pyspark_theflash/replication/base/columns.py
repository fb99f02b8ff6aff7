r"""Columns of a table in SQL: expressions to select, their texts, and literals of key values.

The text protocol shows most values as `tidb.codec.text` parses them. These are selected otherwise:

    ENUM, SET    CAST(`c` AS UNSIGNED)    the number that is stored; names may be ambiguous
    FLOAT        CAST(`c` AS DOUBLE)      a FLOAT with an exponent shows only 6 digits
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.tidb.codec.field_type import (
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ColumnInfo, TableInfo

_CHOICES: Final = (MySQLType.ENUM, MySQLType.SET)
_FLOATS: Final = (MySQLType.FLOAT, MySQLType.DOUBLE)
_NUMBERS: Final = (*INTEGER_TYPES, *_CHOICES, MySQLType.NEWDECIMAL)
_NUMBER: Final = re.compile(rb"-?[0-9]+(\.[0-9]+)?(e\+?-?[0-9]+)?", re.ASCII)
_TIME: Final = re.compile(rb"[-0-9:. ]+", re.ASCII)
_ESCAPES: Final = {"\\": "\\\\", "'": "\\'", "\0": "\\0", "\x1a": "\\Z"}
_LAYER: Final = "value of TiDB"


def selected_columns(table: TableInfo) -> list[ColumnInfo]:
    """Return the columns to select: those that are stored, and `_tidb_rowid`."""
    public = [column for column in stored_columns(table) if column.is_public]
    return [*public, ROWID_COLUMN] if table.has_rowid else public


def key_columns(table: TableInfo) -> Sequence[ColumnInfo]:
    """Return the columns of the handle, in key order."""
    return (ROWID_COLUMN,) if table.has_rowid else table.handle_columns


def quoted(name: str) -> str:
    """Quote an identifier."""
    return "`" + name.replace("`", "``") + "`"


def expression(column: ColumnInfo) -> str:
    """Return the SQL expression that selects a column."""
    if column.type.tp in _CHOICES:
        return f"CAST({quoted(column.name)} AS UNSIGNED)"
    if column.type.tp == MySQLType.FLOAT:
        return f"CAST({quoted(column.name)} AS DOUBLE)"
    return quoted(column.name)


def decode_column(values: Sequence[bytes | None], column: ColumnInfo, table: str) -> pa.Array:
    """Decode the texts of an expression to stored values. Raises `CodecError`."""
    raw, tp = pa.array(values, pa.binary()), column.type.tp
    name = f"{table}.{column.name}"
    if tp == MySQLType.BIT or column.type.is_binary_string:
        return parse_column(raw, column.type, name)
    try:
        texts = raw.cast(pa.string())
        if tp in _CHOICES:
            return pc.cast(texts, pa.uint64())
    except pa.ArrowInvalid:
        # Not chained, because Arrow's message contains the value.
        raise CodecError(_LAYER, f"column {name}: not a {tp.name}") from None
    if tp not in _FLOATS:
        return parse_column(texts, column.type, name)
    double = replace(column.type, tp=MySQLType.DOUBLE)
    doubles = parse_column(pc.replace_substring(texts, "e+", "e"), double, name)
    return pc.cast(doubles, pa.float32()) if tp == MySQLType.FLOAT else doubles


def literal(value: bytes, field_type: FieldType, name: str) -> str:
    """Return the SQL literal of a key value, given as the text of its expression.

    Raises `CodecError`: The text is not one of the type's.
    """
    tp = field_type.tp
    if tp == MySQLType.BIT:
        return str(int.from_bytes(value, "big"))
    if tp in STRING_TYPES:
        return f"x'{value.hex()}'" if field_type.is_binary_string else _string(value, name)
    if tp in _NUMBERS or tp in _FLOATS:
        if _NUMBER.fullmatch(value):
            # With an exponent it is a DOUBLE, otherwise a DECIMAL or an integer.
            return value.decode() + ("e0" if tp in _FLOATS and b"e" not in value else "")
    elif _TIME.fullmatch(value):
        return f"'{value.decode()}'"
    raise CodecError(_LAYER, f"column {name}: not a {tp.name}")


def after(columns: Sequence[ColumnInfo], literals: Sequence[str]) -> str:
    """Return the condition that a key is above another: (a > 1) OR (a = 1 AND b > 2)."""
    names = [quoted(column.name) for column in columns]
    terms = []
    for count, name in enumerate(names):
        equal = [f"{names[i]} = {literals[i]}" for i in range(count)]
        terms.append(" AND ".join([*equal, f"{name} > {literals[count]}"]))
    return " OR ".join(f"({term})" for term in terms)


def _string(value: bytes, name: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise CodecError(_LAYER, f"column {name}: not UTF-8") from None
    return "'" + "".join(_ESCAPES.get(each, each) for each in text) + "'"
