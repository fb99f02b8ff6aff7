"""The speed and memory of a first load: snapshot scans of TiKV, decoding, files.

    python -m tests.benchmark.first_load [--full]

A process stands for PD and TiKV: it answers scans of one table of narrow rows (four columns, 63
bytes of key and value) in regions of a million rows with messages that are made from a template.
What is counted is the processor time and the memory of the load's own processes, from their start.
`--full` loads a table of 3 GB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.load.load import FirstLoad
from pyspark_theflash.replication.load.scan import ClusterAddress
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.key import decode_record_key, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto import kvrpcpb_pb2, metapb_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.benchmark.process import peak_rss_bytes, run_apart
from tests.benchmark.report import Line
from tests.support.fake_pd import FakePD, unary
from tests.support.row_oracle import encode_row_v2

CLOCK, FS = SystemClock(), LocalFileSystem()
ROWS, FULL_ROWS = 3_000_000, 48_000_000
REGION_ROWS = 1_000_000
TARGET = 200_000
MOST_BYTES = 1 << 30
TS = TimeStamp(400 << 40)
TABLE = table_info(
    77,
    "shop.narrow",
    [id_column(), *(column(name, MySQLType.LONG) for name in "ab"), column("c", MySQLType.VARCHAR)],
)
_LEADER = metapb_pb2.Peer(id=2, store_id=1)


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.first_load")
    parser.add_argument("--full", action="store_true")
    rows = FULL_ROWS if parser.parse_args(arguments).full else ROWS
    size = rows * (len(_template()) + 19)
    print(f"first load, {rows:,} rows, {size / 1e9:.1f} GB of keys and values")
    with _served(rows) as address, tempfile.TemporaryDirectory() as folder:
        seconds, cpu_s, memory = run_apart(_load, address, Path(folder), rows, pinned=False)
    Line("rows / s", f"{rows / seconds:,.0f}", f"{len(os.sched_getaffinity(0))} cores").show()
    Line("rows / s of CPU", f"{rows / cpu_s:,.0f}", f"target {TARGET:,}").show()
    Line("memory, MiB", f"{memory / 2**20:,.0f}", f"at most {MOST_BYTES / 2**20:,.0f}").show()


def _load(address: str, folder: Path, rows: int) -> tuple[float, float, int]:
    """Load a store; return seconds, seconds of CPU, and the sum of all processes' peaks."""
    identity = registry.create(folder / "store", registry.MAGIC, FS)
    children: dict[int, int] = {}
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(children, ended))
    started, cpu = time.perf_counter(), os.times()
    with (
        closing(registry.open_engine(folder / "store", identity, FS, CLOCK)) as engine,
        PDClient([address], clock=CLOCK) as pd,
        TiKVClient(pd, clock=CLOCK) as client,
    ):
        load = FirstLoad(engine, client, ClusterAddress((address,)), 7, clock=CLOCK)
        event = TableEvent(TS, TABLE.db, TABLE.id, TABLE)
        load.begin(SchemaHistory(TS, TS, [event], ()), TableScope())
        watch.start()
        load.run(lambda _: None)
        load.end()
        assert load.report.rows == rows
    ended.set()
    watch.join()
    # Those of the reading processes are included, as they have ended.
    cpu_s = sum(b - a for a, b in zip(cpu[:4], os.times()[:4], strict=True))
    return time.perf_counter() - started, cpu_s, peak_rss_bytes() + sum(children.values())


def _watch(children: dict[int, int], ended: threading.Event) -> None:
    """Note the peak of memory of each child process."""
    while not ended.wait(0.05):
        for thread in Path("/proc/self/task").iterdir():
            for child in (thread / "children").read_text().split():
                with suppress(OSError, ValueError):
                    children[int(child)] = peak_rss_bytes(int(child))


# The cluster.


def _template() -> bytes:
    types = {info.id: info.type for info in TABLE.columns}
    return encode_row_v2({2: 1 << 20, 3: 1 << 20, 4: "0123456789abcdefghijk"}, types)


