"""From an acknowledged commit to a row that can be read: TiDB's side, pump and writer at work.

    load      sessions of a TiDB: prewrite, then commit, at a steady rate of rows; a process
    writer    `theflash writer STORE --source pump-server:...`: the store's one writer; a process
    reader    watches `resolved_ts`, and reads at it once a second; here

A transaction is some new orders with their lines and the update of an older order, out of tpch's
bytes. What is measured, on one clock for all, is the time from the answer to a commit until a
reader has found `resolved_ts` at or above its commit_ts.

`--full` loads for 60 seconds at each interval instead of 12.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from tests.benchmark.load import TABLES, Load, run_load
from tests.benchmark.process import peak_rss_bytes, run_apart
from tests.benchmark.report import Line
from tests.support.workloads import workload

CLOCK = SystemClock()
RATE = 10_000
SECONDS = 12
FULL_SECONDS = 60
INTERVALS_S = (0.05, 0.25)
WARM_UP_S = 2
LOOK_MS = 2
READ_MS = 1000


@dataclass
class Watch:
    """Observations of the reader: (time, resolved_ts) of each change, and durations of reads."""

    reached: list[tuple[float, int]] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.live")
    parser.add_argument("--full", action="store_true", help="60 s at each interval")
    parser.add_argument("--rate", type=int, default=RATE, help="rows a second")
    chosen = parser.parse_args(arguments)
    seconds = FULL_SECONDS if chosen.full else SECONDS
    print(f"live: {chosen.rate:,} rows/s for {seconds} s, from commit acknowledged to visible")
    for interval_s in INTERVALS_S:
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), chosen.rate, seconds, interval_s)


def _measure(folder: Path, rate: int, seconds: int, interval_s: float) -> None:
    store, address = folder / "store", f"unix:{folder}/pump.sock"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    watch, ended = Watch(), threading.Event()
    with following(store, address, interval_s) as process_id, ThreadPoolExecutor() as threads:
        watching = threads.submit(look, store, watch, ended)
        try:
            load: Load = run_apart(run_load, address, rate, seconds + WARM_UP_S, pinned=False)
            # The last commits are still on their way.
            while not watching.done() and watch.reached[-1][1] < load.commits[-1].ts:
                CLOCK.sleep_ms(100)
        finally:
            ended.set()
        watching.result()
        peak = peak_rss_bytes(process_id)
    _check(store, load)
    _show(load, watch, interval_s, peak)


@contextmanager
def following(store: Path, address: str, interval_s: float) -> Iterator[int]:
    """A writer that follows; its process id."""
    command = [
        *(sys.executable, "-m", "pyspark_theflash.cli.main", "writer", str(store)),
        *("--source", f"pump-server:{address}"),
        *("--schema", f"file:{workload('tpch').schema}"),
        *("--interval", str(interval_s)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)


def look(store: Path, watch: Watch, ended: threading.Event) -> None:
    """Follow `resolved_ts`, and read at it now and then."""
    seen, read_at_ms, end_ts = None, CLOCK.boottime_ms(), workload("tpch").end_ts
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        while not ended.is_set():
            if (stamp := manifest.data_version()) != seen:
                seen, progress = stamp, Progress.of(manifest.read([PROGRESS_KIND]))
                if progress and progress.resolved_ts > max(
                    [0, *(t for _, t in watch.reached[-1:])]
                ):
                    watch.reached.append((time.monotonic(), progress.resolved_ts))
            has_tables = watch.reached and watch.reached[-1][1] > end_ts
            if has_tables and CLOCK.boottime_ms() - read_at_ms >= READ_MS:
                read_at_ms = CLOCK.boottime_ms()
                watch.read_s.append(_read(store))
            CLOCK.sleep_ms(LOOK_MS)


def _read(store: Path) -> float:
    """Open a snapshot of now and read a column."""
    started = time.monotonic()
    with open_snapshot(store) as snapshot:
        for _ in snapshot.scan("tpch.orders", ["O_ORDERKEY"]):
            pass
    return time.monotonic() - started


def _check(store: Path, load: Load) -> None:
    with open_snapshot(store) as snapshot:
        for name, inserted in zip(TABLES, load.inserted, strict=True):
            batches = snapshot.scan(f"tpch.{name}", [])
            rows = sum(batch.num_rows for batch in batches)
            if rows != inserted:
                raise ValueError(f"{rows} rows of {name}, {inserted} were inserted")


def latencies_ms(load: Load, reached: Sequence[tuple[float, int]], *, sent: bool) -> np.ndarray:
    """From each commit's answer, or from when it was sent, until a reader had reached it."""
    begin_s = load.commits[0].answered_s + WARM_UP_S
    counted = [one for one in load.commits if one.answered_s >= begin_s]
    when, seen = (np.array(column) for column in zip(*reached, strict=True))
    at = np.array([one.sent_s if sent else one.answered_s for one in counted])
    return 1000 * (when[np.searchsorted(seen, [one.ts for one in counted])] - at)


def show_load(load: Load, peak: int) -> None:
    """Print the written rows and the memory used."""
    took_s = load.commits[-1].answered_s - load.commits[0].answered_s
    Line("  load", f"{load.rows / took_s:,.0f} rows/s", f"{load.late_s:.2f} s late at most").show()
    Line("  the writer's peak RSS", f"{peak / 2**20:.0f} MiB").show()


def _show(load: Load, watch: Watch, interval_s: float, peak: int) -> None:
    begin, end = load.commits[0].answered_s, load.commits[-1].answered_s
    p50, p99, most = np.percentile(latencies_ms(load, watch.reached, sent=False), (50, 99, 100))
    publications = sum(begin < when < end for when, _ in watch.reached) / (end - begin)
    beside = f"most {most:,.0f} ms, {publications:.1f} publications/s"
    Line(f"interval {interval_s} s", f"p50 {p50:,.0f}, p99 {p99:,.0f} ms", beside).show()
    read_ms = 1000 * np.percentile(watch.read_s, 50)
    Line("  open, plan and read O_ORDERKEY", f"p50 {read_ms:.0f} ms").show()
    show_load(load, peak)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
