"""TableInfo and its parts, as stored in TiDB's meta keys.

Only the fields that a replica needs are read. A column is identified by its id, not by its name;
`offset` gives the order of columns.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any, Final

from pyspark_theflash.base.errors import SchemaFileError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TableID
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, int64, items, text, texts
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType

STATE_LOST: Final = -1
"""`ddl_state` of partitions whose actual state is unknown; not a state of TiDB."""
STATE_DELETE_ONLY: Final = 1
STATE_WRITE_ONLY: Final = 2
STATE_WRITE_REORGANIZATION: Final = 3
STATE_PUBLIC: Final = 5
SESSION: Final = "theflash_session"
"""Key that a schema source adds to a column in TableInfo's JSON; TiDB has it in the DDL job."""
ROWID_COLUMN_ID: Final = ColumnID(-1)
ROWID_NAME: Final = "_tidb_rowid"
ROWID_TYPE: Final = FieldType(MySQLType.LONGLONG, ColumnFlag.NOT_NULL, 20, 0, "binary", "binary")


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column.

    `origin_default` is the value, as text, of rows from before ADD COLUMN (`tidb.schema.default`);
    for a BIT column, `origin_default_bit` is.
    """

    id: ColumnID
    name: str
    offset: int
    type: FieldType
    state: int = STATE_PUBLIC
    origin_default: str | None = None
    origin_default_bit: bytes | None = None
    default: str | None = None
    generated: str = ""
    generated_stored: bool = False
    hidden: bool = False
    comment: str = ""
    changing_offset: int | None = None
    """For a hidden column filled by MODIFY COLUMN: offset of the column that it will replace."""
    session: ReorgSession | None = None
    """Session of the MODIFY COLUMN that created it, if a schema source has added it (`SESSION`)."""
    rows_untouched: bool = False
    """For the source of another column: DDL is known not to have rewritten rows for any other
    column between the time it was added and the time it was replaced."""

    @property
    def is_public(self) -> bool:
        return self.state == STATE_PUBLIC

    @property
    def is_virtual(self) -> bool:
        """Whether TiDB computes the column on read instead of storing it in rows."""
        return bool(self.generated) and not self.generated_stored


ROWID_COLUMN: Final = ColumnInfo(ROWID_COLUMN_ID, ROWID_NAME, -1, ROWID_TYPE)
"""Hidden column of tables whose handle is not their primary key."""


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """Column of an index; `length` is the prefix length in characters, -1 for the whole value."""

    offset: int
    length: int = -1


@dataclass(frozen=True, slots=True)
class PrimaryKey:
    """Columns of the primary key, in key order."""

    columns: tuple[IndexColumn, ...]


class PartitionType(IntEnum):
    """Value of `type` in a PartitionInfo."""

    NONE = 0
    RANGE = 1
    HASH = 2
    LIST = 3
    KEY = 4


@dataclass(frozen=True, slots=True)
class PartitionDefinition:
    """One partition; its rows are stored under `id`.

    Bounds are SQL texts. `less_than` is the excluded upper bound of RANGE, one text per column;
    `in_values` are the values of LIST, each a tuple of texts.
    """

    id: PhysicalTableID
    name: str
    less_than: tuple[str, ...] = ()
    in_values: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """Partitioning of a table, by `expr` or by `columns`.

    While DDL changes partitions, `adding` are the new ones and `dropping` the old ones. `ddl_state`
    is the progress of the DDL job; TiDB does not reset it afterwards.
    """

    type: int
    expr: str
    columns: tuple[str, ...]
    definitions: tuple[PartitionDefinition, ...]
    adding: tuple[PartitionDefinition, ...] = ()
    dropping: tuple[PartitionDefinition, ...] = ()
    ddl_state: int = 0


@dataclass(frozen=True)
class TableInfo:
    """Table definition under one schema version. `json_text` is TiDB's JSON with all fields.

    Column ids only grow: an id up to `max_column_id` that is not in `columns` was dropped.
    """

    id: TableID
    db: str
    name: str
    columns: tuple[ColumnInfo, ...]
    pk_is_handle: bool
    is_common_handle: bool
    primary_key: PrimaryKey | None
    partition: PartitionInfo | None
    json_text: str
    state: int = STATE_PUBLIC
    is_view: bool = False
    is_sequence: bool = False
    max_column_id: int = 0
    has_unique_key: bool = False
    is_importing: bool = False
    """Whether IMPORT INTO or BR's restore is filling it; only newer TiDBs state it (`Mode`)."""

    @property
    def is_public(self) -> bool:
        """Whether statements can name it; false while it is being created or dropped."""
        return self.state == STATE_PUBLIC

    @cached_property
    def public_columns(self) -> tuple[ColumnInfo, ...]:
        """Columns of `SELECT *`, in order."""
        visible = (c for c in self.columns if c.is_public and not c.hidden)
        return tuple(sorted(visible, key=lambda c: c.offset))

    @cached_property
    def column_by_id(self) -> Mapping[ColumnID, ColumnInfo]:
        """All columns by id, including those of unfinished DDL."""
        return {column.id: column for column in self.columns}

    @cached_property
    def changing_columns(self) -> tuple[ColumnInfo, ...]:
        """Hidden columns that MODIFY COLUMN is filling."""
        return tuple(c for c in self.columns if c.changing_offset is not None)

    @property
    def full_name(self) -> str:
        return f"{self.db}.{self.name}"

    @property
    def holds_rows(self) -> bool:
        """Whether it is neither a view nor a sequence."""
        return not (self.is_view or self.is_sequence)

    @property
    def has_rowid(self) -> bool:
        """Whether the handle is a hidden `_tidb_rowid` instead of the primary key."""
        return not (self.pk_is_handle or self.is_common_handle)

    @cached_property
    def handle_columns(self) -> tuple[ColumnInfo, ...]:
        """Columns of the handle, in key order; empty if rows have a `_tidb_rowid`."""
        if self.pk_is_handle:
            return tuple(c for c in self.columns if c.type.flag & ColumnFlag.PRI_KEY)
        if self.is_common_handle and self.primary_key is not None:
            by_offset = {c.offset: c for c in self.columns}
            return tuple(by_offset[part.offset] for part in self.primary_key.columns)
        return ()

    def with_columns_of(self, other: "TableInfo") -> "TableInfo":
        """Return this table with the columns that only `other` has appended, as not public."""
        ids = {c.id for c in self.columns}
        missing = [c for c in other.columns if c.id not in ids]
        if not missing:
            return self
        added = (
            replace(column, state=STATE_WRITE_ONLY, offset=len(self.columns) + n)
            for n, column in enumerate(missing)
        )
        return replace(self, columns=(*self.columns, *added))

    @cached_property
    def physical_ids(self) -> tuple[PhysicalTableID, ...]:
        """Physical ids of the rows: the partitions, or the table itself."""
        if self.partition is None:
            return (PhysicalTableID(self.id),)
        return tuple(d.id for d in self.partition.definitions)

    @property
    def stored_ids(self) -> tuple[PhysicalTableID, ...]:
        """Physical ids that may hold rows, including partitions that DDL is adding or dropping."""
        if self.partition is None:
            return self.physical_ids
        changing = (*self.partition.adding, *self.partition.dropping)
        return tuple(dict.fromkeys((*self.physical_ids, *(d.id for d in changing))))

    @cached_property
    def stored_id_set(self) -> frozenset[PhysicalTableID]:
        """`stored_ids` as a set, for lookups."""
        return frozenset(self.stored_ids)


