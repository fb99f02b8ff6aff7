"""Random histories: the engine magic reads the same rows as memory.

Each history mixes publications (several versions of a row in one, rows in any order of handles,
equal commit_ts, deletes, re-inserts, batches of one table that build on each other), compactions,
garbage collections, purges and restarts, with sizes so small that regions are divided, pieces cut
and handles forgotten all the time. Compactions and collections also run beside publications, purges
and flushes, which happen whenever a file has been written. Some rows do not have a column, from
which DDL has made two others: one whose values can be derived, and one whose values only TiDB has.
Afterwards, every timestamp is read, and every file is checked.
"""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import (
    Engine,
    EngineReader,
    Publication,
    ScanSpec,
    VersionBatch,
)
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import Converted, Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import COLUMNS, scan_columns, version_batch
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType

TABLES = (PhysicalTableID(1), PhysicalTableID(2))
FS, CLOCK = LocalFileSystem(), SystemClock()
TINY = CompactionLimits(
    region_rows=6,
    region_bytes=1 << 20,
    deltas=3,
    most_deltas=5,
    layer_rows=1,
    layers=2,
    share=0.5,
    commit_rows=8,
)
Rows = Counter[tuple[Any, ...]]
_BIGINT = FieldType(MySQLType.LONGLONG, 0, 20, 0, "binary", "binary")
_TEXT = FieldType(MySQLType.VARCHAR, 0, 20, -1, "utf8mb4", "utf8mb4_bin")
_JSON = FieldType(MySQLType.JSON, 0, -1, -1, "binary", "binary")
_SHARED = scan_columns()
_SECOND = ScanColumn(ColumnID(2), pa.string(), Default(pa.scalar("old", pa.string())))
EVERY_COLUMN = [
    _SHARED[0],
    _SECOND,
    ScanColumn(ColumnID(3), pa.string(), Converted(_SHARED[0], _BIGINT, _TEXT, "c3")),
    ScanColumn(ColumnID(4), pa.binary(), Converted(_SECOND, _TEXT, _JSON, "c4")),
    _SHARED[2],
]
EXCHANGED = ScanColumn(ColumnID(2), pa.string(), Default(pa.scalar("theirs", pa.string())))
"""Column 2 as a table reads it whose column has another default."""


