"""Copy of a store to a new one, maybe with another engine.

    NEW.copying     the new store while it is made: it has no readable timestamp
    NEW             appears by a rename, when all rows are copied and compared

A copy at a timestamp has what a snapshot there reads, as after a garbage collection; no source can
continue it. A copy with history can be read from the source's oldest to its newest readable
timestamp of the time when the copy begins, and a writer can continue it as it could the source.

    begin     one commit: the plan, and the records that are taken over (schema history, ledger, ..)
    copy      one commit for each part of a table: its versions, and the handle that follows them
    finish    one commit: the progress, which makes the timestamps readable
    compare   the digests of all tables, in both stores
    rename

A copy that ended in any way is continued by the same call. It uses the records of its beginning and
ignores later versions, so the source may be written meanwhile. A read latch on the source's oldest
timestamp of the copy retains the versions while the process lives; if garbage was collected after
it died, the copy can be read from the new oldest timestamp only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CorruptionError,
    NotCaughtUpError,
    OptionError,
    SnapshotTooOldError,
    StoreExistsError,
    TheFlashError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.read.plan.origin import FILES
from pyspark_theflash.read.plan.read import LeaseKeeper
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.apply.move import MOVE_KIND
from pyspark_theflash.replication.cdc.position import COPY_POSITION
from pyspark_theflash.replication.pairing.ledger import newest_commit
from pyspark_theflash.replication.pairing.pending import PENDING_KIND
from pyspark_theflash.replication.ticdc.backlog import SERIES_KIND
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, EngineReader, Publication, VersionBatch
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, trimmed
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP
from pyspark_theflash.storage.mvcc.visibility import needed_from, superseded_within
from pyspark_theflash.storage.store.base_load import BASE_LOAD_KIND
from pyspark_theflash.storage.store.catalog import feed_history, schema_history, schema_records
from pyspark_theflash.storage.store.compared import COMPARED_KIND, IMPORTS_KIND
from pyspark_theflash.storage.store.copied import (
    COPY_KIND,
    CopyPlan,
    copied_to,
    is_copied,
    table_keys,
    table_record,
)
from pyspark_theflash.storage.store.coverage import COVERAGE_KINDS
from pyspark_theflash.storage.store.feed import (
    FEED_KIND,
    MAIN,
    SCHEMA_KINDS,
    SIDE,
    WRITTEN_KIND,
    Feed,
    main_feed,
    records_of,
)
from pyspark_theflash.storage.store.folder import (
    FORMAT_FILE,
    StoreIdentity,
    open_manifest,
    read_identity,
)
from pyspark_theflash.storage.store.gap import GAP_KIND
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS, LeaseTable
from pyspark_theflash.storage.store.load import LOAD_KIND, check_loaded
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View, file_errors
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND
from pyspark_theflash.storage.store.progress import FOLLOWING_KIND, PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.purged import PURGED_KIND
from pyspark_theflash.storage.store.scope import SCOPE_KIND
from pyspark_theflash.storage.store.setting import SETTING_KIND
from pyspark_theflash.storage.store.writer_lock import WriterLock
from pyspark_theflash.tidb.schema.history import SchemaHistory

SUFFIX: Final = ".copying"
PART_BYTES: Final = 32 << 20
"""Size of the versions that one commit copies."""
_LOCK: Final = "copy.lock"
_COMPARED: Final = 4
"""Timestamps at which a copy with history is compared with its source."""
_LEDGERS: Final = (MAIN.ledger_kind, SIDE.ledger_kind)
_LATEST_KINDS: Final = (PURGED_KIND, GAP_KIND)
"""Records of removed rows, which a copy that is continued takes over again."""
STATE_KINDS: Final = (*COVERAGE_KINDS, *_LATEST_KINDS, FEED_KIND, SCOPE_KIND, SETTING_KIND)
"""The kinds of records that each copy takes over, beside the schema history."""
WRITER_KINDS: Final = (
    *(*_LEDGERS, WRITTEN_KIND, PENDING_KIND, ORPHAN_KIND),
    *(MOVE_KIND, COMPARED_KIND, IMPORTS_KIND, SERIES_KIND, FOLLOWING_KIND),
)
"""The kinds of records that a writer needs to continue a store."""
_KINDS: Final = (
    *(*SCHEMA_KINDS, *STATE_KINDS, *WRITER_KINDS),
    *(PROGRESS_KIND, LOAD_KIND, BASE_LOAD_KIND),
)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """Progress of a copy. `share` is the part of the source's versions that are copied."""

    table: str = ""
    rows: int = 0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """The source store of a copy, under a read latch."""

    path: Path
    identity: StoreIdentity
    engine: EngineReader
    view: View
    keep: Callable[[], None]


