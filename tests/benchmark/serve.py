"""Rows and short calls between a server and a client: our frames against Flight and gRPC.

The rows are tpch's lineitem, compacted; the short call is GetStatus. The server is one process,
over loopback with a token; all transports read the same tickets of the same plans. Wall time is the
best round's; CPU time is that of client and server together, over all rounds.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import Plan
from pyspark_theflash.service.wire.method import Role
from tests.benchmark.report import Line
from tests.support.flight_client import FlightTransport
from tests.support.grpc_client import GrpcTransport
from tests.support.serving import TOKENS, write_tokens
from tests.support.workloads import make_store, workload

ROUNDS = 9
CALLS = 300
QUERIES = {
    "all columns": None,
    "four columns": ["l_quantity", "l_extendedprice", "l_discount", "l_shipdate"],
    "two texts": ["l_shipmode", "l_returnflag"],
    "one key": ["l_orderkey"],
}
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the figures."""
    print("lineitem from a server: wall and CPU time of a scan (lower is better)")
    with tempfile.TemporaryDirectory() as folder, connect_all(Path(folder)) as (ways, pid):
        for name, columns in QUERIES.items():
            plan = ways["frames"].plan("tpch.lineitem", columns)
            scanning = {way: api for way, api in ways.items() if way != "grpc"}
            measured = {way: measure(way, api, plan, pid) for way, api in scanning.items()}
            base = measured["flight"]
            for way, (wall, cpu) in measured.items():
                beside = f"{wall / base[0]:.2f} of Flight's wall, {cpu / base[1]:.2f} of its CPU"
                figure = f"{wall * 1000:.0f} ms, CPU {cpu * 1000:.0f} ms"
                Line(f"{name}, {way}", figure, beside).show()
        base_ms = 0.0
        for way in ("grpc", "flight", "frames"):
            wall_ms = status_ms(ways[way])
            base_ms = base_ms or wall_ms
            Line(f"status, {way}", f"{wall_ms:.2f} ms", f"{wall_ms / base_ms:.2f} of gRPC's").show()


def status_ms(api: TheFlash) -> float:
    """Median wall time of a GetStatus call, in milliseconds."""
    walls = []
    for _ in range(CALLS):
        started = time.perf_counter()
        api.status()
        walls.append(time.perf_counter() - started)
    return statistics.median(walls) * 1000


def measure(way: str, api: TheFlash, plan: Plan, pid: int) -> tuple[float, float]:
    """Best wall time and mean CPU time of a scan, in seconds."""
    walls = []
    before = cpu_seconds(pid)
    for _ in range(ROUNDS):
        started = time.perf_counter()
        rows = sum(b.num_rows for b in api.read(plan, dictionaries=way == "frames, dictionaries"))
        walls.append(time.perf_counter() - started)
        assert rows
    return min(walls), (cpu_seconds(pid) - before) / ROUNDS


def cpu_seconds(pid: int) -> float:
    """CPU time of this process and another one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def connect_all(folder: Path) -> Iterator[tuple[dict[str, TheFlash], int]]:
    """A server, the ways to it, and its process."""
    store = make_store(workload("tpch"), folder / "store")
    with connect(store) as here:
        here.compact()
    tokens = write_tokens(folder / "tokens")
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "serve", str(store)]
    command += ["--listen", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--tokens", str(tokens)]
    command += ["--grpc", "127.0.0.1:0", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        flight_address = server.stdout.readline().split()[-1]
        grpc_address = server.stdout.readline().split()[-1]
        address = f"theflash://{server.stdout.readline().split()[-1]}"
        token = TOKENS[Role.READ]
        with connect(address, token=token) as frames:
            flight = TheFlash(FlightTransport(flight_address, token.value))
            grpc = TheFlash(GrpcTransport(grpc_address, token.value))
            framed = {"frames": frames, "frames, dictionaries": frames}
            yield {**framed, "flight": flight, "grpc": grpc}, server.pid
            grpc.close()
            flight.close()
        server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    print(f"pyarrow {pa.__version__}, {os.cpu_count()} cores")
    main()
