"""Errors of the replicated data: binlogs, schemas, transactions, rows."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class ClusterMismatchError(TheFlashError):
    """A binlog or server belongs to another TiDB cluster than expected."""

    deterministic = True
    where: str
    actual: int
    expected: int
    template = "{where} is of cluster {actual}, not {expected}"


class NoPartitionError(TheFlashError):
    """Rows do not belong to any partition of their table in the current schema."""

    deterministic = True
    table: str
    rows: int
    template = (
        "{rows} row(s) of {table} belong to none of its partitions; "
        "is this the schema that they were written under?"
    )


class UnknownPartitionError(TheFlashError):
    """It is unknown to which partitions a transaction around a change of partitions wrote."""

    deterministic = True
    table: str
    start_ts: int
    commit_ts: int
    template = (
        "{table}: transaction start_ts={start_ts} commit_ts={commit_ts} wrote "
        "either by the partitions before a change or by those after it, which the binlog does "
        "not record; --schema tidb:... looks it up in TiKV unless garbage collected, "
        "--guess-partitions assumes the likelier ones, and --exclude leaves the table out of a "
        "new store"
    )


class UnknownCopyError(TheFlashError):
    """It is unknown which rows written during REORGANIZE PARTITION were also copied by it."""

    deterministic = True
    table: str
    ts: int
    rows: int
    template = (
        "{table}: REORGANIZE PARTITION ended at {ts}; {rows} rows without a "
        "clustered key were written while it ran, and the binlog does not record which of them "
        "TiDB also copied to the new partitions, besides writing them there a second time; "
        "--schema tidb:... looks it up in TiKV unless garbage collected, --guess-partitions "
        "assumes that none was copied, and --exclude leaves the table out of a new store"
    )


class UnmatchedPrewriteError(TheFlashError):
    """Input that is declared complete up to `until_ts` has transactions without their end."""

    until_ts: int
    start_ts: int
    count: int

    def __str__(self) -> str:
        return (
            f"{self.count} transaction(s) below {shown(self.until_ts)} have only a prewrite or "
            f"only a commit, the first at start_ts {shown(self.start_ts)}: the input is not "
            "complete up to that timestamp"
        )


class SchemaOutdatedError(TheFlashError):
    """The schema history does not have the table, column or schema version of a row."""

    what: str
    ts: int
    template = (
        "the schema history has no {what} at {ts}; "
        "is this the schema of the cluster that wrote the binlog?"
    )


class BaseCollectedError(TheFlashError):
    """TiKV's garbage collection has passed the timestamp of a base that is being read by SQL."""

    deterministic = True
    address: str
    reason: str
    template = (
        "{address}: the rows of the base have been garbage collected ({reason}); raise "
        "tidb_gc_life_time above the duration of the load, and load a new store"
    )


class SchemaConflictError(TheFlashError):
    """A schema source contradicts the schema history in the store."""

    deterministic = True
    what: str
    ts: int
    template = "{what} at {ts} differs from the schema this store was written with"


class SchemaFileError(TheFlashError):
    """A schema or base file cannot be read or parsed."""

    deterministic = True
    file: str
    reason: str
    template = "{file}: {reason}"


class SchemaSourceError(TheFlashError):
    """The server at an address is not the expected source of the schema."""

    address: str
    reason: str
    template = "{address}: {reason}"


class TransactionConflictError(TheFlashError):
    """A transaction was received again with different content."""

    deterministic = True
    start_ts: int
    commit_ts: int
    reason: str
    template = "transaction start_ts={start_ts} commit_ts={commit_ts}: {reason}"


class RowMissingError(TheFlashError):
    """The row of a commit is not received yet: parts of a snapshot arrive at different times."""

    retryable = True
    table: int
    commit_ts: int
    template = "table {table}: the row of the commit at {commit_ts} has not arrived"


class IncompleteFileError(TheFlashError):
    """The last row of a file is incomplete: the file is being written, or was truncated."""

    retryable = True
    file: str
    offset: int
    template = (
        "{file}: the row at byte {offset} is incomplete; the file is still being written, or it "
        "was truncated"
    )
