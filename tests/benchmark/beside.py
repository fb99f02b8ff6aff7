"""The waits of a writer while a large table is compacted.

    at once        `Engine.compact`, then the next poll: what a compaction of a table took before
    between polls  a piece (a few regions) after each poll
    beside         pieces in a thread of the writer's process

A poll publishes some updates of the table. The three ways are taken in turns, each with a store of
its own whose rows were updated all over before.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import version_schema
from pyspark_theflash.storage.store.manifest import ManifestChange
from tests.benchmark.report import Line

TABLE: Final = PhysicalTableID(1)
ROWS, UPDATED, BATCH, ROUNDS = 4_000_000, 400_000, 1000, 3
TYPES: Final = [(ColumnID(n), pa.int64()) for n in range(1, 6)]
COLUMNS: Final = [ScanColumn(i, tp, Default(pa.scalar(None, tp))) for i, tp in TYPES]


@dataclass
class Figures:
    """Times of one way: of each poll, including the work before the next one."""

    waits_s: list[float] = field(default_factory=list)
    took_s: float = 0.0


class Store:
    """A table of `ROWS` rows, a tenth of which are updated."""

    def __init__(self, path: Path) -> None:
        registry.create(path, registry.MAGIC, LocalFileSystem())
        self.engine = MagicEngine(path, LocalFileSystem(), SystemClock())
        self._rng, self._ts = np.random.default_rng(1), 0
        for part in np.array_split(np.arange(ROWS), 8):
            self.publish(part)
        for part in np.array_split(self._rng.choice(ROWS, UPDATED, replace=False), 8):
            self.publish(np.sort(part))

    def publish(self, handles: np.ndarray) -> None:
        self._ts += 10
        rows = len(handles)
        system = [handles, np.full(rows, self._ts, np.uint64), np.full(rows, self._ts, np.uint64)]
        arrays = [pa.array(a) for a in [*system, np.zeros(rows, np.uint8) + 1]]
        arrays += [pa.array(self._rng.integers(0, 1 << 40, rows)) for _ in TYPES]
        batch = pa.RecordBatch.from_arrays(arrays, schema=version_schema(pa.int64(), TYPES))
        self.engine.publish(Publication([VersionBatch(TABLE, batch)], ManifestChange()))

    def poll(self) -> None:
        self.publish(np.sort(self._rng.choice(ROWS, BATCH, replace=False)))


def main(rounds: int = ROUNDS) -> None:
    """Print the figures."""
    print(f"beside: {ROWS:,} rows, {UPDATED:,} updated, compacted while others are updated")
    ways = {"at once": _at_once, "between polls": _between_polls, "beside": _beside}
    results = {name: Figures() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with TemporaryDirectory() as folder, ExitStack() as undo:
                store = Store(Path(folder) / "store")
                undo.enter_context(closing(store.engine))
                _measure(store, way, results[name])
    for name, figures in results.items():
        p50, most = np.percentile(figures.waits_s, (50, 100))
        rate = len(figures.waits_s) / sum(figures.waits_s)
        waits = f"p50 {1000 * p50:,.0f}, most {1000 * most:,.0f} ms"
        beside = f"{rate:,.1f} publications/s, compacted in {figures.took_s / rounds:.1f} s"
        Line(name, waits, beside).show()


def _measure(
    store: Store, way: Callable[[Store, ExitStack], Callable[[], bool]], figures: Figures
) -> None:
    with ExitStack() as undo:
        goes_on = way(store, undo)
        begun = time.perf_counter()
        while True:
            started = time.perf_counter()
            store.poll()
            is_going = goes_on()
            figures.waits_s.append(time.perf_counter() - started)
            if not is_going:
                break
        figures.took_s += time.perf_counter() - begun


def _at_once(store: Store, _: ExitStack) -> Callable[[], bool]:
    def go_on() -> bool:
        store.engine.compact(TABLE, COLUMNS, everything=True)
        return False

    return go_on


def _between_polls(store: Store, _: ExitStack) -> Callable[[], bool]:
    to = _newest(store)

    def go_on() -> bool:
        piece = store.engine.begin(TABLE, COLUMNS, everything_to=to)
        return piece is not None and bool(piece())

    return go_on


def _beside(store: Store, undo: ExitStack) -> Callable[[], bool]:
    to, thread = _newest(store), undo.enter_context(ThreadPoolExecutor(1))
    running = None

    def go_on() -> bool:
        nonlocal running
        if running is not None and not running.done():
            return True
        piece = store.engine.begin(TABLE, COLUMNS, everything_to=to)
        running = None if piece is None else thread.submit(piece)
        return piece is not None

    return go_on


def _newest(store: Store) -> int:
    files = store.engine.files(store.engine.read([]), TABLE)
    return max(f.max_commit_ts for f in files)


if __name__ == "__main__":
    main()
