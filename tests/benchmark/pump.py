"""How fast TiDB can write its binlog here, each payload synced before it is acknowledged.

The peer is the floor: one process that writes and syncs payload by payload, without a network.
Payloads are prewrites of 300 bytes; writers wait for each answer, as TiDB's sessions do.
"""

import tempfile
import threading
import time
from pathlib import Path

from pyspark_theflash.binlog.spool import Spool
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.server.pump import PumpServer
from tests.benchmark.report import Line
from tests.support import binlog_writer
from tests.support.pump_client import PumpWriter

SECONDS = 1.5
WRITERS = (1, 8, 32)
PAYLOAD = binlog_writer.prewrite(1, b"v" * 300)


def main() -> None:
    """Print the figures."""
    print(f"pump: payloads of {len(PAYLOAD)} bytes, each durable before its answer")
    with tempfile.TemporaryDirectory() as folder:
        floor = _rate_of_spool(Path(folder) / "floor")
        Line("spool alone, one sync a payload", f"{floor:,.0f} payloads/s").show()
        for writers in WRITERS:
            rate = _rate_of_server(Path(folder) / f"spool{writers}", writers)
            Line(f"server, {writers} writers", f"{rate:,.0f} payloads/s").show()


def _rate_of_spool(folder: Path) -> float:
    spool = Spool(folder, LocalFileSystem())
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        spool.append([PAYLOAD])
        count += 1
    spool.close()
    return count / SECONDS


def _rate_of_server(folder: Path, writers: int) -> float:
    spool = Spool(folder, LocalFileSystem())
    server = PumpServer(spool, f"unix:{folder}.sock", clock=SystemClock())
    server.start()
    counts: list[int] = []
    threads = [
        threading.Thread(target=_write, args=(server.address, counts)) for _ in range(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop(0)
    spool.close()
    return sum(counts) / SECONDS


def _write(address: str, counts: list[int]) -> None:
    count = 0
    with PumpWriter(address) as writer:
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            writer.write(PAYLOAD)
            count += 1
    counts.append(count)


if __name__ == "__main__":
    main()
