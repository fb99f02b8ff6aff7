"""Physical tables that enter the scope of a store with rows, and when.

    EXCHANGE PARTITION     a followed table gets the physical table of one that is not followed
    RENAME TABLE           a table that is not followed gets a name in the scope
    RECOVER, FLASHBACK     of a table whose changes were not followed before it was dropped, or
                           whose rows have been removed from the store since
    `--add PATTERN`        at a timestamp of PD, tables that are not followed or not complete

A change feed has the later changes only, so their rows at that timestamp are read from TiKV.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.store.coverage import Coverage
from pyspark_theflash.storage.store.scope import ScopedTables, TableScope, fits
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, TableEvent


class Entries:
    """Tables that enter a store, by the schema history.

    `recovered` are tables that were restored with rows that the stream does not have, `adds` the
    patterns of tables to add, by timestamp, and `is_purged` returns whether the store has removed
    the rows of a dropped physical table.
    """

    def __init__(
        self,
        tables: PhysicalTables,
        scope: TableScope,
        recovered: Collection[TableID],
        adds: Mapping[TimeStamp, tuple[str, ...]],
        is_purged: Callable[[PhysicalTableID], bool],
    ) -> None:
        self._tables, self._history = tables, tables.history
        self._scope, self._scoped = scope, ScopedTables(scope, tables.history)
        self._recovered, self._adds, self._is_purged = recovered, adds, is_purged

    def next_ts(self, after: TimeStamp) -> TimeStamp | None:
        """Return the first timestamp above `after` at which physical tables enter."""
        events = self._history.events[len(self._history.until(after)) :]
        entering = next((e.ts for e in events if any(self._entering(e))), None)
        times = [ts for ts in (*self._adds, entering) if ts is not None and ts > after]
        return min(times, default=None)

    def at(self, ts: TimeStamp, coverage: Coverage) -> dict[PhysicalTableID, TableID]:
        """Return the physical tables that enter at a timestamp, each with its table then."""
        entering = {
            physical_id: event.table_id
            for event in self._history.events_at(ts)
            for physical_id in self._entering(event)
        }
        for event in self._history.defined_at(ts):
            if self._is_added(event, ts) and self.is_incomplete(event, ts, coverage):
                entering |= dict.fromkeys(map(PhysicalTableID, event.stored_ids), event.table_id)
        return entering

    def is_incomplete(self, event: TableEvent, ts: TimeStamp, coverage: Coverage) -> bool:
        """Return whether the store does not have all rows of a table."""
        is_followed = self._scoped.contains(event.table_id)
        is_complete = is_followed and coverage.lacking(event, ts) is None
        return not is_complete or any(map(self._is_purged, event.stored_ids))

    def _is_added(self, event: TableEvent, ts: TimeStamp) -> bool:
        return is_named(event, self._adds.get(ts, ())) and not any(
            fits(event.full_name.lower(), pattern) for pattern in self._scope.exclude
        )

    def _entering(self, event: TableEvent) -> Iterator[PhysicalTableID]:
        """Yield the physical tables that enter by a change of the schema."""
        if event.name is None or event.db in SYSTEM_DATABASES or not _holds_rows(event):
            return
        if not self._scoped.contains(event.table_id):
            if self._scope.contains(event.full_name, event.ts):
                yield from event.stored_ids
        elif self._is_recovered(event):
            yield from event.stored_ids
        else:
            for physical_id in event.stored_ids:
                before = self._tables.owner_before(physical_id, event.ts)
                is_from_outside = before not in (None, event.table_id) and not (
                    self._scoped.contains(before)
                )
                if is_from_outside or self._is_purged(physical_id):
                    yield physical_id

    def _is_recovered(self, event: TableEvent) -> bool:
        is_restored = event.table_id in self._recovered
        return is_restored and event.table_id in self._history.appearing_at(event.ts)


def is_named(event: TableEvent, patterns: Collection[str]) -> bool:
    """Return whether a table's name matches a pattern, and it has rows of its own."""
    return any(fits(event.full_name.lower(), p) for p in patterns) and _holds_rows(event)


def _holds_rows(event: TableEvent) -> bool:
    return event.table is not None and event.table.holds_rows
