"""Compaction and garbage collection of a captured history, alone and beside a writer."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CommandTimeoutError,
    CorruptionError,
    EngineError,
    OptionError,
    PDUnavailableError,
    PurgedError,
    SnapshotTooOldError,
    TheFlashError,
    TransactionConflictError,
    UpkeepError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cli.jobs.outcome import exit_status
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.apply.state import LEDGER_KIND, WriterState
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.upkeep import maintenance as maintenance_module
from pyspark_theflash.replication.upkeep.admin import administer
from pyspark_theflash.replication.upkeep.collection import CollectionReport
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.upkeep.work_queue import run_all
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import CompactionReport
from pyspark_theflash.storage.store.command import CollectOrder, Mailbox, State, Verb
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.integration.test_replication import BANK, FRAMES, GrowingSchema, opened, run
from tests.support.binlog_writer import frames, prewrite
from tests.support.manual_clock import ManualClock
from tests.support.processes import wait_until
from tests.support.progress import read_progress
from tests.support.workloads import Workload, check_answers, workload

FS, CLOCK = LocalFileSystem(), SystemClock()
ANSWERS = list(BANK.answers())
TIMES = sorted({answer.snapshot_ts for answer in ANSWERS})
MIDDLE = TIMES[len(TIMES) // 2]
NEWEST = TimeStamp(2**64 - 2)
GC_AT_MIDDLE = CollectOrder(MIDDLE).to_text()


@pytest.fixture
def store(workload_copy: Callable[[str, Path], Path], tmp_path: Path) -> Path:
    """A copy of the bank, to be maintained."""
    return workload_copy("bank", tmp_path / "store")


@contextmanager
def maintenance(store: Path) -> Iterator[Maintenance]:
    engine = registry.open_engine(store, read_identity(store, FS), FS, CLOCK)
    with closing(engine), closing(open_manifest(store, FS)) as manifest:
        yield Maintenance(engine, manifest, CLOCK)


def collect(store: Path, safe_point: TimeStamp = NEWEST) -> CollectionReport:
    with maintenance(store) as upkeep:
        report = run_all(upkeep.collecting(safe_point))
    assert report is not None
    return report


def progress(store: Path) -> Progress:
    stored = read_progress(store)
    assert stored is not None
    return stored


def digests(store: Path) -> dict[str, str]:
    """The newest state of all tables."""
    with open_snapshot(store) as snapshot:
        names = [table.full_name for table in snapshot.tables()]
        return {name: snapshot.digest(name).hexdigest() for name in names}


def ledger_bytes(store: Path) -> int:
    with closing(open_manifest(store, FS)) as manifest:
        return sum(map(len, manifest.read([LEDGER_KIND]).of_kind(LEDGER_KIND).values()))


def check_from(store: Path, safe_point: TimeStamp) -> None:
    """All that is promised at and above a safe point."""
    assert progress(store).oldest_ts == safe_point
    assert check_answers(store, [a for a in ANSWERS if a.snapshot_ts >= safe_point])
    with pytest.raises(SnapshotTooOldError):
        open_snapshot(store, TimeStamp(safe_point - 1))


def test_compaction_changes_no_answer(store: Path) -> None:
    with maintenance(store) as upkeep:
        report = run_all(upkeep.compacting())
    assert report.rows_dropped == 0
    assert report.rows_read > 0
    check_answers(store, ANSWERS)


@pytest.mark.parametrize("verb", [Verb.COMPACT, Verb.FLUSH, Verb.GC])
def test_a_table_that_fails_leaves_the_others_done(
    verb: Verb, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with maintenance(store) as upkeep:
        engine = upkeep._engine
        attempted: list[PhysicalTableID] = []

        def failing(work: Callable[..., CompactionReport]) -> Callable[..., CompactionReport]:
            def one(physical_id: PhysicalTableID, *rest: object, **named: object) -> Any:
                attempted.append(physical_id)
                if len(attempted) in (1, 3):
                    raise CorruptionError("data/1.parquet", 7, "fails its checksum")
                return work(physical_id, *rest, **named)

            return one

        for name in ("begin", "flush"):
            monkeypatch.setattr(engine, name, failing(getattr(engine, name)))
        argument = CollectOrder(None).to_text() if verb is Verb.GC else None
        with pytest.raises(UpkeepError, match="for 2 table") as caught:
            upkeep.execute(verb, argument)
        assert len(attempted) > 3
        assert f"physical table {attempted[2]}: CorruptionError: data/1" in str(caught.value)
        assert exit_status(caught.value) == 6
    assert digests(store)


def test_what_can_still_be_read_stays_and_the_rest_goes(store: Path) -> None:
    before = ledger_bytes(store)
    first = collect(store, MIDDLE)
    assert (first.safe_point.ts, first.safe_point.held_by) == (MIDDLE, ())
    assert first.compaction.rows_dropped > 0
    check_from(store, MIDDLE)
    assert 0 < ledger_bytes(store) == before - 32 * first.transactions_forgotten
    assert collect(store, TIMES[0]).safe_point.ts == MIDDLE
    newest = digests(store)
    last = collect(store)
    assert last.safe_point.ts == progress(store).resolved_ts == progress(store).oldest_ts
    assert ledger_bytes(store) == 0
    assert digests(store) == newest


def test_without_a_safe_point_the_retention_decides(store: Path) -> None:
    before, resolved_ts = progress(store).oldest_ts, progress(store).resolved_ts
    kept_ms = (resolved_ts - MIDDLE) >> 18
    expected = TimeStamp(resolved_ts - (kept_ms << 18))
    with maintenance(store) as upkeep:
        report = run_all(upkeep.collecting())
        assert report is not None
        assert (report.safe_point.ts, progress(store).oldest_ts) == (before, before)
        assert "the retention of 86400 s" in str(report.safe_point)
        upkeep.set_retention(kept_ms)
        for dry_run in (True, False):
            assert progress(store).oldest_ts == before
            report = run_all(upkeep.collecting(dry_run=dry_run))
            assert report is not None
            assert report.safe_point.ts == expected
            assert report.safe_point.held_by == (f"the retention of {kept_ms / 1000:g} s",)
        with pytest.raises(OptionError, match="retention"):
            upkeep.set_retention(1 << 62)
    check_from(store, expected)
    with maintenance(store) as upkeep:
        upkeep.set_retention(0)
        run_all(upkeep.collecting())
    assert progress(store).oldest_ts == resolved_ts


def test_a_dry_run_changes_nothing(store: Path) -> None:
    files = sorted(p.name for p in (store / "data").rglob("*.parquet"))
    before = progress(store), ledger_bytes(store), digests(store)
    with maintenance(store) as upkeep:
        dry = run_all(upkeep.collecting(NEWEST, dry_run=True))
        assert dry is not None
        assert (progress(store), ledger_bytes(store), digests(store)) == before
        assert sorted(p.name for p in (store / "data").rglob("*.parquet")) == files
        done = run_all(upkeep.collecting(NEWEST))
    assert done is not None
    assert dry.transactions_forgotten == done.transactions_forgotten > 0
    assert dry.tables_purged == done.tables_purged
    assert dry.compaction.rows_read >= done.compaction.rows_dropped > 0
    assert dry.describe(dry_run=True).startswith(f"dry run: {dry.safe_point}: would drop")
    assert dry.safe_point.held_by == ("resolved_ts",)


def test_a_latch_keeps_its_timestamp(store: Path) -> None:
    with closing(open_manifest(store, FS)) as manifest:
        leases = LeaseTable(manifest, CLOCK)
        pin = leases.take(MIDDLE, 60_000, LatchKind.PIN)
        leases.take(TimeStamp(1), 60_000, LatchKind.ADMIN)
        report = collect(store)
        assert report.safe_point.ts == MIDDLE
        held_by = f"held back by the pin latch of process {os.getpid()}, id {pin.id}"
        assert held_by in str(report.safe_point)
        check_from(store, MIDDLE)
        leases.release(pin)
    assert collect(store).safe_point.ts > MIDDLE


def test_a_reader_goes_on_through_a_collection(store: Path) -> None:
    expected = next(a for a in ANSWERS if a.snapshot_ts == TIMES[2])
    with open_snapshot(store, TIMES[2]) as snapshot:
        assert collect(store).safe_point.ts == TIMES[2]
        digest = snapshot.digest(expected.table)
        assert (digest.rows, digest.hexdigest()) == (expected.rows, expected.checksum)


def test_a_snapshot_whose_latch_came_a_moment_too_late(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = LeaseTable.take

    def late(self: LeaseTable, ts: TimeStamp, ttl_ms: int, **others: str) -> object:
        collect(store)
        return take(self, ts, ttl_ms, **others)

    monkeypatch.setattr(LeaseTable, "take", late)
    with pytest.raises(SnapshotTooOldError):
        open_snapshot(store, TIMES[0])


@pytest.mark.parametrize(
    "point",
    [
        "gc.after_table",
        pytest.param("gc.after_safe_point", marks=pytest.mark.slow),
        pytest.param("gc.after_purge", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_collection_is_finished_by_the_next(store: Path, point: str) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), armed(point, die):
            collect(store, MIDDLE)
        check_from(store, MIDDLE)
    report = collect(store, MIDDLE)
    assert report.transactions_forgotten == 0
    check_from(store, MIDDLE)
    assert collect(store, MIDDLE).compaction.rows_dropped == 0


def test_the_same_input_again_changes_nothing_after_a_collection(store: Path) -> None:
    collect(store, MIDDLE)
    before = ledger_bytes(store)
    run(store, FRAMES, BANK.end_ts)
    check_from(store, MIDDLE)
    collect(store, MIDDLE)
    assert ledger_bytes(store) == before


def test_a_writer_goes_on_after_a_collection_in_its_midst(tmp_path: Path) -> None:
    store, half = tmp_path / "store", len(FRAMES) // 2
    registry.create(store, registry.MAGIC, FS)
    run(store, FRAMES[:half])
    engine = registry.open_engine(store, read_identity(store, FS), FS, CLOCK)
    with closing(engine), closing(open_manifest(store, FS)) as manifest:
        state = WriterState(engine, FileSchema(BANK.schema))
        upkeep = Maintenance(engine, manifest, CLOCK, memory=state)
        report = run_all(upkeep.collecting(NEWEST))
        assert report is not None
        assert report.safe_point.ts == state.resolved_ts
        change = state.advance(state.resolved_ts, [], keep_pending=True)
        assert Progress(report.safe_point.ts, report.safe_point.ts).to_record() in change.puts
    run(store, FRAMES, BANK.end_ts)
    check_from(store, report.safe_point.ts)


def test_other_content_above_the_safe_point_is_still_noticed(store: Path) -> None:
    collect(store, MIDDLE)
    prewrites = [e for e in FileSource(BANK.binlog).entities() if e.payload]
    last, other = prewrites[-1], prewrites[0]
    assert last.start_ts > MIDDLE
    with pytest.raises(TransactionConflictError, match="different content"):
        run(store, [frames([prewrite(last.start_ts, other.payload)])])


# -- handed over


def test_where_nobody_writes_it_is_done_here(store: Path) -> None:
    notes: list[str] = []
    report = administer(
        store, Verb.COMPACT, None, timeout_ms=0, fs=FS, clock=CLOCK, on_progress=notes.append
    )
    assert report.startswith("compacted ")
    assert notes[0].startswith("compact: table 1 of ")
    for verb, argument, answer in [
        (Verb.GC, GC_AT_MIDDLE, f"safe point {shown(MIDDLE)}: dropped "),
        (Verb.INTERVAL, 500, "polling every 500 ms"),
        (Verb.STOP, None, "no writer is running"),
    ]:
        report = administer(store, verb, argument, timeout_ms=0, fs=FS, clock=CLOCK)
        assert report.startswith(answer)
    check_from(store, MIDDLE)
    with maintenance(store) as upkeep:
        assert upkeep.interval_ms == 500
    with pytest.raises(OptionError):
        administer(store, Verb.INTERVAL, 0, timeout_ms=0, fs=FS, clock=CLOCK)


class Holder:
    """A writer in a thread of its own that executes commands only."""

    def __init__(self, store: Path) -> None:
        self._store, self._ready, self.stopped = store, threading.Event(), False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Holder":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        administer(self._store, Verb.STOP, None, timeout_ms=60_000, fs=FS, clock=CLOCK)
        self._thread.join()

    def _run(self) -> None:
        with maintenance(self._store) as upkeep:
            self._ready.set()
            while not upkeep.is_stopping:
                upkeep.poll()
                CLOCK.sleep_ms(5)
            self.stopped = True


def test_a_writer_does_what_it_is_told(store: Path) -> None:
    with Holder(store) as holder:
        for verb, argument, answer in [
            (Verb.COMPACT, None, "compacted "),
            (Verb.GC, GC_AT_MIDDLE, f"safe point {shown(MIDDLE)}: dropped "),
            (Verb.INTERVAL, 500, "polling every 500 ms"),
        ]:
            report = administer(store, verb, argument, timeout_ms=10_000, fs=FS, clock=CLOCK)
            assert report.startswith(answer)
        with pytest.raises(OptionError, match="not between"):
            administer(store, Verb.INTERVAL, 1, timeout_ms=10_000, fs=FS, clock=CLOCK)
        assert not holder.stopped
    assert holder.stopped
    check_from(store, MIDDLE)


@pytest.mark.parametrize(
    ("verb", "argument"), [(Verb.GC, CollectOrder(NEWEST).to_text()), (Verb.COMPACT, None)]
)
def test_what_takes_long_goes_on_between_polls(
    tmp_path: Path, verb: Verb, argument: str | None
) -> None:
    """A writer applies what has come, and obeys other commands, before it is done."""
    store, half = tmp_path / "store", len(FRAMES) // 2
    registry.create(store, registry.MAGIC, FS)
    run(store, FRAMES[:half])
    with maintenance(store) as upkeep, closing(open_manifest(store, FS)) as manifest:
        asker = Mailbox(manifest, CLOCK)
        command = asker.ask(verb, argument, 60_000)
        upkeep.poll()
        upkeep.poll()
        assert asker.state(command) is State.RUNNING
        other = asker.ask(Verb.INTERVAL, 500, 60_000)
        upkeep.poll()
        assert asker.answer(other) == "polling every 500 ms"
        assert asker.state(command) is State.RUNNING
        writer = Writer(upkeep._engine, FileSchema(BANK.schema))
        writer.run_once(FileSource(BANK.binlog), until_ts=BANK.end_ts)
        pieces = 0
        while (report := asker.answer(command)) is None:
            upkeep.poll()
            pieces += 1
        assert pieces > 3
    assert "compacted" in report
    assert progress(store).resolved_ts == BANK.end_ts
    assert check_answers(store, [a for a in ANSWERS if a.snapshot_ts >= progress(store).oldest_ts])


@pytest.mark.parametrize("verb", [Verb.GC, Verb.COMPACT])
def test_columns_that_come_between_two_pieces_are_kept(tmp_path: Path, verb: Verb) -> None:
    """Rewritten files have all columns of the newest publication."""
    ddl, store = workload("ddl"), tmp_path / "store"
    registry.create(store, registry.MAGIC, FS)
    start = TimeStamp(470613728600000000)
    apply_until(ddl, store, start)
    argument = CollectOrder(start).to_text() if verb is Verb.GC else None
    with maintenance(store) as upkeep, closing(open_manifest(store, FS)) as manifest:
        asker = Mailbox(manifest, CLOCK)
        command = asker.ask(verb, argument, 60_000)
        upkeep.poll()
        writer = Writer(upkeep._engine, GrowingSchema(ddl.schema))
        writer.run_once(FileSource(ddl.binlog), until_ts=ddl.end_ts)
        while asker.answer(command) is None:
            upkeep.poll()
    later = [a for a in ddl.answers() if a.snapshot_ts > start]
    recovered = {"ddl_a.dr_old", "ddl_a.dr"} if verb is Verb.GC else set()
    assert check_answers(store, [a for a in later if a.table not in recovered]) > 20


# -- by itself


@contextmanager
def automatic(
    store: Path, clock: ManualClock, safe_point: Callable[[], TimeStamp] | None = None
) -> Iterator[Maintenance]:
    """The upkeep of a writer that follows."""
    engine = registry.open_engine(store, read_identity(store, FS), FS, clock)
    with closing(engine), closing(open_manifest(store, FS)) as manifest:
        yield Maintenance(engine, manifest, clock, pd_safe_point=safe_point)


def work_off(upkeep: Maintenance) -> None:
    upkeep.poll()
    while upkeep._queue:
        upkeep.poll()


def test_garbage_is_collected_by_retention(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance_module, "COLLECT_MS_MIN", 1_000)
    clock, before = ManualClock(), progress(store)
    kept_ms = (before.resolved_ts - MIDDLE) >> 18
    with automatic(store, clock) as upkeep:
        work_off(upkeep)
        assert progress(store) == before, "a store of an earlier version keeps everything"
        upkeep.set_retention(kept_ms)
        work_off(upkeep)
        assert progress(store) == before, "it looks now and then"
        clock.sleep_ms(1_000)
        work_off(upkeep)
        expected = TimeStamp(before.resolved_ts - (kept_ms << 18))
        assert progress(store).oldest_ts == expected
        view = upkeep._engine.read([])
        tables = upkeep._engine.tables(view)
        assert sum(upkeep._engine.collectable(view, i, expected).rows for i in tables) == 0
        # A quarter of the retention is the least that it moves by.
        upkeep.set_retention(kept_ms - kept_ms // 8)
        clock.sleep_ms(1_000)
        work_off(upkeep)
        assert progress(store).oldest_ts == expected
    check_from(store, expected)


def test_a_collection_by_itself_waits_for_the_last(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long one takes, there are no more and more of them."""
    monkeypatch.setattr(maintenance_module, "COLLECT_MS_MIN", 1_000)
    clock, before = ManualClock(), progress(store)
    kept_ms = (before.resolved_ts - MIDDLE) >> 18
    with automatic(store, clock) as upkeep:
        for retention_ms in (kept_ms, 0):
            upkeep.set_retention(retention_ms)
            upkeep.poll()
            assert len(upkeep._queue) == 1
            clock.sleep_ms(1_000)
        work_off(upkeep)
        assert progress(store).oldest_ts == before.resolved_ts - (kept_ms << 18)
        clock.sleep_ms(1_000)
        work_off(upkeep)
        assert progress(store).oldest_ts == before.resolved_ts


