"""The memory of one large transaction, from TiKV's change feed to the files of a store.

    python -m tests.benchmark.large_transaction [--mib N] [--regions N] [--server]

The rows are tpch's lineitem with a longer comment. With `--server`, the store is behind a server,
which is another process. Peaks are those of whole processes, with Python and its libraries, at the
end of each stage.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import ServiceUnavailableError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.replication.cdc.feed import TiKVChangeFeed
from pyspark_theflash.replication.cdc.streams import RECEIVE_BYTES, Stream, StreamEnd
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.service.client.remote_engine import RemoteEngine
from pyspark_theflash.service.client.transport import transport_to
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from tests.benchmark.change_feed import (
    CannedRegions,
    CannedStreams,
    Row,
    WholeSchema,
    event,
    key_of,
    progress,
    regions_of,
)
from tests.benchmark.process import peak_rss_bytes, run_apart
from tests.benchmark.raft import LINEITEM
from tests.benchmark.report import Line
from tests.support.captured_rows import captured_rows
from tests.support.row_oracle import decode_insert_v1, encode_row_v2
from tests.support.workloads import workload

TARGET_MIB = 1024
_MESSAGE_ROWS = 1000
_COMMENT_BYTES = 400


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.large_transaction")
    parser.add_argument("--mib", type=int, default=700)
    parser.add_argument("--regions", type=int, default=1)
    parser.add_argument("--server", action="store_true")
    chosen = parser.parse_args(arguments)
    peaks = run_apart(measure, chosen.mib << 20, chosen.regions, chosen.server, pinned=False)
    print(f"a transaction of {chosen.mib:,} MiB in {chosen.regions} regions")
    for stage, size_bytes in peaks.items():
        Line(f"  {stage}", f"{size_bytes >> 20:,} MiB", f"target {TARGET_MIB:,}").show()


class LazyStreams(CannedStreams):
    """A store that sends messages when they are wanted."""

    def __init__(self, messages: Iterator[bytes], ends: Sequence[bytes]) -> None:
        super().__init__([], ())
        self._more, self._ends = messages, ends

    def receive(self, timeout_ms: int) -> Sequence[tuple[Stream, bytes | StreamEnd]]:
        if not self.requests:
            size = 0
            for message in self._more:
                self.messages.append(message)
                size += len(message)
                if size >= RECEIVE_BYTES:
                    break
            else:
                self.progress = self._ends
        self.messages.reverse()
        return super().receive(timeout_ms)


def wide_rows() -> list[bytes]:
    """Rows of 500 bytes or so, which do not compress."""
    rng = Random(1)
    captured = next(c for c in captured_rows("tpch") if c.table.id == LINEITEM)
    types = {int(c.id): c.type for c in captured.columns}
    handle = [column.type for column in captured.handle]
    comment = next(int(c.id) for c in captured.columns if c.name == "L_COMMENT")
    rows = [decode_insert_v1(row, types, handle)[1] for row in captured.inserted[:500]]
    return [
        encode_row_v2(row | {comment: rng.randbytes(_COMMENT_BYTES // 2).hex()}, types)
        for row in rows
    ]


def messages_of(size_bytes: int, regions: int, ts: int) -> Iterator[bytes]:
    """Prewrites of all rows, then their commits."""
    values, kinds, put = wide_rows(), cdcpb_pb2.Event.LogType, Row.OpType.PUT
    count = size_bytes // (sum(map(len, values)) // len(values))
    for is_commit in (False, True):
        for low in range(0, count, _MESSAGE_ROWS):
            numbers = range(low, min(low + _MESSAGE_ROWS, count))
            region = low * regions // count
            if is_commit:
                rows = [
                    Row(
                        type=kinds.COMMIT,
                        op_type=put,
                        start_ts=ts,
                        commit_ts=ts + 5,
                        key=key_of(region, n + 1),
                    )
                    for n in numbers
                ]
            else:
                rows = [
                    Row(
                        type=kinds.PREWRITE,
                        op_type=put,
                        start_ts=ts,
                        key=key_of(region, n + 1),
                        value=values[n % len(values)],
                    )
                    for n in numbers
                ]
            yield cdcpb_pb2.ChangeDataEvent(events=[event(region + 1, rows)]).SerializeToString()


def measure(size_bytes: int, regions: int, has_server: bool) -> dict[str, int]:
    """Return the peak of memory at the end of each stage."""
    use_system_memory()
    fs, clock, peaks = LocalFileSystem(), SystemClock(), dict[str, int]()
    history = read_schema_file(workload("tpch").schema)
    first_ts, end_ts = history.end_ts - (1 << 30), history.end_ts
    with tempfile.TemporaryDirectory() as folder, ExitStack() as undo:
        path = Path(folder) / "store"
        identity = registry.create(path, registry.MAGIC, fs)
        if has_server:
            engine, server_id = undo.enter_context(_served(path, Path(folder)))
        else:
            engine = undo.enter_context(closing(registry.open_engine(path, identity, fs, clock)))
            server_id = None
        feed = TiKVChangeFeed(
            CannedRegions(regions_of(regions)),
            LazyStreams(
                messages_of(size_bytes, regions, first_ts),
                [progress(regions, end_ts, request_id) for request_id in (1, 2, 3)],
            ),
            7,
            clock=clock,
            folder=Path(folder),
        )
        writer = ChangeWriter(engine, feed, WholeSchema(history), 7, assume_empty=["*"])
        peaks["at the start"] = peak_rss_bytes()
        compact = writer._compact

        def compacted(tables: object) -> None:
            peaks["received and published"] = peak_rss_bytes()
            compact(tables)  # type: ignore[arg-type]
            peaks["compacted"] = peak_rss_bytes()

        writer._compact = compacted
        begin = time.monotonic()
        while writer.resolved_ts < end_ts:
            writer.poll()
        print(f"{writer.report.rows:,} rows in {time.monotonic() - begin:.0f} s")
        writer.close()
        if server_id is not None:
            peaks["the server"] = peak_rss_bytes(server_id)
    return peaks


@contextmanager
def _served(store: Path, folder: Path) -> Iterator[tuple[RemoteEngine, int]]:
    """An engine behind a server of its own process, whose id follows."""
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "serve", str(store)]
    address = f"unix:{folder}/sock"
    with subprocess.Popen([*command, "--listen", address]) as server:
        engine = RemoteEngine(
            lambda: transport_to(address, token=None, tls=None, clock=SystemClock()), folder=folder
        )
        try:
            deadline = Deadline(SystemClock(), 60_000)
            deadline.retried(engine.open, ServiceUnavailableError, pause_ms=100)
            yield engine, server.pid
        finally:
            engine.close()
            server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