def copy_store(
    source: Path,
    target: Path,
    engine: str,
    snapshot_ts: TimeStamp | None,
    *,
    history: bool,
    fs: FileSystem,
    clock: Clock,
    note: Callable[[CopyReport], None] = lambda report: None,
) -> CopyPlan:
    """Copy a store, or continue its copy.

    Args:
        source: the folder of the store.
        target: the folder of the new store, which does not exist, or is empty.
        engine: the engine of the new store.
        snapshot_ts: the timestamp to copy; None: the newest readable one.
        history: copy the history, too; only without `snapshot_ts`.
        note: called with the progress.

    Raises:
        StoreExistsError: `target` exists, or the folder of its unfinished copy is something else.
        StoreInUseError: Another process makes the same copy.
        OptionError: There is an unfinished copy with other options or of another store, or the
            source cannot be copied with its history now.
        NotCaughtUpError, SnapshotTooOldError: A table of the source cannot be read then.
        RaftFedError: TiKV feeds the source.
        CorruptionError: The source is damaged, or the copy differs from it.
    """
    partial = target.with_name(target.name + SUFFIX)
    with file_errors(target), ExitStack() as undo:
        _check_free(target)
        pinned = None if history else snapshot_ts
        origin = undo.enter_context(_opened(source, pinned, fs, clock))
        if not (partial / FORMAT_FILE).exists():
            registry.create(partial, engine, fs)
        undo.callback(WriterLock(partial, _LOCK, clock=clock).release)
        _check_free(target)
        plan = _Copy(origin, partial, snapshot_ts, history, note).run(engine, fs, clock)
        _compare(origin, partial, plan, fs, clock, note)
        fs.unlink(partial / _LOCK)
        fail_point("copy.before_rename")
        fs.rename(partial, target)
    return plan


