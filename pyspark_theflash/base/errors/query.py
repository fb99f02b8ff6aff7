"""Errors of SQL queries."""

from pyspark_theflash.base.errors.base import TheFlashError


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
