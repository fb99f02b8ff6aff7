"""The speed of ingest from TiKV's change feed, by stage, and the cost of idle regions.

    python -m tests.benchmark.change_feed [--rows N] [--transaction ROWS] [--regions N]

The rows are tpch's lineitem as TiKV has them. Their prewrites and commits are made into messages as
a store sends them, with many events each, and replicated by a `ChangeWriter` into a new store.
Stages, all of one process on one core: `decode messages` and `match` (the feed), `columns`
(committed rows to chunks), `decode` (rows to versions), `publish` and `compact` (files, manifest).
"""

import argparse
import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.replication.cdc import feed as feed_module
from pyspark_theflash.replication.cdc.feed import TiKVChangeFeed
from pyspark_theflash.replication.cdc.streams import RECEIVE_BYTES, Stream, StreamEnd
from pyspark_theflash.replication.cdc.wire import decode_changes, decode_frames
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.benchmark.raft import LINEITEM, lineitem_rows
from tests.benchmark.report import Line
from tests.support.change_log import GrowingSchema
from tests.support.workloads import workload

Row = cdcpb_pb2.Event.Row
TARGET = 150_000
EVENTS = 128
"""Events of a message, at most, as TiKV sends them."""
MESSAGE_BYTES = 1 << 20
ROUNDS = 3
IDLE_REGIONS, IDLE_ROUNDS = 5000, 60


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.change_feed")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--transaction", type=int, help="rows of a transaction; 1, 5 and 100")
    parser.add_argument("--regions", type=int, default=100)
    chosen = parser.parse_args(arguments)
    measure(made(1000, 100, 1))  # pyarrow imports modules when they are used first
    for size in [chosen.transaction] if chosen.transaction else [1, 5, 100]:
        make = partial(made, chosen.rows, size, chosen.regions)
        show(f"transactions of {size}", make)
    idle(IDLE_REGIONS)


def show(title: str, make: Callable[[], "Changes"]) -> None:
    """Replicate the same changes several times; show the best, and the stages of another time."""
    best_s = min(sum(measure(make(), has_stages=False).values()) for _ in range(ROUNDS))
    changes = make()
    spent = measure(changes)
    print(f"{title}, {changes.rows:,} rows, CPU time")
    for stage, stage_s in spent.items():
        share = f"{stage_s / sum(spent.values()):.0%}"
        Line(f"  {stage}", f"{stage_s / changes.rows * 1e6:.2f} us", share).show()
    Line(
        "change feed to files", f"{changes.rows / best_s:,.0f} rows/s", f"target {TARGET:,}"
    ).show()


class CannedStreams:
    """A store that has sent everything already."""

    store_id, address, is_multiplexed = 1, "canned", True

    def __init__(self, messages: Sequence[bytes], progress: Sequence[bytes] = ()) -> None:
        self.progress = progress
        self.messages, self.requests = list(messages)[::-1], list[cdcpb_pb2.ChangeDataRequest]()

    def open(self, store_id: int, deadline: Deadline, *, is_multiplexed: bool) -> Stream:
        return self

    def send(self, request: bytes) -> None:
        self.requests.append(cdcpb_pb2.ChangeDataRequest.FromString(request))

    def receive(self, timeout_ms: int) -> Sequence[tuple[Stream, bytes | StreamEnd]]:
        """The ends of the scans of new requests, and the next messages."""
        messages = self.scanned()
        self.requests.clear()
        size = 0
        while self.messages and size < RECEIVE_BYTES:
            messages.append(self.messages.pop())
            size += len(messages[-1])
        # Tables may be subscribed late.
        again = [] if self.messages else self.progress
        return [(self, each) for each in (*messages, *again)]

    def scanned(self) -> list[bytes]:
        """The ends of the scans of new requests."""
        return [
            cdcpb_pb2.ChangeDataEvent(
                events=[event(each.region_id, [Row(type=cdcpb_pb2.Event.LogType.INITIALIZED)])]
            ).SerializeToString()
            for each in self.requests
        ]

    def close(self) -> None:
        self.messages.clear()


