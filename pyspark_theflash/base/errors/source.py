"""Errors of the replicated data: binlogs, schemas, transactions, rows."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class ClusterMismatchError(TheFlashError):
    """A binlog or server belongs to another TiDB cluster than expected."""

    deterministic = True

    def __init__(self, where: str, found: int, expected: int) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return f"{self.where} is of cluster {self.found}, not {self.expected}"


class NoPartitionError(TheFlashError):
    """Rows do not belong to any partition of their table in the current schema."""

    deterministic = True

    def __init__(self, table: str, rows: int) -> None:
        super().__init__(table, rows)
        self.table, self.rows = table, rows

    def __str__(self) -> str:
        return (
            f"{self.rows} row(s) of {self.table} belong to none of its partitions; "
            "is this the schema that they were written under?"
        )


class UnknownPartitionError(TheFlashError):
    """It is unknown to which partitions a transaction around a change of partitions wrote."""

    deterministic = True

    def __init__(self, table: str, start_ts: int, commit_ts: int) -> None:
        super().__init__(table, start_ts, commit_ts)
        self.table, self.start_ts, self.commit_ts = table, start_ts, commit_ts

    def __str__(self) -> str:
        return (
            f"{self.table}: transaction start_ts={self.start_ts} commit_ts={self.commit_ts} wrote "
            "either by the partitions before a change or by those after it, which the binlog does "
            "not record; --schema tidb:... looks it up in TiKV unless garbage collected, "
            "--guess-partitions assumes the likelier ones, and --exclude leaves the table out of a "
            "new store"
        )


class UnknownCopyError(TheFlashError):
    """It is unknown which rows written during REORGANIZE PARTITION were also copied by it."""

    deterministic = True

    def __init__(self, table: str, ts: int, rows: int) -> None:
        super().__init__(table, ts, rows)
        self.table, self.ts, self.rows = table, ts, rows

    def __str__(self) -> str:
        return (
            f"{self.table}: REORGANIZE PARTITION ended at {self.ts}; {self.rows} rows without a "
            "clustered key were written while it ran, and the binlog does not record which of them "
            "TiDB also copied to the new partitions, besides writing them there a second time; "
            "--schema tidb:... looks it up in TiKV unless garbage collected, --guess-partitions "
            "assumes that none was copied, and --exclude leaves the table out of a new store"
        )


class UnmatchedPrewriteError(TheFlashError):
    """Input that is declared complete up to `until_ts` has transactions without their end."""

    def __init__(self, until_ts: int, start_ts: int, count: int) -> None:
        super().__init__(until_ts, start_ts, count)
        self.until_ts, self.start_ts, self.count = until_ts, start_ts, count

    def __str__(self) -> str:
        return (
            f"{self.count} transaction(s) below {shown(self.until_ts)} have only a prewrite or "
            f"only a commit, the first at start_ts {shown(self.start_ts)}: the input is not "
            "complete up to that timestamp"
        )


class SchemaOutdatedError(TheFlashError):
    """The schema history does not have the table, column or schema version of a row."""

    def __init__(self, what: str, ts: int) -> None:
        super().__init__(what, ts)
        self.what, self.ts = what, ts

    def __str__(self) -> str:
        return (
            f"the schema history has no {self.what} at {self.ts}; "
            "is this the schema of the cluster that wrote the binlog?"
        )


class SchemaConflictError(TheFlashError):
    """A schema source contradicts the schema history in the store."""

    deterministic = True

    def __init__(self, what: str, ts: int) -> None:
        super().__init__(what, ts)
        self.what, self.ts = what, ts

    def __str__(self) -> str:
        return f"{self.what} at {self.ts} differs from the schema this store was written with"


class SchemaFileError(TheFlashError):
    """A schema or base file cannot be read or parsed."""

    deterministic = True

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class SchemaSourceError(TheFlashError):
    """The server at an address is not the expected source of the schema."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class TransactionConflictError(TheFlashError):
    """A transaction was received again with different content."""

    deterministic = True

    def __init__(self, start_ts: int, commit_ts: int, reason: str) -> None:
        super().__init__(start_ts, commit_ts, reason)
        self.start_ts, self.commit_ts, self.reason = start_ts, commit_ts, reason

    def __str__(self) -> str:
        return f"transaction start_ts={self.start_ts} commit_ts={self.commit_ts}: {self.reason}"


class RowMissingError(TheFlashError):
    """The row of a commit is not received yet: parts of a snapshot arrive at different times."""

    retryable = True

    def __init__(self, table: int, commit_ts: int) -> None:
        super().__init__(table, commit_ts)
        self.table, self.commit_ts = table, commit_ts

    def __str__(self) -> str:
        return f"table {self.table}: the row of the commit at {self.commit_ts} has not arrived"
