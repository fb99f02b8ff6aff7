"""The messages of the TheFlash API and the types of its calls.

Generated from `protos/theflash/v1/theflash.proto` by `make proto`. Do not edit.
"""

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pyspark_theflash.base.read_options import timestamp_option

_Bytes: TypeAlias = bytes


def _check_timestamps(request: object, *names: str) -> None:
    """Raise `OptionError` if one of these attributes is neither None nor a timestamp."""
    for name in names:
        if (value := getattr(request, name)) is not None:
            timestamp_option(name, value)


@dataclass(frozen=True, slots=True)
class Moment:
    """A timestamp to read at. Without any field: the newest that can be read."""

    snapshot_ts: int | None = None
    """A TSO of TiDB.

    In JSON, in this and all other requests, also a text: a TSO, or a time with its zone (RFC 3339).
    """
    max_staleness_ms: int | None = None
    """Read the newest timestamp, if it is at most this old."""
    wait_ms: int = 0
    """The time to wait until the timestamp can be read."""
    ttl_ms: int = 0
    """The read latch's time to live after each renewal; 0: ten minutes."""
    handle: bytes = field(default=b"", repr=False)
    """The handle of a snapshot that was taken before. No other field may be set with it."""

    def __post_init__(self) -> None:
        _check_timestamps(self, "snapshot_ts")


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """A request about a snapshot that was taken before."""

    handle: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A timestamp that is kept readable by a latch."""

    handle: bytes = field(default=b"", repr=False)
    """Identifies the snapshot in other calls. Sealed by the server: opaque to clients."""
    latch_id: str = ""
    snapshot_ts: int = 0
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A report of what was done, for people."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class TablesRequest:
    """A request for the tables at a timestamp."""

    moment: Moment = Moment()


@dataclass(frozen=True, slots=True)
class TableName:
    """A table in a list."""

    id: int = 0
    name: str = ""
    """DB.TABLE."""
    columns: int = 0
    partitions: int = 0
    not_loaded: str = ""
    """Why the table cannot be read: its earlier rows were not loaded, or it is set aside.

    Empty if it can be read.
    """
    db: str = ""
    """The database's name, which `name` begins with."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables at a timestamp."""

    snapshot_ts: int = 0
    tables: tuple[TableName, ...] = ()


@dataclass(frozen=True, slots=True)
class Presentation:
    """The form in which values are returned."""

    zero_dates: str = ""
    """The form of dates that no calendar has: "raise" (or ""), "null", or "string" (all dates as
    TiDB's texts).
    """
    as_text: bool = False
    """Return every column as TiDB prints it: texts; BIT and binary strings as bytes."""


