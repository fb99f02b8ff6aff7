"""Stores: where they are, who holds them, what can be read of them."""

from typing import Final

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown

_MOST_TOLD: Final = 10


class StoreNotFoundError(TheFlashError):
    """No store at that path."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no store at {self.path}; make one with: theflash init {self.path}"


class StoreExistsError(TheFlashError):
    """`init` on a path that already holds something."""

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
    """A store that TiKV feeds, met without the process that it feeds it through."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} is fed by TiKV, and its files are not all of it: read it through the "
            "address that theflash learn serves"
        )


class FeedConflictError(TheFlashError):
    """A write of what another feed writes, or a read where it is not known which one did.

    `subject` is the store or a table.
    """

    deterministic = True

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject, self.reason = subject, reason

    def __str__(self) -> str:
        return f"{self.subject} {self.reason}"


class StoreFormatError(TheFlashError):
    """The store was written in a format that this version does not know. Nothing was changed."""

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
    """A scan task met another store, or another state of it, than the one it was planned on."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is not what this scan was planned on: {self.reason}"


class StoreReplacedError(TheFlashError):
    """Another store, or an older state of it, came in the place of one that was open."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} was replaced while it was open: {self.reason}; open it again"


class StoreFullError(TheFlashError):
    """No room on the store's disk. Reads go on; writes may be tried again when there is room."""

    retryable = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no space left for {self.path}"


class SpoolFullError(TheFlashError):
    """The spool has its limit's worth of binlogs that are not applied yet: back-pressure."""

    retryable = True

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(path, size_bytes, limit_bytes)
        self.path, self.size_bytes, self.limit_bytes = path, size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.path} holds {self.size_bytes} bytes of binlog, and may hold {self.limit_bytes}:"
            " is the writer running?"
        )


class EngineError(TheFlashError):
    """The storage engine could not do its work, an I/O error for example."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TableNotFoundError(TheFlashError):
    """No such table at that timestamp."""

    def __init__(self, table: str, snapshot_ts: int) -> None:
        super().__init__(table, snapshot_ts)
        self.table, self.snapshot_ts = table, snapshot_ts

    def __str__(self) -> str:
        return f"no table {self.table} at timestamp {shown(self.snapshot_ts)}"


class TableNotReplicatedError(TheFlashError):
    """A table that TiDB has and the store was told to leave out."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table

    def __str__(self) -> str:
        return (
            f"{self.table} is not replicated: the writer's --include and --exclude left it out "
            "under its first name; to read it, make the store anew with patterns that include it"
        )


class TableNotLoadedError(TheFlashError):
    """A table with rows from before its changes were followed, which nobody has loaded.

    They are those of `source`, which is the table or one whose partition it has taken.
    """

    deterministic = True

    def __init__(self, table: str, source: str, reason: str) -> None:
        super().__init__(table, source, reason)
        self.table, self.source, self.reason = table, source, reason

    def __str__(self) -> str:
        return (
            f"{self.table} lacks the rows from before: {self.source} {self.reason}; make the store "
            f"anew with a --base that has {self.source} and patterns that include it, or, if it "
            f"had no rows, give the writer --assume-empty {self.source}"
        )


class TableSetAsideError(TheFlashError):
    """A read of a table at or above the commit from which on its rows are not known."""

    deterministic = True

    def __init__(self, table: str, ts: int, reason: str) -> None:
        super().__init__(table, ts, reason)
        self.table, self.ts, self.reason = table, ts, reason

    def __str__(self) -> str:
        return (
            f"{self.table} is set aside from {shown(self.ts)} on, and can be read below that only: "
            f"{self.reason}; to have all of it again, make the store anew, or let TiDB copy its "
            "rows to a table made for that (CREATE TABLE ... LIKE, INSERT ... SELECT, RENAME TABLE)"
        )


class RegionNotFoundError(TheFlashError):
    """A region that is not there, or not any more: it was split, merged with another or purged.

    A region's id stands for one range of handles for ever.
    """

    def __init__(self, physical_id: int, region_id: int) -> None:
        super().__init__(physical_id, region_id)
        self.physical_id, self.region_id = physical_id, region_id

    def __str__(self) -> str:
        return (
            f"physical table {self.physical_id} has no region {self.region_id}, or has it no "
            "longer: look at its regions again"
        )


class ColumnNotFoundError(TheFlashError):
    """A column that the table does not have at that timestamp."""

    def __init__(self, table: str, column: str, known: tuple[str, ...]) -> None:
        super().__init__(table, column, known)
        self.table, self.column, self.known = table, column, known

    def __str__(self) -> str:
        return f"no column {self.column!r} in {self.table}; it has {', '.join(self.known)}"


class NotCaughtUpError(TheFlashError):
    """The store has not applied everything up to the wanted timestamp yet."""

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
    """The timestamp lies below the oldest one the store can answer."""

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
    """A table that TiDB recovered after its rows had been collected as garbage here."""

    deterministic = True

    def __init__(self, table: str, safe_point: int) -> None:
        super().__init__(table, safe_point)
        self.table, self.safe_point = table, safe_point

    def __str__(self) -> str:
        return (
            f"{self.table} was dropped, and its rows went with the garbage collection up to "
            f"{shown(self.safe_point)}; TiDB has recovered it since, this store cannot"
        )


class UpkeepError(TheFlashError):
    """A command over all tables that failed for some of them; the others are done.

    `first` is the name of the first error, `failures` are one text a table.
    """

    def __init__(self, verb: str, first: str, failures: tuple[str, ...]) -> None:
        super().__init__(verb, first, failures)
        self.verb, self.first, self.failures = verb, first, failures

    def __str__(self) -> str:
        count = len(self.failures)
        told = "; ".join(self.failures[:_MOST_TOLD])
        more = f"; and {count - _MOST_TOLD} more" if count > _MOST_TOLD else ""
        return f"{self.verb} failed for {count} table(s), and is done for all others: {told}{more}"


class PurgedRangeError(TheFlashError):
    """A read that reaches into a range of handles whose rows an operator has purged."""

    deterministic = True

    def __init__(self, table: str, physical_id: int, start: str, end: str) -> None:
        super().__init__(table, physical_id, start, end)
        self.table, self.physical_id, self.start, self.end = table, physical_id, start, end

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return (
            f"{self.table}: the rows of physical table {self.physical_id} with handles from "
            f"{start} to {end} were purged; a condition on the primary key can leave them out"
        )


class CommandTimeoutError(TheFlashError):
    """The store's writer did not answer a command in time."""

    retryable = True

    def __init__(self, verb: str, holder: str, state: str) -> None:
        super().__init__(verb, holder, state)
        self.verb, self.holder, self.state = verb, holder, state

    def __str__(self) -> str:
        return f"{self.verb} was handed to {self.holder}, which {self.state}"
