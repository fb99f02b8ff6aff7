"""Tables that enter a store with rows: they are loaded at one timestamp T, then followed.

    up to T - 1     is published
    the plan        the physical tables that enter at T, and stripes of their keys, are recorded
    the rows at T   are read from TiKV, and published as versions at T; nothing is readable at T yet
    T               is published with the extended scope, and the plan is removed: all of the
                    tables become readable at once
    above T         changes of the physical tables are followed

A writer that is killed continues after its last publication. Meanwhile, the feed is received.
"""

import logging
from collections.abc import Iterable, Sequence, Set
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import GCBarrierLostError, InternalError, invariant
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.asides import AsideTables
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.cdc.entries import Entries, is_named
from pyspark_theflash.replication.load.entry import EntryLoad, Loader
from pyspark_theflash.storage.engine.api import Publication, WriterEngine
from pyspark_theflash.storage.store.coverage import COVERAGE_KINDS, RECOVERED_KIND, Coverage
from pyspark_theflash.storage.store.entered import Entered, entered_of
from pyspark_theflash.storage.store.feed import FEED_KIND
from pyspark_theflash.storage.store.load import (
    LOAD_KIND,
    EntryPlan,
    Stripe,
    add_record,
    adds_of,
    ended_keys,
    stripes_of,
)
from pyspark_theflash.storage.store.manifest import ManifestChange, View
from pyspark_theflash.storage.store.purged import PURGED_KIND, ended_purges, purged_at
from pyspark_theflash.storage.store.scope import SCOPE_KIND

_KINDS: Final = (LOAD_KIND, *COVERAGE_KINDS, FEED_KIND, SCOPE_KIND, PURGED_KIND)
_log = logging.getLogger(__name__)


