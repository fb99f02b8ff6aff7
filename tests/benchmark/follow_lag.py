"""The time from a commit in TiKV until a store is readable there.

    python -m tests.benchmark.follow_lag [--rows PER_SECOND] [--seconds N] [--interval MS]

Another process is the store of a cluster: over gRPC, it sends transactions at a steady rate, and a
resolved timestamp at each interval. It also watches the progress of the replica. This process
replicates as `theflash follow` does. A lag is the age of a commit when the replica is readable at
its commit_ts; the resolved_ts of the peer is that of the time at which it is sent.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import numpy as np

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp, from_physical_ms, physical_ms
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.writer import default_interval_ms
from pyspark_theflash.cluster.tikv.wire.directory import Store
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.cdc.feed import TiKVChangeFeed
from pyspark_theflash.replication.cdc.streams import GrpcStreams
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.replication.follow import follow
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.benchmark.change_feed import (
    CannedRegions,
    Row,
    event,
    key_of,
    progress,
    regions_of,
)
from tests.benchmark.raft import lineitem_rows
from tests.benchmark.report import Line
from tests.support.change_log import GrowingSchema
from tests.support.fake_cdc import FakeCdcStore
from tests.support.progress import read_progress
from tests.support.workloads import workload

CLOCK = SystemClock()
BATCH_MS = 20
WATCH_S = 0.005
WARM_UP_S = 3
TXN_ROWS = 10
ALLOWED_MS = 700
"""Allowed beyond the interval of resolved timestamps, at the 99th percentile."""
INTERVALS_MS = (1000, 200)


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.follow_lag")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--interval", type=int, help="1000 and 200")
    parser.add_argument("--peer", metavar="STORE", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.peer:
        run_peer(Path(chosen.peer), chosen.rows, chosen.interval, chosen.seconds)
        return
    for interval_ms in [chosen.interval] if chosen.interval else INTERVALS_MS:
        show(chosen.rows, interval_ms, measure(chosen.rows, interval_ms, chosen.seconds))


def show(rows: int, interval_ms: int, lags: dict[str, float]) -> None:
    print(f"{rows:,} rows/s, resolved_ts every {interval_ms} ms: {lags['commits']:,.0f} commits")
    target_ms = interval_ms + ALLOWED_MS
    for name in ("p50", "p99", "max"):
        Line(f"  commit to readable, {name}", f"{lags[name]:,.0f} ms").show()
    Line("  p99 of the allowed time", f"{lags['p99'] / target_ms:.2f}", f"{target_ms} ms").show()
    for stage in ("decode", "publish"):
        Line(f"  {stage}, of the time", f"{lags[stage]:.1%}").show()
    Line("  publications per second", f"{lags['publications']:.1f}").show()


# -- the peer


def now_ts() -> TimeStamp:
    return from_physical_ms(CLOCK.wall_ms())


def run_peer(store: Path, rate: int, interval_ms: int, seconds: int) -> None:
    """Send changes, watch the store, and print the lags."""
    commits: deque[int] = deque()
    lags: list[float] = []
    ended = threading.Event()
    with FakeCdcStore() as peer:
        sys.stdout.write(f"{peer.address}\n")
        sys.stdout.flush()
        peer.requests.get(timeout=60)
        peer.out.put(initialized())
        watcher = threading.Thread(target=watch, args=(store, commits, lags, ended))
        watcher.start()
        send(peer, rate, interval_ms, seconds, commits)
        ended.set()
        watcher.join()
        if commits or not lags:
            raise ValueError(f"{len(commits)} commits are not readable")
        report = {f"p{n}": float(np.percentile(lags, n)) for n in (50, 99)}
        report |= {"max": max(lags), "commits": len(lags)}
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the replica has ended


def initialized() -> bytes:
    row = Row(type=cdcpb_pb2.Event.LogType.INITIALIZED)
    return cdcpb_pb2.ChangeDataEvent(events=[event(1, [row])]).SerializeToString()


def send(
    peer: FakeCdcStore, rate: int, interval_ms: int, seconds: int, commits: deque[int]
) -> None:
    values, kinds = lineitem_rows(), cdcpb_pb2.Event.LogType
    begin_s, resolved_s, sent = time.monotonic(), 0.0, 0
    while (spent_s := time.monotonic() - begin_s) < seconds + WARM_UP_S:
        ts = now_ts()
        message = cdcpb_pb2.ChangeDataEvent()
        due = int(spent_s * rate) - sent
        for first in range(sent, sent + due, TXN_ROWS):
            keys = [key_of(0, n + 1) for n in range(first, first + TXN_ROWS)]
            put, start_ts = Row.OpType.PUT, ts - 5
            message.events.append(
                event(
                    1,
                    [
                        Row(
                            type=kinds.PREWRITE,
                            op_type=put,
                            start_ts=start_ts,
                            key=key,
                            value=values[n % 500],
                        )
                        for n, key in enumerate(keys)
                    ]
                    + [
                        Row(
                            type=kinds.COMMIT,
                            op_type=put,
                            start_ts=start_ts,
                            commit_ts=ts,
                            key=key,
                        )
                        for key in keys
                    ],
                )
            )
            sent += TXN_ROWS
        if due > 0:
            peer.out.put(message.SerializeToString())
            if spent_s > WARM_UP_S:
                commits.append(ts)
        if 1000 * (spent_s - resolved_s) >= interval_ms:
            resolved_s += interval_ms / 1000
            peer.out.put(progress(1, ts))
        CLOCK.sleep_ms(BATCH_MS)
    peer.out.put(progress(1, now_ts()))
    deadline_s = time.monotonic() + 60
    while commits and time.monotonic() < deadline_s:
        CLOCK.sleep_ms(BATCH_MS)


def watch(store: Path, commits: deque[int], lags: list[float], ended: threading.Event) -> None:
    """Note when the store is readable at commits, and read it there now and then."""
    for number in count():
        if ended.wait(WATCH_S):
            return
        reached = read_progress(store)
        now_ms = CLOCK.wall_ms()
        newest = 0
        while reached is not None and commits and commits[0] <= reached.resolved_ts:
            newest = commits.popleft()
            lags.append(now_ms - physical_ms(TimeStamp(newest)))
        if newest and number % 20 == 0:
            with open_snapshot(store, TimeStamp(newest)):
                pass


# -- the replica


class NowSchema(GrowingSchema):
    """A history without DDL, complete up to now."""

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        return self._history.up_to(now_ts())


class OneStore:
    """The directory of a cluster of one store."""

    def __init__(self, address: str) -> None:
        self._address = address

    def store(self, store_id: int, deadline: Deadline) -> Store:
        return Store(store_id, self._address)


def measure(rate: int, interval_ms: int, seconds: int) -> dict[str, float]:
    use_system_memory()
    fs, clock = LocalFileSystem(), SystemClock()
    history = read_schema_file(workload("tpch").schema).up_to(now_ts())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as undo:
        path = Path(folder) / "store"
        identity = registry.create(path, registry.MAGIC, fs)
        command = [sys.executable, "-m", "tests.benchmark.follow_lag", "--peer", str(path)]
        command += ["--rows", str(rate), "--interval", str(interval_ms), "--seconds", str(seconds)]
        peer = undo.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        if peer.stdout is None:
            raise ValueError("the peer prints nothing")
        streams = GrpcStreams(OneStore(peer.stdout.readline().strip()), None)
        engine = undo.enter_context(closing(registry.open_engine(path, identity, fs, clock)))
        manifest = undo.enter_context(closing(open_manifest(path, fs)))
        thread = undo.enter_context(ThreadPoolExecutor(1))
        feed = TiKVChangeFeed(CannedRegions(regions_of(1)), streams, 7, clock=clock)
        touched: list[Maintenance] = []
        writer = ChangeWriter(
            engine,
            feed,
            NowSchema(history),
            7,
            assume_empty=["*"],
            compact=lambda tables: touched[0].touched(tables),
        )
        undo.callback(writer.close)
        upkeep = Maintenance(engine, manifest, clock, memory=writer.state, thread=thread)
        touched.append(upkeep)

        def between() -> None:
            upkeep.poll()
            writer.receive()

        begin_s = time.monotonic()
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.append(peer.stdout.readline()))
        reading.start()
        follow(
            writer.poll,
            between,
            interval_ms=lambda: default_interval_ms(is_due=writer.is_due),
            is_stopped=lambda: not reading.is_alive(),
            clock=clock,
        )
        upkeep.drain()
        spent_s = time.monotonic() - begin_s
        lags: dict[str, float] = json.loads(lines[0])
        lags |= {
            each: writer.report.seconds.get(each, 0) / spent_s for each in ("decode", "publish")
        }
        return lags | {"publications": writer.report.publications / spent_s}


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
