"""Writer that applies TiCDC's storage sink to a store.

    metadata ─► checkpoint_ts ─► resolved_ts = checkpoint_ts - 1
    files ────► rows up to it, by range of commit_ts ─► versions ─► publications

The checkpoint is read before the files are listed. TiCDC has written all rows below it, and maybe
not all rows at it: its documents name both "below" and "at or below". So `resolved_ts` is one less,
and rows above it stay in their files until a later poll. TiCDC sends rows again after a restart, so
rows at or below the store's `resolved_ts` are skipped; no other order is assumed.

The sink has neither the ids of tables and columns, nor collations, nor `_tidb_rowid`: the schema
comes from TiDB, handles are computed from the primary key, and tables without a clustered key are
set aside.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import (
    OptionError,
    SchemaOutdatedError,
    UnsupportedError,
)
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.applier import (
    ApplyReport,
    Compact,
    moved_or_aside,
    synchronously,
)
from pyspark_theflash.replication.apply.asides import AsideTables
from pyspark_theflash.replication.apply.base import check_base
from pyspark_theflash.replication.apply.base_rows import RowBase, load_any
from pyspark_theflash.replication.apply.move import move_record, moved_gaps
from pyspark_theflash.replication.apply.moving_state import MovingState
from pyspark_theflash.replication.apply.state import BRINGS_ROWS
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.cdc.position import (
    CONTINUED_KINDS,
    SINK_POSITION,
    check_has_sink,
)
from pyspark_theflash.replication.ticdc.backlog import SERIES_KIND, Backlog
from pyspark_theflash.replication.ticdc.rows import SinkFormat, SinkRows
from pyspark_theflash.replication.ticdc.sink import Sink
from pyspark_theflash.replication.ticdc.versions import (
    TableNames,
    TableVersions,
    decode_rows,
    version_batches,
)
from pyspark_theflash.storage.engine.api import Publication, VersionBatch, WriterEngine
from pyspark_theflash.storage.store.coverage import (
    ASSUMED_KIND,
    assumed_records,
    recovered_record,
)
from pyspark_theflash.storage.store.feed import FEED_KIND, Feed, claim
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, SchemaHistory
from pyspark_theflash.tidb.schema.lineage import Move

_NO_KEY: Final = (
    "it has no clustered primary key, and TiCDC's output does not contain the _tidb_rowid that "
    "identifies its rows"
)


class SinkWriter:
    """Writer of one store. `engine` is the store's, open for writing."""

    def __init__(
        self,
        engine: WriterEngine,
        schema: SchemaSource,
        sink: Sink,
        format: SinkFormat,
        scope: TableScope | None = None,
        *,
        assume_empty: Sequence[str] = (),
        compact: Compact | None = None,
    ) -> None:
        """Continue from the state of the store.

        Args:
            assume_empty: Patterns of tables without rows before their first change, in addition
                to those of earlier runs (`storage/store/coverage.py`).
            compact: Called with the tables published; None compacts them synchronously.

        Raises:
            FeedConflictError: The store is written through the API, or from another source.
            SchemaConflictError: The store was written with another schema history.
            OptionError: The store was written with another scope.
        """
        self._engine, self._sink, self._format = engine, sink, format
        view = engine.read([FEED_KIND, ASSUMED_KIND, SERIES_KIND, *CONTINUED_KINDS])
        check_has_sink(view)
        claims = claim(view, Feed.STREAM)
        claims += assumed_records(view, assume_empty)
        self._state = MovingState(engine, schema, scope)
        if claims:
            engine.publish(Publication((), ManifestChange(claims)))
        self._backlog = Backlog(view.of_kind(SERIES_KIND), sink.parse)
        self._asides = AsideTables(engine)
        self._compact = compact or synchronously(engine, self._state)
        self._touched: set[PhysicalTableID] = set()
        self._checked: SchemaHistory | None = None
        self.report: Final = ApplyReport()

    pending: Final = 0
    """Number of transactions received but not applied: they stay in their files."""

    @property
    def resolved_ts(self) -> TimeStamp:
        """Newest readable timestamp of the store."""
        return self._state.resolved_ts

    @property
    def state(self) -> MovingState:
        """The writer's records of the manifest."""
        return self._state

    def load_base(self, base: Path | RowBase) -> int:
        """Load a base, the rows from before the changefeed; return the number of rows loaded."""
        rows = load_any(self._engine, base, self._state)
        if self._state.resolved_ts < self._state.history.start_ts:
            self._publish_range([], self._state.history.start_ts, self._state.history.start_ts)
        return rows

    def poll(self, *, until_ts: TimeStamp | None = None) -> None:
        """Apply all rows below the sink's checkpoint, up to `until_ts`.

        Raises:
            IncompleteFileError, ServiceUnavailableError: To be retried.
            CorruptionError, CodecError, SchemaOutdatedError, TransactionConflictError: The input
                is invalid; the ranges before it are applied.
            OptionError: An option of the changefeed or a property in the URL is missing.
        """
        check_base(self._engine)
        checkpoint_ts = self._sink.checkpoint_ts()
        if checkpoint_ts is None:
            return
        limit = min(checkpoint_ts - 1, MAX_TS - 1, until_ts or MAX_TS)
        low = max(self._state.resolved_ts, self._state.history.start_ts)
        if limit <= low:
            return
        # First of all: if this fails, the next poll retries it.
        self._state.reach(TimeStamp(limit))
        limit = min(limit, self._state.history.end_ts)
        self._backlog.update(self._sink.list_files(), low)
        while low < limit:
            low = self._apply(low, TimeStamp(limit))
        with self.report.timed("compact"):
            touched, self._touched = sorted(self._touched), set()
            self._compact(touched)

    def run_once(self, *, until_ts: TimeStamp | None = None) -> ApplyReport:
        """Apply all rows below the sink's checkpoint, or all up to `until_ts`.

        Raises:
            OptionError: The sink is not complete up to `until_ts`, or TiCDC has not written to it.
            TheFlashError: See `poll`.
        """
        checkpoint_ts = self._sink.checkpoint_ts()
        if checkpoint_ts is None:
            raise OptionError("source", "it has no file 'metadata' of TiCDC")
        if until_ts is not None and until_ts >= checkpoint_ts:
            reason = f"the sink is complete below {checkpoint_ts} only, its checkpoint"
            raise OptionError("until-ts", reason)
        self.poll(until_ts=until_ts)
        if until_ts is not None and self.resolved_ts < until_ts:
            raise SchemaOutdatedError("schema", until_ts)
        return self.report

    # --

    def _apply(self, low: TimeStamp, limit: TimeStamp) -> TimeStamp:
        """Apply one range of commits above `low`; return its end."""
        high = self._backlog.range_end(low, limit)
        while (move := self._state.next_move(high)) is not None:
            if move.ts > low + 1:
                high = TimeStamp(move.ts - 1)
                break
            self._publish_move(move)
        with self.report.timed("decode"):
            names = TableNames(self._state.history)
            parts = [
                p for rows in self._backlog.rows(low, high) for p in self._decoded(rows, names)
            ]
            versions = version_batches(parts)
        self._publish_range(versions, low, high)
        return high

    def _decoded(self, rows: SinkRows, names: TableNames) -> Iterable[TableVersions]:
        """Yield the versions of rows; tables whose contents are unknown are set aside."""
        for table, part in names.definitions(rows):
            if not self._state.replicates(table.id) or table.has_rowid:
                continue
            try:
                yield decode_rows(part, table, self._format, self._state.lineage.placement)
            except UnsupportedError as error:
                ts = TimeStamp(int(part.commit_ts.min()))
                self._asides.add(table.full_name, table.stored_id_set, ts, str(error))

    def _publish_range(
        self, versions: Sequence[VersionBatch], low: TimeStamp, high: TimeStamp
    ) -> None:
        with self.report.timed("publish"):
            self._set_aside_keyless()
            series, gone = self._backlog.changes(high)
            puts = [*self._state.progress_records(high, SINK_POSITION), *series]
            self._publish(versions, ManifestChange([*puts, *self._recovered(low, high)], gone))
            self._state.published()
            self._backlog.stored(high)
        self.report.transactions += len({ts for v in versions for ts in _commits(v)})

    def _publish(self, versions: Sequence[VersionBatch], change: ManifestChange) -> None:
        self._engine.publish(Publication(versions, self._asides.added_to(change)))
        self._asides.published()
        self._touched.update(v.physical_id for v in versions)
        self.report.rows += sum(v.batch.num_rows for v in versions)
        self.report.publications += 1

    def _publish_move(self, move: Move) -> None:
        """Publish the rows that DDL moves, which are not readable before the next range."""
        records = [move_record(move), *moved_gaps(self._engine, move)]
        versions = moved_or_aside(self._engine, self._state, self._asides, move)
        self._publish(versions, ManifestChange(records))
        self._state.finish_move(move)

    def _set_aside_keyless(self) -> None:
        """Set the tables without a clustered key aside, once per schema history."""
        history = self._state.history
        if history is self._checked:
            return
        for event in history.events:
            if event.name is None or event.db.lower() in SYSTEM_DATABASES:
                continue
            table = event.table
            if table is None or not (table.has_rowid and table.holds_rows):
                continue
            if self._state.replicates(table.id):
                ts = TimeStamp(max(event.ts, history.start_ts + 1))
                self._asides.add(table.full_name, table.stored_id_set, ts, _NO_KEY)
        self._checked = history

    def _recovered(self, low: TimeStamp, high: TimeStamp) -> list[Record]:
        """Return the records of tables whose rows DDL has restored or copied."""
        history = self._state.history
        moments = {d.ts for d in self._sink.ddls(low, high) if BRINGS_ROWS.match(d.query)}
        return [recovered_record(id) for ts in sorted(moments) for id in history.appearing_at(ts)]


def _commits(versions: VersionBatch) -> Iterable[int]:
    commits: list[int] = versions.batch.column(1).unique().to_pylist()
    return commits
