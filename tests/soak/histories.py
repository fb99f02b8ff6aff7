"""Random histories of a store, whose reads are compared with a dict of versions.

A made-up cluster (`cluster.py`) writes binlogs. A writer follows them, loads a base, is opened
again, killed, and begun from the start of its input again; meanwhile regions are divided, united,
moved, copied and purged, garbage is collected and files are compacted, at once or piece by piece
between the writer's polls, with limits so small that it all happens to few rows. Scans of random
columns, conditions, limits, orders and aggregates at random timestamps are compared with the
cluster's own versions, as are snapshots that were opened some steps ago.
"""

import logging
import os
import shutil
import traceback
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    LatchHeldError,
    NotCaughtUpError,
    OptionError,
    PurgedRangeError,
    RegionNotFoundError,
    SnapshotTooOldError,
    TableNotLoadedError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.replication import writer as writer_module
from pyspark_theflash.replication.apply import applier
from pyspark_theflash.replication.source.event import EntitySource
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.merge import MergedSource
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import RegionStats
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.command import (
    Argument,
    CollectOrder,
    Mailbox,
    MergeOrder,
    MoveOrder,
    PurgeOrder,
    SplitOrder,
    StoreCommand,
    Verb,
)
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.soak.cluster import DATABASE, LACKING, START_TS, Cluster, Table
from tests.soak.outcome import Outcome
from tests.soak.reads import difference, random_read
from tests.support.progress import read_progress
from tests.support.victims import Victim

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCK, FS = SystemClock(), LocalFileSystem()
STEPS: Final = 60
_ASK_MS: Final = 600_000
_EXPECTED: Final = (OptionError, RegionNotFoundError, LatchHeldError)
"""Errors of region operations whose region does not exist, is too small, or is pinned."""
FAIL_POINTS: Final = (
    "magic.before_file",
    "magic.after_file",
    "magic.before_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.before_compaction_commit",
    "magic.after_compaction_commit",
    "magic.before_purge_commit",
    "magic.before_flush_commit",
    "magic.after_move_commit",
    "magic.before_unlink",
    "gc.after_safe_point",
    "gc.after_table",
)


@dataclass(frozen=True)
class Opening:
    """The settings to open a store for writing."""

    store: Path
    pumps: tuple[Path, ...]
    schema: Path
    base: Path
    assumed: tuple[str, ...]
    limits: CompactionLimits
    lookup_bytes: int
    gather_bytes: int


class Opened:
    """A store that is open for writing: its engine, writer and upkeep."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        # Each poll of a file that ends within a frame is a warning.
        log = logging.getLogger("pyspark_theflash.replication.source.file")
        with ExitStack() as undo:
            undo.callback(log.setLevel, log.level)
            log.setLevel(logging.ERROR)
            self.engine = undo.enter_context(
                closing(
                    MagicEngine(
                        opening.store,
                        FS,
                        CLOCK,
                        limits=opening.limits,
                        lookup_bytes=opening.lookup_bytes,
                    )
                )
            )
            manifest = undo.enter_context(closing(open_manifest(opening.store, FS)))
            undo.enter_context(patch.object(writer_module, "GATHER_BYTES", opening.gather_bytes))
            undo.enter_context(patch.object(applier, "BATCH_BYTES", opening.gather_bytes // 2))
            self.upkeep = Maintenance(self.engine, manifest, CLOCK)
            # An operator's process has its own connection.
            asking = undo.enter_context(closing(open_manifest(opening.store, FS)))
            self.mailbox = Mailbox(asking, CLOCK)
            self.begin()
            self.writer.load_base(opening.base)
            self._close = undo.pop_all().close

    def begin(self) -> None:
        """Create the writer again, from the durable state."""
        streams = tuple(p.name for p in self._opening.pumps) if self._is_merged else ("",)
        self.writer = Writer(
            self.engine,
            FileSchema(self._opening.schema),
            assume_empty=self._opening.assumed,
            streams=streams,
        )
        self.upkeep.memory = self.writer.state

    def source(self) -> EntitySource:
        parts = {p.name: FileSource(p) for p in self._opening.pumps}
        return MergedSource(parts, lambda: None) if self._is_merged else next(iter(parts.values()))

    @property
    def _is_merged(self) -> bool:
        return len(self._opening.pumps) > 1

    def command(self, verb: Verb, argument: Argument = None) -> str:
        """Return the answer to an operator's command."""
        command = self.mailbox.ask(verb, argument, _ASK_MS)
        while (answer := self.mailbox.answer(command)) is None:
            self.upkeep.poll()
        return answer

    def close(self) -> None:
        self._close()


