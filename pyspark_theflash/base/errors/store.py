"""Errors of stores: opening them, writing to them, reading tables."""

from typing import Final

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown

_MAX_LISTED: Final = 10


class StoreNotFoundError(TheFlashError):
    """There is no store at the path."""

    path: str
    template = "no store at {path}; create one with: theflash init {path}"


class StoreExistsError(TheFlashError):
    """The path for a new store exists and is not an empty folder."""

    path: str
    template = "{path} exists already and is not an empty folder"


class StorePlaceError(TheFlashError):
    """The path of a store is a URL, or on a file system that other machines may write to."""

    path: str
    place: str
    template = (
        "{path} is {place}: locks and latches of other machines have no effect there. Keep the "
        "store on a local disk, and read it from other machines through theflash serve"
    )


class StoreInUseError(TheFlashError):
    """Another process is the store's writer."""

    retryable = True
    path: str
    holder: str
    template = "{path} is being written by {holder}; a store has one writer at a time"


class RaftFedError(TheFlashError):
    """A store that TiKV feeds was opened without the process that serves it."""

    path: str
    template = (
        "{path} is fed by TiKV, and its files do not have all rows: read it through the "
        "address that theflash learn serves"
    )


class FeedConflictError(TheFlashError):
    """A write conflicts with another feed, or it is unknown which feed wrote.

    `subject` is the store or a table.
    """

    deterministic = True
    subject: str
    reason: str
    template = "{subject} {reason}"


class StoreFormatError(TheFlashError):
    """The store has a format that this version does not support. Nothing was changed."""

    deterministic = True
    path: str
    format: int
    supported: int
    template = (
        "{path} has format {format}; this version reads up to {supported}: upgrade pyspark_theflash"
    )


class StoreMismatchError(TheFlashError):
    """A scan task was run on another store, or another state of it, than it was planned on."""

    path: str
    reason: str
    template = "{path} is not what this scan was planned on: {reason}"


class StoreReplacedError(TheFlashError):
    """An open store was replaced by another store or by an older state of it."""

    path: str
    reason: str
    template = "{path} was replaced while it was open: {reason}; open it again"


class StoreFullError(TheFlashError):
    """The store's disk is full. Reads continue; writes can be retried when there is space."""

    retryable = True
    path: str
    template = "no space left for {path}"


class SpoolFullError(TheFlashError):
    """The spool has reached its size limit of unapplied binlogs; used for back-pressure."""

    retryable = True
    path: str
    size_bytes: int
    limit_bytes: int
    template = (
        "{path} holds {size_bytes} bytes of binlog, the limit is {limit_bytes}:"
        " is the writer running?"
    )


class EngineError(TheFlashError):
    """The storage engine failed, for example with an I/O error."""

    path: str
    reason: str
    template = "{path}: {reason}"


class StoreAccessError(EngineError):
    """The user of this process may not access a file or folder; `reason` names both."""

    template = (
        "{path}: {reason}; run the command as a user who may access it, or read the store through "
        "theflash serve"
    )


class TableNotFoundError(TheFlashError):
    """The table does not exist at the timestamp."""

    table: str
    snapshot_ts: int

    def __str__(self) -> str:
        return f"no table {self.table} at timestamp {shown(self.snapshot_ts)}"


class TableNotReplicatedError(TheFlashError):
    """The table exists in TiDB, but the store is configured to exclude it."""

    table: str
    template = (
        "{table} is not replicated: the writer's --include and --exclude left it out "
        "under its first name; to read it, create a new store with patterns that include it"
    )


class TableNotLoadedError(TheFlashError):
    """A table has rows from before its changes were replicated, which were not loaded.

    They are the rows of `source`: the table, or the former owner of one of its partitions.
    """

    deterministic = True
    table: str
    source: str
    reason: str
    template = (
        "{table} is missing its initial rows: {source} {reason}; create a new "
        "store with a --base that has {source} and patterns that include it or, if it "
        "had no rows, start the writer with --assume-empty {source}"
    )


class TableSetAsideError(TheFlashError):
    """A read at or above the commit from which on a table's rows are unknown."""

    deterministic = True
    table: str
    ts: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.table} is set aside from {shown(self.ts)} on, and can be read only below that: "
            f"{self.reason}; to read all of it again, use theflash follow --add if the store "
            "follows a cluster; else create a new store, or copy its rows in TiDB to a new table "
            "(CREATE TABLE ... LIKE, INSERT ... SELECT, RENAME TABLE)"
        )


class RegionNotFoundError(TheFlashError):
    """A region does not exist, or no longer: it was split, merged with another or purged.

    A region id always stands for the same range of handles.
    """

    physical_id: int
    region_id: int
    template = (
        "physical table {physical_id} has no region {region_id}, or no longer: "
        "list its regions again"
    )


class ColumnNotFoundError(TheFlashError):
    """The table does not have the column at the timestamp."""

    table: str
    column: str
    existing: tuple[str, ...]

    def __str__(self) -> str:
        return f"no column {self.column!r} in {self.table}; it has {', '.join(self.existing)}"


class NotCaughtUpError(TheFlashError):
    """The store has not applied everything up to the requested timestamp yet."""

    retryable = True
    applied: int
    wanted: int

    def __str__(self) -> str:
        return (
            f"timestamp {shown(self.wanted)} is above resolved_ts {shown(self.applied)}: "
            "transactions up to there may still be missing"
        )


class LoadUnfinishedError(TheFlashError):
    """The first load of the store was interrupted, so it has only a part of the rows."""

    ts: int

    def __str__(self) -> str:
        return (
            f"the first load of this store, at {shown(self.ts)}, has not ended: "
            "continue it with theflash follow"
        )


class SnapshotTooOldError(TheFlashError):
    """The timestamp is below the oldest one that the store can read, of `table` or of any."""

    deterministic = True
    snapshot_ts: int
    oldest: int
    table: str = ""

    def __str__(self) -> str:
        of_table = f" of {self.table}, which was loaded then" if self.table else ""
        return (
            f"timestamp {shown(self.snapshot_ts)} is below {shown(self.oldest)}, "
            f"the oldest that can be read{of_table}"
        )


class PurgedError(TheFlashError):
    """TiDB recovered a table whose rows were already garbage collected here."""

    deterministic = True
    table: str
    safe_point: int

    def __str__(self) -> str:
        return (
            f"{self.table} was dropped, and garbage collection up to {shown(self.safe_point)} "
            "removed its rows; TiDB has recovered it since, this store cannot"
        )


class UpkeepError(TheFlashError):
    """A command over all tables failed for some of them; it is done for the others.

    `first` is the class name of the first error; `failures` has one text per failed table.
    """

    verb: str
    first: str
    failures: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.failures)
        listed = "; ".join(self.failures[:_MAX_LISTED])
        more = f"; and {count - _MAX_LISTED} more" if count > _MAX_LISTED else ""
        return f"{self.verb} failed for {count} table(s); it is done for others: {listed}{more}"


class PurgedRangeError(TheFlashError):
    """A read includes a range of handles whose rows an operator has purged."""

    deterministic = True
    table: str
    physical_id: int
    start: str
    end: str

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return (
            f"{self.table}: the rows of physical table {self.physical_id} with handles from "
            f"{start} to {end} were purged; a condition on the primary key can exclude them"
        )


class CommandTimeoutError(TheFlashError):
    """The store's writer did not respond to a command in time."""

    retryable = True
    verb: str
    holder: str
    state: str
    template = "{verb} was sent to {holder}, which {state}"