@dataclass(frozen=True, slots=True)
class TableRequest:
    """A request for one table at a timestamp."""

    moment: Moment = Moment()
    table: str = ""
    presentation: Presentation = Presentation()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    id: int = 0
    name: str = ""
    type: str = ""
    """TiDB's name of the type: LONGLONG, NEWDECIMAL, VARCHAR, ..."""
    unsigned: bool = False
    flen: int = 0
    """The display width or precision (2^32 - 1 for LONGTEXT); -1: none."""
    decimal: int = 0
    """The scale; -1: none."""
    nullable: bool = False
    in_handle: bool = False
    """Whether the column is part of the row's handle."""
    comment: str = ""
    collation: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table's definition at a timestamp."""

    id: int = 0
    name: str = ""
    snapshot_ts: int = 0
    columns: tuple[Column, ...] = ()
    arrow_schema: bytes = field(default=b"", repr=False)
    """The columns as an Arrow schema (an IPC message)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of a Spark read."""

    name: str = ""
    value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The options of a Spark read.

    Their names are those of pyspark_theflash.base.read_options, without those of the server and its
    token.
    """

    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: the name of its type and its text."""

    type: str = ""
    """"null", "bool", "int" (any integer), "float" (32 bits), "double", "decimal", "string",
    "binary", "date" (days since 1970-01-01), "timestamp" (microseconds since 1970, UTC),
    "timestamp_ntz" (the same without a zone), or "duration" (microseconds).
    """
    text: str = ""
    """true or false; digits; a float as Java or Python prints it (NaN, Infinity); digits with a
    point; the string.
    """
    bytes: _Bytes = field(default=b"", repr=False)
    """The value of a "binary" literal."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A node of an expression. At most 64 levels deep, and 10,000 nodes in a request."""

    name: str = ""
    """"column", "literal", "and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "<=>", "in", "is
    null", "is not null", "starts with", "ends with", "contains", "+", "-", "*", with arguments in
    Spark's order; "and" and "or" take two or more. Also "case" (conditions and values by turns,
    then an optional value otherwise), "coalesce", and the functions of read/pushdown/function.py.
    Values are cast only by "as TYPE".
    """
    column: str = ""
    """The column's name, if `name` is "column"."""
    literal: Literal | None = None
    """The value, if `name` is "literal"."""
    arguments: tuple["Expression", ...] = ()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate function.

    "count" returns int64; "sum" decimal(38, 0) of integers, decimal(38, s) of decimals and double
    of floats; "min" and "max" the argument's type.
    """

    function: str = ""
    argument: Expression | None = None
    """Without an argument, "count" counts rows."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Aggregates by groups: columns by name, and `keys`, which are expressions.

    The rows have the groups, then the keys `k0`, `k1` ..., then the aggregates `a0`, `a1` .... A
    group may have several rows, which the caller combines: counts and sums are added, minima and
    maxima compared.
    """

    groups: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    keys: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column to sort by, in Spark's order: texts by their bytes, NaN as the largest number."""

    column: str = ""
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A request for a plan of a scan."""

    moment: Moment = Moment()
    table: str = ""
    columns: tuple[str, ...] = ()
    """Columns by name, in output order.

    Empty without `no_columns`: the columns of SELECT *. `_tidb_rowid` is allowed where the table
    has one.
    """
    no_columns: bool = False
    """Return the number of rows only."""
    where: str = ""
    """A condition that is evaluated by TiDB's rules."""
    presentation: Presentation = Presentation()
    filter: Expression | None = None
    """Return only rows for which this is true by Spark's rules, applied to the values that the scan
    returns: texts compare by their bytes, a comparison with NULL is unknown. An expression without
    an exact answer raises UnsupportedError.
    """
    aggregation: Aggregation | None = None
    """Return partial aggregates of each split instead of rows. `columns` is empty then."""
    limit: int = 0
    """The maximal number of rows of a split; 0: no limit.

    With `order`, the first rows in that order.
    """
    order: tuple[SortKey, ...] = ()
    no_splits: bool = False
    """Check the request and return the schema, without splits."""
    dictionaries: bool = False
    """Return a schema with dictionaries for string columns that are mostly stored so.

    A scan that returns dictionaries may have others.
    """