def parse_table_info(db: str, info: Mapping[str, Any], json_text: str | None = None) -> TableInfo:
    """Parse a TableInfo; `json_text` is its text, if available. Raises `SchemaFileError`."""
    try:
        columns = tuple(_column(c) for c in items(info["cols"]))
        _check_changing(columns)
        if json_text is None:
            json_text = json.dumps(info, separators=(",", ":"), ensure_ascii=False)
        return TableInfo(
            id=TableID(int64(info["id"])),
            db=text(db),
            name=text(info["name"]["O"]),
            columns=columns,
            pk_is_handle=bool(info["pk_is_handle"]),
            is_common_handle=bool(info.get("is_common_handle", False)),
            primary_key=_primary_key(info, {column.offset for column in columns}),
            partition=_partition(info.get("partition")),
            json_text=text(json_text),
            max_column_id=max([int64(info.get("max_col_id", 0)), *(c.id for c in columns)]),
            state=int64(info.get("state", STATE_PUBLIC)),
            is_view=bool(info.get("view")),
            is_sequence=bool(info.get("sequence")),
            is_importing=int64(info.get("mode", 0)) != 0,
            has_unique_key=any(i.get("is_unique") for i in items(info.get("index_info"))),
        )
    except SHAPE_ERRORS as error:
        raise SchemaFileError(
            f"TableInfo in database {str(db)[:80]}", f"not a TableInfo: {brief(error)}"
        ) from error


