"""Kind and table names of a statement, by DuckDB's parser."""

import re
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.errors import SqlError, UnsupportedError

if TYPE_CHECKING:
    import duckdb

_READING: Final = frozenset({"SELECT", "EXPLAIN"})
"""DESCRIBE, SHOW, SUMMARIZE, FROM, VALUES and TABLE are SELECTs to DuckDB."""
_NAME: Final = re.compile(r'"((?:[^"]|"")*)"(\.)?|([^".\s]+)(\.)?')


def check_statement(connection: "duckdb.DuckDBPyConnection", text: str) -> None:
    """Check that `text` is one statement that reads.

    Raises:
        SqlError: There is no statement, or several.
        UnsupportedError: The statement does more than read.
        duckdb.Error: The text is not valid SQL.
    """
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise SqlError(f"expected one statement, got {len(statements)}")
    kind = statements[0].type.name
    if kind not in _READING:
        raise UnsupportedError(f"{kind}, or any statement that does more than read,", "SQL")


def named_tables(connection: "duckdb.DuckDBPyConnection", text: str) -> list[tuple[str, ...]]:
    """Return the tables of a statement: (table,), (db, table) or (catalog, db, table).

    Empty if there are none, and if DuckDB can determine them only when binding.
    """
    import duckdb

    try:
        # Not `duckdb.get_table_names`, which uses the default database. That is not confined and
        # would download an extension for a URL in the text.
        names = connection.get_table_names(text, qualified=True)
    except duckdb.Error:
        # For example a statement with parameters.
        return []
    return [_parts(name) for name in sorted(names)]


def _parts(name: str) -> tuple[str, ...]:
    """Split `db."odd name" AS alias` into db, odd name."""
    parts, at, goes_on = [], 0, True
    while goes_on and (match := _NAME.match(name, at)) is not None:
        between, dot, plain, plain_dot = match.groups()
        parts.append(plain or between.replace('""', '"'))
        at, goes_on = match.end(), bool(dot or plain_dot)
    return tuple(parts)
