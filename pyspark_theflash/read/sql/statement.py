"""What a statement is and which tables it names, as DuckDB parses it."""

import re
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.errors import SqlError, UnsupportedError

if TYPE_CHECKING:
    import duckdb

_READING: Final = frozenset({"SELECT", "EXPLAIN"})
"""DESCRIBE, SHOW, SUMMARIZE, FROM, VALUES and TABLE are SELECTs to DuckDB."""
_NAME: Final = re.compile(r'"((?:[^"]|"")*)"(\.)?|([^".\s]+)(\.)?')


def check_statement(connection: "duckdb.DuckDBPyConnection", text: str) -> None:
    """Return if `text` is one statement that reads.

    Raises:
        UnsupportedError: it is another, none or several.
        duckdb.Error: it is no SQL.
    """
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise SqlError(f"one statement is wanted, not {len(statements)}")
    kind = statements[0].type.name
    if kind not in _READING:
        raise UnsupportedError(f"{kind}, or any statement that does more than read,", "SQL")


def named_tables(connection: "duckdb.DuckDBPyConnection", text: str) -> list[tuple[str, ...]]:
    """The tables that a statement names: (table,), (db, table) or (catalog, db, table).

    Empty where there are none, and where only DuckDB itself could tell.
    """
    import duckdb

    try:
        # Not `duckdb.get_table_names`: that asks DuckDB's default database, which nothing confines,
        # and which would fetch an extension for a URL in the text.
        names = connection.get_table_names(text, qualified=True)
    except duckdb.Error:
        # A statement with parameters, for one.
        return []
    return [_parts(name) for name in sorted(names)]


def _parts(name: str) -> tuple[str, ...]:
    """Of `db."odd name" AS alias`: db, odd name."""
    parts, at, goes_on = [], 0, True
    while goes_on and (found := _NAME.match(name, at)) is not None:
        between, dot, plain, plain_dot = found.groups()
        parts.append(plain or between.replace('""', '"'))
        at, goes_on = found.end(), bool(dot or plain_dot)
    return tuple(parts)