@dataclass(frozen=True, slots=True)
class Reading:
    """A Spark read whose timestamp is fixed."""

    request: PlanRequest = PlanRequest()
    table: Table = Table()
    """The table, with only those columns that are read, in their order."""


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a plan, read by one Scan call."""

    ticket: bytes = field(default=b"", repr=False)
    """Opaque; valid as long as the plan's snapshot."""
    physical_id: int = 0
    region_id: int = 0
    versions: int = 0
    """The approximate number of row versions that are read; 0 if unknown."""
    size_bytes: int = 0
    """The approximate number of bytes that are read; 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scan, divided into splits."""

    snapshot: Snapshot = Snapshot()
    table: str = ""
    arrow_schema: bytes = field(default=b"", repr=False)
    """The schema of every split's rows or partial aggregates (an IPC message)."""
    splits: tuple[Split, ...] = ()
    rows: int = 0
    """The number of row versions in all splits: an upper bound of the number of rows."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """A request for the rows of one or more splits."""

    ticket: bytes = field(default=b"", repr=False)
    dictionaries: bool = False
    """Return strings of few different values as Arrow dictionaries."""
    more: tuple[bytes, ...] = field(default=(), repr=False)
    """The tickets of further splits of the same plan.

    Aggregates and limits apply to the rows of all of them.
    """


@dataclass(frozen=True, slots=True)
class Digest:
    """A table's row count and order-independent checksum."""

    snapshot_ts: int = 0
    rows: int = 0
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """A request for the store's status."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds a lock or latch."""

    pid: int = 0
    host: str = ""
    program: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A transaction whose commit or prewrite has not arrived, or that an operator decided."""

    start_ts: int = 0
    age_ms: int = 0
    """The time that it has been pending, by the clock of the server."""
    bytes: int = 0
    """The size of its changes."""
    state: str = ""
    """The report of TiKV or an operator about it."""
    commit_ts: int | None = None
    """Not set: undecided. 0: rolled back."""
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One of several sources that a store follows."""

    name: str = ""
    """The source as it was passed to the writer."""
    position: str = ""
    seen_ts: int = 0
    """The newest commit_ts that this source has delivered.

    resolved_ts cannot pass the lowest of all sources.
    """
    trouble: str = ""
    """Why the last poll returned nothing; empty if there was no error."""


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """The progress of one feed."""

    feed: str = ""
    """stream or api."""
    oldest_ts: int = 0
    resolved_ts: int = 0
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The store's status. Fields that are not set have no value yet."""

    store_id: str = ""
    engine: str = ""
    format: int = 0
    generation: int = 0
    resolved_ts: int | None = None
    """The newest timestamp at which the tables of all feeds can be read."""
    lag_ms: int | None = None
    oldest_ts: int | None = None
    """The oldest timestamp at which the tables of all feeds can be read."""
    position: str | None = None
    writer: Process | None = None
    interval_ms: int | None = None
    pending_transactions: int = 0
    held_by_start_ts: int | None = None
    ledger_entries: int = 0
    ledger_bytes: int = 0
    latches: int = 0
    physical_tables: int = 0
    regions: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    retention_ms: int | None = None
    """The duration of history that garbage collection keeps.

    Not set: a day, and garbage is collected by command only.
    """
    orphans: tuple[Orphan, ...] = ()
    """Transactions whose commit or prewrite has not arrived, and those that an operator decided."""
    sources: tuple[Source, ...] = ()
    """The sources, if there are several."""
    feeds: tuple[FeedStatus, ...] = ()
    assumed_empty: tuple[str, ...] = ()
    """Patterns of tables that were declared to have had no rows before their changes were followed.
    """
    set_aside: tuple[str, ...] = ()
    """Tables that are set aside because their content is unknown: since when, why, and what to do.
    """
    stopped_regions: tuple[str, ...] = ()
    """Regions of TiKV that cannot be followed any further: at which index, why, and what to do."""


@dataclass(frozen=True, slots=True)
class LatchesRequest:
    """A request for the active latches."""


@dataclass(frozen=True, slots=True)
class LatchScope:
    """The scope of a latch. Without any field: the store."""

    table: str = ""
    """DB.TABLE by its current name. Either this or `table_id`."""
    table_id: int = 0
    physical_id: int = 0
    """A partition of the table; for a table without partitions, its own id."""
    region_id: int = 0
    """A region of that partition."""


@dataclass(frozen=True, slots=True)
class Latch:
    """A latch."""

    id: str = ""
    kind: str = ""
    """"read", "pin", "write" or "admin"."""
    snapshot_ts: int | None = None
    generation: int | None = None
    expires_in_ms: int = 0
    holder: Process | None = None
    """The process, if it took the latch for itself."""
    token: int | None = None
    """The fencing token, if the latch was granted to a caller: greater than those of all earlier
    grants.
    """
    scope: LatchScope = LatchScope()
    name: str = ""
    identity: str = ""
    """The identity of the caller as the server sees it."""
    mutates: bool = False
    handle: bytes = field(default=b"", repr=False)
    """For an acquired "read" latch: the handle of its snapshot, as in Snapshot."""


