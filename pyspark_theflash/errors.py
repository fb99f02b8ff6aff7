"""Every error a user can meet.

One root, `TheFlashError`. Two class attributes tell a caller what to do with an instance without
knowing its class: `retryable` (the same request may succeed later) and `deterministic` (every
replica of the same input would fail the same way, so trying elsewhere is pointless).

Errors cross process borders (Spark workers, spark-submit), so every class hands its constructor's
arguments unchanged to `Exception.__init__` and formats itself in `__str__`; anything else comes
back from pickle garbled.
"""

from collections.abc import Iterable
from typing import ClassVar


class TheFlashError(Exception):
    """Root of all errors of this package."""

    retryable: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False


class InternalError(TheFlashError):
    """One of our own invariants is broken: a bug in this package, never the user's input."""


def invariant(condition: bool, message: str) -> None:
    """Raise `InternalError` unless `condition` holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise InternalError(message)


def rebuilt(name: str, arguments: Iterable[object]) -> TheFlashError | None:
    """The error of one of these classes that was told as its name and arguments; None if none is.

    Raises:
        TypeError, ValueError: these are not the arguments of that class.
    """
    known = globals().get(name)
    if not (isinstance(known, type) and issubclass(known, TheFlashError)):
        return None
    error = known(*(tuple(each) if isinstance(each, list) else each for each in arguments))
    str(error)  # which fails if these are not its arguments
    return error


class OptionError(TheFlashError):
    """A setting that is missing, unknown or has a value that cannot be used."""

    deterministic = True

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"option {self.key!r}: {self.reason}"


class UsageError(TheFlashError):
    """A command line that says too little, too much, or something else."""

    deterministic = True


class UnsupportedError(TheFlashError):
    """What TiDB has and this version does not handle; `where` names the table, column or file."""

    deterministic = True

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where)
        self.what, self.where = what, where

    def __str__(self) -> str:
        return f"{self.where}: {self.what} is not supported"


class CodecError(TheFlashError):
    """Bytes that are not what their encoding says they should be.

    `layer` is the encoding ("row v1", "memcomparable bytes"), `offset` the byte at which decoding
    stopped, `context` a short hex excerpt from there (key and framing bytes, cut to 16) or "".
    """

    deterministic = True

    def __init__(self, layer: str, reason: str, offset: int = 0, context: str = "") -> None:
        super().__init__(layer, reason, offset, context)
        self.layer, self.reason, self.offset, self.context = layer, reason, offset, context

    def __str__(self) -> str:
        at = f" (bytes {self.context})" if self.context else ""
        return f"{self.layer}: {self.reason} at byte {self.offset}{at}"


class CorruptionError(TheFlashError):
    """Bytes that fail their checksum or contradict themselves. Nothing is repaired or skipped."""

    deterministic = True

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(file, offset, reason)
        self.file, self.offset, self.reason = file, offset, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason} at byte {self.offset}"


class BinlogCorruptionError(CorruptionError):
    """A bad frame in a binlog: wrong magic or checksum, impossible length, unreadable message."""


class UnrepresentableValueError(TheFlashError):
    """A value that TiDB holds and the asked-for form cannot: a zero date as a date, say."""

    deterministic = True

    def __init__(self, column: str, value: str, form: str) -> None:
        super().__init__(column, value, form)
        self.column, self.value, self.form = column, value, form

    def __str__(self) -> str:
        return f"column {self.column}: {self.value} cannot be represented as {self.form}"


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


class ClusterMismatchError(TheFlashError):
    """A binlog, or a server, of another TiDB cluster than the one this is for."""

    deterministic = True

    def __init__(self, where: str, found: int, expected: int) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return f"{self.where} is of cluster {self.found}, not {self.expected}"


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
        return f"no table {self.table} at timestamp {self.snapshot_ts}"


class TableNotReplicatedError(TheFlashError):
    """A table that TiDB has and the store was told to leave out."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table

    def __str__(self) -> str:
        return f"{self.table} is not replicated: the writer's --include and --exclude leave it out"


