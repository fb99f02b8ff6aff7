"""Virtual generated columns: not stored in rows, computed from the stored columns.

A generated column may refer to other generated columns; stored ones are read, virtual ones are
computed recursively.
"""

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.expression.evaluate import Expression, TypedArray, evaluate, parse
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

Columns = Mapping[ColumnID, pa.Array]


def stored_inputs(table: TableInfo, names: Iterable[str]) -> tuple[ColumnInfo, ...]:
    """Return the stored columns that the named columns are or depend on, in table order.

    Raises:
        UnsupportedError: The expression of a generated column is not supported.
    """
    ids = {column.id for name in names for column in _stored(table, name, ())}
    return tuple(c for c in table.columns if c.id in ids)


def _stored(table: TableInfo, name: str, path: tuple[str, ...]) -> Iterator[ColumnInfo]:
    column = _column(table, name)
    if not column.is_virtual:
        yield column
        return
    if name in path:
        raise UnsupportedError("a generated column that reads itself", _where(table, column))
    for read in _expression(table, column).columns:
        yield from _stored(table, read, (*path, name))


def compute_column(table: TableInfo, column: ColumnInfo, columns: Columns, rows: int) -> pa.Array:
    """Compute a virtual column for `rows` rows, in storage form.

    Args:
        columns: At least the `stored_inputs` of the column.

    Raises:
        UnsupportedError: The expression is not supported.
        UnrepresentableValueError: A value is outside the range of its type.
    """
    expression = _expression(table, column)
    inputs = typed_columns(table, expression.columns, columns, rows)
    return evaluate(expression, inputs, column.type, _where(table, column), rows)


def typed_columns(
    table: TableInfo, names: Iterable[str], columns: Columns, rows: int
) -> dict[str, TypedArray]:
    """Return the named columns by lower-case name; virtual ones are computed."""
    result = {}
    for name in names:
        column = _column(table, name)
        values = (
            compute_column(table, column, columns, rows)
            if column.is_virtual
            else columns[column.id]
        )
        result[name.lower()] = (values, column.type)
    return result


def _column(table: TableInfo, name: str) -> ColumnInfo:
    for column in table.columns:
        if column.name.lower() == name.lower():
            return column
    raise UnsupportedError(f"an expression of the missing column {name}", table.full_name)


def _expression(table: TableInfo, column: ColumnInfo) -> Expression:
    return parse(column.generated, _where(table, column))


def _where(table: TableInfo, column: ColumnInfo) -> str:
    return f"{table.full_name}.{column.name}"