@dataclass(frozen=True, slots=True)
class Latches:
    """The store's active latches, the writer's included, and the queue of waiters."""

    writer: Process | None = None
    latches: tuple[Latch, ...] = ()
    waiting: tuple[Latch, ...] = ()
    """The queue, first in line first. Only kind, scope, name, identity and mutates are set."""


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """A request to acquire a latch."""

    kind: str = ""
    """"read", "write" or "admin"."""
    scope: LatchScope = LatchScope()
    ttl_ms: int = 0
    """The latch's time to live after each renewal; 0: ten minutes."""
    wait_ms: int = 0
    """The time to wait for conflicting latches; at most until the call's deadline."""
    name: str = ""
    """The caller's own name; with the identity that the server sees, the holder.

    Required unless `kind` is "read".
    """
    mutates: bool = False
    """For "admin": whether the holder changes the store, so that no writer may run at the same
    time.
    """
    moment: Moment = Moment()
    """For "read": the timestamp to keep readable."""


@dataclass(frozen=True, slots=True)
class LatchRequest:
    """A request about a latch that is held."""

    id: str = ""
    token: int = 0
    """The fencing token. Not required by RemoveLatch."""


@dataclass(frozen=True, slots=True)
class WriteTable:
    """A physical table whose row versions follow.

    The rows are sorted by _handle and _commit_ts, which are unique together. Columns: _handle
    (int64; binary for clustered keys that are no integer), _commit_ts, _start_ts (uint64), _op
    (uint8: 0 delete, 1 put), then c<column id> for each stored column, of the types of
    tidb/codec/arrow.py.
    """

    table_id: int = 0
    physical_id: int = 0
    """0: the table has no partitions."""


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A table's definition from `ts` on."""

    ts: int = 0
    db: str = ""
    table_id: int = 0
    table_info: str = field(default="", repr=False)
    """TiDB's TableInfo as JSON; empty if the table was dropped."""


@dataclass(frozen=True, slots=True)
class StatementWrite:
    """The write of a statement of SQL.

    The rows of its table have any Arrow types that can be assigned to the columns.
    """

    kind: str = ""
    """"insert", "update", "delete", or "" for schema changes.

    The columns of the rows are named insert c<column id> for each value; others get their defaults
    update k<column id> for the key of the row that is changed (k0: _tidb_rowid), c<column id> for
    each new value delete k<column id>.
    """
    read_ts: int = 0
    """The resolved_ts of the API's feed at which the statement read, which must still be that; 0:
    it has none yet.
    """
    least_ts: int = 0
    """A lower bound of the commit timestamp, from PD; 0: none."""


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """A request to write schema changes, progress and rows. The rows follow as Arrow streams."""

    latches: tuple[LatchRequest, ...] = ()
    """Write latches, by id and token, that together cover all that is written."""
    tables: tuple[WriteTable, ...] = ()
    schema: tuple[SchemaChange, ...] = ()
    """Events to append to the schema history.

    This and all following fields require a latch on the store.
    """
    resolved_ts: int | None = None
    """The new newest timestamp at which tables that are written through the API can be read."""
    position: str | None = None
    """The caller's position in its source, stored with the data."""
    start_ts: int | None = None
    """The oldest timestamp that a new store can answer. Only for the first write."""
    statement: StatementWrite | None = None
    """Execute a statement of SQL, at a commit timestamp that the server chooses.

    No other field but `latches`, `tables` and `schema` is set then, a `ts` of `schema` is 0, and a
    table_id of 0 in `schema` creates a table.
    """

    def __post_init__(self) -> None:
        _check_timestamps(self, "resolved_ts", "start_ts")


