"""The API's messages as values: see `protos/theflash/v1/theflash.proto`, which explains each field.

`service/wire/protobuf.py` finds a class by the message's name and its attributes by the fields'
names; what is optional there is None here.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from pyspark_theflash.base.options import timestamp_option

_Bytes: TypeAlias = bytes
"""For a message that has a field of that name."""


def _check_timestamps(request: object, *names: str) -> None:
    """Raise `OptionError` unless what is given for these attributes are timestamps."""
    for name in names:
        if (value := getattr(request, name)) is not None:
            timestamp_option(name, value)


@dataclass(frozen=True, slots=True)
class Moment:
    """Which moment to read."""

    snapshot_ts: int | None = None
    max_staleness_ms: int | None = None
    wait_ms: int = 0
    ttl_ms: int = 0
    handle: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        _check_timestamps(self, "snapshot_ts")


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """A snapshot taken before."""

    handle: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment that is kept readable."""

    handle: bytes = field(default=b"", repr=False)
    latch_id: str = ""
    snapshot_ts: int = 0
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, for people."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class TablesRequest:
    """For the tables of a moment."""

    moment: Moment = Moment()


@dataclass(frozen=True, slots=True)
class TableName:
    """A table in a list."""

    id: int = 0
    name: str = ""
    columns: int = 0
    partitions: int = 0
    not_loaded: str = ""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a moment."""

    snapshot_ts: int = 0
    tables: tuple[TableName, ...] = ()


@dataclass(frozen=True, slots=True)
class Presentation:
    """The form that values are handed out in."""

    zero_dates: str = ""
    as_text: bool = False


@dataclass(frozen=True, slots=True)
class TableRequest:
    """For one table of a moment."""

    moment: Moment = Moment()
    table: str = ""
    presentation: Presentation = Presentation()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    id: int = 0
    name: str = ""
    type: str = ""
    unsigned: bool = False
    flen: int = -1
    decimal: int = -1
    nullable: bool = False
    in_handle: bool = False
    comment: str = ""
    collation: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as of a moment."""

    id: int = 0
    name: str = ""
    snapshot_ts: int = 0
    columns: tuple[Column, ...] = ()
    arrow_schema: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Literal:
    """A value by its type's name and its text."""

    type: str = ""
    text: str = ""
    bytes: _Bytes = b""


@dataclass(frozen=True, slots=True)
class Expression:
    """A column, a literal, or something of arguments."""

    name: str = ""
    column: str = ""
    literal: Literal | None = None
    arguments: tuple["Expression", ...] = ()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A function of an argument; "count" of none counts rows."""

    function: str = ""
    argument: Expression | None = None


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Aggregates by groups, and by keys."""

    groups: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    keys: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column to sort by."""

    column: str = ""
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """For the rows of a table."""

    moment: Moment = Moment()
    table: str = ""
    columns: tuple[str, ...] = ()
    no_columns: bool = False
    where: str = ""
    presentation: Presentation = Presentation()
    filter: Expression | None = None
    aggregation: Aggregation | None = None
    limit: int = 0
    order: tuple[SortKey, ...] = ()
    no_splits: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a plan."""

    ticket: bytes = field(default=b"", repr=False)
    physical_id: int = 0
    region_id: int = 0
    versions: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a Spark read."""

    name: str = ""
    value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The settings of a Spark read."""

    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a Spark read comes to."""

    request: PlanRequest = PlanRequest()
    table: Table = Table()


@dataclass(frozen=True, slots=True)
class Plan:
    """Splits that together are a table's rows."""

    snapshot: Snapshot = Snapshot()
    table: str = ""
    arrow_schema: bytes = field(default=b"", repr=False)
    splits: tuple[Split, ...] = ()
    rows: int = 0


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """For the rows of a split, and of more of the same plan."""

    ticket: bytes = field(default=b"", repr=False)
    dictionaries: bool = False
    more: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Digest:
    """A table's row count and order-independent checksum."""

    snapshot_ts: int = 0
    rows: int = 0
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """For how the store is."""


