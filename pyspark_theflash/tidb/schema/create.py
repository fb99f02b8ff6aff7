"""TableInfo of a new table, from its columns as CREATE TABLE states them.

Lengths, flags and character sets are those that TiDB gives such a column; strings are utf8mb4 with
the collation utf8mb4_bin. As in TiDB, an integer primary key is the handle, any other primary key
is clustered, and the rows of a table without one get hidden numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import ColumnNotFoundError, SqlError, UnsupportedError
from pyspark_theflash.tidb.codec.arrow import MAX_PRECISION, MAX_SCALE
from pyspark_theflash.tidb.codec.assign import assign
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column

_INTEGERS: Final = {
    "TINYINT": (MySQLType.TINY, 4, 3),
    "SMALLINT": (MySQLType.SHORT, 6, 5),
    "MEDIUMINT": (MySQLType.INT24, 9, 8),
    "INT": (MySQLType.LONG, 11, 10),
    "BIGINT": (MySQLType.LONGLONG, 20, 20),
}
"""Type, and its width if it is signed and if it is not."""
_SAME: Final = {
    "INTEGER": "INT",
    "BOOL": "TINYINT",
    "BOOLEAN": "TINYINT",
    "NUMERIC": "DECIMAL",
    "REAL": "DOUBLE",
}
_SIZED: Final = {
    "CHAR": (MySQLType.STRING, 255),
    "BINARY": (MySQLType.STRING, 255),
    "VARCHAR": (MySQLType.VARCHAR, 16383),
    "VARBINARY": (MySQLType.VARCHAR, 65535),
    "BIT": (MySQLType.BIT, 64),
}
"""Type, and its largest length."""
_TEXTS: Final = {
    "TINY": (MySQLType.TINY_BLOB, 255),
    "": (MySQLType.BLOB, 65535),
    "MEDIUM": (MySQLType.MEDIUM_BLOB, 16777215),
    "LONG": (MySQLType.LONG_BLOB, 4294967295),
}
_TIMES: Final = {
    "DATETIME": (MySQLType.DATETIME, 19),
    "TIMESTAMP": (MySQLType.TIMESTAMP, 19),
    "TIME": (MySQLType.TIME, 10),
}
_OTHERS: Final = {
    "DATE": (MySQLType.DATE, 10),
    "YEAR": (MySQLType.YEAR, 4),
    "FLOAT": (MySQLType.FLOAT, 12),
    "DOUBLE": (MySQLType.DOUBLE, 22),
    "JSON": (MySQLType.JSON, 4294967295),
}
_CHOICES: Final = {"ENUM": MySQLType.ENUM, "SET": MySQLType.SET}
_NO_KEYS: Final = {MySQLType.JSON, MySQLType.BIT, *(tp for tp, _ in _TEXTS.values())}
_NO_DEFAULTS: Final = _NO_KEYS
_UNSIGNED: Final = {
    *(tp for tp, _, _ in _INTEGERS.values()),
    *(MySQLType.NEWDECIMAL, MySQLType.FLOAT, MySQLType.DOUBLE),
}
_IDENTIFIER_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """A column of CREATE TABLE: `type` in upper case, with its `arguments`, numbers or elements."""

    name: str
    type: str
    arguments: tuple[int | str, ...] = ()
    is_unsigned: bool = False
    is_not_null: bool = False
    default: str | int | None = None


def new_table_info(
    name: str, columns: Sequence[ColumnDefinition], primary_key: Sequence[str]
) -> dict[str, Any]:
    """Return the TableInfo of a new table, without its id.

    Args:
        name: The table's name, without its database.
        columns: Its columns.
        primary_key: The names of the primary key's columns; empty: there is none.

    Raises:
        SqlError: Names are repeated or too long, or a type has wrong arguments.
        ColumnNotFoundError: A column of the primary key does not exist.
        UnsupportedError: A type does not exist, or cannot be in a primary key or have a default.
        ColumnValueError: A default is not a value of its column.
    """
    places = {column.name.lower(): n for n, column in enumerate(columns)}
    if len(places) < len(columns):
        raise SqlError("two columns have the same name")
    for each in (name, *(column.name for column in columns)):
        if not 0 < len(each) <= _IDENTIFIER_CHARS:
            raise SqlError(f"a name has 1 to {_IDENTIFIER_CHARS} characters")
    for each in primary_key:
        if each.lower() not in places:
            raise ColumnNotFoundError(name, each, tuple(column.name for column in columns))
    key = [places[each.lower()] for each in primary_key]
    if len(set(key)) < len(key):
        raise SqlError("a column is twice in the primary key")
    types = [_field_type(column, n in key) for n, column in enumerate(columns)]
    for n in key:
        if types[n].tp in _NO_KEYS:
            raise UnsupportedError(f"a primary key of type {columns[n].type}", columns[n].name)
    is_handle = len(key) == 1 and types[key[0]].tp in INTEGER_TYPES - {MySQLType.YEAR}
    return {
        "name": {"O": name, "L": name.lower()},
        "cols": [
            _column_info(n, column, tp)
            for n, (column, tp) in enumerate(zip(columns, types, strict=True))
        ],
        "state": 5,
        "pk_is_handle": is_handle,
        "is_common_handle": bool(key) and not is_handle,
        "index_info": [_key_info(columns, key)] if key and not is_handle else None,
        "max_col_id": len(columns),
    }


def _key_info(columns: Sequence[ColumnDefinition], key: Sequence[int]) -> dict[str, Any]:
    parts = [{"name": {"O": columns[n].name}, "offset": n, "length": -1} for n in key]
    return {
        "id": 1,
        "idx_name": {"O": "PRIMARY"},
        "idx_cols": parts,
        "is_unique": True,
        "is_primary": True,
        "state": 5,
    }


def _column_info(n: int, column: ColumnDefinition, tp: FieldType) -> dict[str, Any]:
    field_type = {
        "Tp": int(tp.tp),
        "Flag": tp.flag,
        "Flen": tp.flen,
        "Decimal": tp.decimal,
        "Charset": tp.charset,
        "Collate": tp.collate,
        "Elems": list(tp.elems) or None,
    }
    return {
        "id": n + 1,
        "name": {"O": column.name, "L": column.name.lower()},
        "offset": n,
        "type": field_type,
        "default": _default(column, tp),
        "state": 5,
    }


def _default(column: ColumnDefinition, tp: FieldType) -> str | None:
    """Return the text of a column's default. Raises like `new_table_info`."""
    if column.default is None:
        return None
    if tp.tp in _NO_DEFAULTS:
        raise UnsupportedError(f"a default of type {column.type}", column.name)
    text = format_column(assign(pa.array([column.default]), tp, column.name), tp)[0].as_py()
    return text if isinstance(text, str) else text.rstrip(b"\0").decode()


