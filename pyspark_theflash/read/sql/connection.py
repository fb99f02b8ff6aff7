"""A DuckDB that reaches nothing but what it is given.

In memory, without files, network, extensions, variables of Python or secrets; with bounds on memory
and threads; and with a configuration that no statement can change. Nothing is spilled to disk: a
query that needs more memory fails.
"""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.errors import MissingExtraError

if TYPE_CHECKING:
    import duckdb

_MAX_THREADS: Final = 4


def _threads() -> int:
    return min(os.cpu_count() or 1, _MAX_THREADS)


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What a query may take. `timeout_ms` is None for as long as it needs."""

    memory_mb: int = 1024
    threads: int = field(default_factory=_threads)
    timeout_ms: int | None = None


def connect(limits: QueryLimits) -> "duckdb.DuckDBPyConnection":
    """A new database. `lock` it before it sees a statement from outside.

    Raises:
        MissingExtraError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError("duckdb", "sql") from error
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
            "preserve_insertion_order": "false",
            "memory_limit": f"{limits.memory_mb}MiB",
            "threads": str(limits.threads),
        },
    )
    connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
    # As this project's text forms and Spark sessions have it; results are labelled with it, too.
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def lock(connection: "duckdb.DuckDBPyConnection") -> None:
    """From here on no setting can be changed and nothing written."""
    connection.execute("SET lock_configuration = true")
    connection.execute("BEGIN TRANSACTION READ ONLY")


def quoted(identifier: str) -> str:
    """An identifier as SQL."""
    return '"' + identifier.replace('"', '""') + '"'
