"""Columns of a scan: those that a caller names, and those that pushed operations need."""

from collections.abc import Sequence

from pyspark_theflash.base.errors import ColumnNotFoundError, OptionError
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ROWID_NAME, ColumnInfo, TableInfo


def named_columns(table: TableInfo, names: Sequence[str] | None) -> tuple[ColumnInfo, ...]:
    """Return the columns with these names, in any case; None: those of `SELECT *`.

    Raises `ColumnNotFoundError`.
    """
    if names is None:
        return table.public_columns
    columns = {c.name.lower(): c for c in table.public_columns}
    if table.has_rowid:
        columns[ROWID_NAME] = ROWID_COLUMN
    for name in names:
        if name.lower() not in columns:
            existing = tuple(c.name for c in table.public_columns)
            raise ColumnNotFoundError(table.full_name, name, existing)
    return tuple(columns[name.lower()] for name in names)


def output_columns(
    table: TableInfo, names: Sequence[str] | None, pushed: Pushdown
) -> tuple[tuple[ColumnInfo, ...], int | None]:
    """Return the columns to read of each row, and the number of returned ones; None: all."""
    if pushed.aggregation is not None:
        if names is not None:
            raise OptionError(
                "columns", "must be None with an aggregation, which names its columns itself"
            )
        return named_columns(table, pushed.more_columns), None
    chosen = named_columns(table, names)
    if len({column.name for column in chosen}) < len(chosen):
        raise OptionError("columns", "a column is named twice")
    more = [c for c in named_columns(table, pushed.more_columns) if c not in chosen]
    return (*chosen, *more), len(chosen) if more else None