def _field_type(column: ColumnDefinition, in_key: bool) -> FieldType:
    flag = ColumnFlag.PRI_KEY | ColumnFlag.NOT_NULL if in_key else ColumnFlag(0)
    if column.is_not_null:
        flag |= ColumnFlag.NOT_NULL
    tp, flen, decimal, elems = _shape(column)
    if column.is_unsigned:
        if tp not in _UNSIGNED:
            raise SqlError(f"column {column.name}: {column.type} cannot be UNSIGNED")
        flag |= ColumnFlag.UNSIGNED
    if tp == MySQLType.YEAR:
        flag |= ColumnFlag.UNSIGNED | ColumnFlag.ZEROFILL
    is_text = elems or column.type in ("CHAR", "VARCHAR") or column.type.endswith("TEXT")
    charset, collate = ("utf8mb4", "utf8mb4_bin") if is_text else ("binary", "binary")
    if not is_text:
        flag |= ColumnFlag.BINARY
    return FieldType(tp, int(flag), flen, decimal, charset, collate, elems)


def _shape(column: ColumnDefinition) -> tuple[MySQLType, int, int, tuple[str, ...]]:
    """Return type, flen, decimal and elements. Raises like `new_table_info`."""
    name, arguments = _SAME.get(column.type, column.type), column.arguments
    if name in _CHOICES:
        elems = tuple(each for each in arguments if isinstance(each, str))
        if not elems or len(elems) < len(arguments) or len(set(elems)) < len(elems):
            raise SqlError(f"column {column.name}: {name} needs different texts")
        return _CHOICES[name], -1, -1, elems
    numbers = [each for each in arguments if isinstance(each, int)]
    if len(numbers) < len(arguments):
        raise _wrong(column)
    if name in _INTEGERS and len(numbers) < 2:
        tp, signed, unsigned = _INTEGERS[name]
        width = unsigned if column.is_unsigned else signed
        return tp, 1 if column.type.startswith("BOOL") else numbers[0] if numbers else width, 0, ()
    if name == "DECIMAL" and len(numbers) < 3:
        precision, scale = [*numbers, *(10, 0)[len(numbers) :]]
        if not 0 < precision <= MAX_PRECISION or scale > min(precision, MAX_SCALE):
            raise _wrong(column)
        return MySQLType.NEWDECIMAL, precision, scale, ()
    if name in _SIZED and len(numbers) < 2:
        tp, most = _SIZED[name]
        if (not numbers and name.startswith("VAR")) or not all(0 < n <= most for n in numbers):
            raise _wrong(column)
        return tp, numbers[0] if numbers else 1, 0 if name == "BIT" else -1, ()
    if name in _TIMES and len(numbers) < 2 and all(n <= 6 for n in numbers):
        tp, width = _TIMES[name]
        digits = numbers[0] if numbers else 0
        return tp, width + digits + 1 if digits else width, digits, ()
    if not numbers and name in _OTHERS:
        return *_OTHERS[name], 0 if name in ("DATE", "YEAR", "JSON") else -1, ()
    if not numbers and name.endswith(("TEXT", "BLOB")) and name[:-4] in _TEXTS:
        return *_TEXTS[name[:-4]], -1, ()
    if name in {*_TIMES, *_SIZED, *_OTHERS, *_INTEGERS, "DECIMAL"}:
        raise _wrong(column)
    raise UnsupportedError(f"the type {column.type}", column.name)


def _wrong(column: ColumnDefinition) -> SqlError:
    return SqlError(f"column {column.name}: wrong arguments of {column.type}")
