"""Every TableInfo a cluster has had, by timestamp.

A row is decoded by the TableInfo it was *written* under and read with the one valid at the *scan's*
timestamp (promise P8), so a replica keeps them all. An event is a change of one meta key: its `ts`
is that change's commit timestamp, and `table` is None where the table was dropped.

Schema versions
    A binlog names the schema version its rows were encoded under. TiDB raises the version and
    writes the TableInfo in one transaction step after the other, so version V's TableInfo is
    committed a little *after* V itself:

        ts      100        102          200        202
                version 7  table a      version 8  table a'
                           └── what version 7 means ──┘

    Version V therefore means "the newest event below the moment of version V + 1". A version from
    before the history means the tables at its start: TiDB refuses to commit what was written to a
    table that has changed since.

What a row was written under
    With metadata locks (on by default since TiDB 6.5) that version is not the row's. It is the one
    that BEGIN met, while a table is taken as it is when a statement first meets it, any number of
    versions later. Of a statement that is a transaction of its own, it is the one that TiDB has at
    the statement's end, which may be too new. What holds of every transaction is that DDL makes no
    step while a state of the table from before the last one is in use:

        table     S1 ───────────── S2 ───────────── S3
        commits      under S1         S1 or S2         S2 or S3

    So a row is read by what was there when it was committed, and by the state before. That is
    enough to read it: in the last state that has both, a row has the values of a column that goes
    and of one that comes.
"""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
"""In the JSON of a table with partitions; within a text its quotes would be escaped."""


class TableShape(NamedTuple):
    """How large a definition is, as lists of tables show it."""

    columns: int
    partitions: int
    is_listed: bool
    """Whether statements can name it, and it holds rows."""

    @classmethod
    def of(cls, table: TableInfo) -> "TableShape":
        is_listed = table.is_public and table.holds_rows
        return cls(len(table.public_columns), len(table.physical_ids), is_listed)


class UnreadTable(NamedTuple):
    """A TableInfo that was not read yet; `unpack` makes its JSON of `definition`.

    The last three are its shape, where `columns` is not None. They stand here, and not in a value
    of their own, because each object takes Python's garbage collector time.
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
        """How large the definition is; None if that is not known."""
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
    """A table's definition from `ts` on; `table` is None where `table_id` left database `db`.

    Immutable. A definition that is stored is read when it is first asked for: a history has tens of
    thousands of them, of which a scan needs one.
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
        """`db.table`; of a table that went, as `db.`."""
        return f"{self.db}.{self.name or ''}"

    @property
    def shape(self) -> TableShape | None:
        """How large the definition is, read only where that is not known; None: the table went."""
        if isinstance(self._table, UnreadTable) and (shape := self._table.shape) is not None:
            return shape
        return None if self.table is None else TableShape.of(self.table)

    @property
    def json_text(self) -> str | None:
        """TiDB's own form of the table, without reading it."""
        if isinstance(self._table, UnreadTable):
            return self._table.read_text()
        return None if self._table is None else self._table.json_text

    @property
    def physical_ids(self) -> Sequence[PhysicalTableID]:
        """Where the table's rows are; without reading a definition that has no partitions."""
        if self._physical_ids is None:
            self._physical_ids = self._find_physical_ids()
        return self._physical_ids

    @property
    def stored_ids(self) -> Sequence[PhysicalTableID]:
        """Where rows may be, those partitions included that DDL is bringing or taking away."""
        if list(self.physical_ids) == [PhysicalTableID(self.table_id)] or self.table is None:
            return self.physical_ids
        return self.table.stored_ids

    def stores(self, physical_id: PhysicalTableID) -> bool:
        """Whether rows may be under a physical id; see `stored_ids`."""
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
        """A TableInfo is what its text says."""
        return self.ts, self.db, self.table_id, self.json_text


@dataclass(frozen=True, slots=True)
class SchemaVersionAt:
    """The cluster's schema version from `ts` on."""

    ts: TimeStamp
    version: SchemaVersion


