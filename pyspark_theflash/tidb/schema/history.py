"""All TableInfos that a cluster has had, by timestamp.

A row is decoded with the TableInfo it was *written* under and read with the one valid at the
*scan's* timestamp (promise P8), so a replica retains all of them. An event is a change of one meta
key: its `ts` is the commit_ts of the change; its `table` is None if the table was dropped.

Schema versions
    A binlog names the schema version its rows were encoded under. TiDB first raises the version and
    then writes the TableInfo, in another transaction, so version V's TableInfo is committed a
    little *after* V itself:

        ts      100        102          200        202
                version 7  table a      version 8  table a'
                           └── what version 7 means ──┘

    Version V therefore means "the newest event before version V + 1 was raised". A version from
    before the history means the tables at its start: TiDB refuses to commit writes to a table
    that has changed since.

The TableInfo a row was written under
    With metadata locks (on by default since TiDB 6.5) the version in the binlog is not the one the
    row was written under. It is the version at BEGIN, but a transaction uses each table as of its
    first statement on that table, any number of versions later. For an autocommit statement, it is
    the version at the statement's end, which may be too new. For every transaction, a DDL job makes
    no step while a transaction still uses the table's state before the previous step:

        table     S1 ───────────── S2 ───────────── S3
        commits      under S1         S1 or S2         S2 or S3

    So a row is decoded with the state in force at its commit and the state before that. This is
    sufficient: in the last state that has both columns, a row has the values of the column being
    dropped and of the column being added.
"""

import bisect
import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeGuard

from pyspark_theflash.base.errors import (
    SchemaConflictError,
    SchemaOutdatedError,
    TableNotFoundError,
)
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, SchemaVersion, TableID, TimeStamp
from pyspark_theflash.tidb.codec.document import load, shaped
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info

SYSTEM_DATABASES: Final = frozenset({"mysql"})
_PARTITIONED: Final = '"partition":{'
"""Part of the JSON of every partitioned table; in a JSON string its quotes would be escaped."""


class TableShape(NamedTuple):
    """Size of a table definition, as shown in lists of tables."""

    columns: int
    partitions: int
    is_listed: bool
    """Whether statements can name the table, and it holds rows."""

    @classmethod
    def of(cls, table: TableInfo) -> "TableShape":
        is_listed = table.is_public and table.holds_rows
        return cls(len(table.public_columns), len(table.physical_ids), is_listed)


class UnreadTable(NamedTuple):
    """TableInfo that is not parsed yet; `unpack` converts `definition` to its JSON text.

    The last three fields are its shape, unless `columns` is None. They are stored here instead of
    in a nested value because each object adds work for Python's garbage collector.
    """

    db: str
    name: str
    definition: bytes
    unpack: Callable[[bytes], str]
    columns: int | None = None
    partitions: int = 0
    is_listed: bool = False

    @property
    def shape(self) -> TableShape | None:
        """Size of the definition; None if unknown."""
        if self.columns is None:
            return None
        return TableShape(self.columns, self.partitions, self.is_listed)

    def read_text(self) -> str:
        return self.unpack(self.definition)

    def read(self) -> TableInfo:
        text = self.read_text()
        with shaped("table definition"):
            return parse_table_info(self.db, load(text), text)


