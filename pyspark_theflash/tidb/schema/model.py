"""TableInfo and its parts, as TiDB keeps them in its meta keys.

Only what a replica needs is kept. Columns are identified by id; `offset` gives their order; names
are for people.
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
"""Of partitions that are changed: none of TiDB's states, but one that nobody knows any more."""
STATE_DELETE_ONLY: Final = 1
STATE_WRITE_ONLY: Final = 2
STATE_WRITE_REORGANIZATION: Final = 3
STATE_PUBLIC: Final = 5
SESSION: Final = "theflash_session"
"""A key that a schema source adds to a column in TableInfo's JSON; TiDB keeps it in the DDL job."""
ROWID_COLUMN_ID: Final = ColumnID(-1)
ROWID_NAME: Final = "_tidb_rowid"
ROWID_TYPE: Final = FieldType(MySQLType.LONGLONG, ColumnFlag.NOT_NULL, 20, 0, "binary", "binary")


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column.

    `origin_default`, as text, is what rows from before ADD COLUMN hold (`tidb.schema.default`); of
    a BIT column, `origin_default_bit` is.
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
    """Of the hidden column that MODIFY COLUMN fills: the offset of the column it will replace."""
    session: ReorgSession | None = None
    """The session whose MODIFY COLUMN made it, where a schema source has added that (`SESSION`)."""
    rows_untouched: bool = False
    """Of the source of another column: from when it was added to when it was replaced, DDL has
    rewritten no rows for any other column, as far as is known."""

    @property
    def is_public(self) -> bool:
        return self.state == STATE_PUBLIC

    @property
    def is_virtual(self) -> bool:
        """Computed on read by TiDB, so never in a row."""
        return bool(self.generated) and not self.generated_stored


ROWID_COLUMN: Final = ColumnInfo(ROWID_COLUMN_ID, ROWID_NAME, -1, ROWID_TYPE)
"""The hidden column of tables whose primary key, if any, is not their handle."""


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """A column of an index; `length` is the prefix length in characters, -1 for the whole value."""

    offset: int
    length: int = -1


@dataclass(frozen=True, slots=True)
class PrimaryKey:
    """The columns of the primary key, in key order."""

    columns: tuple[IndexColumn, ...]


class PartitionType(IntEnum):
    """The `type` of a PartitionInfo."""

    NONE = 0
    RANGE = 1
    HASH = 2
    LIST = 3
    KEY = 4


@dataclass(frozen=True, slots=True)
class PartitionDefinition:
    """One partition: its rows are stored under `id`.

    Its bounds are SQL texts: of RANGE the upper one, excluded, one text for each column; of LIST
    its values, each a tuple of texts.
    """

    id: PhysicalTableID
    name: str
    less_than: tuple[str, ...] = ()
    in_values: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """How a table is partitioned: by `expr`, or by `columns`.

    While a DDL changes partitions, those it makes are `adding` and those it takes away `dropping`.
    `ddl_state` says how far it is; after its end, TiDB leaves it as it was last.
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
    """A table as of one schema version. `json_text` is TiDB's own form, with all that it has.

    Column ids grow: one up to `max_column_id` that is not among `columns` was dropped.
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

    @property
    def is_public(self) -> bool:
        """Whether statements can name it; one that is being made or dropped is there before."""
        return self.state == STATE_PUBLIC

    @cached_property
    def public_columns(self) -> tuple[ColumnInfo, ...]:
        """What `SELECT *` shows, in its order."""
        visible = (c for c in self.columns if c.is_public and not c.hidden)
        return tuple(sorted(visible, key=lambda c: c.offset))

    @cached_property
    def column_by_id(self) -> Mapping[ColumnID, ColumnInfo]:
        """All columns, those of unfinished DDL included."""
        return {column.id: column for column in self.columns}

    @cached_property
    def changing_columns(self) -> tuple[ColumnInfo, ...]:
        """The hidden columns that MODIFY COLUMN is filling."""
        return tuple(c for c in self.columns if c.changing_offset is not None)

    @property
    def full_name(self) -> str:
        return f"{self.db}.{self.name}"

    @property
    def holds_rows(self) -> bool:
        """Neither a view nor a sequence."""
        return not (self.is_view or self.is_sequence)

    @property
    def has_rowid(self) -> bool:
        """Rows are told apart by a hidden `_tidb_rowid`, not by their primary key."""
        return not (self.pk_is_handle or self.is_common_handle)

    @cached_property
    def handle_columns(self) -> tuple[ColumnInfo, ...]:
        """The columns that make the handle, in key order; empty where rows have a `_tidb_rowid`."""
        if self.pk_is_handle:
            return tuple(c for c in self.columns if c.type.flag & ColumnFlag.PRI_KEY)
        if self.is_common_handle and self.primary_key is not None:
            by_offset = {c.offset: c for c in self.columns}
            return tuple(by_offset[part.offset] for part in self.primary_key.columns)
        return ()

    def with_columns_of(self, other: "TableInfo") -> "TableInfo":
        """This table, and behind its own columns those that only `other` has, not public."""
        known = {c.id for c in self.columns}
        missing = [c for c in other.columns if c.id not in known]
        if not missing:
            return self
        added = (
            replace(column, state=STATE_WRITE_ONLY, offset=len(self.columns) + n)
            for n, column in enumerate(missing)
        )
        return replace(self, columns=(*self.columns, *added))

    @cached_property
    def physical_ids(self) -> tuple[PhysicalTableID, ...]:
        """Where the rows are: the partitions, or the table itself."""
        if self.partition is None:
            return (PhysicalTableID(self.id),)
        return tuple(d.id for d in self.partition.definitions)

    @property
    def stored_ids(self) -> tuple[PhysicalTableID, ...]:
        """Where rows may be, those partitions included that DDL is bringing or taking away."""
        if self.partition is None:
            return self.physical_ids
        changing = (*self.partition.adding, *self.partition.dropping)
        return tuple(dict.fromkeys((*self.physical_ids, *(d.id for d in changing))))

    @cached_property
    def stored_id_set(self) -> frozenset[PhysicalTableID]:
        """`stored_ids`, to look for one of many."""
        return frozenset(self.stored_ids)