class History:
    """One history, applied to both engines a step at a time."""

    def __init__(self, seed: int, path: Path) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.is_binary = self.rng.random() < 0.4
        self.limits = replace(
            TINY,
            region_rows=self.rng.choice([2, 4, 8, 30]),
            deltas=self.rng.choice([1, 2, 4]),
            layers=self.rng.choice([1, 2, 4]),
            share=self.rng.choice([0.1, 0.5, 0.9]),
            direct_rows=self.rng.choice([1, 2, 5, 100]),
            commit_rows=self.rng.choice([1, 10, 100]),
        )
        self.lookup_bytes = self.rng.choice([0, 100, 1 << 20])
        self.keys = self.rng.choice([2, 5, 20])
        self.ts, self.safe_point = 1, 1
        self.is_busy, self.has_purged = False, False
        self.seen: Counter[str] = Counter()
        registry.create(path, registry.MAGIC, FS)
        self.magic = self._open()
        self.memory = MemoryEngine()

    def _open(self) -> MagicEngine:
        return MagicEngine(self.path, FS, CLOCK, limits=self.limits, lookup_bytes=self.lookup_bytes)

    @property
    def both(self) -> tuple[Engine, Engine]:
        return self.magic, self.memory

    def run(self, steps: int) -> None:
        """Take so many steps, looking at one timestamp after each."""
        for _ in range(steps):
            step = self.rng.choices(
                [self.publish, self.compact, self.beside, self.collect, self.purge, self.reopen],
                [12, 4, 4, 3, 0.3, 1],
            )[0]
            step()
            self.compare(self.rng.choice(TABLES), self.rng.randint(self.safe_point, self.ts))

    def publish(self) -> None:
        batches = [
            VersionBatch(table, self._batch())
            for table in self.rng.choices(TABLES, k=self.rng.randint(1, 3))
        ]
        for engine in self.both:
            engine.publish(Publication(batches, ManifestChange()))

    def _batch(self) -> pa.RecordBatch:
        """Versions of some rows, in transactions of some rows each."""
        rows = {}
        for _ in range(self.rng.randint(0, 3)):
            self.ts += self.rng.randint(1, 3)
            for _ in range(self.rng.randint(1, 6)):
                number = self.rng.randrange(self.keys)
                op = self.rng.choice([Op.PUT, Op.PUT, Op.DELETE])
                values = (self.rng.randrange(99), "x" * self.rng.randrange(3))
                cells = values if op is Op.PUT else (None, None)
                # A transaction changes a row once; a long key now and then.
                rows[number, self.ts] = (
                    self._handle(number),
                    self.ts,
                    self.ts - 1,
                    int(op),
                    *cells,
                )
        handle = pa.binary() if self.is_binary else pa.int64()
        batch = version_batch(list(rows.values()), COLUMNS, handle)
        kind = self.rng.random()
        if kind < 0.2:
            return batch.drop_columns(["c2"])
        if kind < 0.4:
            lacks = [self.rng.random() < 0.5 for _ in range(batch.num_rows)]
            held = pc.if_else(pa.array(lacks, pa.bool_()), None, batch.column("c2"))
            at = batch.schema.get_field_index("c2")
            batch = batch.set_column(at, "c2", held)
            return batch.append_column("a2", pa.array(lacks, pa.bool_()))
        if kind < 0.6:
            texts = pa.array(["new"] * batch.num_rows, pa.string())
            return batch.append_column("c3", texts).append_column("c4", texts)
        return batch

    def _handle(self, number: int) -> int | bytes:
        if self.is_binary:
            return b"\x01%c" % number + (b"k" * 90 + b"%c" % number if number % 7 == 3 else b"")
        return (number - self.keys // 2) * (1 << 58 if number % 5 == 0 else 1)

    def compact(self) -> None:
        everything = self.rng.random() < 0.3
        for table in TABLES:
            for engine in self.both:
                engine.compact(table, EVERY_COLUMN, everything=everything)

    def beside(self) -> None:
        """Compact or collect a table piece by piece, while other things are done."""
        table, to = self.rng.choice(TABLES), TimeStamp(self.ts)
        options = self.rng.choice([{}, {"everything_to": to}, {"everything_to": to}])
        if self.rng.random() < 0.4:
            self.safe_point = self.rng.randint(self.safe_point, self.ts)
            options = {"garbage_to": TimeStamp(self.safe_point)}
            self.memory.begin(table, EVERY_COLUMN, **options)
        self.has_purged, pieces = False, 0
        while (piece := self.magic.begin(table, EVERY_COLUMN, **options)) is not None:
            with armed("magic.after_file", self._interrupt):
                done = piece()
            self.seen["discarded"] += done.discarded
            assert self.has_purged or not done.discarded
            assert list(self.magic.check(self.magic.read([]))) == []
            pieces += 1
            assert pieces < 200
            self.compare(table, self.rng.randint(self.safe_point, self.ts))
        if "everything_to" in options:
            files = self.magic.files(self.magic.read([]), table)
            assert all(f.kind == "stable" or f.min_commit_ts > to for f in files)

    def _interrupt(self) -> None:
        """Publish while a merge has written a file."""
        if self.is_busy or self.magic._mutex._is_owned() or self.rng.random() < 0.5:  # type: ignore[attr-defined]
            return
        self.is_busy = True
        step = self.rng.choices([self.publish, self.purge, self._flush], [20, 1, 1])[0]
        self.has_purged |= step != self.publish
        step()
        self.seen[step.__name__] += 1
        table = self.rng.choice(TABLES)
        self.compare(table, self.rng.randint(self.safe_point, self.ts))
        self.is_busy = False

    def _flush(self) -> None:
        self.magic.flush(self.rng.choice(TABLES), EVERY_COLUMN)

    def collect(self) -> None:
        self.safe_point = self.rng.randint(self.safe_point, self.ts)
        everything = self.rng.random() < 0.5
        at = TimeStamp(self.safe_point)
        if self.rng.random() < 0.5:
            self.collect_in_pieces(at)
            return
        for table in TABLES:
            done = [
                e.compact(table, EVERY_COLUMN, safe_point=at, everything=everything)
                for e in self.both
            ]
            if everything:
                stored = sum(r.rows for r in self.regions(table))
                assert stored == done[1].rows_written

    def collect_in_pieces(self, at: TimeStamp) -> None:
        """Region by region, with or without publications in between."""
        for table in TABLES:
            is_alone, calls = self.rng.random() < 0.5, 0
            self.memory.begin(table, EVERY_COLUMN, garbage_to=at)
            while (piece := self.magic.begin(table, EVERY_COLUMN, garbage_to=at)) is not None:
                piece()
                calls += 1
                assert calls < 200
                if not is_alone and self.rng.random() < 0.3:
                    self.publish()
                self.compare(table, self.rng.randint(self.safe_point, self.ts))
            if is_alone:
                kept = self.memory.stats(self.memory.read([]), table).rows
                view = self.magic.read([])
                assert self.magic.stats(view, table).rows == kept
                assert self.magic.collectable(view, table, at).rows == 0

    def purge(self) -> None:
        tables = self.rng.sample(TABLES, k=self.rng.randint(0, 2))
        for engine in self.both:
            engine.purge(tables)

    def reopen(self) -> None:
        self.magic.close()
        self.magic = self._open()

    def regions(self, table: PhysicalTableID) -> list[Any]:
        return list(self.magic.regions(self.magic.read([]), table))

    def compare(self, table: PhysicalTableID, ts: int) -> None:
        columns = self.rng.choice([scan_columns(), EVERY_COLUMN[1:4], EVERY_COLUMN, [EXCHANGED]])
        columns = self.rng.choice([columns, columns[1:2], columns[2:], []])
        with_handle = self.rng.random() < 0.7
        got, wanted = (rows_of(e, table, ts, columns, with_handle) for e in self.both)
        assert got == wanted, (table, ts)

    def finish(self, timestamps: int) -> None:
        """Read so many timestamps (all there are, at most), and check every file."""
        readable = range(self.safe_point, self.ts + 2)
        for table in TABLES:
            for ts in self.rng.sample(readable, k=min(timestamps, len(readable))):
                self.compare(table, ts)
        assert list(self.magic.check(self.magic.read([]))) == []
        self.magic.close()


def rows_of(
    engine: EngineReader,
    table: PhysicalTableID,
    ts: int,
    columns: list[ScanColumn],
    with_handle: bool,
) -> Rows:
    """Return the rows, or a mark for rows with unknown values."""
    rows: Rows = Counter()
    try:
        for region in engine.plan(engine.read([]), table):
            for batch in engine.scan(
                region, ScanSpec(columns, TimeStamp(ts), with_handle=with_handle)
            ):
                rows.update(zip(*(c.to_pylist() for c in batch.columns), strict=True))
                rows[()] += batch.num_rows
    except UnsupportedError:
        return Counter([("unknown",)])
    return rows


@contextmanager
def history(seed: int, folder: Path) -> Iterator[History]:
    """Names the seed of a history that fails."""
    try:
        yield History(seed, folder / f"{seed}")
    except BaseException as error:
        error.args = (f"seed {seed}: {error.args}",)
        raise


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (0, 25),
        (25, 50),
        pytest.param(50, 500, marks=pytest.mark.slow),
        *(pytest.param(n, n + 500, marks=pytest.mark.slow) for n in range(500, 10_000, 500)),
    ],
)
def test_random_histories(first: int, end: int, tmp_path: Path) -> None:
    """Every twentieth is long and read at every timestamp."""
    seen: Counter[str] = Counter()
    for seed in range(first, end):
        with history(seed, tmp_path) as one:
            one.run(6 if seed % 20 else 30)
            one.finish(3 if seed % 20 else 1000)
            seen += one.seen
        shutil.rmtree(one.path)
    assert seen["publish"] > (end - first) // 2
    assert seen["discarded"] > 0