@dataclass(frozen=True, slots=True)
class Written:
    """A report of a durable write."""

    generation: int = 0
    rows: int = 0
    transactions: int = 0
    repeated: int = 0
    """Transactions that had been applied before and were skipped."""
    resolved_ts: int = 0
    commit_ts: int = 0
    """The commit timestamp of a statement; 0: nothing was written."""


@dataclass(frozen=True, slots=True)
class WriterRequest:
    """A request to open the engine for a remote writer."""

    latch: LatchRequest = LatchRequest()
    """A latch of kind "write" on the store."""
    wait_ms: int = 0
    """The time to wait until another process releases the store."""


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    """A request for records of the manifest."""

    latch: LatchRequest = LatchRequest()
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionsRequest:
    """A request for stored rows of a physical table."""

    latch: LatchRequest = LatchRequest()
    physical_id: int = 0
    snapshot_ts: int | None = None
    """Return the rows visible at this timestamp as they are stored: `_handle` and the columns of
    `arrow_schema`. Not set: return `_handle`, `_commit_ts` and `_op` of all versions.
    """
    arrow_schema: bytes = field(default=b"", repr=False)
    """The columns (an IPC message), named as in WriteTable; empty: handles only."""

    def __post_init__(self) -> None:
        _check_timestamps(self, "snapshot_ts")


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """A publication.

    Arrow streams follow: records (kind and key as texts, body as binary; a NULL body removes the
    record), then rows as in WriteTable for each physical table.
    """

    latch: LatchRequest = LatchRequest()
    number: int = 0
    """Counts from 1 since OpenWriter.

    A repeated number gets the earlier answer and publishes nothing.
    """
    physical_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """The answer to a publication that is durable and visible."""

    generation: int = 0


@dataclass(frozen=True, slots=True)
class CompactTablesRequest:
    """A request to compact physical tables as far as it pays."""

    latch: LatchRequest = LatchRequest()
    physical_ids: tuple[int, ...] = ()
    drain: bool = False
    """Return only when all compactions requested since OpenWriter are done."""


@dataclass(frozen=True, slots=True)
class MaintainRequest:
    """A request for one round of the store's maintenance."""

    latch: LatchRequest = LatchRequest()
    open_orphans: tuple[int, ...] = ()
    """The start_ts of transactions that are recorded as orphans and still pending."""
    interval_ms: int | None = None
    """The writer's new polling interval."""
    has_pd: bool = False
    """Whether PD is known. If so, garbage is collected automatically only once PD has answered."""
    pd_safe_point: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """A record of the manifest."""

    kind: str = ""
    key: str = ""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Maintained:
    """The changes made by maintenance that the writer takes over into its memory."""

    interval_ms: int | None = None
    is_stopping: bool = False
    changed: tuple[ManifestRecord, ...] = ()
    """Changed records of progress and orphans."""
    ledger_records: int = 0
    """The number of ledger records, if the progress has changed."""
    discarded: int = 0
    """The number of compaction pieces that were discarded since OpenWriter."""


@dataclass(frozen=True, slots=True)
class RegionsRequest:
    """A request for the regions of a table."""

    table: str = ""
    """DB.TABLE by its current name."""


@dataclass(frozen=True, slots=True)
class Region:
    """A range of handles of a physical table and its files."""

    physical_id: int = 0
    region_id: int = 0
    """Permanently identifies one range: a region whose range changes gets a new id."""
    start: str = ""
    """The first handle: a number, or 0x and the bytes of a clustered key in hexadecimal; empty:
    unbounded.
    """
    end: str = ""
    """The end of the range, exclusive, in the same form."""
    files: int = 0
    """Files of this region only."""
    versions: int = 0
    size_bytes: int = 0
    deltas: int = 0
    """Recent files, shared by several regions, that contain rows of this one."""
    partitions: tuple[int, ...] = ()
    """The store's partitions; each has all of this region's files."""


