"""Which tables a stream has told completely, and which have rows from before that nobody loaded.

A stream tells what changes. The rows that a table had before its changes were followed must come
from a base; without them a read would answer with the changed rows alone. A *physical* table has
rows from before

    if its table was there when the stream began            unless a base has it
    if its table was brought back by RECOVER or FLASHBACK,
    and its changes had not been followed before            TiDB writes no binlog of the rows
    if ALTER TABLE gave its table another id
    (PARTITION BY, REMOVE PARTITIONING)                     nor of those that it copies
    while it belongs to a table that is not replicated      EXCHANGE PARTITION brings it into one
    if REORGANIZE PARTITION filled it from one that has     some of the rows are not here

Who knows that there were no such rows says so by `--assume-empty PATTERN`, which is recorded. A
pattern fits the name that the table had when it was first seen, as those of the scope do.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from pyspark_theflash.base.errors import TableNotLoadedError, TableSetAsideError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.storage.store.aside import ASIDE_KIND, asides_of, set_aside
from pyspark_theflash.storage.store.feed import SIDE, Feed, main_feed, records_of
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND
from pyspark_theflash.storage.store.scope import ScopedTables, TableScope, fits
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import moves
from pyspark_theflash.tidb.schema.model import TableInfo

BASE_KIND: Final = "base"
ASSUMED_KIND: Final = "assumed-empty"
RECOVERED_KIND: Final = "recovered"
_EVERYTHING: Final = "*"
COVERAGE_KINDS: Final = (BASE_KIND, ASSUMED_KIND, RECOVERED_KIND, RAFT_FED_KIND, ASIDE_KIND)


def assumed_record(pattern: str) -> Record:
    """Says that tables of such names had no rows before their changes were followed."""
    return Record(ASSUMED_KIND, pattern, b"")


def recovered_record(table_id: TableID) -> Record:
    """Says that a table has come with rows that the stream had not told of."""
    return Record(RECOVERED_KIND, f"{table_id:020d}", b"")


class Coverage:
    """The coverage in a view, which has the kinds of the feeds, of the scope, and these here."""

    def __init__(self, view: View, history: SchemaHistory) -> None:
        self._view, self._history = view, history
        scope = TableScope.of(view) or TableScope()
        self._scope, self._has_all = ScopedTables(scope, history), scope == TableScope()
        self._is_told = main_feed(view) is Feed.API or bool(view.of_kind(RAFT_FED_KIND))
        self._loaded = {name.lower() for name in view.of_kind(BASE_KIND)}
        self._assumed = tuple(view.of_kind(ASSUMED_KIND))
        self._recovered = {TableID(int(key)) for key in view.of_kind(RECOVERED_KIND)}
        self._asides = asides_of(view)

    def check(self, table: TableInfo, ts: TimeStamp) -> None:
        """Raise the error of a table that lacks rows at `ts`, or is set aside.

        Raises:
            TableNotLoadedError: it has rows from before, which are not here.
            TableSetAsideError: what it holds is not known any more.
        """
        if self._asides or not self._was_always_apart(table):
            lacking = self.lacking(TableEvent(ts, table.db, table.id, table), ts)
            if lacking is not None:
                raise lacking
        elif why := self._why(table.id):
            first = self._history.first_name(table.id)
            raise TableNotLoadedError(table.full_name, first, why)

    def lacking(
        self, table: TableEvent, ts: TimeStamp
    ) -> TableNotLoadedError | TableSetAsideError | None:
        """Return the error of a table that lacks rows at `ts`; None if all of it is here."""
        if self._asides:
            error = set_aside(self._asides, table.full_name, table.physical_ids, ts)
            if error is not None:
                return error
        if not self._doubtful or records_of(self._view, table.table_id) is SIDE:
            return None
        found = (self._reason(table.table_id, i, ts) for i in table.physical_ids)
        reason = next((each for each in found if each is not None), None)
        return None if reason is None else TableNotLoadedError(table.full_name, *reason)

    def is_loaded(self, table: TableInfo) -> bool:
        """Whether a base has the rows that a table had when the stream began."""
        return self._history.first_name(table.id).lower() in self._loaded

    # --

    def _was_always_apart(self, table: TableInfo) -> bool:
        """Whether nothing but the table itself matters, so that not all of them are looked at."""
        first = self._history.first_event(table.id)
        was_there = first is not None and first.ts <= self._history.start_ts
        return was_there and table.partition is None and self._has_all

    def _why(self, table_id: TableID) -> str | None:
        """Why a table has rows from before; None if it has none."""
        first = self._history.first_event(table_id)
        if self._is_told or first is None or first.db in SYSTEM_DATABASES:
            return None
        if records_of(self._view, table_id) is SIDE:
            return None
        name = first.full_name.lower()
        if not self._scope.contains(table_id):
            why = "was not replicated (--include, --exclude)"
        elif first.ts <= self._history.start_ts and name not in self._loaded:
            why = f"was there when the stream began, at {first.ts}"
        elif table_id in self._recovered:
            why = f"was recovered, or copied from another table, by the DDL at {first.ts}"
        else:
            return None
        return None if any(fits(name, pattern) for pattern in self._assumed) else why

    @cached_property
    def _doubtful(self) -> dict[TableID, str]:
        """Tables that have rows from before, and why; of what it takes, mostly none."""
        if self._is_told or _EVERYTHING in self._assumed:
            return {}
        reasons = ((table_id, self._why(table_id)) for table_id in self._history.table_ids)
        return {table_id: why for table_id, why in reasons if why is not None}

    @cached_property
    def _owners(self) -> dict[PhysicalTableID, list[TableEvent]]:
        """To which tables each physical table has belonged, in order."""
        owners: dict[PhysicalTableID, list[TableEvent]] = defaultdict(list)
        for event in self._history.events:
            for physical_id in event.physical_ids:
                owners[physical_id].append(event)
        return owners

    def _reason(
        self, table_id: TableID, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> tuple[str, str] | None:
        """Whose rows a physical table lacks, and why."""
        for number, event in enumerate(self._owners.get(physical_id, ())):
            if event.ts > ts:
                break
            why = self._doubtful.get(event.table_id)
            if why is None:
                continue
            is_first = number == 0 and event is self._history.first_event(event.table_id)
            if is_first or not self._scope.contains(event.table_id):
                return self._history.first_name(event.table_id), why
        return next(self._moved(table_id, physical_id, ts), None)

    def _moved(
        self, table_id: TableID, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> Iterator[tuple[str, str]]:
        """The reasons of the physical tables from which REORGANIZE has filled one."""
        for move in moves(self._history.events_of(table_id)):
            if physical_id in move.to_ids and move.ts <= ts:
                for source in sorted(move.from_ids):
                    reason = self._reason(table_id, source, TimeStamp(move.ts - 1))
                    if reason is not None:
                        yield reason
