from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Moment(_message.Message):
    __slots__ = ("snapshot_ts", "max_staleness_ms", "wait_ms", "ttl_ms", "handle")
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    snapshot_ts: int
    max_staleness_ms: int
    wait_ms: int
    ttl_ms: int
    handle: bytes
    def __init__(self, snapshot_ts: _Optional[int] = ..., max_staleness_ms: _Optional[int] = ..., wait_ms: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., handle: _Optional[bytes] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("handle",)
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    handle: bytes
    def __init__(self, handle: _Optional[bytes] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("handle", "latch_id", "snapshot_ts", "ttl_ms")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    LATCH_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    handle: bytes
    latch_id: str
    snapshot_ts: int
    ttl_ms: int
    def __init__(self, handle: _Optional[bytes] = ..., latch_id: _Optional[str] = ..., snapshot_ts: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class TablesRequest(_message.Message):
    __slots__ = ("moment",)
    MOMENT_FIELD_NUMBER: _ClassVar[int]
    moment: Moment
    def __init__(self, moment: _Optional[_Union[Moment, _Mapping]] = ...) -> None: ...

class Tables(_message.Message):
    __slots__ = ("snapshot_ts", "tables")
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    snapshot_ts: int
    tables: _containers.RepeatedCompositeFieldContainer[TableName]
    def __init__(self, snapshot_ts: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableName, _Mapping]]] = ...) -> None: ...

class TableName(_message.Message):
    __slots__ = ("id", "name", "columns", "partitions", "not_loaded", "db")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NOT_LOADED_FIELD_NUMBER: _ClassVar[int]
    DB_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    columns: int
    partitions: int
    not_loaded: str
    db: str
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., columns: _Optional[int] = ..., partitions: _Optional[int] = ..., not_loaded: _Optional[str] = ..., db: _Optional[str] = ...) -> None: ...

class TableRequest(_message.Message):
    __slots__ = ("moment", "table", "presentation")
    MOMENT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PRESENTATION_FIELD_NUMBER: _ClassVar[int]
    moment: Moment
    table: str
    presentation: Presentation
    def __init__(self, moment: _Optional[_Union[Moment, _Mapping]] = ..., table: _Optional[str] = ..., presentation: _Optional[_Union[Presentation, _Mapping]] = ...) -> None: ...

class Presentation(_message.Message):
    __slots__ = ("zero_dates", "as_text")
    ZERO_DATES_FIELD_NUMBER: _ClassVar[int]
    AS_TEXT_FIELD_NUMBER: _ClassVar[int]
    zero_dates: str
    as_text: bool
    def __init__(self, zero_dates: _Optional[str] = ..., as_text: _Optional[bool] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("id", "name", "snapshot_ts", "columns", "arrow_schema")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    snapshot_ts: int
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    arrow_schema: bytes
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., snapshot_ts: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., arrow_schema: _Optional[bytes] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("id", "name", "type", "unsigned", "flen", "decimal", "nullable", "in_handle", "comment", "collation")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UNSIGNED_FIELD_NUMBER: _ClassVar[int]
    FLEN_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_FIELD_NUMBER: _ClassVar[int]
    NULLABLE_FIELD_NUMBER: _ClassVar[int]
    IN_HANDLE_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    COLLATION_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    type: str
    unsigned: bool
    flen: int
    decimal: int
    nullable: bool
    in_handle: bool
    comment: str
    collation: str
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., unsigned: _Optional[bool] = ..., flen: _Optional[int] = ..., decimal: _Optional[int] = ..., nullable: _Optional[bool] = ..., in_handle: _Optional[bool] = ..., comment: _Optional[str] = ..., collation: _Optional[str] = ...) -> None: ...

