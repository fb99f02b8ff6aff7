"""The speed of applying raft commands: to rows in the cache and in the engine, by stage.

    python -m tests.benchmark.raft [--rows N] [--regions N] [--transaction ROWS]

The rows are tpch's lineitem as TiKV has them (format v2), prewritten and committed in two phases: a
lock with the row, then a write record with the row and the lock's end.
Commands of many regions come mixed; the cost of a command should not depend on how many there are,
neither in large batches nor where each comes alone.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.tidb.protocol._generated.kvproto import enginepb_pb2, raft_cmdpb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tikv.flush import FlushLimits
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.region import ApplyState, Peer, RaftRegion, RegionState
from pyspark_theflash.tikv.request import decode_pieces
from pyspark_theflash.tikv.wire import decode_commands
from tests.benchmark.report import Line
from tests.support.captured_rows import captured_rows
from tests.support.percolator_records import LockRecord, write_record
from tests.support.raft_tikv import at_ts, batch, encoded
from tests.support.row_oracle import decode_insert_v1, encode_row_v2
from tests.support.same_thread import SameThread
from tests.support.workloads import workload

T = TypeVar("T")
LINEITEM = 272
TARGET = 400_000
BATCH_ROWS = 4_000
ALONE = 1_000


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.raft")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--transaction", type=int, default=100, help="rows of a transaction")
    parser.add_argument("--rounds", type=int, default=3, help="show the best of so many")
    chosen = parser.parse_args(arguments)
    history = read_schema_file(workload("tpch").schema)
    rows, costs = lineitem_rows(), list[tuple[float, float]]()
    for regions in sorted({1, chosen.regions}):
        batches = list(command_batches(history, rows, chosen, regions))
        runs = [measure(history, batches, regions) for _ in range(chosen.rounds)]
        together_s = show(chosen.rows, regions, sum(map(len, batches)), runs)
        alone_s = min(one_by_one(history, batches, regions) for _ in range(chosen.rounds))
        Line("a command that comes alone", f"{alone_s * 1e6:.0f} us").show()
        costs.append((together_s * chosen.transaction / chosen.rows / 2, alone_s))
    for name, one, many in zip(("in batches", "alone"), *(costs[0], costs[-1]), strict=True):
        figure = f"{many * 1e6:.1f} us, {many / one:.2f}x"
        Line(f"a command {name}, {chosen.regions:,} regions", figure, "of one region's").show()


def show(rows: int, regions: int, size_bytes: int, runs: list[dict[str, float]]) -> float:
    """Print the shortest time of each stage; `apply` has `decode` in it.

    Returns: seconds to the cache.
    """
    print(f"{rows:,} rows, {regions:,} region(s), {size_bytes / 1e6:.0f} MB of commands, CPU time")
    best = {stage: min(run[stage] for run in runs) for stage in runs[0]}
    for stage, spent_s in best.items():
        Line(f"  {stage}", f"{rows / spent_s:,.0f} rows/s", f"{spent_s / rows * 1e6:.2f} us").show()
    to_cache = best["messages"] + best["apply"]
    beside = f"target {TARGET:,}"
    Line("raft batches to cache", f"{rows / to_cache:,.0f} rows/s", beside).show()
    return to_cache


def measure(history: SchemaHistory, batches: list[bytes], regions: int) -> dict[str, float]:
    """CPU seconds of each stage over all batches."""
    spent = dict.fromkeys(("messages", "requests", "apply", "flush"), 0.0)

    def timed(stage: str, action: Callable[[], T]) -> T:
        started = time.process_time()
        result = action()
        spent[stage] += time.process_time() - started
        return result

    with learning(history, regions) as (learner, _):
        for data in batches:
            commands = timed("messages", lambda data=data: decode_commands(data))  # type: ignore[misc]
            messages = [m for command in commands for m in command.requests]
            timed("requests", lambda messages=messages: decode_pieces(messages))  # type: ignore[misc]
            timed("apply", lambda commands=commands: learner.apply(commands))  # type: ignore[misc]
        timed("flush", learner.flush)
    return spent


def one_by_one(history: SchemaHistory, batches: list[bytes], regions: int) -> float:
    """CPU seconds of a command that is applied before the next one arrives."""
    commands = [command for data in batches for command in decode_commands(data)][:ALONE]
    with learning(history, regions) as (learner, _):
        started = time.process_time()
        for command in commands:
            learner.apply([command])
        return (time.process_time() - started) / len(commands)


@contextmanager
def learning(history: SchemaHistory, regions: int) -> Iterator[tuple[Learner, Engine]]:
    """A learner of this many regions, which flushes only on request, and its engine."""
    tables, fs = PhysicalTables(history), LocalFileSystem()
    limits = FlushLimits(rows_bytes=1 << 30, memory_bytes=1 << 30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        identity = registry.create(path, registry.MAGIC, fs)
        with closing(registry.open_engine(path, identity, fs, SystemClock())) as engine:
            learner = Learner(SameThread(engine), lambda _: tables, SystemClock(), limits=limits)
            for state in region_states(regions):
                learner.store.install(state, ())
            yield learner, engine
            learner.close()


def lineitem_rows() -> list[bytes]:
    """Captured rows in format v2, without their keys."""
    captured = next(c for c in captured_rows("tpch") if c.table.id == LINEITEM)
    types = {int(c.id): c.type for c in captured.columns}
    handle = [column.type for column in captured.handle]
    rows = [decode_insert_v1(row, types, handle)[1] for row in captured.inserted[:500]]
    return [encode_row_v2(row, types) for row in rows]


def region_states(regions: int) -> Iterator[RegionState]:
    """Regions that cover everything, cut at even keys of the table."""
    bounds = [b"", *(_key(n << 40) for n in range(1, regions)), b""]
    peer = Peer(2, 77, 1)
    for n in range(regions):
        region = RaftRegion(RegionID(n + 1), bounds[n], bounds[n + 1], RegionEpoch(1, 1), (peer,))
        yield RegionState(region, ApplyState(5, 5), peer)


def command_batches(
    history: SchemaHistory, rows: list[bytes], chosen: argparse.Namespace, regions: int
) -> Iterator[bytes]:
    """Batches of commands, each transaction in one region, the next one in the next."""
    start_ts = history.end_ts - (1 << 30)
    index = [5] * regions
    entries: list[bytes] = []
    size = chosen.transaction
    for n in range(0, chosen.rows, size):
        region = n // size % regions
        start_ts += 10
        for command in transaction(region, range(n, n + size), rows, start_ts):
            index[region] += 1
            command.header.region_id, command.header.index = region + 1, index[region]
            entries.append(command.SerializeToString())
        if (n + size) % BATCH_ROWS == 0:
            yield batch(entries)
            entries = []
    if entries:
        yield batch(entries)


def transaction(
    region: int, places: range, rows: list[bytes], start_ts: int
) -> tuple[enginepb_pb2.CommandRequest, enginepb_pb2.CommandRequest]:
    """The commands of a prewrite and of a commit."""
    prewrite, commit = enginepb_pb2.CommandRequest(), enginepb_pb2.CommandRequest()
    for n in places:
        key, row = _key((region << 40) + n + 1), rows[n % len(rows)]
        record = LockRecord("P", b"primary key of 19b.", start_ts, 3000, row, txn_size=len(places))
        put = prewrite.requests.add(cmd_type=raft_cmdpb_pb2.Put).put
        put.cf, put.key, put.value = "lock", key, record.encode()
        put = commit.requests.add(cmd_type=raft_cmdpb_pb2.Put).put
        put.cf, put.key = "write", at_ts(key, start_ts + 5)
        put.value = write_record("P", start_ts, short_value=row)
        delete = commit.requests.add(cmd_type=raft_cmdpb_pb2.Delete).delete
        delete.cf, delete.key = "lock", key
    return prewrite, commit


def _key(order: int) -> bytes:
    """Of the first line of an order: the clustered key is two integers."""
    numbers = (b"\x03" + (n + 2**63).to_bytes(8, "big") for n in (order, 1))
    return encoded(_PREFIX + b"".join(numbers))


_PREFIX = b"t" + (LINEITEM + 2**63).to_bytes(8, "big") + b"_r"

if __name__ == "__main__":
    import sys

    main(tuple(sys.argv[1:]))