def _check_free(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreExistsError(str(path))


@contextmanager
def _opened(
    path: Path, snapshot_ts: TimeStamp | None, fs: FileSystem, clock: Clock
) -> Iterator[Source]:
    """Open the source, with a read latch on `snapshot_ts`, None: on all that can be read."""
    with ExitStack() as undo:
        identity = read_identity(path, fs)
        manifest = undo.enter_context(closing(open_manifest(path, fs)))
        leases = LeaseTable(manifest, clock)
        head = manifest.read([PROGRESS_KIND])
        oldest = [p.oldest_ts for p in _progress_of(head).values()]
        pinned = snapshot_ts or min(oldest, default=TimeStamp(0))
        lease = leases.take(pinned, LEASE_TTL_MS)
        undo.callback(leases.release, lease)
        engine = undo.enter_context(closing(registry.open_reader(path, identity, fs, clock)))
        # The latch precedes the view, so that all data of the view are pinned.
        view = engine.read(_KINDS)
        manifest.check_in_place()
        FILES.check_store(view, str(path))
        check_loaded(view)
        FILES.choose(view, snapshot_ts)
        yield Source(path, identity, engine, view, LeaseKeeper(leases, lease, clock).keep)


def _progress_of(view: View) -> dict[str, Progress]:
    by_key = {feed.progress_key: Progress.of(view, feed) for feed in (MAIN, SIDE)}
    return {key: progress for key, progress in by_key.items() if progress is not None}


class _Copy:
    """One run of a copy, from the source to the unfinished store."""

    def __init__(
        self,
        origin: Source,
        partial: Path,
        snapshot_ts: TimeStamp | None,
        history: bool,
        note: Callable[[CopyReport], None],
    ) -> None:
        self._origin, self._partial, self._note = origin, partial, note
        self._snapshot_ts, self._history = snapshot_ts, history
        self._rows = self._passed = 0

    def run(self, engine: str, fs: FileSystem, clock: Clock) -> CopyPlan:
        """Copy what is not copied yet."""
        identity = read_identity(self._partial, fs)
        if identity.engine != engine:
            raise self._refused(f"was begun with --engine {identity.engine}")
        with closing(registry.open_engine(self._partial, identity, fs, clock)) as made:
            plan = self._planned(made)
            if not _progress_of(made.read([PROGRESS_KIND])):
                self._copy_tables(made, plan)
                self._finish(made, plan)
        return plan

    def _refused(self, reason: str) -> OptionError:
        path = self._partial
        return OptionError("new_store", f"{path} {reason}: continue it so, or remove it")

    def _planned(self, made: Engine) -> CopyPlan:
        """Return the plan of the copy, which is begun if there is none."""
        view = made.read([COPY_KIND, PROGRESS_KIND, FEED_KIND])
        if (plan := CopyPlan.of(view)) is None:
            if view.of_kind(PROGRESS_KIND) or view.of_kind(FEED_KIND):
                raise StoreExistsError(str(self._partial))
            return self._begin(made)
        if plan.source != self._origin.identity.store_id:
            raise self._refused("is an unfinished copy of another store")
        if plan.history != self._history:
            raise self._refused(f"was begun with{'' if plan.history else 'out'} --history")
        if self._snapshot_ts not in (None, plan.resolved_ts):
            raise self._refused(f"was begun with --at {plan.resolved_ts}")
        return self._within_source(plan)

    def _begin(self, made: Engine) -> CopyPlan:
        view = self._origin.view
        if self._history:
            _check_continuable(view)
            progress = _progress_of(view)
        else:
            ts = FILES.choose(view, self._snapshot_ts)
            progress = {key: _cut(each, ts) for key, each in _progress_of(view).items()}
            if main_feed(view) is Feed.STREAM:
                main = MAIN.progress_key
                progress[main] = replace(progress[main], position=COPY_POSITION)
        plan = CopyPlan(self._origin.identity.store_id, self._history, progress)
        records = [plan.to_record(), *_taken_over(view, plan)]
        made.publish(Publication((), ManifestChange(records)))
        fail_point("copy.begun")
        return plan

    def _within_source(self, plan: CopyPlan) -> CopyPlan:
        """Return a plan with the source's present oldest timestamps."""
        progress = {}
        for key, now in _progress_of(self._origin.view).items():
            if (begun := plan.progress.get(key)) is not None:
                if now.oldest_ts > begun.resolved_ts:
                    raise SnapshotTooOldError(begun.resolved_ts, now.oldest_ts)
                oldest_ts = max(begun.oldest_ts, now.oldest_ts)
                progress[key] = replace(begun, oldest_ts=oldest_ts)
        return replace(plan, progress=progress)

    def _copy_tables(self, made: Engine, plan: CopyPlan) -> None:
        view = made.read([COPY_KIND, *SCHEMA_KINDS, FEED_KIND])
        history = schema_history(view)
        stored = StoredColumns(history) if history is not None else None
        engine, tables = self._origin.engine, self._origin.engine.tables(self._origin.view)
        sizes = {id: engine.stats(self._origin.view, id).rows for id in tables}
        names, shown = _names(history), _shown(history, plan.resolved_ts)
        for physical_id in tables:
            progress = plan.progress.get(records_of(view, TableID(physical_id)).progress_key)
            is_left = not plan.history and physical_id not in shown
            if progress is None or is_left or is_copied(view, physical_id):
                self._passed += sizes[physical_id]
                continue
            columns = stored.of(physical_id) if stored is not None else ()
            start = copied_to(view, physical_id)
            versions = engine.versions(self._origin.view, physical_id, columns, start)
            total = max(1, sum(sizes.values()))
            for part, following in _parts(versions, self._origin.keep):
                self._publish(made, physical_id, columns, part, progress, following)
                share = min(1.0, (self._passed + part.num_rows) / total)
                self._passed += part.num_rows
                self._note(CopyReport(names.get(physical_id, ""), self._rows, share))

    def _publish(
        self,
        made: Engine,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        part: pa.Table,
        progress: Progress,
        following: int | bytes | None,
    ) -> None:
        """Publish the needed versions of a part, and the handle that follows them."""
        rows = _needed(part, progress)
        batches = [VersionBatch(physical_id, batch) for batch in trimmed(rows).to_batches()]
        record = table_record(physical_id, following)
        made.publish(Publication(batches, ManifestChange([record])))
        fail_point("copy.part")
        made.compact(physical_id, columns)
        self._rows += rows.num_rows

    def _finish(self, made: Engine, plan: CopyPlan) -> None:
        view = made.read([COPY_KIND])
        later = [r for kind in _LATEST_KINDS for r in _records(self._origin.view, kind)]
        puts = [plan.to_record(), *plan.progress_records(), *later]
        made.publish(Publication((), ManifestChange(puts, table_keys(view))))
        fail_point("copy.finished")


def _check_continuable(view: View) -> None:
    """Raise `OptionError` if the records of a store do not suffice to continue a copy."""
    if view.of_kind(LOAD_KIND) or view.of_kind(BASE_LOAD_KIND):
        raise OptionError("history", "tables are being loaded: repeat it when that has ended")
    for feed in (MAIN, SIDE):
        bodies, progress = view.of_kind(feed.ledger_kind).values(), Progress.of(view, feed)
        if progress is not None and newest_commit(bodies) > progress.resolved_ts:
            reason = f"rows above resolved_ts {progress.resolved_ts} were written through the API"
            raise OptionError("history", f"{reason}: repeat it when resolved_ts has reached them")


def _cut(progress: Progress, ts: TimeStamp) -> Progress:
    """Return the progress of a feed in a copy at `ts`."""
    if ts > progress.resolved_ts:
        raise NotCaughtUpError(progress.resolved_ts, ts)
    if ts < progress.oldest_ts:
        raise SnapshotTooOldError(ts, progress.oldest_ts)
    return Progress(ts, ts)


def _taken_over(view: View, plan: CopyPlan) -> Iterator[Record]:
    """Yield the records of a source that its copy has, too."""
    for kind in (*STATE_KINDS, *((*SCHEMA_KINDS, *WRITER_KINDS) if plan.history else ())):
        yield from _records(view, kind)
    if plan.history:
        return
    for feed in (MAIN, SIDE):
        if (history := feed_history(view, feed)) is not None:
            ts = plan.resolved_ts
            versions = [each for each in history.versions if each.ts <= ts]
            end_ts = max(history.start_ts, min(ts, history.end_ts))
            until = SchemaHistory(history.start_ts, end_ts, history.until(ts), versions)
            yield from schema_records(until, feed=feed)


def _records(view: View, kind: str) -> list[Record]:
    return [Record(kind, key, body) for key, body in view.of_kind(kind).items()]


def _names(history: SchemaHistory | None) -> dict[PhysicalTableID, str]:
    events = () if history is None else history.events
    return {id: event.full_name for event in events if event.name for id in event.physical_ids}


def _shown(history: SchemaHistory | None, ts: TimeStamp) -> set[PhysicalTableID]:
    """Return the physical tables of the tables at a timestamp."""
    events = () if history is None else history.defined_at(ts)
    return {physical_id for event in events for physical_id in event.stored_ids}


def _parts(
    batches: Iterator[pa.RecordBatch], keep: Callable[[], None]
) -> Iterator[tuple[pa.Table, int | bytes | None]]:
    """Yield about `PART_BYTES` of versions, all of each row, with the first handle after them."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        keep()
        waiting.append(batch)
        if sum(each.nbytes for each in waiting) >= PART_BYTES:
            table = pa.Table.from_batches(waiting)
            last = table.column(HANDLE)[-1]
            count = len(table) - _equal_at_end(table.column(HANDLE), last)
            if count:
                yield table.slice(0, count), last.as_py()
            waiting = table.slice(count).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting), None


def _equal_at_end(handles: pa.ChunkedArray, last: pa.Scalar) -> int:
    count = 0
    while count < len(handles) and handles[len(handles) - 1 - count] == last:
        count += 1
    return count


def _needed(part: pa.Table, progress: Progress) -> pa.Table:
    """Return the versions of whole rows that snapshots of the copy need."""
    commit_ts = part.column(COMMIT_TS).to_numpy()
    rows = filter_rows(part, commit_ts <= np.uint64(progress.resolved_ts)).combine_chunks()
    if not rows.num_rows:
        return rows
    commit_ts, op = rows.column(COMMIT_TS).to_numpy(), rows.column(OP).to_numpy()
    superseded_ts = superseded_within(rows.column(HANDLE).chunk(0), commit_ts)
    return filter_rows(rows, needed_from(progress.oldest_ts, commit_ts, superseded_ts, op))


def _compare(
    origin: Source,
    copy: Path,
    plan: CopyPlan,
    fs: FileSystem,
    clock: Clock,
    note: Callable[[CopyReport], None],
) -> None:
    """Compare the digests of all tables. Raises `CorruptionError` if one differs."""
    for ts in _compared_at(plan):
        with (
            open_snapshot(origin.path, ts, fs=fs, clock=clock) as source,
            open_snapshot(copy, ts, fs=fs, clock=clock) as made,
        ):
            if (names := _tables(source)) != _tables(made):
                raise CorruptionError(str(copy), 0, f"the copy has other tables at {ts}")
            for name in names:
                origin.keep()
                note(CopyReport(f"comparing {name}", 0, 1.0))
                expected, got = _digest(source, name), _digest(made, name)
                if got != expected:
                    reason = f"{name} at {ts} is {got} in the copy, not {expected}"
                    raise CorruptionError(str(copy), 0, reason)


def _compared_at(plan: CopyPlan) -> list[TimeStamp]:
    """Return the timestamps to compare at: the oldest, the newest and some between them."""
    oldest_ts = max(each.oldest_ts for each in plan.progress.values())
    resolved_ts = plan.resolved_ts
    between = (resolved_ts - oldest_ts) // (_COMPARED - 1)
    chosen = {oldest_ts + between * n for n in range(_COMPARED - 1)} | {resolved_ts}
    return [TimeStamp(ts) for ts in sorted(chosen) if ts <= resolved_ts]


def _tables(snapshot: ReadSnapshot) -> list[str]:
    return sorted(event.full_name for event in snapshot.tables())


def _digest(snapshot: ReadSnapshot, name: str) -> str:
    """Return rows and checksum of a table, or the error that reading it raises."""
    try:
        digest = snapshot.digest(name)
    except CorruptionError:
        raise
    except TheFlashError as error:
        return type(error).__name__
    return f"{digest.rows} {digest.hexdigest()}"