@dataclass(frozen=True, slots=True)
class Regions:
    """The current regions of a table."""

    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class CompactRequest:
    """A request to rewrite all tables into their most compact form."""


@dataclass(frozen=True, slots=True)
class FlushRequest:
    """A request to distribute recently written rows among the regions of all tables."""


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """A request to split a region in two."""

    physical_id: int = 0
    region_id: int = 0
    at: str = ""
    """The first handle of the upper half, in the form of Region.start."""


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """A request to merge two neighbouring regions."""

    physical_id: int = 0
    left_id: int = 0
    right_id: int = 0


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """A request to move a region to a partition, or to copy it there."""

    physical_id: int = 0
    region_id: int = 0
    partition: int = 0


@dataclass(frozen=True, slots=True)
class PurgeRequest:
    """A request to remove a region's rows from disk."""

    physical_id: int = 0
    region_id: int = 0


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """A request to collect garbage."""

    safe_point: int | None = None
    """The oldest timestamp to keep readable. Not set: the store's retention before resolved_ts."""
    dry_run: bool = False
    """Report what would be dropped, and drop nothing."""

    def __post_init__(self) -> None:
        _check_timestamps(self, "safe_point")


@dataclass(frozen=True, slots=True)
class RetentionRequest:
    """A request to set how much history garbage collection keeps."""

    retention_ms: int = 0


@dataclass(frozen=True, slots=True)
class IntervalRequest:
    """A request to set the writer's polling interval."""

    interval_ms: int = 0


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A request to stop the writer."""


@dataclass(frozen=True, slots=True)
class Error:
    """The error of a failed call."""

    name: str = ""
    """The name of a class of pyspark_theflash.errors."""
    text: str = ""
    """The error's text, for clients that do not have the class."""
    arguments: str = ""
    """The constructor arguments of the class, as a JSON list."""
    retryable: bool = False
    """Whether the same call may succeed later."""


SIGNATURES: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    "TakeSnapshot": (Moment, Snapshot),
    "RenewSnapshot": (SnapshotRequest, Snapshot),
    "ReleaseSnapshot": (SnapshotRequest, Done),
    "ListTables": (TablesRequest, Tables),
    "DescribeTable": (TableRequest, Table),
    "PrepareRead": (ReadOptions, Reading),
    "PlanScan": (PlanRequest, Plan),
    "Scan": (ScanRequest, Done),
    "ComputeDigest": (TableRequest, Digest),
    "GetStatus": (StatusRequest, Status),
    "ListRegions": (RegionsRequest, Regions),
    "AcquireLatch": (AcquireRequest, Latch),
    "RenewLatch": (LatchRequest, Latch),
    "ReleaseLatch": (LatchRequest, Done),
    "Write": (WriteRequest, Written),
    "OpenWriter": (WriterRequest, Done),
    "ReadRecords": (RecordsRequest, Done),
    "ReadVersions": (VersionsRequest, Done),
    "Publish": (PublishRequest, Published),
    "CompactTables": (CompactTablesRequest, Done),
    "Maintain": (MaintainRequest, Maintained),
    "Pin": (Moment, Snapshot),
    "ListLatches": (LatchesRequest, Latches),
    "RemoveLatch": (LatchRequest, Done),
    "Compact": (CompactRequest, Done),
    "Flush": (FlushRequest, Done),
    "SplitRegion": (SplitRequest, Done),
    "MergeRegions": (MergeRequest, Done),
    "MoveRegion": (MoveRequest, Done),
    "CopyRegion": (MoveRequest, Done),
    "PurgeRegion": (PurgeRequest, Done),
    "CollectGarbage": (CollectRequest, Done),
    "SetRetention": (RetentionRequest, Done),
    "SetInterval": (IntervalRequest, Done),
    "StopWriter": (StopRequest, Done),
}
"""The types of request and response of each call."""