class CannedRegions:
    """Regions that never change."""

    def __init__(self, regions: Sequence[LocatedRegion]) -> None:
        self.regions = regions

    def cover(
        self, ranges: Iterable[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        keys = list(ranges)
        covered = [(region, region.parts_of(keys)) for region in self.regions]
        return [(region, parts) for region, parts in covered if parts]

    def forget(self, region: LocatedRegion) -> None:
        raise AssertionError

    def failed(self, region: LocatedRegion, error: object) -> None:
        raise AssertionError


class WholeSchema(GrowingSchema):
    """A history that is complete from the start."""

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        return self._history


def regions_of(count: int) -> list[LocatedRegion]:
    """Regions that cover everything, cut at keys of the table."""
    bounds = [RawKey(b""), *(key_of(n, 0) for n in range(1, count)), RawKey(b"")]
    peer = LocatedPeer(2, 1)
    return [
        LocatedRegion(
            RegionID(n + 1),
            RawKeyRange(bounds[n], bounds[n + 1]),
            RegionEpoch(1, 1),
            (peer,),
            peer,
        )
        for n in range(count)
    ]


def key_of(region: int, order: int) -> RawKey:
    numbers = (b"\x03" + (n + 2**63).to_bytes(8, "big") for n in ((region << 40) + order, 1))
    return encode_record_key(PhysicalTableID(LINEITEM), b"".join(numbers))


def event(region_id: int, rows: Iterable[Row]) -> cdcpb_pb2.Event:
    entries = cdcpb_pb2.Event.Entries(entries=rows)
    return cdcpb_pb2.Event(region_id=region_id, request_id=1, entries=entries)


def messages_of(rows: int, size: int, regions: int, first_ts: int) -> Iterator[bytes]:
    """Transactions in one region each, the next one in the next."""
    values = lineitem_rows()
    message, message_bytes = cdcpb_pb2.ChangeDataEvent(), 0
    kinds = cdcpb_pb2.Event.LogType
    put = Row.OpType.PUT
    for number in range(0, rows, size):
        ts = first_ts + number // size * 10
        region = number // size % regions
        keys = [key_of(region, n + 1) for n in range(number, min(number + size, rows))]
        prewrites = [
            Row(type=kinds.PREWRITE, op_type=put, start_ts=ts, key=key, value=values[n % 500])
            for n, key in enumerate(keys)
        ]
        commits = [
            Row(type=kinds.COMMIT, op_type=put, start_ts=ts, commit_ts=ts + 5, key=key)
            for key in keys
        ]
        for each in (prewrites, commits):
            message.events.append(event(region + 1, each))
        message_bytes += sum(len(row.value) for row in prewrites)
        if len(message.events) >= EVENTS or message_bytes > MESSAGE_BYTES:
            yield message.SerializeToString()
            message, message_bytes = cdcpb_pb2.ChangeDataEvent(), 0
    yield message.SerializeToString()


def progress(regions: int, ts: int, request_id: int = 1) -> bytes:
    ids = list(range(1, regions + 1))
    resolved = cdcpb_pb2.ResolvedTs(regions=ids, ts=ts, request_id=request_id)
    return cdcpb_pb2.ChangeDataEvent(resolved_ts=resolved).SerializeToString()


@dataclass(frozen=True)
class Changes:
    """Messages of regions, with `rows` changes up to the end of a history."""

    history: SchemaHistory
    regions: Sequence[LocatedRegion]
    streams: CannedStreams
    rows: int


def made(rows: int, size: int, regions: int) -> Changes:
    """Changes in transactions of some size."""
    history = read_schema_file(workload("tpch").schema)
    messages = list(messages_of(rows, size, regions, history.end_ts - (1 << 30)))
    ends = [progress(regions, history.end_ts, request_id) for request_id in (1, 2, 3)]
    return Changes(history, regions_of(regions), CannedStreams(messages, ends), rows)


def measure(changes: Changes, *, has_stages: bool = True) -> dict[str, float]:
    """CPU seconds of each stage, without those of the feed if they are not measured.

    Reading the clock for each message takes longer than a small message does.
    """
    history, end_ts = changes.history, changes.history.end_ts
    fs, spent = LocalFileSystem(), {"decode messages": 0.0, "match": 0.0, "columns": 0.0}
    gc.collect()
    gc.freeze()

    def timed(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        if not has_stages:
            return call

        def run(*arguments: Any) -> Any:
            begin = time.process_time()
            result = call(*arguments)
            spent[stage] += time.process_time() - begin
            return result

        return run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        identity = registry.create(path, registry.MAGIC, fs)
        with closing(registry.open_engine(path, identity, fs, SystemClock())) as engine:
            regions = CannedRegions(changes.regions)
            feed = TiKVChangeFeed(regions, changes.streams, 7, clock=SystemClock())
            writer = ChangeWriter(engine, feed, WholeSchema(history), 7, assume_empty=["*"])
            writer.report.timer = time.process_time
            begin = time.process_time()
            frames = timed("decode messages", lambda data: list(decode_frames(data)))
            rows, buffer = timed("decode messages", decode_changes), feed._received._buffer
            with (
                patch.object(feed_module, "decode_frames", frames),
                patch.object(feed_module, "decode_changes", rows),
                patch.object(buffer, "add", timed("columns", buffer.add)),
            ):
                while writer.resolved_ts < end_ts:
                    writer.poll()
            total = time.process_time() - begin
            if writer.report.rows != changes.rows:
                raise ValueError(f"{writer.report.rows} rows of {changes.rows}")
            stages = dict(writer.report.seconds)
            writer.close()
    spent |= {stage: stages.get(stage, 0.0) for stage in ("decode", "publish", "compact")}
    spent["match"] = total - sum(spent.values())
    return spent


def idle(regions: int) -> None:
    """Many regions that only report their progress."""
    tracemalloc.start()
    streams = CannedStreams([])
    feed = TiKVChangeFeed(CannedRegions(regions_of(regions)), streams, 7, clock=SystemClock())
    feed.subscribe(RawKeyRange.of_prefix(key_of(0, 0)[:11]), TimeStamp(1))
    feed.poll(0)
    feed.poll(0)
    each_bytes = tracemalloc.get_traced_memory()[0] / regions
    tracemalloc.stop()
    begin = time.process_time()
    for round_number in range(IDLE_ROUNDS):
        streams.messages.append(progress(regions, 1000 + round_number))
        for _ in range(10):
            feed.poll(0)
    spent_s = (time.process_time() - begin) / IDLE_ROUNDS
    if feed.resolved_ts != 1000 + IDLE_ROUNDS - 1:
        raise ValueError(f"the frontier is {feed.resolved_ts}")
    print(f"{regions:,} idle regions, progress once a second, 10 polls a second")
    Line("memory of a region", f"{each_bytes / 1024:.1f} KiB", "target 50").show()
    Line("of a core", f"{spent_s:.1%}", "target 20%").show()


if __name__ == "__main__":
    import sys

    main(tuple(sys.argv[1:]))
