"""Errors of SQL queries and of Spark sessions."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class SparkStartedError(TheFlashError):
    """Spark already runs without the jar, which it loads only when it starts."""

    deterministic = True
    what: str
    template = (
        "{what} already runs without the jar; start it with the configuration that "
        "`theflash spark-conf` prints, or stop the session before configure_spark"
    )


class SqlError(TheFlashError):
    """The SQL engine rejected a query, or failed to run it."""

    deterministic = True
    reason: str
    template = "{reason}"


class SqlOverflowError(SqlError):
    """A number in a query is out of range of the type it is computed in."""


class SqlMemoryError(TheFlashError):
    """A query needs more memory than its limit."""

    memory_mb: int
    template = (
        "the query needs more memory than its limit of {memory_mb} MiB; "
        "raise the limit, or query fewer rows or groups"
    )


class SqlTimeoutError(TheFlashError):
    """A query did not complete within its timeout."""

    timeout_ms: int

    def __str__(self) -> str:
        return f"the query did not complete within {self.timeout_ms / 1000:g} s and was stopped"


class ColumnValueError(TheFlashError):
    """A statement sets a column to a value that its type cannot hold; the text has no value."""

    deterministic = True
    column: str
    reason: str
    template = "column {column}: {reason}"


class DuplicateKeyError(TheFlashError):
    """A statement would give two rows of a table the same primary key."""

    deterministic = True
    table: str
    template = "two rows of {table} would have the same primary key"


class TableExistsError(TheFlashError):
    """A table of that name exists already."""

    deterministic = True
    table: str
    template = "table {table} exists already"


class StatementConflictError(TheFlashError):
    """The tables that a statement read were written before it could commit; nothing was written."""

    retryable = True
    read_ts: int
    resolved_ts: int

    def __str__(self) -> str:
        return (
            f"the statement read at {shown(self.read_ts)}, but the tables were written up to "
            f"{shown(self.resolved_ts)} meanwhile: run it again"
        )
