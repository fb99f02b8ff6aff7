"""The writer: a source in, publications out.

    source ─ entities ─► Pairing ─ transactions, resolved ─► Applier ─ publications ─► engine

It takes from the pairing whenever enough has gathered, and once more at the end of the source.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import OptionError, SchemaOutdatedError, UnmatchedPrewriteError
from pyspark_theflash.base.types import MAX_TS, TimeStamp
from pyspark_theflash.replication.apply.applier import BATCH_BYTES, Applier, ApplyReport, Compact
from pyspark_theflash.replication.apply.base import load_base
from pyspark_theflash.replication.apply.move import MOVE_KIND
from pyspark_theflash.replication.apply.state import LEDGER_KIND, SchemaSource, WriterState
from pyspark_theflash.replication.pairing.pending import PENDING_KIND
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.source.event import Entity, Transaction
from pyspark_theflash.replication.source.merge import MergedSource
from pyspark_theflash.replication.upkeep.orphans import ORPHAN_MS, OrphanWatch
from pyspark_theflash.storage.engine.api import Publication, WriterEngine
from pyspark_theflash.storage.store.aside import ASIDE_KIND
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND
from pyspark_theflash.storage.store.coverage import (
    ASSUMED_KIND,
    BASE_KIND,
    RECOVERED_KIND,
    assumed_record,
)
from pyspark_theflash.storage.store.feed import FEED_KIND, Feed, claim
from pyspark_theflash.storage.store.gap import GAP_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope

GATHER_BYTES: Final = BATCH_BYTES
WRITER_KINDS: Final = frozenset(
    {
        *(FEED_KIND, SCOPE_KIND, ASSUMED_KIND, BASE_KIND, RECOVERED_KIND, SCHEMA_KIND),
        *(PROGRESS_KIND, LEDGER_KIND, PENDING_KIND, ORPHAN_KIND, MOVE_KIND, GAP_KIND, ASIDE_KIND),
    }
)
"""The kinds of the records that a writer publishes."""


class EntitySource(Protocol):
    """Where entities come from: files, or a pump."""

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """All that is there, in order of arrival; with `after`, what is behind that position."""

    @property
    def position(self) -> str | None:
        """Where to go on, behind the last entity that was taken; None at the very start."""


class Writer:
    """Applies sources to one store. `engine` is the store's, open for writing."""

    def __init__(
        self,
        engine: WriterEngine,
        schema: SchemaSource,
        scope: TableScope | None = None,
        spill: Spill | None = None,
        *,
        may_guess: bool = False,
        assume_empty: Sequence[str] = (),
        clock: Clock | None = None,
        orphan_ms: int = ORPHAN_MS,
        streams: Sequence[str] = ("",),
        compact: Compact | None = None,
    ) -> None:
        """Go on where the store is; `spill` takes what waits and does not fit into memory.

        With `may_guess`, partitions that nobody can tell are guessed (`placement.py`), and logged.
        `streams`: the names of a source's parts, where it has several.
        Tables that fit a pattern of `assume_empty`, now or in an earlier run, had no rows before
        their changes were followed (`storage/store/coverage.py`).
        `compact` is told which tables were published; None: they are compacted here.
        A prewrite that has waited `orphan_ms` for its commit is looked up in TiKV (`orphans.py`).

        Raises:
            FeedConflictError: the store is written through the API.
            SchemaConflictError: the store was written under another schema history.
            OptionError: it was written under another scope.
        """
        self._engine = engine
        view = engine.read([FEED_KIND, ASSUMED_KIND])
        claims = claim(view, Feed.STREAM)
        known = view.of_kind(ASSUMED_KIND)
        claims += [assumed_record(p) for p in dict.fromkeys(assume_empty) if p not in known]
        self._state = WriterState(engine, schema, scope, spill, streams)
        if claims:
            engine.publish(Publication((), ManifestChange(claims)))
        self._applier = Applier(engine, self._state, may_guess=may_guess, compact=compact)
        self._orphans = OrphanWatch(engine, self._state, clock or SystemClock(), orphan_ms)

    @property
    def resolved_ts(self) -> TimeStamp:
        """Up to where the store can answer."""
        return self._state.resolved_ts

    @property
    def position(self) -> str | None:
        """Where in the source a following writer goes on, durably."""
        return self._state.position

    @property
    def state(self) -> WriterState:
        """The manifest's records as the writer holds them."""
        return self._state

    @property
    def pending(self) -> int:
        """How many transactions are seen but not applied."""
        return len(self._state.pairing.pending())

    @property
    def report(self) -> ApplyReport:
        """The counts of everything applied since the writer was made."""
        return self._applier.report

    def load_base(self, folder: Path) -> int:
        """Load the rows from before the binlog; returns how many were not there yet."""
        rows = load_base(self._engine, folder, self._state.history, self._state.replicates)
        if self._state.resolved_ts < self._state.history.start_ts:
            self._applier.apply([], self._state.history.start_ts)
        return rows

    def poll(self, source: EntitySource, *, until_ts: TimeStamp | None = None) -> int:
        """Apply what has come since the position of before; returns how many entities that were.

        Raises:
            SchemaOutdatedError, CodecError, TransactionConflictError: the input is wrong; what came
            before is applied.
        """
        self._check_base()
        limit = TimeStamp(MAX_TS - 1) if until_ts is None else until_ts
        if isinstance(source, MergedSource):
            source.is_full = lambda: self._state.is_full
        count = 0
        for _ in self._gather(source.entities(self.position), limit, source):
            count += 1
        self._orphans.look()
        self._finish(limit, source.position)
        return count

    def run_once(self, source: EntitySource, *, until_ts: TimeStamp | None = None) -> ApplyReport:
        """Apply all that the source holds now; with `until_ts`, nothing above it.

        A source given with `until_ts` is complete up to it.

        Raises:
            UnmatchedPrewriteError: it is not complete; what was complete is applied.
            SchemaOutdatedError, CodecError, TransactionConflictError: the input is wrong; what came
            before is applied.
        """
        self._check_base()
        pairing = self._state.pairing
        limit = TimeStamp(MAX_TS - 1) if until_ts is None else until_ts
        newest = TimeStamp(0)
        for entity in self._gather(source.entities(), limit, None):
            newest = max(newest, entity.commit_ts)
        self._apply(limit, None)
        self._check_overlap(newest if until_ts is None else until_ts)
        self._orphans.look()
        if until_ts is not None and until_ts > pairing.resolved_ts:
            try:
                pairing.vouch(until_ts)
            except UnmatchedPrewriteError:
                # What the input began, the next run may complete.
                self._finish(limit, None)
                raise
        self._finish(limit, None)
        return self._applier.report

    def _gather(
        self, entities: Iterable[Entity], limit: TimeStamp, source: EntitySource | None
    ) -> Iterator[Entity]:
        """Take entities in, applying whenever enough of them wait; hands them on for a look."""
        pairing = self._state.pairing
        for entity in entities:
            pairing.add(entity)
            yield entity
            if pairing.buffered_bytes >= GATHER_BYTES:
                self._apply(limit, source)

    def _apply(self, limit: TimeStamp, source: EntitySource | None) -> None:
        """Apply what is resolved, if anything is."""
        transactions, resolved_ts = self._take(limit)
        if transactions:
            position = source.position if source else None
            self._applier.apply(
                transactions, resolved_ts, keep_pending=source is not None, position=position
            )
            self._applier.compact()

    def _finish(self, limit: TimeStamp, position: str | None) -> None:
        """Apply what is resolved and keep the rest for the next run, in one publication."""
        transactions, resolved_ts = self._take(limit)
        if transactions or self._state.has_news(position):
            self._applier.apply(transactions, resolved_ts, keep_pending=True, position=position)
        self._applier.compact()

    def _take(self, limit: TimeStamp) -> tuple[list[Transaction], TimeStamp]:
        """Take the transactions that are resolved up to `limit`; return where that ends, too."""
        pairing = self._state.pairing
        resolved_ts = min(pairing.resolved_ts, limit)
        if resolved_ts <= self._state.resolved_ts and not pairing.has_resolved(resolved_ts):
            return [], resolved_ts
        # Before anything is taken: this may fail, and is tried again with the next poll. Readers
        # are answered up to there also if nothing was committed but a change of the schema.
        self._state.reach(resolved_ts)
        return pairing.take_resolved(resolved_ts), resolved_ts

    def _check_overlap(self, newest: TimeStamp) -> None:
        """A first source that ends before the schema history begins belongs to another one.

        Everything in it counts as known before the start and is left out, so nothing else would
        tell.
        """
        start_ts = self._state.history.start_ts
        if newest < start_ts and self._state.resolved_ts < start_ts:
            raise SchemaOutdatedError(f"table (it begins at {start_ts})", newest)

    def _check_base(self) -> None:
        """A base that was begun must be finished before anything goes on top of it."""
        view = self._engine.read([BASE_KIND, PROGRESS_KIND])
        if view.of_kind(BASE_KIND) and Progress.of(view) is None:
            raise OptionError(
                "base", "an earlier load of a base was interrupted; give the same base again"
            )