class ReadOptions(_message.Message):
    __slots__ = ("settings",)
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    def __init__(self, settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("request", "table")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    request: PlanRequest
    table: Table
    def __init__(self, request: _Optional[_Union[PlanRequest, _Mapping]] = ..., table: _Optional[_Union[Table, _Mapping]] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("moment", "table", "columns", "no_columns", "where", "presentation", "filter", "aggregation", "limit", "order", "no_splits")
    MOMENT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NO_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    PRESENTATION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    NO_SPLITS_FIELD_NUMBER: _ClassVar[int]
    moment: Moment
    table: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    no_columns: bool
    where: str
    presentation: Presentation
    filter: Expression
    aggregation: Aggregation
    limit: int
    order: _containers.RepeatedCompositeFieldContainer[SortKey]
    no_splits: bool
    def __init__(self, moment: _Optional[_Union[Moment, _Mapping]] = ..., table: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ..., no_columns: _Optional[bool] = ..., where: _Optional[str] = ..., presentation: _Optional[_Union[Presentation, _Mapping]] = ..., filter: _Optional[_Union[Expression, _Mapping]] = ..., aggregation: _Optional[_Union[Aggregation, _Mapping]] = ..., limit: _Optional[int] = ..., order: _Optional[_Iterable[_Union[SortKey, _Mapping]]] = ..., no_splits: _Optional[bool] = ...) -> None: ...

class Expression(_message.Message):
    __slots__ = ("name", "column", "literal", "arguments")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    LITERAL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    column: str
    literal: Literal
    arguments: _containers.RepeatedCompositeFieldContainer[Expression]
    def __init__(self, name: _Optional[str] = ..., column: _Optional[str] = ..., literal: _Optional[_Union[Literal, _Mapping]] = ..., arguments: _Optional[_Iterable[_Union[Expression, _Mapping]]] = ...) -> None: ...

class Literal(_message.Message):
    __slots__ = ("type", "text", "bytes")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    type: str
    text: str
    bytes: bytes
    def __init__(self, type: _Optional[str] = ..., text: _Optional[str] = ..., bytes: _Optional[bytes] = ...) -> None: ...

class Aggregation(_message.Message):
    __slots__ = ("groups", "aggregates", "keys")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    AGGREGATES_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedScalarFieldContainer[str]
    aggregates: _containers.RepeatedCompositeFieldContainer[Aggregate]
    keys: _containers.RepeatedCompositeFieldContainer[Expression]
    def __init__(self, groups: _Optional[_Iterable[str]] = ..., aggregates: _Optional[_Iterable[_Union[Aggregate, _Mapping]]] = ..., keys: _Optional[_Iterable[_Union[Expression, _Mapping]]] = ...) -> None: ...

class Aggregate(_message.Message):
    __slots__ = ("function", "argument")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    function: str
    argument: Expression
    def __init__(self, function: _Optional[str] = ..., argument: _Optional[_Union[Expression, _Mapping]] = ...) -> None: ...

class SortKey(_message.Message):
    __slots__ = ("column", "descending", "nulls_first")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIRST_FIELD_NUMBER: _ClassVar[int]
    column: str
    descending: bool
    nulls_first: bool
    def __init__(self, column: _Optional[str] = ..., descending: _Optional[bool] = ..., nulls_first: _Optional[bool] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("snapshot", "table", "arrow_schema", "splits", "rows")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    table: str
    arrow_schema: bytes
    splits: _containers.RepeatedCompositeFieldContainer[Split]
    rows: int
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., table: _Optional[str] = ..., arrow_schema: _Optional[bytes] = ..., splits: _Optional[_Iterable[_Union[Split, _Mapping]]] = ..., rows: _Optional[int] = ...) -> None: ...

class Split(_message.Message):
    __slots__ = ("ticket", "physical_id", "region_id", "versions", "size_bytes")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    physical_id: int
    region_id: int
    versions: int
    size_bytes: int
    def __init__(self, ticket: _Optional[bytes] = ..., physical_id: _Optional[int] = ..., region_id: _Optional[int] = ..., versions: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("ticket", "dictionaries", "more")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    DICTIONARIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    dictionaries: bool
    more: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, ticket: _Optional[bytes] = ..., dictionaries: _Optional[bool] = ..., more: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Digest(_message.Message):
    __slots__ = ("snapshot_ts", "rows", "checksum")
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    snapshot_ts: int
    rows: int
    checksum: str
    def __init__(self, snapshot_ts: _Optional[int] = ..., rows: _Optional[int] = ..., checksum: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("store_id", "engine", "format", "generation", "resolved_ts", "lag_ms", "oldest_ts", "position", "writer", "interval_ms", "pending_transactions", "held_by_start_ts", "ledger_entries", "ledger_bytes", "latches", "physical_tables", "regions", "files", "rows", "bytes", "retention_ms", "orphans", "sources", "feeds", "assumed_empty", "set_aside")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_TS_FIELD_NUMBER: _ClassVar[int]
    LAG_MS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_TS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    PENDING_TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_START_TS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_BYTES_FIELD_NUMBER: _ClassVar[int]
    LATCHES_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_TABLES_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    RETENTION_MS_FIELD_NUMBER: _ClassVar[int]
    ORPHANS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    FEEDS_FIELD_NUMBER: _ClassVar[int]
    ASSUMED_EMPTY_FIELD_NUMBER: _ClassVar[int]
    SET_ASIDE_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    engine: str
    format: int
    generation: int
    resolved_ts: int
    lag_ms: int
    oldest_ts: int
    position: str
    writer: Process
    interval_ms: int
    pending_transactions: int
    held_by_start_ts: int
    ledger_entries: int
    ledger_bytes: int
    latches: int
    physical_tables: int
    regions: int
    files: int
    rows: int
    bytes: int
    retention_ms: int
    orphans: _containers.RepeatedCompositeFieldContainer[Orphan]
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    feeds: _containers.RepeatedCompositeFieldContainer[FeedStatus]
    assumed_empty: _containers.RepeatedScalarFieldContainer[str]
    set_aside: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, store_id: _Optional[str] = ..., engine: _Optional[str] = ..., format: _Optional[int] = ..., generation: _Optional[int] = ..., resolved_ts: _Optional[int] = ..., lag_ms: _Optional[int] = ..., oldest_ts: _Optional[int] = ..., position: _Optional[str] = ..., writer: _Optional[_Union[Process, _Mapping]] = ..., interval_ms: _Optional[int] = ..., pending_transactions: _Optional[int] = ..., held_by_start_ts: _Optional[int] = ..., ledger_entries: _Optional[int] = ..., ledger_bytes: _Optional[int] = ..., latches: _Optional[int] = ..., physical_tables: _Optional[int] = ..., regions: _Optional[int] = ..., files: _Optional[int] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., retention_ms: _Optional[int] = ..., orphans: _Optional[_Iterable[_Union[Orphan, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., feeds: _Optional[_Iterable[_Union[FeedStatus, _Mapping]]] = ..., assumed_empty: _Optional[_Iterable[str]] = ..., set_aside: _Optional[_Iterable[str]] = ...) -> None: ...

class FeedStatus(_message.Message):
    __slots__ = ("feed", "oldest_ts", "resolved_ts", "position")
    FEED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_TS_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_TS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    feed: str
    oldest_ts: int
    resolved_ts: int
    position: str
    def __init__(self, feed: _Optional[str] = ..., oldest_ts: _Optional[int] = ..., resolved_ts: _Optional[int] = ..., position: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("name", "position", "seen_ts", "trouble")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEEN_TS_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    position: str
    seen_ts: int
    trouble: str
    def __init__(self, name: _Optional[str] = ..., position: _Optional[str] = ..., seen_ts: _Optional[int] = ..., trouble: _Optional[str] = ...) -> None: ...

class Orphan(_message.Message):
    __slots__ = ("start_ts", "age_ms", "bytes", "known", "commit_ts", "by_hand")
    START_TS_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TS_FIELD_NUMBER: _ClassVar[int]
    BY_HAND_FIELD_NUMBER: _ClassVar[int]
    start_ts: int
    age_ms: int
    bytes: int
    known: str
    commit_ts: int
    by_hand: bool
    def __init__(self, start_ts: _Optional[int] = ..., age_ms: _Optional[int] = ..., bytes: _Optional[int] = ..., known: _Optional[str] = ..., commit_ts: _Optional[int] = ..., by_hand: _Optional[bool] = ...) -> None: ...

class Process(_message.Message):
    __slots__ = ("pid", "host", "program")
    PID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    pid: int
    host: str
    program: str
    def __init__(self, pid: _Optional[int] = ..., host: _Optional[str] = ..., program: _Optional[str] = ...) -> None: ...

class LatchesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Latches(_message.Message):
    __slots__ = ("writer", "latches", "waiting")
    WRITER_FIELD_NUMBER: _ClassVar[int]
    LATCHES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    writer: Process
    latches: _containers.RepeatedCompositeFieldContainer[Latch]
    waiting: _containers.RepeatedCompositeFieldContainer[Latch]
    def __init__(self, writer: _Optional[_Union[Process, _Mapping]] = ..., latches: _Optional[_Iterable[_Union[Latch, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[Latch, _Mapping]]] = ...) -> None: ...

class LatchScope(_message.Message):
    __slots__ = ("table", "table_id", "physical_id", "region_id")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    table: str
    table_id: int
    physical_id: int
    region_id: int
    def __init__(self, table: _Optional[str] = ..., table_id: _Optional[int] = ..., physical_id: _Optional[int] = ..., region_id: _Optional[int] = ...) -> None: ...

class AcquireRequest(_message.Message):
    __slots__ = ("kind", "scope", "ttl_ms", "wait_ms", "name", "mutates", "moment")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MUTATES_FIELD_NUMBER: _ClassVar[int]
    MOMENT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    scope: LatchScope
    ttl_ms: int
    wait_ms: int
    name: str
    mutates: bool
    moment: Moment
    def __init__(self, kind: _Optional[str] = ..., scope: _Optional[_Union[LatchScope, _Mapping]] = ..., ttl_ms: _Optional[int] = ..., wait_ms: _Optional[int] = ..., name: _Optional[str] = ..., mutates: _Optional[bool] = ..., moment: _Optional[_Union[Moment, _Mapping]] = ...) -> None: ...

class Latch(_message.Message):
    __slots__ = ("id", "kind", "snapshot_ts", "generation", "expires_in_ms", "holder", "token", "scope", "name", "identity", "mutates", "handle")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MUTATES_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    snapshot_ts: int
    generation: int
    expires_in_ms: int
    holder: Process
    token: int
    scope: LatchScope
    name: str
    identity: str
    mutates: bool
    handle: bytes
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., snapshot_ts: _Optional[int] = ..., generation: _Optional[int] = ..., expires_in_ms: _Optional[int] = ..., holder: _Optional[_Union[Process, _Mapping]] = ..., token: _Optional[int] = ..., scope: _Optional[_Union[LatchScope, _Mapping]] = ..., name: _Optional[str] = ..., identity: _Optional[str] = ..., mutates: _Optional[bool] = ..., handle: _Optional[bytes] = ...) -> None: ...

class LatchRequest(_message.Message):
    __slots__ = ("id", "token")
    ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: str
    token: int
    def __init__(self, id: _Optional[str] = ..., token: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("latches", "tables", "schema", "resolved_ts", "position", "start_ts")
    LATCHES_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_TS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    START_TS_FIELD_NUMBER: _ClassVar[int]
    latches: _containers.RepeatedCompositeFieldContainer[LatchRequest]
    tables: _containers.RepeatedCompositeFieldContainer[WriteTable]
    schema: _containers.RepeatedCompositeFieldContainer[SchemaChange]
    resolved_ts: int
    position: str
    start_ts: int
    def __init__(self, latches: _Optional[_Iterable[_Union[LatchRequest, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[WriteTable, _Mapping]]] = ..., schema: _Optional[_Iterable[_Union[SchemaChange, _Mapping]]] = ..., resolved_ts: _Optional[int] = ..., position: _Optional[str] = ..., start_ts: _Optional[int] = ...) -> None: ...

class WriteTable(_message.Message):
    __slots__ = ("table_id", "physical_id")
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    table_id: int
    physical_id: int
    def __init__(self, table_id: _Optional[int] = ..., physical_id: _Optional[int] = ...) -> None: ...

class SchemaChange(_message.Message):
    __slots__ = ("ts", "db", "table_id", "table_info")
    TS_FIELD_NUMBER: _ClassVar[int]
    DB_FIELD_NUMBER: _ClassVar[int]
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    TABLE_INFO_FIELD_NUMBER: _ClassVar[int]
    ts: int
    db: str
    table_id: int
    table_info: str
    def __init__(self, ts: _Optional[int] = ..., db: _Optional[str] = ..., table_id: _Optional[int] = ..., table_info: _Optional[str] = ...) -> None: ...

class Written(_message.Message):
    __slots__ = ("generation", "rows", "transactions", "known", "resolved_ts")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_TS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rows: int
    transactions: int
    known: int
    resolved_ts: int
    def __init__(self, generation: _Optional[int] = ..., rows: _Optional[int] = ..., transactions: _Optional[int] = ..., known: _Optional[int] = ..., resolved_ts: _Optional[int] = ...) -> None: ...

class WriterRequest(_message.Message):
    __slots__ = ("latch", "wait_ms")
    LATCH_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    latch: LatchRequest
    wait_ms: int
    def __init__(self, latch: _Optional[_Union[LatchRequest, _Mapping]] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class RecordsRequest(_message.Message):
    __slots__ = ("latch", "kinds")
    LATCH_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    latch: LatchRequest
    kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, latch: _Optional[_Union[LatchRequest, _Mapping]] = ..., kinds: _Optional[_Iterable[str]] = ...) -> None: ...

class VersionsRequest(_message.Message):
    __slots__ = ("latch", "physical_id", "snapshot_ts", "arrow_schema")
    LATCH_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    latch: LatchRequest
    physical_id: int
    snapshot_ts: int
    arrow_schema: bytes
    def __init__(self, latch: _Optional[_Union[LatchRequest, _Mapping]] = ..., physical_id: _Optional[int] = ..., snapshot_ts: _Optional[int] = ..., arrow_schema: _Optional[bytes] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("latch", "number", "physical_ids")
    LATCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_IDS_FIELD_NUMBER: _ClassVar[int]
    latch: LatchRequest
    number: int
    physical_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, latch: _Optional[_Union[LatchRequest, _Mapping]] = ..., number: _Optional[int] = ..., physical_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class CompactTablesRequest(_message.Message):
    __slots__ = ("latch", "physical_ids", "drain")
    LATCH_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_IDS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    latch: LatchRequest
    physical_ids: _containers.RepeatedScalarFieldContainer[int]
    drain: bool
    def __init__(self, latch: _Optional[_Union[LatchRequest, _Mapping]] = ..., physical_ids: _Optional[_Iterable[int]] = ..., drain: _Optional[bool] = ...) -> None: ...

class MaintainRequest(_message.Message):
    __slots__ = ("latch", "open_orphans", "interval_ms", "has_pd", "pd_safe_point")
    LATCH_FIELD_NUMBER: _ClassVar[int]
    OPEN_ORPHANS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    HAS_PD_FIELD_NUMBER: _ClassVar[int]
    PD_SAFE_POINT_FIELD_NUMBER: _ClassVar[int]
    latch: LatchRequest
    open_orphans: _containers.RepeatedScalarFieldContainer[int]
    interval_ms: int
    has_pd: bool
    pd_safe_point: int
    def __init__(self, latch: _Optional[_Union[LatchRequest, _Mapping]] = ..., open_orphans: _Optional[_Iterable[int]] = ..., interval_ms: _Optional[int] = ..., has_pd: _Optional[bool] = ..., pd_safe_point: _Optional[int] = ...) -> None: ...

class Maintained(_message.Message):
    __slots__ = ("interval_ms", "is_stopping", "changed", "ledger_records", "discarded")
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    IS_STOPPING_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    LEDGER_RECORDS_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    is_stopping: bool
    changed: _containers.RepeatedCompositeFieldContainer[ManifestRecord]
    ledger_records: int
    discarded: int
    def __init__(self, interval_ms: _Optional[int] = ..., is_stopping: _Optional[bool] = ..., changed: _Optional[_Iterable[_Union[ManifestRecord, _Mapping]]] = ..., ledger_records: _Optional[int] = ..., discarded: _Optional[int] = ...) -> None: ...

class ManifestRecord(_message.Message):
    __slots__ = ("kind", "key", "body")
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    key: str
    body: bytes
    def __init__(self, kind: _Optional[str] = ..., key: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class RegionsRequest(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class Regions(_message.Message):
    __slots__ = ("regions",)
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    def __init__(self, regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("physical_id", "region_id", "start", "end", "files", "versions", "size_bytes", "deltas", "partitions")
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    physical_id: int
    region_id: int
    start: str
    end: str
    files: int
    versions: int
    size_bytes: int
    deltas: int
    partitions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, physical_id: _Optional[int] = ..., region_id: _Optional[int] = ..., start: _Optional[str] = ..., end: _Optional[str] = ..., files: _Optional[int] = ..., versions: _Optional[int] = ..., size_bytes: _Optional[int] = ..., deltas: _Optional[int] = ..., partitions: _Optional[_Iterable[int]] = ...) -> None: ...

class CompactRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SplitRequest(_message.Message):
    __slots__ = ("physical_id", "region_id", "at")
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    physical_id: int
    region_id: int
    at: str
    def __init__(self, physical_id: _Optional[int] = ..., region_id: _Optional[int] = ..., at: _Optional[str] = ...) -> None: ...

class MergeRequest(_message.Message):
    __slots__ = ("physical_id", "left_id", "right_id")
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    LEFT_ID_FIELD_NUMBER: _ClassVar[int]
    RIGHT_ID_FIELD_NUMBER: _ClassVar[int]
    physical_id: int
    left_id: int
    right_id: int
    def __init__(self, physical_id: _Optional[int] = ..., left_id: _Optional[int] = ..., right_id: _Optional[int] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("physical_id", "region_id", "partition")
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    physical_id: int
    region_id: int
    partition: int
    def __init__(self, physical_id: _Optional[int] = ..., region_id: _Optional[int] = ..., partition: _Optional[int] = ...) -> None: ...

class PurgeRequest(_message.Message):
    __slots__ = ("physical_id", "region_id")
    PHYSICAL_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    physical_id: int
    region_id: int
    def __init__(self, physical_id: _Optional[int] = ..., region_id: _Optional[int] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("safe_point", "dry_run")
    SAFE_POINT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    safe_point: int
    dry_run: bool
    def __init__(self, safe_point: _Optional[int] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class RetentionRequest(_message.Message):
    __slots__ = ("retention_ms",)
    RETENTION_MS_FIELD_NUMBER: _ClassVar[int]
    retention_ms: int
    def __init__(self, retention_ms: _Optional[int] = ...) -> None: ...

class IntervalRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Error(_message.Message):
    __slots__ = ("name", "text", "arguments", "retryable")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    arguments: str
    retryable: bool
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., arguments: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...