_TYPE_FIELDS: Final = ("Tp", "Flag", "Flen", "Decimal", "Charset", "Collate")
_CACHED_LENGTH: Final = 100
"""Longest names of a character set and a collation in the cache of types."""


def _column(info: Mapping[str, Any]) -> ColumnInfo:
    tp = info["type"]
    changing = (info.get("change_state_info") or {}).get("relative_col_offset")
    return ColumnInfo(
        id=ColumnID(int64(info["id"])),
        name=text(info["name"]["O"]),
        offset=int64(info["offset"]),
        type=_type_of([tp[name] for name in _TYPE_FIELDS], texts(tp["Elems"])),
        state=int64(info["state"]),
        origin_default=_text(info.get("origin_default")),
        origin_default_bit=_bytes(info.get("origin_default_bit")),
        default=_text(info.get("default")),
        generated=text(info.get("generated_expr_string") or ""),
        generated_stored=bool(info.get("generated_stored")),
        hidden=bool(info.get("hidden")),
        comment=text(info.get("comment") or ""),
        changing_offset=None if changing is None else int64(changing),
        session=None if SESSION not in info else _session(info[SESSION]),
    )


def _session(info: Mapping[str, Any]) -> ReorgSession:
    mode = info.get("sql_mode")
    return ReorgSession(
        text(info["zone"]),
        int64(info["offset_s"]),
        int64(info["from_ms"]),
        int64(info["to_ms"]),
        None if mode is None else int64(mode),
    )


def with_sessions(table: "TableInfo", sessions: Mapping[ColumnID, ReorgSession]) -> "TableInfo":
    """Return the table with sessions added to columns, in its JSON as well."""
    info = json.loads(table.json_text)
    for column in info["cols"]:
        if (session := sessions.get(ColumnID(column["id"]))) is not None:
            column[SESSION] = asdict(session)
    return parse_table_info(table.db, info)


def _type_of(fields: list[Any], elems: tuple[str, ...]) -> FieldType:
    *_, charset, collate = fields
    # Long texts could fill the cache with gigabytes.
    is_small = not elems and len(charset) + len(collate) <= _CACHED_LENGTH
    return (_field_type if is_small else _field_type.__wrapped__)(*fields, elems)


@lru_cache(maxsize=4096, typed=True)
def _field_type(
    tp: int, flag: int, flen: int, decimal: int, charset: str, collate: str, elems: tuple[str, ...]
) -> FieldType:
    """Return a cached FieldType: tables have many columns and few types."""
    return FieldType(
        MySQLType(tp), int64(flag), int64(flen), int64(decimal), text(charset), text(collate), elems
    )


def _check_changing(columns: Sequence[ColumnInfo]) -> None:
    offsets = {column.offset for column in columns}
    if not offsets.issuperset(c.changing_offset for c in columns if c.changing_offset is not None):
        raise ValueError("a column that replaces a missing column")


def _text(value: object) -> str | None:
    return None if value is None else text(str(value))


def _bytes(value: str | None) -> bytes | None:
    """Decode bytes from Go's JSON (base64)."""
    return None if value is None else base64.b64decode(value, validate=True)


def _primary_key(info: Mapping[str, Any], offsets: set[int]) -> PrimaryKey | None:
    for index in items(info.get("index_info")):
        if index["is_primary"]:
            parts = items(index["idx_cols"])
            columns = tuple(IndexColumn(int64(c["offset"]), int64(c["length"])) for c in parts)
            if not offsets.issuperset(column.offset for column in columns):
                raise ValueError("a primary key with missing columns")
            return PrimaryKey(columns)
    return None


def _partition(info: Mapping[str, Any] | None) -> PartitionInfo | None:
    if not info or not info.get("enable"):
        return None
    return PartitionInfo(
        type=int64(info["type"]),
        expr=text(info["expr"]),
        columns=tuple(text(c["O"]) for c in items(info.get("columns"))),
        definitions=_definitions(info["definitions"]),
        adding=_definitions(info.get("adding_definitions")),
        dropping=_definitions(info.get("dropping_definitions")),
        ddl_state=int64(info.get("ddl_state", 0)),
    )


def _definitions(infos: object) -> tuple[PartitionDefinition, ...]:
    return tuple(
        PartitionDefinition(
            id=PhysicalTableID(int64(info["id"])),
            name=text(info["name"]["O"]),
            less_than=texts(info.get("less_than")),
            in_values=tuple(texts(values) for values in items(info.get("in_values"))),
        )
        for info in items(infos)
    )
