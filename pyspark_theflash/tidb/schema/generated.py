"""Virtual generated columns: never in a row, so computed from the columns that are.

A generated column may read other generated columns; stored ones are read, virtual ones computed in
their turn.
"""

from collections.abc import Iterable, Iterator, Mapping

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.array import ArrowArray
from pyspark_theflash.tidb.expression.evaluate import Expression, TypedArray, evaluate, parse
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

Columns = Mapping[ColumnID, ArrowArray]


def stored_inputs(table: TableInfo, names: Iterable[str]) -> tuple[ColumnInfo, ...]:
    """The stored columns that the named ones are or are computed from, in the table's order.

    Raises:
        UnsupportedError: a generated column's expression is not evaluated here.
    """
    found = {column.id for name in names for column in _stored(table, name, ())}
    return tuple(c for c in table.columns if c.id in found)


def _stored(table: TableInfo, name: str, path: tuple[str, ...]) -> Iterator[ColumnInfo]:
    column = _column(table, name)
    if not column.is_virtual:
        yield column
        return
    if name in path:
        raise UnsupportedError("a generated column that reads itself", _where(table, column))
    for read in _expression(table, column).columns:
        yield from _stored(table, read, (*path, name))


def compute_column(table: TableInfo, column: ColumnInfo, columns: Columns, rows: int) -> ArrowArray:
    """A virtual column of `rows` rows, in its stored form.

    Args:
        columns: at least `stored_inputs` of the column.

    Raises:
        UnsupportedError: the expression is not evaluated here.
        UnrepresentableValueError: it has no value in the range of its type.
    """
    expression = _expression(table, column)
    inputs = typed_columns(table, expression.columns, columns, rows)
    return evaluate(expression, inputs, column.type, _where(table, column), rows)


def typed_columns(
    table: TableInfo, names: Iterable[str], columns: Columns, rows: int
) -> dict[str, TypedArray]:
    """The named columns, computed where they are virtual, by name in lower case."""
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
    raise UnsupportedError(f"an expression of column {name}, which is not there,", table.full_name)


def _expression(table: TableInfo, column: ColumnInfo) -> Expression:
    return parse(column.generated, _where(table, column))


def _where(table: TableInfo, column: ColumnInfo) -> str:
    return f"{table.full_name}.{column.name}"
