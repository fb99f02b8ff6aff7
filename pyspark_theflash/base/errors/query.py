"""Queries."""

from pyspark_theflash.base.errors.base import TheFlashError


class SqlError(TheFlashError):
    """A query that the SQL engine refuses, or fails to run."""

    deterministic = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class SqlOverflowError(SqlError):
    """A number in a query that does not fit the type it is computed in."""


class SqlMemoryError(TheFlashError):
    """A query that needs more memory than it may take."""

    def __init__(self, memory_mb: int) -> None:
        super().__init__(memory_mb)
        self.memory_mb = memory_mb

    def __str__(self) -> str:
        return (
            f"the query needs more than the {self.memory_mb} MiB of memory that it may take; "
            "allow it more, or ask for fewer rows or groups"
        )


class SqlTimeoutError(TheFlashError):
    """A query that was not done in the time it was given."""

    def __init__(self, timeout_ms: int) -> None:
        super().__init__(timeout_ms)
        self.timeout_ms = timeout_ms

    def __str__(self) -> str:
        return f"the query was not done within {self.timeout_ms / 1000:g} s, and was stopped"