def parse_table_info(db: str, info: Mapping[str, Any], json_text: str | None = None) -> TableInfo:
    """TiDB's TableInfo JSON as a value; `json_text` is what `info` was read from, if it is kept.

    Raises:
        SchemaFileError: the JSON is not a TableInfo.
    """
    try:
        columns = tuple(_column(c) for c in items(info["cols"]))
        _check_changing(columns)
        return TableInfo(
            id=TableID(int64(info["id"])),
            db=text(db),
            name=text(info["name"]["O"]),
            columns=columns,
            pk_is_handle=bool(info["pk_is_handle"]),
            is_common_handle=bool(info.get("is_common_handle", False)),
            primary_key=_primary_key(info, {column.offset for column in columns}),
            partition=_partition(info.get("partition")),
            json_text=text(_canonical(info) if json_text is None else json_text),
            max_column_id=max([int64(info.get("max_col_id", 0)), *(c.id for c in columns)]),
            state=int64(info.get("state", STATE_PUBLIC)),
            is_view=bool(info.get("view")),
            is_sequence=bool(info.get("sequence")),
            has_unique_key=any(i.get("is_unique") for i in items(info.get("index_info"))),
        )
    except SHAPE_ERRORS as error:
        raise SchemaFileError(
            f"TableInfo in database {str(db)[:80]}", f"not a TableInfo: {brief(error)}"
        ) from error


def _canonical(info: Mapping[str, Any]) -> str:
    return json.dumps(info, separators=(",", ":"), ensure_ascii=False)


def _column(info: Mapping[str, Any]) -> ColumnInfo:
    tp = info["type"]
    elems = texts(tp["Elems"])
    changing = (info.get("change_state_info") or {}).get("relative_col_offset")
    return ColumnInfo(
        id=ColumnID(int64(info["id"])),
        name=text(info["name"]["O"]),
        offset=int64(info["offset"]),
        type=_field_type(
            tp["Tp"],
            tp["Flag"],
            tp["Flen"],
            tp["Decimal"],
            tp["Charset"],
            tp["Collate"],
            elems,
        ),
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
    """A table of which it is known who made some columns; its JSON says so, too."""
    info = json.loads(table.json_text)
    for column in info["cols"]:
        if (session := sessions.get(ColumnID(column["id"]))) is not None:
            column[SESSION] = asdict(session)
    return parse_table_info(table.db, info)


@lru_cache(maxsize=4096, typed=True)
def _field_type(
    tp: int, flag: int, flen: int, decimal: int, charset: str, collate: str, elems: tuple[str, ...]
) -> FieldType:
    """The same value for the same type: tables have many columns and few types."""
    return FieldType(
        MySQLType(tp), int64(flag), int64(flen), int64(decimal), text(charset), text(collate), elems
    )


def _check_changing(columns: Sequence[ColumnInfo]) -> None:
    offsets = {column.offset for column in columns}
    if not offsets.issuperset(c.changing_offset for c in columns if c.changing_offset is not None):
        raise ValueError("a column that replaces none")


def _text(value: object) -> str | None:
    return None if value is None else text(str(value))


def _bytes(value: str | None) -> bytes | None:
    """Bytes as Go's JSON has them."""
    return None if value is None else base64.b64decode(value, validate=True)


def _primary_key(info: Mapping[str, Any], offsets: set[int]) -> PrimaryKey | None:
    for index in items(info.get("index_info")):
        if index["is_primary"]:
            parts = items(index["idx_cols"])
            columns = tuple(IndexColumn(int64(c["offset"]), int64(c["length"])) for c in parts)
            if not offsets.issuperset(column.offset for column in columns):
                raise ValueError("a primary key of columns that are not there")
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
