"""From a commit that TiDB sends to rows that a client of a server has: all of the way, at work.

    load      sessions of a TiDB, as in `live`; a process
    writer    `theflash writer STORE --source pump-server:...`; a process
    server    `theflash serve STORE`, over TCP and with a token; a process
    client    plans a scan of orders at the newest moment and reads it, again and again; here

What is measured, on one clock for all, is the time from sending a commit to the pump until the
client has all rows of a scan at or above its commit_ts; beside it, until the store had resolved it,
so that the rest is the server's and the client's. A scan must have just the orders that were
committed up to its moment.

`--full` loads for 60 seconds at each interval instead of 12.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from tests.benchmark.live import (
    FULL_SECONDS,
    INTERVALS_S,
    RATE,
    SECONDS,
    WARM_UP_S,
    Watch,
    following,
    latencies_ms,
    look,
    show_load,
)
from tests.benchmark.load import ORDERS, Load, run_load
from tests.benchmark.process import peak_rss_bytes, run_apart
from tests.benchmark.report import Line
from tests.support.serving import TOKENS, write_tokens
from tests.support.workloads import workload

CLOCK = SystemClock()
PAUSE_MS = 20


@dataclass
class Scans:
    """Of each scan: (when all was there, its moment), its rows, how long it took with planning."""

    reached: list[tuple[float, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.remote")
    parser.add_argument("--full", action="store_true", help="60 s at each interval")
    parser.add_argument("--rate", type=int, default=RATE, help="rows a second")
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--intervals", default=",".join(map(str, INTERVALS_S)))
    chosen = parser.parse_args(arguments)
    seconds = chosen.seconds or (FULL_SECONDS if chosen.full else SECONDS)
    print(f"remote: {chosen.rate:,} rows/s for {seconds} s, from commit sent to rows at a client")
    for interval_s in map(float, chosen.intervals.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), chosen.rate, seconds, interval_s)


def _measure(folder: Path, rate: int, seconds: int, interval_s: float) -> None:
    store, address = folder / "store", f"unix:{folder}/pump.sock"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    watch, scans, ended = Watch(), Scans(), threading.Event()
    with (
        following(store, address, interval_s) as process_id,
        _served(store, folder) as api,
        ThreadPoolExecutor() as threads,
    ):
        watching = [
            threads.submit(look, store, watch, ended),
            threads.submit(_scan, api, scans, ended),
        ]
        try:
            load: Load = run_apart(run_load, address, rate, seconds + WARM_UP_S, pinned=False)
            # The last commits are still on their way.
            while (
                not any(w.done() for w in watching) and scans.reached[-1][1] < load.commits[-1].ts
            ):
                CLOCK.sleep_ms(100)
        finally:
            ended.set()
        for each in watching:
            each.result()
        peak = peak_rss_bytes(process_id)
    _check(load, scans)
    _show(load, watch, scans, interval_s)
    show_load(load, peak)


@contextmanager
def _served(store: Path, folder: Path) -> Iterator[TheFlash]:
    """A client of a server of the store."""
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "serve", str(store)]
    command += ["--listen", "127.0.0.1:0", "--tokens", str(write_tokens(folder / "tokens"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        if server.stdout is None:
            raise ValueError("the server tells nothing")
        address = f"theflash://{server.stdout.readline().split()[-1]}"
        try:
            with connect(address, token=TOKENS[Role.READ]) as api:
                yield api
        finally:
            server.send_signal(signal.SIGTERM)


def _scan(api: TheFlash, scans: Scans, ended: threading.Event) -> None:
    """Read the keys of all orders, as of now, again and again."""
    # Before that there are no tables yet.
    while (api.status().resolved_ts or 0) <= workload("tpch").end_ts:
        if ended.wait(PAUSE_MS / 1000):
            return
    while not ended.wait(PAUSE_MS / 1000):
        began_s = time.monotonic()
        plan = api.plan("tpch.orders", ["O_ORDERKEY"])
        rows = sum(batch.num_rows for batch in api.read(plan))
        now_s = time.monotonic()
        api.release(plan.snapshot)
        scans.reached.append((now_s, plan.snapshot.snapshot_ts))
        scans.rows.append(rows)
        scans.took_s.append(now_s - began_s)


def _check(load: Load, scans: Scans) -> None:
    """Every scan had the orders of all commits up to its moment, and no others."""
    moments = [ts for _, ts in scans.reached]
    commits = np.searchsorted([one.ts for one in load.commits], moments, side="right")
    more = np.array(scans.rows) - commits * ORDERS
    if more.any():
        what = f"{np.count_nonzero(more)} of {len(more)} scans"
        raise ValueError(f"{what} had {more.min()} to {more.max()} orders more than were committed")


def _show(load: Load, watch: Watch, scans: Scans, interval_s: float) -> None:
    p50, p99, most = np.percentile(latencies_ms(load, scans.reached, sent=True), (50, 99, 100))
    beside = f"most {most:,.0f} ms, {len(scans.rows):,} scans"
    Line(f"interval {interval_s} s", f"p50 {p50:,.0f}, p99 {p99:,.0f} ms", beside).show()
    p50, p99 = np.percentile(latencies_ms(load, watch.reached, sent=True), (50, 99))
    Line("  until resolved in the store", f"p50 {p50:,.0f}, p99 {p99:,.0f} ms").show()
    p50, p99 = 1000 * np.percentile(scans.took_s, (50, 99))
    Line("  plan and read over TCP", f"p50 {p50:,.0f}, p99 {p99:,.0f} ms").show()


if __name__ == "__main__":
    main(sys.argv[1:])