class RegionNotFoundError(TheFlashError):
    """A region that is not there, or not any more: it was divided, united with another or purged.

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


class NotCaughtUpError(TheFlashError):
    """The store has not applied everything up to the wanted timestamp yet."""

    retryable = True

    def __init__(self, applied: int, wanted: int) -> None:
        super().__init__(applied, wanted)
        self.applied, self.wanted = applied, wanted

    def __str__(self) -> str:
        return (
            f"timestamp {self.wanted} is above resolved_ts {self.applied}: "
            "transactions up to there may still be missing"
        )


class SnapshotTooOldError(TheFlashError):
    """The timestamp lies below the oldest one the store can answer."""

    deterministic = True

    def __init__(self, snapshot_ts: int, oldest: int) -> None:
        super().__init__(snapshot_ts, oldest)
        self.snapshot_ts, self.oldest = snapshot_ts, oldest

    def __str__(self) -> str:
        return f"timestamp {self.snapshot_ts} is below {self.oldest}, the oldest that can be read"


class PurgedError(TheFlashError):
    """A table that TiDB recovered after its rows had been collected as garbage here."""

    deterministic = True

    def __init__(self, table: str, safe_point: int) -> None:
        super().__init__(table, safe_point)
        self.table, self.safe_point = table, safe_point

    def __str__(self) -> str:
        return (
            f"{self.table} was dropped, and its rows went with the garbage collection up to "
            f"{self.safe_point}; TiDB has recovered it since, this store cannot"
        )


class UnmatchedPrewriteError(TheFlashError):
    """Input vouched complete up to `until_ts` holds a transaction from before without its end."""

    def __init__(self, until_ts: int, start_ts: int, count: int) -> None:
        super().__init__(until_ts, start_ts, count)
        self.until_ts, self.start_ts, self.count = until_ts, start_ts, count

    def __str__(self) -> str:
        return (
            f"{self.count} transaction(s) below {self.until_ts} have a prewrite or a commit only, "
            f"the first at start_ts {self.start_ts}: the input is not complete up to there"
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


class StaleTokenError(TheFlashError):
    """A writer whose latch has gone to somebody else tried to write."""

    def __init__(self, held: int, current: int) -> None:
        super().__init__(held, current)
        self.held, self.current = held, current

    def __str__(self) -> str:
        return f"fencing token {self.held} is stale: a writer with {self.current} took over"


class LeaseExpiredError(TheFlashError):
    """A read latch ran out before the read was done; what it pinned may be gone."""

    retryable = True

    def __init__(self, lease_id: str, snapshot_ts: int) -> None:
        super().__init__(lease_id, snapshot_ts)
        self.lease_id, self.snapshot_ts = lease_id, snapshot_ts

    def __str__(self) -> str:
        return f"read latch {self.lease_id} on snapshot {self.snapshot_ts} has expired"


class LatchNotFoundError(TheFlashError):
    """No latch of that id, or not any more."""

    def __init__(self, latch_id: str) -> None:
        super().__init__(latch_id)
        self.latch_id = latch_id

    def __str__(self) -> str:
        return f"no latch {self.latch_id}; it may have run out"


class LatchHeldError(TheFlashError):
    """Somebody else holds what was asked for, or has asked for it earlier, until the wait ended."""

    retryable = True

    def __init__(self, scope: str, holder: str) -> None:
        super().__init__(scope, holder)
        self.scope, self.holder = scope, holder

    def __str__(self) -> str:
        return f"no latch on {self.scope}: there is the {self.holder}"


class LatchOrderError(TheFlashError):
    """A wait that could last for ever: who holds a latch waits only for scopes behind it."""

    deterministic = True

    def __init__(self, wanted: str, held: str) -> None:
        super().__init__(wanted, held)
        self.wanted, self.held = wanted, held

    def __str__(self) -> str:
        return (
            f"while {self.held} is held, {self.wanted} cannot be waited for, as others may wait "
            "the other way round: release it first, or take latches in the order of their scopes"
        )


class LatchLostError(TheFlashError):
    """What was to be done under a latch came after the latch had ended; nothing was done."""

    def __init__(self, latch_id: str, token: int) -> None:
        super().__init__(latch_id, token)
        self.latch_id, self.token = latch_id, token

    def __str__(self) -> str:
        return (
            f"latch {self.latch_id} with fencing token {self.token} has ended, and somebody else "
            "may hold what it was for: take another"
        )


class CommandTimeoutError(TheFlashError):
    """The store's writer did not answer a command in time."""

    retryable = True

    def __init__(self, verb: str, holder: str, state: str) -> None:
        super().__init__(verb, holder, state)
        self.verb, self.holder, self.state = verb, holder, state

    def __str__(self) -> str:
        return f"{self.verb} was handed to {self.holder}, which {self.state}"


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