def test_a_collection_by_itself_is_held_back(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pins, and by PD's safe point, which others may still read at."""
    monkeypatch.setattr(maintenance_module, "COLLECT_MS_MIN", 1_000)
    answers: list[TimeStamp | TheFlashError] = [PDUnavailableError("pd:2379", "gone"), MIDDLE]

    def ask_pd() -> TimeStamp:
        if isinstance(answer := answers.pop(0), TheFlashError):
            raise answer
        return answer

    clock, before = ManualClock(), progress(store)
    with automatic(store, clock, ask_pd) as upkeep:
        upkeep.set_retention(0)
        work_off(upkeep)
        assert progress(store) == before
        with closing(open_manifest(store, FS)) as manifest:
            pin = LeaseTable(manifest, clock).take(TIMES[2], 60_000, LatchKind.PIN)
            clock.sleep_ms(1_000)
            work_off(upkeep)
            assert progress(store).oldest_ts == TIMES[2]
            LeaseTable(manifest, clock).release(pin)
        answers.append(MIDDLE)
        clock.sleep_ms(1_000)
        work_off(upkeep)
    check_from(store, MIDDLE)


@pytest.mark.parametrize("is_requested", [True, False], ids=["asked for", "by itself"])
def test_a_disk_that_fails_ends_whoever_writes(
    store: Path, is_requested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine writes nothing more, and the error says so now, not at the next publication."""
    monkeypatch.setattr(maintenance_module, "COLLECT_MS_MIN", 1_000)
    clock, fs = ManualClock(), FaultyFileSystem(Failure.IO_ERROR)
    engine = registry.open_engine(store, read_identity(store, FS), fs, clock)
    with (
        closing(engine),
        closing(open_manifest(store, FS)) as manifest,
        closing(open_manifest(store, FS)) as others,
    ):
        upkeep, mailbox = Maintenance(engine, manifest, clock), Mailbox(others, clock)
        command = mailbox.ask(Verb.COMPACT, None, 60_000) if is_requested else None
        if command is None:
            upkeep.set_retention(0)
        fs.fail_from_now()
        with pytest.raises(EngineError):
            work_off(upkeep)
        with pytest.raises(EngineError, match="rejects writes after an error"):
            run_all(upkeep.compacting())
        if command is not None:
            assert mailbox.state(command) is State.FAILED


def test_a_holder_that_does_not_answer(store: Path) -> None:
    with maintenance(store), pytest.raises(CommandTimeoutError, match="did not begin it in time"):
        administer(store, Verb.COMPACT, None, timeout_ms=50, fs=FS, clock=CLOCK)
    with closing(open_manifest(store, FS)) as manifest:
        assert Mailbox(manifest, CLOCK).take() is None


def test_a_holder_that_dies_before_it_answers(store: Path) -> None:
    with maintenance(store):
        reports: list[str] = []
        asker = threading.Thread(
            target=lambda: reports.append(
                administer(store, Verb.COMPACT, None, timeout_ms=60_000, fs=FS, clock=CLOCK)
            )
        )
        asker.start()
        with closing(open_manifest(store, FS)) as manifest:
            wait_until(Mailbox(manifest, CLOCK).take)
    asker.join()
    assert reports[0].startswith("compacted ")


def test_a_store_that_is_being_made_has_nothing_to_collect(tmp_path: Path) -> None:
    registry.create(tmp_path / "store", registry.MAGIC, FS)
    gc = CollectOrder().to_text()
    for verb, argument, answer in [
        (Verb.GC, gc, "nothing to collect yet"),
        (Verb.COMPACT, None, "compacted 0 "),
    ]:
        report = administer(tmp_path / "store", verb, argument, timeout_ms=0, fs=FS, clock=CLOCK)
        assert report.startswith(answer)


def test_a_table_that_comes_back_after_its_rows_were_collected(tmp_path: Path) -> None:
    """Dropped, collected, then recovered in TiDB: it is known, and cannot be read."""
    ddl, store = workload("ddl"), tmp_path / "store"
    registry.create(store, registry.MAGIC, FS)
    dropped = TimeStamp(470613728600000000)
    apply_until(ddl, store, dropped)
    assert collect(store).tables_purged > 0
    apply_until(ddl, store, ddl.end_ts)
    with open_snapshot(store) as snapshot:
        with pytest.raises(PurgedError, match="dr_old was dropped"):
            snapshot.plan("ddl_a.dr_old")
        newest = snapshot.snapshot_ts
    recovered = {"ddl_a.dr_old", "ddl_a.dr"}
    later = [a for a in ddl.answers() if a.snapshot_ts > dropped and a.table not in recovered]
    assert newest == ddl.end_ts
    assert check_answers(store, later) > 20


def apply_until(chosen: Workload, store: Path, ts: TimeStamp) -> None:
    """Apply a workload up to a timestamp, with a schema that ends there."""
    with opened(store) as engine:
        writer = Writer(engine, GrowingSchema(chosen.schema))
        writer.run_once(FileSource(chosen.binlog), until_ts=ts)