class TableEvent:
    """Definition of a table from `ts` on; `table` is None if `table_id` left database `db`.

    Immutable. A stored definition is parsed on first use: a history has tens of thousands of them,
    of which a scan needs one.
    """

    __slots__ = ("_physical_ids", "_table", "db", "name", "table_id", "ts")

    def __init__(
        self, ts: TimeStamp, db: str, table_id: TableID, table: TableInfo | UnreadTable | None
    ) -> None:
        self.ts: Final = ts
        self.db: Final = db
        self.table_id: Final = table_id
        self.name: Final = None if table is None else table.name
        self._table = table
        self._physical_ids: Sequence[PhysicalTableID] | None = None

    @property
    def table(self) -> TableInfo | None:
        if isinstance(self._table, UnreadTable):
            self._table = self._table.read()
        return self._table

    @property
    def full_name(self) -> str:
        """`db.table`; `db.` for a dropped table."""
        return f"{self.db}.{self.name or ''}"

    @property
    def shape(self) -> TableShape | None:
        """Size of the definition, parsed only if the size is not stored; None if dropped."""
        if isinstance(self._table, UnreadTable) and (shape := self._table.shape) is not None:
            return shape
        return None if self.table is None else TableShape.of(self.table)

    @property
    def json_text(self) -> str | None:
        """JSON text of the TableInfo, without parsing it."""
        if isinstance(self._table, UnreadTable):
            return self._table.read_text()
        return None if self._table is None else self._table.json_text

    @property
    def physical_ids(self) -> Sequence[PhysicalTableID]:
        """Physical ids that hold the table's rows; parses only definitions with partitions."""
        if self._physical_ids is None:
            self._physical_ids = self._find_physical_ids()
        return self._physical_ids

    @property
    def stored_ids(self) -> Sequence[PhysicalTableID]:
        """Physical ids that may hold rows, including partitions that DDL is adding or dropping."""
        if list(self.physical_ids) == [PhysicalTableID(self.table_id)] or self.table is None:
            return self.physical_ids
        return self.table.stored_ids

    def stores(self, physical_id: PhysicalTableID) -> bool:
        """Return whether rows may be stored under a physical id; see `stored_ids`."""
        if list(self.physical_ids) == [PhysicalTableID(self.table_id)]:
            return int(physical_id) == int(self.table_id)
        return self.table is not None and physical_id in self.table.stored_id_set

    def _find_physical_ids(self) -> Sequence[PhysicalTableID]:
        if isinstance(self._table, UnreadTable) and _PARTITIONED not in self._table.read_text():
            return (PhysicalTableID(self.table_id),)
        return () if self.table is None else self.table.physical_ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableEvent) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((self.ts, self.db, self.table_id, self.name))

    def __repr__(self) -> str:
        return f"TableEvent({self.ts}, {self.db!r}, {self.table_id}, {self.name!r})"

    def _identity(self) -> tuple[TimeStamp, str, TableID, str | None]:
        """Return the fields to compare; a TableInfo is compared by its JSON text."""
        return self.ts, self.db, self.table_id, self.json_text


@dataclass(frozen=True, slots=True)
class SchemaVersionAt:
    """The cluster's schema version from `ts` on."""

    ts: TimeStamp
    version: SchemaVersion