@dataclass(frozen=True, slots=True)
class Process:
    """Who holds something."""

    pid: int = 0
    host: str = ""
    program: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.program})"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A transaction whose commit or prewrite has not come, or that an operator decided."""

    start_ts: int = 0
    age_ms: int = 0
    bytes: int = 0
    known: str = ""
    commit_ts: int | None = None
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One of several sources that a store follows."""

    name: str = ""
    position: str = ""
    seen_ts: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """How far one feed of the store is: `stream` or `api`."""

    feed: str = ""
    oldest_ts: int = 0
    resolved_ts: int = 0
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """How the store is."""

    store_id: str = ""
    engine: str = ""
    format: int = 0
    generation: int = 0
    resolved_ts: int | None = None
    lag_ms: int | None = None
    oldest_ts: int | None = None
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
    orphans: tuple[Orphan, ...] = ()
    sources: tuple[Source, ...] = ()
    feeds: tuple[FeedStatus, ...] = ()
    assumed_empty: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LatchesRequest:
    """For who pins what."""


@dataclass(frozen=True, slots=True)
class LatchScope:
    """What a latch is about; nothing: the store."""

    table: str = ""
    table_id: int = 0
    physical_id: int = 0
    region_id: int = 0


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """For a latch."""

    kind: str = ""
    scope: LatchScope = LatchScope()
    ttl_ms: int = 0
    wait_ms: int = 0
    name: str = ""
    mutates: bool = False
    moment: Moment = Moment()


@dataclass(frozen=True, slots=True)
class Latch:
    """Who may count on what."""

    id: str = ""
    kind: str = ""
    snapshot_ts: int | None = None
    generation: int | None = None
    expires_in_ms: int = 0
    holder: Process | None = None
    token: int | None = None
    scope: LatchScope = LatchScope()
    name: str = ""
    identity: str = ""
    mutates: bool = False
    handle: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Latches:
    """The store's latches, the writer's too, and who waits for one."""

    writer: Process | None = None
    latches: tuple[Latch, ...] = ()
    waiting: tuple[Latch, ...] = ()


@dataclass(frozen=True, slots=True)
class LatchRequest:
    """A latch by its id; its fencing token shows that one holds it."""

    id: str = ""
    token: int = 0


@dataclass(frozen=True, slots=True)
class WriteTable:
    """Whose versions come."""

    table_id: int = 0
    physical_id: int = 0


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A table's definition from `ts` on; of one that went, none."""

    ts: int = 0
    db: str = ""
    table_id: int = 0
    table_info: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """What is written at once, apart from the rows."""

    latches: tuple[LatchRequest, ...] = ()
    tables: tuple[WriteTable, ...] = ()
    schema: tuple[SchemaChange, ...] = ()
    resolved_ts: int | None = None
    position: str | None = None
    start_ts: int | None = None

    def __post_init__(self) -> None:
        _check_timestamps(self, "resolved_ts", "start_ts")

    @property
    def streams(self) -> int:
        """How many Arrow streams follow."""
        return len(self.tables)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, durably; `known` transactions had been before."""

    generation: int = 0
    rows: int = 0
    transactions: int = 0
    known: int = 0
    resolved_ts: int = 0


@dataclass(frozen=True, slots=True)
class WriterRequest:
    """To open the engine for a writer that is elsewhere."""

    latch: LatchRequest = LatchRequest()
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    """For records of the manifest."""

    latch: LatchRequest = LatchRequest()
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionsRequest:
    """For stored rows of a physical table."""

    latch: LatchRequest = LatchRequest()
    physical_id: int = 0
    snapshot_ts: int | None = None
    arrow_schema: bytes = b""

    def __post_init__(self) -> None:
        _check_timestamps(self, "snapshot_ts")


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """The request for a publication; its rows and records follow as Arrow streams."""

    latch: LatchRequest = LatchRequest()
    number: int = 0
    physical_ids: tuple[int, ...] = ()

    @property
    def streams(self) -> int:
        """How many Arrow streams follow."""
        return 1 + len(self.physical_ids)


@dataclass(frozen=True, slots=True)
class Published:
    """The answer to a publication that is durable and visible."""

    generation: int = 0


@dataclass(frozen=True, slots=True)
class CompactTablesRequest:
    """For physical tables in the form that pays by now; with `drain`, wait for it."""

    latch: LatchRequest = LatchRequest()
    physical_ids: tuple[int, ...] = ()
    drain: bool = False


@dataclass(frozen=True, slots=True)
class MaintainRequest:
    """For a piece of the store's upkeep."""

    latch: LatchRequest = LatchRequest()
    open_orphans: tuple[int, ...] = ()
    interval_ms: int | None = None
    has_pd: bool = False
    pd_safe_point: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """A record of the manifest."""

    kind: str = ""
    key: str = ""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Maintained:
    """The answer to `MaintainRequest`: changes that the writer takes over into its memory."""

    interval_ms: int | None = None
    is_stopping: bool = False
    changed: tuple[ManifestRecord, ...] = ()
    ledger_records: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class CompactRequest:
    """For the form that reads fastest."""


@dataclass(frozen=True, slots=True)
class RegionsRequest:
    """For how a table is split."""

    table: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """A range of handles of a physical table; its id stands for it for ever."""

    physical_id: int = 0
    region_id: int = 0
    start: str = ""
    end: str = ""
    files: int = 0
    versions: int = 0
    size_bytes: int = 0
    deltas: int = 0
    partitions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Regions:
    """How a table is split now."""

    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class FlushRequest:
    """For recent rows in their regions."""


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """For two regions in the place of one."""

    physical_id: int = 0
    region_id: int = 0
    at: str = ""


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """For one region in the place of two neighbours."""

    physical_id: int = 0
    left_id: int = 0
    right_id: int = 0


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """For a region's files in another partition, or in one more."""

    physical_id: int = 0
    region_id: int = 0
    partition: int = 0


@dataclass(frozen=True, slots=True)
class PurgeRequest:
    """For a region's rows to go from disk."""

    physical_id: int = 0
    region_id: int = 0


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """For less garbage."""

    safe_point: int | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        _check_timestamps(self, "safe_point")


@dataclass(frozen=True, slots=True)
class RetentionRequest:
    """For how much history garbage collection keeps."""

    retention_ms: int = 0


@dataclass(frozen=True, slots=True)
class IntervalRequest:
    """For another polling interval."""

    interval_ms: int = 0


@dataclass(frozen=True, slots=True)
class StopRequest:
    """For the writer's end."""


@dataclass(frozen=True, slots=True)
class Error:
    """Why a call failed."""

    name: str = ""
    text: str = ""
    arguments: str = ""
    retryable: bool = False
