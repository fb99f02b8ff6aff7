"""The speed of a pump, which syncs each payload before it acknowledges it.

The peer is a server of gRPC whose handler does nothing, in the same run: `times` is how much longer
the pump takes for a payload. Both run in processes of their own, in turns; 32 writers of another
process wait for each answer, as TiDB's sessions do. Payloads are prewrites of 300 bytes.
"""

import statistics
import tempfile
import threading
import time
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.pump.server import PumpServer
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.pump.wire import PUMP_SERVICE, encode_write_response
from tests.benchmark.report import Line, interval
from tests.benchmark.served import Served, serving, tell
from tests.support import binlog_writer
from tests.support.pump_client import PumpWriter

ROUNDS = 9
SECONDS = 1.0
WRITERS = (1, 32)
PAYLOAD = binlog_writer.prewrite(1, binlog_writer.row_value(300))


def main() -> None:
    """Print the figures."""
    print(f"pump: payloads of {len(PAYLOAD)} bytes, each durable before its answer")
    with tempfile.TemporaryDirectory() as folder:
        spool = statistics.median(_rate_of_spool(Path(folder, f"{n}")) for n in range(ROUNDS))
        Line("spool alone, one sync a payload", f"{spool:,.0f} payloads/s").show()
        with serving(_empty, Path(folder)) as empty, serving(_pump, Path(folder)) as pump:
            for writers in WRITERS:
                _compare(empty, pump, writers)


def _compare(empty: Served, pump: Served, writers: int) -> None:
    rates, costs = ([], []), ([], [])
    for _ in range(ROUNDS):
        for place, server in enumerate((empty, pump)):
            before_s = server.cpu_s()
            count = _count(server.address, writers)
            rates[place].append(count / SECONDS)
            costs[place].append((server.cpu_s() - before_s) / count)
    times = interval(a / b for a, b in zip(*rates, strict=True))
    cpu = interval(b / a for a, b in zip(*costs, strict=True))
    figure = f"{statistics.median(rates[1]):,.0f} payloads/s"
    beside = f"empty {statistics.median(rates[0]):,.0f}; times {times}, of CPU {cpu}"
    Line(f"{writers} writers", figure, beside).show()


def _rate_of_spool(folder: Path) -> float:
    spool = Spool(folder, LocalFileSystem())
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS / 4:
        spool.append([PAYLOAD])
        count += 1
    spool.close()
    return count / (time.perf_counter() - started)


def _empty(pipe: Connection, folder: Path) -> None:
    """Serve calls that do nothing."""
    answer = encode_write_response("")
    server = grpc.server(futures.ThreadPoolExecutor(32))
    calls = {"WriteBinlog": grpc.unary_unary_rpc_method_handler(lambda _, __: answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PUMP_SERVICE, calls),))
    address = f"unix:{folder}/empty.sock"
    server.add_insecure_port(address)
    server.start()
    tell(pipe, address)
    server.stop(None).wait()


def _pump(pipe: Connection, folder: Path) -> None:
    """Serve a pump."""
    spool = Spool(folder / "served", LocalFileSystem())
    server = PumpServer(spool, f"unix:{folder}/pump.sock", clock=SystemClock())
    server.start()
    tell(pipe, server.address)
    server.stop(0)
    spool.close()


def _count(address: str, writers: int) -> int:
    """Return the number of acknowledged payloads."""
    counts: list[int] = []
    threads = [threading.Thread(target=_write, args=(address, counts)) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def _write(address: str, counts: list[int]) -> None:
    count = 0
    with PumpWriter(address) as writer:
        writer.write(PAYLOAD)
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            if writer.write(PAYLOAD):
                raise ValueError("the pump refused a payload")
            count += 1
    counts.append(count)


if __name__ == "__main__":
    main()