def die_at(opening: Opening, point: str, times: int, argument: str | None) -> None:
    """A victim's target: follow, compact and collect until `point` is reached `times` times."""
    left = [times]

    def die() -> None:
        left[0] -= 1
        if not left[0]:
            os._exit(9)

    with armed(point, die):
        opened = Opened(opening)
        opened.writer.poll(opened.source())
        opened.command(Verb.COMPACT)
        if argument is not None:
            opened.command(Verb.GC, argument)
        opened.close()


class History:
    """One history, a step at a time."""

    def __init__(self, seed: int, folder: Path, outcome: Outcome) -> None:
        self.seed, self.rng = seed, Random(seed)
        self.folder, self.outcome = folder, outcome
        folder.mkdir()
        rng, self.store = self.rng, folder / "store"
        self.cluster = Cluster(rng, folder)
        based = {table.name for table in self.cluster.based}
        self.assumed = {t.name for t in self.cluster.tables} - based - {LACKING}
        registry.create(self.store, registry.MAGIC, FS)
        self.opening = Opening(
            self.store,
            tuple(pump.folder for pump in self.cluster.pumps),
            self.cluster.schema,
            self.cluster.base,
            tuple(f"{DATABASE}.{name}" for name in sorted(self.assumed)),
            CompactionLimits(
                region_rows=rng.choice([2, 8, 30, 1000]),
                direct_rows=rng.choice([1, 5, 100]),
                deltas=rng.choice([1, 2, 4]),
                most_deltas=5,
                layer_rows=rng.choice([1, 10]),
                layers=rng.choice([1, 2, 4]),
                share=rng.choice([0.1, 0.5, 0.9]),
                commit_rows=rng.choice([1, 10, 100]),
            ),
            lookup_bytes=rng.choice([0, 100, 1 << 20]),
            gather_bytes=rng.choice([200, 5_000, 1 << 20]),
        )
        self.may_purge = rng.random() < 0.2
        self.purged: set[str] = set()
        self.requested_safe_point = START_TS
        self.pins: list[tuple[ReadSnapshot, Table, frozenset[str]]] = []
        self.waiting: StoreCommand | None = None
        self.opened = Opened(self.opening)

    # -- steps

    def run(self, steps: int) -> None:
        """Take so many steps, reading after each, and look at everything after the last."""
        weights: dict[Callable[[], None], float] = {
            self.follow: 20,
            self.change_region: 6,
            self.begin_work: 2,
            self.collect: 1,
            self.compact: 1,
            self.add_partition: 0.5,
            self.pin: 2,
            self.unpin: 2,
            self.reopen: 1,
            self.again: 1,
            self.kill: 0.7,
        }
        for _ in range(steps):
            step = self.rng.choices(list(weights), list(weights.values()))[0]
            self.outcome.counts[step.__name__] += 1
            step()
            self.opened.upkeep.poll()
            self._look_at_work()
            self.read()
        self.finish()

    def follow(self) -> None:
        for _ in range(self.rng.choice([1, 5, 30, 100])):
            self.cluster.step()
        before = self.opened.writer.resolved_ts
        self.opened.writer.poll(self.opened.source())
        assert before <= self.opened.writer.resolved_ts <= self.cluster.ts

    def again(self) -> None:
        """Apply the whole input once more, without a position."""
        self.opened.begin()
        before = self.opened.writer.resolved_ts
        self.opened.writer.run_once(self.opened.source())
        assert before <= self.opened.writer.resolved_ts <= self.cluster.ts
        self.opened.begin()

    def reopen(self) -> None:
        self._forget_work()
        self.opened.close()
        self.opened = Opened(self.opening)

    def kill(self) -> None:
        """Run a writer in another process, which ends at a random fail point."""
        self._forget_work()
        for _ in range(self.rng.choice([5, 50])):
            self.cluster.step()
        self.opened.close()
        argument = self._safe_point().to_text() if self.rng.random() < 0.5 else None
        point, times = self.rng.choice(FAIL_POINTS), self.rng.choice([1, 1, 2, 5])
        code = Victim(die_at, self.opening, point, times, argument).exit_code()
        assert code in (0, 9), f"killed at {point}: ended with {code}"
        self.outcome.counts["killed"] += code == 9
        self.opened = Opened(self.opening)

    def compact(self) -> None:
        self.opened.command(self.rng.choice([Verb.COMPACT, Verb.FLUSH]))

    def collect(self) -> None:
        self.opened.command(Verb.GC, self._safe_point().to_text())

    def _safe_point(self) -> CollectOrder:
        wanted = self.rng.randint(START_TS, self._progress()[1])
        self.requested_safe_point = max(self.requested_safe_point, wanted)
        return CollectOrder(TimeStamp(wanted))

    def begin_work(self) -> None:
        """Begin an operation whose pieces run between the next steps."""
        if self.waiting is None:
            argument = self._safe_point().to_text()
            verb, about = self.rng.choice([(Verb.COMPACT, None), (Verb.GC, argument)])
            self.waiting = self.opened.mailbox.ask(verb, about, _ASK_MS)

    def _look_at_work(self) -> None:
        if self.waiting is not None and self.opened.mailbox.answer(self.waiting) is not None:
            self.outcome.counts["works done between polls"] += 1
            self.waiting = None

    def _forget_work(self) -> None:
        if self.waiting is not None:
            self.opened.mailbox.withdraw(self.waiting)
            self.waiting = None

    def add_partition(self) -> None:
        number = self.rng.randrange(3)
        disk = self.folder / f"disk-{number}"
        disk.mkdir(exist_ok=True)
        if self.rng.random() < 0.7:
            with suppress(OptionError):
                self.opened.command(Verb.ADD_PARTITION, str(disk))
        else:
            with suppress(OptionError):
                self.opened.command(Verb.REMOVE_PARTITION, number + 1)

    def change_region(self) -> None:
        """Execute an operator's command on a region."""
        physical_id, name = self._physical()
        regions = self._regions(physical_id)
        if not regions:
            return
        at = self.rng.randrange(len(regions))
        chosen, partition = regions[at].region_id, self.rng.randrange(3)
        neighbour = regions[max(at - 1, 0)].region_id
        orders: list[tuple[Verb, str]] = [
            (Verb.SPLIT, SplitOrder(physical_id, chosen, self._handle(physical_id)).to_text()),
            (Verb.MERGE, MergeOrder(physical_id, neighbour, chosen).to_text()),
            (Verb.MOVE, MoveOrder(physical_id, chosen, partition).to_text()),
            (Verb.COPY, MoveOrder(physical_id, chosen, partition).to_text()),
        ]
        if self.may_purge and self.rng.random() < 0.1:
            orders = [(Verb.PURGE, PurgeOrder(physical_id, chosen).to_text())]
        verb, argument = self.rng.choice(orders)
        try:
            self.opened.command(verb, argument)
        except _EXPECTED:
            self.outcome.counts[f"{verb.value} refused"] += 1
            return
        self.outcome.counts[verb.value] += 1
        if verb is Verb.PURGE:
            self.purged.add(name)

    def _physical(self) -> tuple[PhysicalTableID, str]:
        table = self.rng.choice(self.cluster.tables)
        definitions = (table.info["partition"] or {}).get("definitions", [])
        ids = [each["id"] for each in definitions] or [table.id]
        return PhysicalTableID(self.rng.choice(ids)), table.name

    def _regions(self, physical_id: PhysicalTableID) -> list[RegionStats]:
        engine = self.opened.engine
        return list(engine.regions(engine.read([]), physical_id))

    def _handle(self, physical_id: PhysicalTableID) -> int | bytes:
        engine = self.opened.engine
        batches = engine.keys(engine.read([]), physical_id, None, None)
        handles = [handle for batch in batches for handle in batch.column(0).to_pylist()]
        chosen: int | bytes = self.rng.choice(sorted(handles)) if handles else 0
        return chosen

    # -- reading

    def _progress(self) -> tuple[int, int]:
        """The oldest and the newest timestamp that can be read."""
        progress = read_progress(self.store)
        assert progress is not None
        assert START_TS <= progress.oldest_ts <= self.requested_safe_point
        assert all(snapshot.snapshot_ts >= progress.oldest_ts for snapshot, *_ in self.pins)
        return progress.oldest_ts, progress.resolved_ts

    def pin(self) -> None:
        """Keep a snapshot open, to be read later."""
        oldest, newest = self._progress()
        snapshot = open_snapshot(self.store, TimeStamp(self.rng.randint(oldest, newest)))
        table = self.rng.choice(self.cluster.tables)
        self.pins.append((snapshot, table, frozenset(self.purged)))

    def unpin(self) -> None:
        if self.pins:
            snapshot, table, purged = self.pins.pop(self.rng.randrange(len(self.pins)))
            with snapshot:
                self._compare(snapshot, table, purged)

    def read(self) -> None:
        """Some reads at some timestamp, and reads at unreadable timestamps."""
        oldest, newest = self._progress()
        if self.rng.random() < 0.05:
            for ts, error in ((oldest - 1, SnapshotTooOldError), (newest + 1, NotCaughtUpError)):
                with suppress(error):
                    open_snapshot(self.store, TimeStamp(ts)).__exit__(None, None, None)
                    self._differs(f"{ts} is read though only {oldest} to {newest} can be")
        ts = self.rng.choice([oldest, newest, self.rng.randint(oldest, newest)])
        with open_snapshot(self.store, TimeStamp(ts)) as snapshot:
            for _ in range(2):
                self._compare(snapshot, self.rng.choice(self.cluster.tables))

    def _compare(
        self, snapshot: ReadSnapshot, table: Table, purged: frozenset[str] | None = None
    ) -> None:
        """Read a table. `purged` are those that were when the snapshot was opened; None: now."""
        if purged is None:
            purged = frozenset(self.purged)
        read = random_read(self.rng, table)
        rows = self.cluster.rows(table.name, snapshot.snapshot_ts)
        try:
            wrong = difference(snapshot, table, read, rows)
        except TableNotLoadedError:
            wrong = None if table.name == LACKING else "it is not loaded"
        except PurgedRangeError:
            wrong = None if table.name in self.purged else "nobody has purged it"
        else:
            self.outcome.counts["reads"] += 1
            self.outcome.counts["rows"] += len(rows)
            if table.name == LACKING:
                wrong = "it is read without its rows from before"
            elif table.name in purged and read.reaches_all:
                wrong = "it is read without the rows that were purged"
        if wrong is not None:
            self._differs(f"{table.name} at {snapshot.snapshot_ts}, {read}: {wrong}")

    def _differs(self, text: str) -> None:
        self.outcome.differs(f"seed {self.seed}: {text}")

    def finish(self) -> None:
        """All is delivered and resolved; every file is sound, every table right at some times."""
        end_ts = self.cluster.settle()
        self.opened.writer.poll(self.opened.source())
        _, newest = self._progress()
        if not newest > end_ts - 10 or self.opened.writer.pending:
            self._differs(f"resolved up to {newest} of {end_ts}")
        for _ in range(2):
            self._read_all()
            while self.pins:
                self.unpin()
            self.opened.command(Verb.COMPACT)
        damage = list(self.opened.engine.check(self.opened.engine.read([])))
        for each in damage:
            self._differs(str(each))
        self._forget_work()
        self.opened.close()
        self.outcome.counts["transactions"] += self.cluster.transactions

    def _read_all(self) -> None:
        oldest, newest = self._progress()
        for ts in {oldest, newest, *(self.rng.randint(oldest, newest) for _ in range(4))}:
            with open_snapshot(self.store, TimeStamp(ts)) as snapshot:
                for table in self.cluster.tables:
                    self._compare(snapshot, table)


def run(
    folder: Path, *, first_seed: int, seconds: float, outcome: Outcome, steps: int = STEPS
) -> None:
    """Histories from `first_seed` on until the time is up, at least one."""
    end_ms = CLOCK.boottime_ms() + round(1000 * seconds)
    seed = first_seed
    while seed == first_seed or CLOCK.boottime_ms() < end_ms:
        one = folder / f"{seed}"
        try:
            History(seed, one, outcome).run(steps)
        except Exception:  # noqa: BLE001 (reported with its seed; the next history has another store)
            outcome.differs(f"seed {seed}: {traceback.format_exc()}")
        outcome.counts["histories"] += 1
        shutil.rmtree(one)
        seed += 1