class MissingExtraError(TheFlashError):
    """A package that only some uses need is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package, self.extra = package, extra

    def __str__(self) -> str:
        return (
            f"{self.package} is not installed; get it with: "
            f"pip install 'pyspark-theflash[{self.extra}]'"
        )


class LibraryBuildError(TheFlashError):
    """The C library cannot be made here."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot build the C library: {self.reason}"


class ServiceUnavailableError(TheFlashError):
    """A server that does not answer, or says itself that it cannot just now."""

    retryable = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} is not available: {self.reason}"


class ServiceRefusedError(TheFlashError):
    """A server that answers, with an error that asking again does not mend."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} refuses: {self.reason}"


class StreamCutError(ServiceUnavailableError):
    """Rows that stopped before their end was told; what came is not the whole answer."""


class ProtocolError(TheFlashError):
    """What comes over a connection is not what was agreed on: no frame, a wrong one, too large."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class AuthenticationError(TheFlashError):
    """A server that does not know who is calling: no token, or not one of its own."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} does not let us in: {self.reason}"


class RoleError(TheFlashError):
    """A call that the caller's token is not good for."""

    def __init__(self, method: str, needed: str, role: str) -> None:
        super().__init__(method, needed, role)
        self.method, self.needed, self.role = method, needed, role

    def __str__(self) -> str:
        return f"{self.method} needs a token with role {self.needed}, and this one has {self.role}"


class UnknownMethodError(TheFlashError):
    """A call that the server does not have; it may be of another version."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"there is no call {self.method!r}"


class TicketError(TheFlashError):
    """A ticket or handle that this store did not give out, or not as it is now."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"this {self.what} cannot be used: {self.reason}"


class DeadlineExceededError(TheFlashError):
    """A call that was not done by its deadline."""

    retryable = True

    def __init__(self, method: str, deadline_ms: int) -> None:
        super().__init__(method, deadline_ms)
        self.method, self.deadline_ms = method, deadline_ms

    def __str__(self) -> str:
        return f"{self.method} was not done within {self.deadline_ms} ms"


