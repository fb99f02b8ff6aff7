"""Errors of SQL queries."""

from pyspark_theflash.base.errors.base import TheFlashError


class SqlError(TheFlashError):
    """The SQL engine rejected a query, or failed to run it."""

    deterministic = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class SqlOverflowError(SqlError):
    """A number in a query is out of range of the type it is computed in."""


class SqlMemoryError(TheFlashError):
    """A query needs more memory than its limit."""

    def __init__(self, memory_mb: int) -> None:
        super().__init__(memory_mb)
        self.memory_mb = memory_mb

    def __str__(self) -> str:
        return (
            f"the query needs more memory than its limit of {self.memory_mb} MiB; "
            "raise the limit, or query fewer rows or groups"
        )


class SqlTimeoutError(TheFlashError):
    """A query did not complete within its timeout."""

    def __init__(self, timeout_ms: int) -> None:
        super().__init__(timeout_ms)
        self.timeout_ms = timeout_ms

    def __str__(self) -> str:
        return f"the query did not complete within {self.timeout_ms / 1000:g} s and was stopped"