class _Narrow(FakePD):
    """PD and the only store, with rows from 0 to before `rows`."""

    def __init__(self, rows: int) -> None:
        super().__init__(7)
        self.rows = rows
        row = _template()
        key = bytes(encode_record_key(TABLE.physical_ids[0], 0))
        pair = b"\x12" + bytes([len(key)]) + key + b"\x1a" + bytes([len(row)]) + row
        self._pair = np.frombuffer(b"\x12" + bytes([len(pair)]) + pair, np.uint8)
        self._handle_at = 2 + 2 + len(key) - 8
        self._number_at = len(self._pair) - 21 - 8

    def _services(self) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
        services = super()._services()
        services["pdpb.PD"] |= {
            "GetRegion": unary(self._region, pdpb_pb2.GetRegionRequest),
            "ScanRegions": unary(self._regions, pdpb_pb2.ScanRegionsRequest),
            "GetStore": unary(self._store, pdpb_pb2.GetStoreRequest),
        }
        scan = grpc.unary_unary_rpc_method_handler(
            self._scan, kvrpcpb_pb2.ScanRequest.FromString, lambda data: data
        )
        return services | {"tikvpb.Tikv": {"KvScan": scan}}

    def _regions(self, request: Any, _: object) -> pdpb_pb2.ScanRegionsResponse:
        regions = [self._numbered(n) for n in range(self.rows // REGION_ROWS)]
        chosen = [r for r in regions if not r.end_key or r.end_key > request.start_key]
        page = [pdpb_pb2.Region(region=r, leader=_LEADER) for r in chosen[: request.limit]]
        return pdpb_pb2.ScanRegionsResponse(header=self._header(), regions=page)

    def _region(self, request: Any, _: object) -> pdpb_pb2.GetRegionResponse:
        regions = (self._numbered(n) for n in range(self.rows // REGION_ROWS))
        region = next(r for r in regions if not r.end_key or r.end_key > request.region_key)
        return pdpb_pb2.GetRegionResponse(header=self._header(), region=region, leader=_LEADER)

    def _numbered(self, number: int) -> metapb_pb2.Region:
        def key(n: int) -> bytes:
            is_inside = 0 < n < self.rows // REGION_ROWS
            raw = encode_record_key(TABLE.physical_ids[0], n * REGION_ROWS)
            return encode_bytes(raw) if is_inside else b""

        epoch = metapb_pb2.RegionEpoch(conf_ver=1, version=1)
        start, end = key(number), key(number + 1)
        return metapb_pb2.Region(
            id=number + 1, start_key=start, end_key=end, region_epoch=epoch, peers=[_LEADER]
        )

    def _store(self, _: Any, __: object) -> pdpb_pb2.GetStoreResponse:
        store = metapb_pb2.Store(id=1, address=self.address)
        return pdpb_pb2.GetStoreResponse(header=self._header(), store=store)

    def _scan(self, request: kvrpcpb_pb2.ScanRequest, _: object) -> bytes:
        low, high = (_handle(key) for key in (request.start_key, request.end_key))
        numbers = np.arange(low, min(high, self.rows, low + request.limit))
        pairs = np.tile(self._pair, (len(numbers), 1))
        bits = (numbers.astype(np.uint64) ^ np.uint64(1 << 63)).astype(">u8")
        pairs[:, self._handle_at : self._handle_at + 8] = bits.view(np.uint8).reshape(-1, 8)
        low_bytes = (numbers * 2654435761 % 2**31).astype("<u4").view(np.uint8).reshape(-1, 4)
        pairs[:, self._number_at : self._number_at + 4] = low_bytes
        return pairs.tobytes()


def _handle(key: bytes) -> int:
    """Return the first handle at or above a key of the table."""
    if len(key) < 19:
        return 0 if key.endswith(b"_r") else 1 << 62
    handle = decode_record_key(key[:19]).handle  # type: ignore[arg-type]
    return int(handle) + (len(key) > 19)


@contextmanager
def _served(rows: int) -> Iterator[str]:
    """Serve the cluster in a separate process, and yield its address."""
    code = f"from tests.benchmark.first_load import serve; serve({rows})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield next(iter(process.stdout or ())).strip()
        finally:
            process.kill()


def serve(rows: int) -> None:
    """Serve the cluster until standard input ends."""
    with _Narrow(rows) as cluster:
        print(cluster.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