class SchemaHistory:
    """All table definitions between `start_ts` and `end_ts`, both included. Immutable.

    Invariant: events are ordered by timestamp, drops before definitions at the same one (a table
    that moves to another database has both). The events at `start_ts` are the tables that existed
    at that time.
    """

    def __init__(
        self,
        start_ts: TimeStamp,
        end_ts: TimeStamp,
        events: Iterable[TableEvent],
        versions: Iterable[SchemaVersionAt],
        source: str | None = None,
    ) -> None:
        """`source` is the digest of the content that the whole history was read from, or None."""
        self.start_ts: Final = start_ts
        self.end_ts: Final = end_ts
        self.source: Final = source
        self.events: Final = tuple(sorted(events, key=lambda e: (e.ts, e.name is not None)))
        self.versions: Final = tuple(sorted(versions, key=lambda v: v.version))
        self._by_id: dict[TableID, list[TableEvent]] = defaultdict(list)
        for event in self.events:
            self._by_id[event.table_id].append(event)
        self._at_commit: dict[tuple[TableID, int], TableInfo] = {}

    @cached_property
    def _ids_by_name(self) -> Mapping[str, set[TableID]]:
        ids: dict[str, set[TableID]] = defaultdict(set)
        for event in self.events:
            if (name := _name_key(event)) is not None:
                ids[name].add(event.table_id)
        return ids

    def listed_at(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """Return the events of the tables with rows that statements can name at `ts`, unparsed.

        By full name. System tables are excluded: TiDB changes them without a binlog.
        """
        return sorted(filter(_is_listed, self.defined_at(ts)), key=lambda e: e.full_name)

    def defined_at(self, ts: TimeStamp) -> Iterator["TableEvent"]:
        """Yield the definitions in force at `ts`, except of system tables."""
        for table_id in self._by_id:
            event = self._event_in_force(table_id, ts)
            if event is not None and event.name is not None and event.db not in SYSTEM_DATABASES:
                yield event

    def physical_ids_from(
        self,
        ts: TimeStamp,
        of: Callable[["TableEvent"], bool] = lambda _: True,
        until: TimeStamp = MAX_TS,
    ) -> set[PhysicalTableID]:
        """Return the physical ids of rows that a scan from `ts` to `until` may read.

        `of` chooses the definitions to include.
        """
        in_force = (self._event_in_force(table_id, ts) for table_id in self._by_id)
        events = [*in_force, *self.until(until)[len(self.until(ts)) :]]
        defined = (e for e in events if e is not None and e.name is not None)
        return {physical_id for e in defined if of(e) for physical_id in e.stored_ids}

    def first_name(self, table_id: TableID) -> str:
        """Return `db.table` as a table was first called in the history."""
        return next(e.full_name for e in self._by_id[table_id] if e.name is not None)

    def table_by_name(self, full_name: str, ts: TimeStamp) -> TableInfo:
        """Return the table `db.table` at `ts`, case-insensitively. Raises `TableNotFoundError`."""
        name_key = full_name.lower()
        for table_id in sorted(self._ids_by_name.get(name_key, ())):
            event = self._event_in_force(table_id, ts)
            if event is not None and _name_key(event) == name_key and _can_be_named(event.table):
                return event.table
        raise TableNotFoundError(full_name, ts)

    @property
    def table_ids(self) -> Iterable[TableID]:
        """Ids of all tables in the history, including dropped ones."""
        return self._by_id.keys()

    def first_event(self, table_id: TableID) -> TableEvent | None:
        """Return the first definition of a table, or None if the history has none."""
        events = self._by_id.get(table_id, ())
        return next((event for event in events if event.name is not None), None)

    def appearing_at(self, ts: TimeStamp) -> Sequence[TableID]:
        """Return the tables that statements can name from `ts` on, but not before."""
        return [
            event.table_id
            for event in self.events
            if event.ts == ts
            and _can_be_named(event.table)
            and not any(
                _can_be_named(before.table)
                for before in self._by_id[event.table_id]
                if before.ts < ts
            )
        ]

    def table_by_version(self, table_id: TableID, version: SchemaVersion) -> TableInfo | None:
        """Return the definition of `table_id` under schema `version`.

        Returns:
            None if there was no such table: a transaction may write to a table that was created
            after it began.

        Raises:
            SchemaOutdatedError: The version is newer than this history.
        """
        newest = self.versions[-1] if self.versions else None
        if newest is not None and version > newest.version:
            raise SchemaOutdatedError(f"schema version {version}", newest.ts)
        return self._table_in_force(table_id, TimeStamp(self._end_of_version(version) - 1))

    def table_at_commit(self, table_id: TableID, commit_ts: TimeStamp) -> TableInfo:
        """Return the definition that rows committed at `commit_ts` were written under.

        It has, as not public, the columns that the table has just lost and that such rows may have.
        For a dropped table, it is the last definition.

        Raises:
            SchemaOutdatedError: The history ends before `commit_ts` or has no such table then.
        """
        if commit_ts > self.end_ts:
            raise SchemaOutdatedError("schema", commit_ts)
        events = self.events_until(table_id, commit_ts)
        at = len(events)
        table = self._at_commit.get((table_id, at))
        if table is None:
            states = (e.table for e in reversed(events) if e.table is not None)
            table, before = next(states, None), next(states, None)
            if table is None:
                raise SchemaOutdatedError(f"table with id {table_id}", commit_ts)
            if before is not None:
                table = table.with_columns_of(before)
            self._at_commit[table_id, at] = table
        return table

    def table_before_commit(self, table_id: TableID, commit_ts: TimeStamp) -> TableInfo | None:
        """Return the definition before the one in force at `commit_ts`; rows may be under it."""
        events = self.events_until(table_id, commit_ts)
        return events[-2].table if len(events) > 1 else None

    def state_ts(self, table_id: TableID, commit_ts: TimeStamp) -> TimeStamp:
        """Return the timestamp of the event in force at `commit_ts`; 0 if there is none."""
        event = self._event_in_force(table_id, commit_ts)
        return TimeStamp(0) if event is None else event.ts

    def extend(self, other: "SchemaHistory") -> "SchemaHistory":
        """Return this history continued by `other`. Raises `SchemaConflictError`."""
        if other.start_ts != self.start_ts:
            raise SchemaConflictError(f"start_ts {other.start_ts}", self.start_ts)
        until = min(self.end_ts, other.end_ts)
        for ours, theirs in zip(self.until(until), other.until(until), strict=False):
            if ours != theirs:
                raise SchemaConflictError(f"table {theirs.table_id}", theirs.ts)
        if len(self.until(until)) != len(other.until(until)):
            raise SchemaConflictError("the number of schema changes", until)
        is_new_source = other.source is not None and other.source != self.source
        continues = other.end_ts > self.end_ts or (other.end_ts == self.end_ts and is_new_source)
        return other if continues else self

    def up_to(self, end_ts: TimeStamp) -> "SchemaHistory":
        """Return this history with a later end and no other events; shares the events."""
        longer = copy.copy(self)
        longer.__dict__["end_ts"] = end_ts
        return longer

    def without_source(self) -> "SchemaHistory":
        """Return a copy without the digest of the source."""
        return SchemaHistory(self.start_ts, self.end_ts, self.events, self.versions)

    def events_of(self, table_id: TableID) -> Sequence[TableEvent]:
        """Return all events of a table, in order."""
        return self._by_id.get(table_id, ())

    def events_until(self, table_id: TableID, ts: TimeStamp) -> Sequence[TableEvent]:
        """Return the events of a table at or below `ts`, in order."""
        events = self._by_id.get(table_id, ())
        return events[: bisect.bisect_right(events, ts, key=lambda e: e.ts)]

    def events_at(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """Return the events at exactly `ts`."""
        begin = bisect.bisect_left(self.events, ts, key=lambda e: e.ts)
        end = bisect.bisect_right(self.events, ts, key=lambda e: e.ts)
        return self.events[begin:end]

    def until(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """Return the events at or below `ts`."""
        return self.events[: bisect.bisect_right(self.events, ts, key=lambda e: e.ts)]

    def version_at(self, ts: TimeStamp) -> SchemaVersion:
        """Return the newest schema version at `ts`; 0 if unknown."""
        at = bisect.bisect_right(self.versions, ts, key=lambda v: v.ts)
        return self.versions[at - 1].version if at else SchemaVersion(0)

    def _end_of_version(self, version: SchemaVersion) -> TimeStamp:
        after = bisect.bisect_right(self.versions, version, key=lambda v: v.version)
        if after == len(self.versions):
            return MAX_TS
        return TimeStamp(max(self.versions[after].ts, self.start_ts + 1))

    def _table_in_force(self, table_id: TableID, ts: TimeStamp) -> TableInfo | None:
        event = self._event_in_force(table_id, ts)
        return None if event is None else event.table

    def _event_in_force(self, table_id: TableID, ts: TimeStamp) -> TableEvent | None:
        events = self.events_until(table_id, ts)
        return events[-1] if events else None


def _is_listed(event: TableEvent) -> bool:
    return event.name is not None and (shape := event.shape) is not None and shape.is_listed


def _can_be_named(table: TableInfo | None) -> TypeGuard[TableInfo]:
    return table is not None and table.is_public and table.db not in SYSTEM_DATABASES


def _name_key(event: TableEvent) -> str | None:
    """Return the name for comparisons; None if the table was dropped."""
    return None if event.name is None else f"{event.db}.{event.name}".lower()
