"""Errors of stores: opening them, writing to them, reading tables."""

from typing import Final

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown

_MAX_LISTED: Final = 10


class StoreNotFoundError(TheFlashError):
    """There is no store at the path."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no store at {self.path}; create one with: theflash init {self.path}"


class StoreExistsError(TheFlashError):
    """The path for a new store exists and is not an empty folder."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} exists already and is not an empty folder"


class StoreInUseError(TheFlashError):
    """Another process is the store's writer."""

    retryable = True

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(path, holder)
        self.path, self.holder = path, holder

    def __str__(self) -> str:
        return f"{self.path} is being written by {self.holder}; a store has one writer at a time"


class RaftFedError(TheFlashError):
    """A store that TiKV feeds was opened without the process that serves it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} is fed by TiKV, and its files do not have all rows: read it through the "
            "address that theflash learn serves"
        )


class FeedConflictError(TheFlashError):
    """A write conflicts with another feed, or it is unknown which feed wrote.

    `subject` is the store or a table.
    """

    deterministic = True

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject, self.reason = subject, reason

    def __str__(self) -> str:
        return f"{self.subject} {self.reason}"


class StoreFormatError(TheFlashError):
    """The store has a format that this version does not support. Nothing was changed."""

    deterministic = True

    def __init__(self, path: str, found: int, supported: int) -> None:
        super().__init__(path, found, supported)
        self.path, self.found, self.supported = path, found, supported

    def __str__(self) -> str:
        return (
            f"{self.path} has format {self.found}; this version reads up to {self.supported}: "
            "upgrade pyspark_theflash"
        )


class StoreMismatchError(TheFlashError):
    """A scan task was run on another store, or another state of it, than it was planned on."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is not what this scan was planned on: {self.reason}"


class StoreReplacedError(TheFlashError):
    """An open store was replaced by another store or by an older state of it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} was replaced while it was open: {self.reason}; open it again"


class StoreFullError(TheFlashError):
    """The store's disk is full. Reads continue; writes can be retried when there is space."""

    retryable = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no space left for {self.path}"


class SpoolFullError(TheFlashError):
    """The spool has reached its size limit of unapplied binlogs; used for back-pressure."""

    retryable = True

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(path, size_bytes, limit_bytes)
        self.path, self.size_bytes, self.limit_bytes = path, size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.path} holds {self.size_bytes} bytes of binlog, the limit is {self.limit_bytes}:"
            " is the writer running?"
        )


class EngineError(TheFlashError):
    """The storage engine failed, for example with an I/O error."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TableNotFoundError(TheFlashError):
    """The table does not exist at the timestamp."""

    def __init__(self, table: str, snapshot_ts: int) -> None:
        super().__init__(table, snapshot_ts)
        self.table, self.snapshot_ts = table, snapshot_ts

    def __str__(self) -> str:
        return f"no table {self.table} at timestamp {shown(self.snapshot_ts)}"


class TableNotReplicatedError(TheFlashError):
    """The table exists in TiDB, but the store is configured to exclude it."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table

    def __str__(self) -> str:
        return (
            f"{self.table} is not replicated: the writer's --include and --exclude left it out "
            "under its first name; to read it, create a new store with patterns that include it"
        )


class TableNotLoadedError(TheFlashError):
    """A table has rows from before its changes were replicated, which were not loaded.

    They are the rows of `source`: the table, or the former owner of one of its partitions.
    """

    deterministic = True

    def __init__(self, table: str, source: str, reason: str) -> None:
        super().__init__(table, source, reason)
        self.table, self.source, self.reason = table, source, reason

    def __str__(self) -> str:
        return (
            f"{self.table} is missing its initial rows: {self.source} {self.reason}; create a new "
            f"store with a --base that has {self.source} and patterns that include it or, if it "
            f"had no rows, start the writer with --assume-empty {self.source}"
        )