class SchemaHistory:
    """All table definitions between `start_ts` and `end_ts`, both included. Immutable.

    Invariant: events are in the order of their timestamps, drops before definitions at the same one
    (a table that moves to another database leaves one and enters the other); those at `start_ts`
    are the tables that existed then.
    """

    def __init__(
        self,
        start_ts: TimeStamp,
        end_ts: TimeStamp,
        events: Iterable[TableEvent],
        versions: Iterable[SchemaVersionAt],
        source: str | None = None,
    ) -> None:
        """`source` names the content that it was read from, if that is all of it."""
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
        found: dict[str, set[TableID]] = defaultdict(set)
        for event in self.events:
            if (name := _name_key(event)) is not None:
                found[name].add(event.table_id)
        return found

    def tables_at(self, ts: TimeStamp) -> Sequence[TableInfo]:
        """The tables that statements can name at `ts`, by full name.

        System tables are not among them: TiDB itself changes these without a binlog.
        """
        found = (self._table_in_force(table_id, ts) for table_id in self._by_id)
        tables = (t for t in found if t and t.is_public and t.db not in SYSTEM_DATABASES)
        return sorted(tables, key=lambda t: t.full_name)

    def listed_at(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """The definitions of `tables_at`, of those tables that hold rows, without reading them."""
        found = (self._event_in_force(table_id, ts) for table_id in self._by_id)
        listed = (e for e in found if e and e.db not in SYSTEM_DATABASES and _is_listed(e))
        return sorted(listed, key=lambda e: e.full_name)

    def physical_ids_from(self, ts: TimeStamp) -> set[PhysicalTableID]:
        """Where the rows are that a read at or above `ts` may look for."""
        found = [self._event_in_force(table_id, ts) for table_id in self._by_id]
        found += self.events[len(self.until(ts)) :]
        return {i for e in found if e and e.name is not None for i in e.stored_ids}

    def first_name(self, table_id: TableID) -> str:
        """`db.table` as a table of the history was called first."""
        return next(e.full_name for e in self._by_id[table_id] if e.name is not None)

    def table_by_name(self, full_name: str, ts: TimeStamp) -> TableInfo:
        """The table called `db.table` at `ts`; names are compared without case, as TiDB does.

        Raises:
            TableNotFoundError: none is called so then.
        """
        wanted = full_name.lower()
        for table_id in sorted(self._ids_by_name.get(wanted, ())):
            event = self._event_in_force(table_id, ts)
            if event is not None and _name_key(event) == wanted and _can_be_named(event.table):
                return event.table
        raise TableNotFoundError(full_name, ts)

    @property
    def table_ids(self) -> Iterable[TableID]:
        """All tables that there have been."""
        return self._by_id.keys()

    def first_event(self, table_id: TableID) -> TableEvent | None:
        """The first definition of a table that there has been; None if there is none."""
        events = self._by_id.get(table_id, ())
        return next((event for event in events if event.name is not None), None)

    def appearing_at(self, ts: TimeStamp) -> Sequence[TableID]:
        """The tables that statements can name since `ts`, and never before."""
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
        """What `table_id` was under schema `version`; a table dropped since is still found.

        Returns:
            None where there was no such table: a transaction may write to a table that was made
            after it began.

        Raises:
            SchemaOutdatedError: this history knows no such version.
        """
        newest = self.versions[-1] if self.versions else None
        if newest is not None and version > newest.version:
            raise SchemaOutdatedError(f"schema version {version}", newest.ts)
        return self._table_in_force(table_id, TimeStamp(self._end_of_version(version) - 1))

    def table_at_commit(self, table_id: TableID, commit_ts: TimeStamp) -> TableInfo:
        """What rows committed at `commit_ts` were written under, whichever version they name.

        Columns that the table has just lost, which such rows may have, are there, not public. Of a
        dropped table it is the last state.

        Raises:
            SchemaOutdatedError: this history ends before, or knows no such table then.
        """
        if commit_ts > self.end_ts:
            raise SchemaOutdatedError("schema", commit_ts)
        events = self._by_id.get(table_id, [])
        at = bisect.bisect_right(events, commit_ts, key=lambda e: e.ts)
        found = self._at_commit.get((table_id, at))
        if found is None:
            states = (e.table for e in reversed(events[:at]) if e.table is not None)
            found, before = next(states, None), next(states, None)
            if found is None:
                raise SchemaOutdatedError(f"table with id {table_id}", commit_ts)
            if before is not None:
                found = found.with_columns_of(before)
            self._at_commit[table_id, at] = found
        return found

    def table_before_commit(self, table_id: TableID, commit_ts: TimeStamp) -> TableInfo | None:
        """The state before the one in force at `commit_ts`: rows may have been written under it."""
        events = self._by_id.get(table_id, [])
        at = bisect.bisect_right(events, commit_ts, key=lambda e: e.ts)
        return events[at - 2].table if at > 1 else None

    def state_ts(self, table_id: TableID, commit_ts: TimeStamp) -> TimeStamp:
        """Since when a table is what it is at `commit_ts`; 0 where there is none."""
        event = self._event_in_force(table_id, commit_ts)
        return TimeStamp(0) if event is None else event.ts

    def extend(self, other: "SchemaHistory") -> "SchemaHistory":
        """This history continued by `other`, which must tell the same about the time both cover.

        Raises:
            SchemaConflictError: it tells something else.
        """
        if other.start_ts != self.start_ts:
            raise SchemaConflictError(f"start_ts {other.start_ts}", self.start_ts)
        until = min(self.end_ts, other.end_ts)
        for ours, theirs in zip(self.until(until), other.until(until), strict=False):
            if ours != theirs:
                raise SchemaConflictError(f"table {theirs.table_id}", theirs.ts)
        if len(self.until(until)) != len(other.until(until)):
            raise SchemaConflictError("the number of schema changes", until)
        is_news = other.source is not None and other.source != self.source
        continues = other.end_ts > self.end_ts or (other.end_ts == self.end_ts and is_news)
        return other if continues else self

    def without_source(self) -> "SchemaHistory":
        """The same, of nobody knows what content."""
        return SchemaHistory(self.start_ts, self.end_ts, self.events, self.versions)

    def events_of(self, table_id: TableID) -> Sequence[TableEvent]:
        """All that a table has been, in order."""
        return self._by_id.get(table_id, ())

    def events_at(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """What was changed at `ts`."""
        begin = bisect.bisect_left(self.events, ts, key=lambda e: e.ts)
        end = bisect.bisect_right(self.events, ts, key=lambda e: e.ts)
        return self.events[begin:end]

    def until(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """The events at or below `ts`."""
        return self.events[: bisect.bisect_right(self.events, ts, key=lambda e: e.ts)]

    def version_at(self, ts: TimeStamp) -> SchemaVersion:
        """The newest version that was there at `ts`; 0 where none is known."""
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
        events = self._by_id.get(table_id, [])
        at = bisect.bisect_right(events, ts, key=lambda e: e.ts)
        return events[at - 1] if at else None


def _is_listed(event: TableEvent) -> bool:
    return event.name is not None and (shape := event.shape) is not None and shape.is_listed


def _can_be_named(table: TableInfo | None) -> TypeGuard[TableInfo]:
    return table is not None and table.is_public and table.db not in SYSTEM_DATABASES


def _name_key(event: TableEvent) -> str | None:
    """What names are compared by; None where the table went."""
    return None if event.name is None else f"{event.db}.{event.name}".lower()
