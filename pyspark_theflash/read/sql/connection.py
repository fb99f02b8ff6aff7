"""DuckDB connections without access to the environment.

In memory; no access to files, network, extensions, Python variables or secrets; bounded memory and
threads; no statement can change the configuration. Nothing is spilled to disk: a query that needs
more memory fails.
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
    """Limits of a query. `timeout_ms` None: no limit."""

    memory_mb: int = 1024
    threads: int = field(default_factory=_threads)
    timeout_ms: int | None = None


def connect(limits: QueryLimits) -> "duckdb.DuckDBPyConnection":
    """Open a new database. Call `lock` before executing an untrusted statement.

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
    # The time zone of TIMESTAMPs in text forms and Spark sessions, and in the types of results.
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def lock(connection: "duckdb.DuckDBPyConnection") -> None:
    """Forbid changes of settings and writes from here on."""
    connection.execute("SET lock_configuration = true")
    connection.execute("BEGIN TRANSACTION READ ONLY")


def quoted(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'