class TableSetAsideError(TheFlashError):
    """A read at or above the commit from which on a table's rows are unknown."""

    deterministic = True

    def __init__(self, table: str, ts: int, reason: str) -> None:
        super().__init__(table, ts, reason)
        self.table, self.ts, self.reason = table, ts, reason

    def __str__(self) -> str:
        return (
            f"{self.table} is set aside from {shown(self.ts)} on, and can be read only below that: "
            f"{self.reason}; to read all of it again, create a new store, or copy its rows in TiDB "
            "to a new table (CREATE TABLE ... LIKE, INSERT ... SELECT, RENAME TABLE)"
        )


class RegionNotFoundError(TheFlashError):
    """A region does not exist, or no longer: it was split, merged with another or purged.

    A region id always stands for the same range of handles.
    """

    def __init__(self, physical_id: int, region_id: int) -> None:
        super().__init__(physical_id, region_id)
        self.physical_id, self.region_id = physical_id, region_id

    def __str__(self) -> str:
        return (
            f"physical table {self.physical_id} has no region {self.region_id}, or no longer: "
            "list its regions again"
        )


class ColumnNotFoundError(TheFlashError):
    """The table does not have the column at the timestamp."""

    def __init__(self, table: str, column: str, known: tuple[str, ...]) -> None:
        super().__init__(table, column, known)
        self.table, self.column, self.known = table, column, known

    def __str__(self) -> str:
        return f"no column {self.column!r} in {self.table}; it has {', '.join(self.known)}"


class NotCaughtUpError(TheFlashError):
    """The store has not applied everything up to the requested timestamp yet."""

    retryable = True

    def __init__(self, applied: int, wanted: int) -> None:
        super().__init__(applied, wanted)
        self.applied, self.wanted = applied, wanted

    def __str__(self) -> str:
        return (
            f"timestamp {shown(self.wanted)} is above resolved_ts {shown(self.applied)}: "
            "transactions up to there may still be missing"
        )


class SnapshotTooOldError(TheFlashError):
    """The timestamp is below the oldest one that the store can read."""

    deterministic = True

    def __init__(self, snapshot_ts: int, oldest: int) -> None:
        super().__init__(snapshot_ts, oldest)
        self.snapshot_ts, self.oldest = snapshot_ts, oldest

    def __str__(self) -> str:
        return (
            f"timestamp {shown(self.snapshot_ts)} is below {shown(self.oldest)}, "
            "the oldest that can be read"
        )


class PurgedError(TheFlashError):
    """TiDB recovered a table whose rows were already garbage collected here."""

    deterministic = True

    def __init__(self, table: str, safe_point: int) -> None:
        super().__init__(table, safe_point)
        self.table, self.safe_point = table, safe_point

    def __str__(self) -> str:
        return (
            f"{self.table} was dropped, and garbage collection up to {shown(self.safe_point)} "
            "removed its rows; TiDB has recovered it since, this store cannot"
        )


class UpkeepError(TheFlashError):
    """A command over all tables failed for some of them; it is done for the others.

    `first` is the class name of the first error; `failures` has one text per failed table.
    """

    def __init__(self, verb: str, first: str, failures: tuple[str, ...]) -> None:
        super().__init__(verb, first, failures)
        self.verb, self.first, self.failures = verb, first, failures

    def __str__(self) -> str:
        count = len(self.failures)
        listed = "; ".join(self.failures[:_MAX_LISTED])
        more = f"; and {count - _MAX_LISTED} more" if count > _MAX_LISTED else ""
        return f"{self.verb} failed for {count} table(s); it is done for others: {listed}{more}"


class PurgedRangeError(TheFlashError):
    """A read includes a range of handles whose rows an operator has purged."""

    deterministic = True

    def __init__(self, table: str, physical_id: int, start: str, end: str) -> None:
        super().__init__(table, physical_id, start, end)
        self.table, self.physical_id, self.start, self.end = table, physical_id, start, end

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return (
            f"{self.table}: the rows of physical table {self.physical_id} with handles from "
            f"{start} to {end} were purged; a condition on the primary key can exclude them"
        )


class CommandTimeoutError(TheFlashError):
    """The store's writer did not respond to a command in time."""

    retryable = True

    def __init__(self, verb: str, holder: str, state: str) -> None:
        super().__init__(verb, holder, state)
        self.verb, self.holder, self.state = verb, holder, state

    def __str__(self) -> str:
        return f"{self.verb} was sent to {self.holder}, which {self.state}"