class Entering:
    """The loads of a writer, one after the other."""

    def __init__(
        self,
        engine: WriterEngine,
        state: StreamState,
        asides: AsideTables,
        loader: Loader,
        clock: Clock,
    ) -> None:
        self._engine, self._state, self._asides = engine, state, asides
        self._loader, self._clock = loader, clock
        view = engine.read(_KINDS)
        self._adds = adds_of(view)
        self._recovered = {TableID(int(key)) for key in view.of_kind(RECOVERED_KIND)}
        self._plan: EntryPlan | None = None
        self._load: EntryLoad | None = None
        self._lost: GCBarrierLostError | None = None
        self._incomplete: Set[PhysicalTableID] = frozenset()
        """The physical tables that were set aside when the barrier was lost."""

    @property
    def physical_ids(self) -> Set[PhysicalTableID]:
        """The physical tables that are being loaded, which are not followed meanwhile."""
        return frozenset() if self._plan is None else self._plan.tables.keys()

    @property
    def share(self) -> float | None:
        """The part that is loaded, from 0 to 1; None without a load."""
        return None if self._load is None else self._load.share

    def restored(self, table_ids: Iterable[TableID]) -> None:
        """Note tables that were restored with rows that the stream does not have."""
        self._recovered.update(table_ids)

    def add(self, patterns: Sequence[str], ts: TimeStamp) -> None:
        """Load tables with matching names at `ts`, which PD has allocated just now.

        Tables that are followed and complete are left out, and so are patterns of the store's scope
        that match no others.
        """
        pending = {pattern for each in self._adds.values() for pattern in each}
        new = [p for p in dict.fromkeys(patterns) if p not in pending and self._needs(p)]
        if new:
            self._engine.publish(Publication((), ManifestChange([add_record(ts, new)])))
            self._adds[ts] = tuple(new)

    def _needs(self, pattern: str) -> bool:
        """Return whether tables that a pattern matches are not followed, or not complete."""
        if not self._state.scope.has(pattern):
            return True
        history, ts = self._state.history, self._state.resolved_ts
        entries = self._entries(PhysicalTables(history))
        coverage = Coverage(self._engine.read(_KINDS), history)
        named = (event for event in history.defined_at(ts) if is_named(event, [pattern]))
        return any(entries.is_incomplete(event, ts, coverage) for event in named)

    def followed_from(self, physical_id: PhysicalTableID, checkpoint_ts: TimeStamp) -> TimeStamp:
        """Return where to subscribe a physical table: at `checkpoint_ts` if TiKV has all versions.

        Raises:
            GCBarrierLostError: It does not have them, and the table is not set aside for that.
        """
        if self._lost is None or checkpoint_ts >= self._lost.safe_point:
            return checkpoint_ts
        if physical_id not in self._incomplete:
            raise self._lost
        return TimeStamp(self._lost.safe_point)

    def is_ahead(self, checkpoint_ts: TimeStamp) -> bool:
        """Return whether the store is behind the feed for a load, in progress or just ended."""
        is_lost = self._lost is not None and checkpoint_ts < self._lost.safe_point
        return is_lost or self._plan is not None

    def next_ts(self, tables: PhysicalTables, after: TimeStamp) -> TimeStamp | None:
        """Return the first timestamp above `after` at which tables enter."""
        return self._entries(tables).next_ts(after)

    def begin(self, ts: TimeStamp, tables: PhysicalTables) -> None:
        """Begin the load at a timestamp, or continue it. The store has reached `ts` - 1.

        Raises the errors of `Loader.stripes`.
        """
        if self._plan is not None:
            return
        view, history = self._engine.read(_KINDS), tables.history
        plan = EntryPlan.of(view)
        if plan is None:
            plan = EntryPlan(ts, self._entries(tables).at(ts, Coverage(view, history)))
            stripes: Sequence[Stripe] = self._loader.stripes(sorted(plan.tables))
            records = [plan.to_record(), *(stripe.to_record() for stripe in stripes)]
            self._engine.publish(Publication((), ManifestChange(records)))
        else:
            stripes = stripes_of(view)
        invariant(plan.ts == ts, "a load at another timestamp is in progress")
        infos = {i: history.table_at_commit(t, ts) for i, t in plan.tables.items()}
        names = sorted({table.full_name for table in infos.values()})
        _log.info("loading %s at %s", ", ".join(names), shown(ts))
        self._load = EntryLoad(self._engine, self._loader, ts, infos, stripes, self._clock)
        self._plan = plan

    def step(self) -> bool:
        """Load a part, and return whether all is loaded. Raises as `EntryLoad.step`."""
        _, load = self._current()
        load.step()
        return load.is_done

    def change(self) -> ManifestChange:
        """Return the change to publish at the timestamp of a complete load. Call `end` after it.

        Tables whose rows may be incomplete are set aside, loaded as they are.
        """
        plan, load = self._current()
        ts, history, state = plan.ts, self._state.history, self._state
        failed = {i: str(error) for i, error in load.failed.items()} | self._without_barrier(plan)
        view = self._engine.read(_KINDS)
        coverage, entered = Coverage(view, history), entered_of(view)
        records = [
            entered.get(i, Entered()).plus(self._gap_before(i, ts, view, coverage), ts).to_record(i)
            for i in plan.tables
        ]
        ids = plan.tables.keys()
        deletes = [*ended_keys(view, ts), *self._asides.end(ids), *ended_purges(view, ids)]
        for physical_id, reason in failed.items():
            name = history.table_at_commit(plan.tables[physical_id], ts).full_name
            self._asides.add(name, {physical_id}, ts, reason)
        new = {table_id for table_id in plan.tables.values() if not state.replicates(table_id)}
        state.extend_scope(state.scope.plus(self._adds.get(ts, ()), ts, new))
        return ManifestChange(records, deletes)

    def _without_barrier(self, plan: EntryPlan) -> dict[PhysicalTableID, str]:
        """Return why the tables of a load are not complete, if TiKV has collected versions."""
        try:
            self._loader.confirm(TimeStamp(plan.ts - 1))
        except GCBarrierLostError as error:
            safe_point = TimeStamp(error.safe_point)
            reason = (
                f"TiKV's garbage collection reached {shown(safe_point)} while it was loaded at "
                f"{shown(plan.ts)}; load it again"
            )
            self._lost, self._incomplete = error, plan.tables.keys()
            return dict.fromkeys(plan.tables, reason)
        return {}

    def _gap_before(
        self, physical_id: PhysicalTableID, ts: TimeStamp, view: View, coverage: Coverage
    ) -> TimeStamp:
        """Return from which timestamp on a table that enters at `ts` is not complete."""
        purged_ts = purged_at(view, physical_id)
        gap = coverage.gap_before(physical_id, ts)
        return gap if purged_ts is None else min(gap, purged_ts)

    def end(self) -> None:
        """End a load whose change is published."""
        plan, load = self._current()
        load.close()
        self._adds.pop(plan.ts, None)
        self._plan = self._load = None

    def close(self) -> None:
        """End the readers of a load that is in progress."""
        if self._load is not None:
            self._load.close()

    def _current(self) -> tuple[EntryPlan, EntryLoad]:
        if self._plan is None or self._load is None:
            raise InternalError("no load has begun")
        return self._plan, self._load

    def _entries(self, tables: PhysicalTables) -> Entries:
        view: View | None = None

        def is_purged(physical_id: PhysicalTableID) -> bool:
            # Read once for all physical tables, but again in the next call: upkeep removes rows.
            nonlocal view
            if view is None:
                view = self._engine.read([PURGED_KIND])
            return purged_at(view, physical_id) is not None

        return Entries(tables, self._state.scope, self._recovered, self._adds, is_purged)
