"""Coverage: whether a store has all rows of a table.

A stream has only changes. The rows that a table had before its changes were replicated have to be
loaded from a base; without them, a read would return only the changed rows. A *physical* table has
such earlier rows

    if its table existed when the stream began              unless it was loaded from a base
    if its table was restored by RECOVER or FLASHBACK and
    its changes had not been replicated before              TiDB writes no binlog of these rows
    if ALTER TABLE gave its table another id                TiDB writes no binlog of the copied
    (PARTITION BY, REMOVE PARTITIONING)                     rows
    while it belongs to a table that is not replicated      EXCHANGE PARTITION may move it to one
                                                            that is
    if REORGANIZE PARTITION filled it from one that has     some of the rows are missing

A writer of TiKV's change feed loads such rows when the physical table enters (`entered.py`).

`--assume-empty PATTERN` asserts that tables had no earlier rows, and is recorded. Like those of the
scope, a pattern is matched against the first name of the table in the history.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import (
    SnapshotTooOldError,
    TableNotLoadedError,
    TableSetAsideError,
)
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.storage.store.aside import ASIDE_KIND, asides_of, set_aside
from pyspark_theflash.storage.store.entered import ENTERED_KIND, Entered, entered_of
from pyspark_theflash.storage.store.feed import SIDE, Feed, main_feed, records_of
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND
from pyspark_theflash.storage.store.scope import ScopedTables, TableScope, fits
from pyspark_theflash.tidb.codec.document import load, shaped
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import Move, filled_by
from pyspark_theflash.tidb.schema.model import TableInfo

BASE_KIND: Final = "base"
ASSUMED_KIND: Final = "assumed-empty"
RECOVERED_KIND: Final = "recovered"
_EVERYTHING: Final = "*"
COVERAGE_KINDS: Final = (
    *(BASE_KIND, ASSUMED_KIND, RECOVERED_KIND, RAFT_FED_KIND, ASIDE_KIND, ENTERED_KIND),
)
MissingRows: TypeAlias = TableNotLoadedError | TableSetAsideError | SnapshotTooOldError
"""Errors of reading a table that does not have all its rows."""


def assumed_record(pattern: str) -> Record:
    """Return the record of an `--assume-empty` pattern."""
    return Record(ASSUMED_KIND, pattern, b"")


def assumed_records(view: View, patterns: Iterable[str]) -> list[Record]:
    """Return the records of the `--assume-empty` patterns that are not in a view."""
    stored = view.of_kind(ASSUMED_KIND)
    return [assumed_record(p) for p in dict.fromkeys(patterns) if p not in stored]


def recovered_record(table_id: TableID) -> Record:
    """Return the record of a table that was restored or copied with rows not in the stream."""
    return Record(RECOVERED_KIND, f"{table_id:020d}", b"")


def loaded_record(name: str, ts: TimeStamp) -> Record:
    """Return the record of a table whose rows at `ts` were loaded from TiKV.

    Unlike the rows of a base folder, they have no value where TiDB's rows have none.
    """
    return Record(BASE_KIND, name, json.dumps({"ts": ts}).encode())


class Coverage:
    """Coverage of the tables in a view, which has the feed, scope and `COVERAGE_KINDS` records."""

    def __init__(self, view: View, history: SchemaHistory) -> None:
        self._view, self._history = view, history
        scope = TableScope.of(view) or TableScope()
        self._scope, self._has_all = ScopedTables(scope, history), scope == TableScope()
        self._is_complete = main_feed(view) is Feed.API or bool(view.of_kind(RAFT_FED_KIND))
        bases = view.of_kind(BASE_KIND)
        self._loaded = {name.lower() for name in bases}
        with shaped(f"{BASE_KIND} record"):
            self._from_folder = {name.lower() for name in bases if "ts" not in load(bases[name])}
        self._assumed = tuple(view.of_kind(ASSUMED_KIND))
        self._recovered = {TableID(int(key)) for key in view.of_kind(RECOVERED_KIND)}
        self._asides, self._entered = asides_of(view), entered_of(view)
        self._filled_by = dict[TableID, dict[PhysicalTableID, Move]]()

    def check(self, table: TableInfo, ts: TimeStamp) -> None:
        """Raise an error if the store does not have all rows of a table at `ts`.

        Raises:
            TableNotLoadedError: Earlier rows of the table were not loaded.
            TableSetAsideError: The table is set aside, so its rows are unknown.
            SnapshotTooOldError: The table was loaded later.
        """
        if self._asides or self._entered or not self._is_independent(table):
            error = self.lacking(TableEvent(ts, table.db, table.id, table), ts)
            if error is not None:
                raise error
        elif reason := self._reason_of_table(table.id):
            first = self._history.first_name(table.id)
            raise TableNotLoadedError(table.full_name, first, reason)

    def lacking(self, table: TableEvent, ts: TimeStamp) -> MissingRows | None:
        """Return the error of a table without all its rows at `ts`; None if it is complete."""
        if self._entered:
            ends = (self._entered_of(i).readable_from(ts) for i in table.physical_ids)
            if (oldest := max((end for end in ends if end is not None), default=None)) is not None:
                return SnapshotTooOldError(ts, oldest, table.full_name)
        if self._asides:
            error = set_aside(self._asides, table.full_name, table.physical_ids, ts)
            if error is not None:
                return error
        if not self._incomplete or records_of(self._view, table.table_id) is SIDE:
            return None
        reasons = (self._reason(table.table_id, i, ts) for i in table.physical_ids)
        reason = next((each for each in reasons if each is not None), None)
        return None if reason is None else TableNotLoadedError(table.full_name, *reason)

    def gap_before(self, physical_id: PhysicalTableID, ts: TimeStamp) -> TimeStamp:
        """Return from which timestamp on a physical table is not complete; `ts` if it is."""
        loaded_ts = self._entered_of(physical_id).loaded_ts(ts)
        owners = (e for e in self._owners.get(physical_id, ()) if loaded_ts < e.ts <= ts)
        starts = [e.ts for e in owners if self._misses_rows(e, physical_id)]
        if (aside := self._asides.get(physical_id)) is not None:
            starts.append(aside.ts)
        return min(starts, default=ts)

    def _misses_rows(self, owner: TableEvent, physical_id: PhysicalTableID) -> bool:
        is_followed = self._scope.contains(owner.table_id)
        return not is_followed or self._reason(owner.table_id, physical_id, owner.ts) is not None

    def is_from_folder(self, table: TableInfo) -> bool:
        """Return whether a base folder has the rows that a table had when the stream began."""
        return self._history.first_name(table.id).lower() in self._from_folder

    # --

    def _entered_of(self, physical_id: PhysicalTableID) -> Entered:
        return self._entered.get(physical_id, _NEVER)

    def _is_independent(self, table: TableInfo) -> bool:
        """Return whether its coverage does not depend on other tables; saves checking those."""
        first = self._history.first_event(table.id)
        existed = first is not None and first.ts <= self._history.start_ts
        return existed and table.partition is None and self._has_all

    def _reason_of_table(self, table_id: TableID) -> str | None:
        """Return why a table has earlier rows; None if it has none."""
        first = self._history.first_event(table_id)
        if self._is_complete or first is None or first.db in SYSTEM_DATABASES:
            return None
        if records_of(self._view, table_id) is SIDE:
            return None
        name = first.full_name.lower()
        if not self._scope.contains(table_id):
            reason = "was not replicated (--include, --exclude)"
        elif first.ts <= self._history.start_ts and name not in self._loaded:
            reason = f"existed when the stream began, at {first.ts}"
        elif table_id in self._recovered:
            reason = f"was recovered, or copied from another table, by the DDL at {first.ts}"
        else:
            return None
        return None if any(fits(name, pattern) for pattern in self._assumed) else reason

    @cached_property
    def _incomplete(self) -> dict[TableID, str]:
        """The tables with earlier rows that are not loaded, each with the reason."""
        if self._is_complete or _EVERYTHING in self._assumed:
            return {}
        reasons = ((id, self._reason_of_table(id)) for id in self._history.table_ids)
        return {table_id: reason for table_id, reason in reasons if reason is not None}

    @cached_property
    def _owners(self) -> dict[PhysicalTableID, list[TableEvent]]:
        """The tables to which each physical table has belonged, in order."""
        owners: dict[PhysicalTableID, list[TableEvent]] = defaultdict(list)
        for event in self._history.events:
            for physical_id in event.physical_ids:
                owners[physical_id].append(event)
        return owners

    def _reason(
        self, table_id: TableID, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> tuple[str, str] | None:
        """Return the table whose rows are missing in a physical table, and why; or None.

        They are also missing if REORGANIZE PARTITION moved rows from where they are.
        """
        if table_id not in self._filled_by:
            self._filled_by[table_id] = filled_by(self._history.events_of(table_id))
        moved, pending, visited = self._filled_by[table_id], [(physical_id, ts)], {physical_id}
        while pending:
            target, until = pending.pop()
            loaded_ts = self._entered_of(target).loaded_ts(until)
            reason = self._reason_of_owners(target, loaded_ts, until)
            if reason is not None:
                return reason
            move = moved.get(target)
            if move is not None and loaded_ts < move.ts <= until:
                sources = sorted(move.from_ids - visited, reverse=True)
                visited.update(sources)
                pending += [(source, TimeStamp(move.ts - 1)) for source in sources]
        return None

    def _reason_of_owners(
        self, physical_id: PhysicalTableID, loaded_ts: TimeStamp, ts: TimeStamp
    ) -> tuple[str, str] | None:
        for number, event in enumerate(self._owners.get(physical_id, ())):
            if event.ts > ts:
                break
            if event.ts <= loaded_ts:
                continue
            reason = self._incomplete.get(event.table_id)
            if reason is None:
                continue
            is_first = number == 0 and event is self._history.first_event(event.table_id)
            if is_first or not self._scope.contains(event.table_id):
                return self._history.first_name(event.table_id), reason
        return None


_NEVER: Final = Entered()
