"""What a writer is told: binlogs, schemas, transactions, rows."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class ClusterMismatchError(TheFlashError):
    """A binlog, or a server, of another TiDB cluster than the one this is for."""

    deterministic = True

    def __init__(self, where: str, found: int, expected: int) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return f"{self.where} is of cluster {self.found}, not {self.expected}"


class NoPartitionError(TheFlashError):
    """Rows that no partition of their table takes, by the partitions of the schema at hand."""

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
    """A transaction from around a change of partitions, of which nobody can tell where it wrote."""

    deterministic = True

    def __init__(self, table: str, start_ts: int, commit_ts: int) -> None:
        super().__init__(table, start_ts, commit_ts)
        self.table, self.start_ts, self.commit_ts = table, start_ts, commit_ts

    def __str__(self) -> str:
        return (
            f"{self.table}: transaction start_ts={self.start_ts} commit_ts={self.commit_ts} wrote "
            "by the partitions before a change of them or by those after, and the binlog does not "
            "tell; with --schema tidb:... TiKV is asked while it remembers, --guess-partitions "
            "takes the likelier ones, and --exclude leaves the table out of a new store"
        )


class UnknownCopyError(TheFlashError):
    """Nobody can tell which rows REORGANIZE PARTITION copied of those written while it ran."""

    deterministic = True

    def __init__(self, table: str, ts: int, rows: int) -> None:
        super().__init__(table, ts, rows)
        self.table, self.ts, self.rows = table, ts, rows

    def __str__(self) -> str:
        return (
            f"{self.table}: REORGANIZE PARTITION ended at {self.ts}; {self.rows} rows without a "
            "clustered key were written while it ran, and the binlog does not tell which of them "
            "TiDB copied to the new partitions beside the second row that it wrote there; with "
            "--schema tidb:... TiKV is asked while it remembers, --guess-partitions takes it that "
            "none was, and --exclude leaves the table out of a new store"
        )


class UnmatchedPrewriteError(TheFlashError):
    """Input vouched complete up to `until_ts` holds a transaction from before without its end."""

    def __init__(self, until_ts: int, start_ts: int, count: int) -> None:
        super().__init__(until_ts, start_ts, count)
        self.until_ts, self.start_ts, self.count = until_ts, start_ts, count

    def __str__(self) -> str:
        return (
            f"{self.count} transaction(s) below {shown(self.until_ts)} have a prewrite or a commit "
            f"only, the first at start_ts {shown(self.start_ts)}: the input is not complete up to "
            "there"
        )


class SchemaOutdatedError(TheFlashError):
    """The schema history lacks what a row needs: its table, a column, its schema version."""

    def __init__(self, what: str, ts: int) -> None:
        super().__init__(what, ts)
        self.what, self.ts = what, ts

    def __str__(self) -> str:
        return (
            f"the schema history has no {self.what} at {self.ts}; "
            "is this the schema of the cluster that wrote the binlog?"
        )


class SchemaConflictError(TheFlashError):
    """A schema file that contradicts the schema history the store already has."""

    deterministic = True

    def __init__(self, what: str, ts: int) -> None:
        super().__init__(what, ts)
        self.what, self.ts = what, ts

    def __str__(self) -> str:
        return f"{self.what} at {self.ts} differs from the schema this store was written with"


class SchemaFileError(TheFlashError):
    """A schema or base file that cannot be read as one."""

    deterministic = True

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class SchemaSourceError(TheFlashError):
    """What answers at an address is not the TiDB that the schema was to come from."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class TransactionConflictError(TheFlashError):
    """A transaction came again, and not as it was applied before."""

    deterministic = True

    def __init__(self, start_ts: int, commit_ts: int, reason: str) -> None:
        super().__init__(start_ts, commit_ts, reason)
        self.start_ts, self.commit_ts, self.reason = start_ts, commit_ts, reason

    def __str__(self) -> str:
        return f"transaction start_ts={self.start_ts} commit_ts={self.commit_ts}: {self.reason}"


class RowMissingError(TheFlashError):
    """A commit whose row has not come yet: a snapshot takes its parts at different moments."""

    retryable = True

    def __init__(self, table: int, commit_ts: int) -> None:
        super().__init__(table, commit_ts)
        self.table, self.commit_ts = table, commit_ts

    def __str__(self) -> str:
        return f"table {self.table}: the row of the commit at {self.commit_ts} is yet to come"