class CallCancelledError(TheFlashError):
    """A call that its caller gave up."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"{self.method} was cancelled"


class PumpUnavailableError(ServiceUnavailableError):
    """The pump that binlogs are pulled from does not answer."""


class PumpRefusedError(ServiceRefusedError):
    """The pump does not give out its binlogs: another cluster, an unknown position, no right to."""


class PDUnavailableError(ServiceUnavailableError):
    """No member of PD answers, or PD has no leader."""


class PDRefusedError(ServiceRefusedError):
    """PD answers with an error."""


class TiKVUnavailableError(ServiceUnavailableError):
    """A store of TiKV does not answer, or none serves a region, until the deadline."""


class TiKVRefusedError(ServiceRefusedError):
    """A store of TiKV answers with an error that asking again does not mend."""


class RegionGapError(TheFlashError):
    """Part of a key range that no region covers: rows there would be missing."""

    retryable = True

    def __init__(self, start: str, end: str) -> None:
        super().__init__(start, end)
        self.start, self.end = start, end

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return f"no region covers the keys from {start} to {end}"


class KeyIsLockedError(TheFlashError):
    """A transaction that began before the snapshot, and of which it is not known how it ended.

    `where` is the table of a row that it has locked.
    """

    retryable = True

    def __init__(self, start_ts: int, where: str, state: str) -> None:
        super().__init__(start_ts, where, state)
        self.start_ts, self.where, self.state = start_ts, where, state

    def __str__(self) -> str:
        return f"{self.where} is locked by transaction start_ts={self.start_ts}, which {self.state}"


class LockResolveError(TheFlashError):
    """TiKV says of a transaction what cannot be true of one; nothing was read past its locks."""

    def __init__(self, start_ts: int, reason: str) -> None:
        super().__init__(start_ts, reason)
        self.start_ts, self.reason = start_ts, reason

    def __str__(self) -> str:
        return f"transaction start_ts={self.start_ts}: {self.reason}"


class RegionNotReadableError(TheFlashError):
    """A region of TiKV that this store does not have, or that is not to be read just now."""

    retryable = True

    def __init__(self, region_id: int, state: str) -> None:
        super().__init__(region_id, state)
        self.region_id, self.state = region_id, state

    def __str__(self) -> str:
        return f"region {self.region_id} {self.state}"


class RegionEpochNotMatchError(TheFlashError):
    """A region was split or merged since it was looked up; look it up again."""

    retryable = True

    def __init__(self, region_id: int, wanted: int, found: int) -> None:
        super().__init__(region_id, wanted, found)
        self.region_id, self.wanted, self.found = region_id, wanted, found

    def __str__(self) -> str:
        return f"region {self.region_id} is of version {self.found}, not {self.wanted}"


class RegionBehindError(TheFlashError):
    """A region that has not applied its log up to the wanted index in time."""

    retryable = True

    def __init__(self, region_id: int, applied: int, wanted: int) -> None:
        super().__init__(region_id, applied, wanted)
        self.region_id, self.applied, self.wanted = region_id, applied, wanted

    def __str__(self) -> str:
        return f"region {self.region_id} has applied index {self.applied}, {self.wanted} is wanted"


class RaftCommandError(TheFlashError):
    """A raft command or snapshot that does not follow from what was applied before."""

    deterministic = True

    def __init__(self, region_id: int, index: int, reason: str) -> None:
        super().__init__(region_id, index, reason)
        self.region_id, self.index, self.reason = region_id, index, reason

    def __str__(self) -> str:
        return f"region {self.region_id} at index {self.index}: {self.reason}"


class CacheFullError(TheFlashError):
    """What waits in memory is more than it may be, and not for the engine to take."""

    retryable = True

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.size_bytes} bytes of transactions that have not ended wait in memory, "
            f"{self.limit_bytes} are allowed: raise the limit, or commit in smaller pieces"
        )


class RowMissingError(TheFlashError):
    """A commit whose row has not come yet: a snapshot takes its parts at different moments."""

    retryable = True

    def __init__(self, table: int, commit_ts: int) -> None:
        super().__init__(table, commit_ts)
        self.table, self.commit_ts = table, commit_ts

    def __str__(self) -> str:
        return f"table {self.table}: the row of the commit at {self.commit_ts} is yet to come"


class OtherPumpError(TheFlashError):
    """Another pump is registered, so that part of the binlog goes there and not here."""

    def __init__(self, node_id: str, state: str) -> None:
        super().__init__(node_id, state)
        self.node_id, self.state = node_id, state

    def __str__(self) -> str:
        return (
            f"pump {self.node_id} is {self.state}: TiDB writes some of its transactions there, "
            "and they would be missing here; take it offline"
        )
