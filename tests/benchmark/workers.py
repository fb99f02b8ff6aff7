"""The gain of a second process of a server for two concurrent callers.

tpch's lineitem, compacted, read and added up by two callers at the same time from a server of one
process and from one of two, by turns. Wall time until both are done is the best round's.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import Aggregate, Aggregation
from tests.benchmark.report import Line
from tests.support.pushed_cases import column
from tests.support.workloads import make_store, workload

ROUNDS = 15
CALLERS = 2
TABLE = "tpch.lineitem"
_SUM = Aggregation(aggregates=(Aggregate("sum", column("l_extendedprice")),))


def scan(api: TheFlash) -> None:
    """Four columns."""
    plan = api.plan(TABLE, ["l_quantity", "l_extendedprice", "l_discount", "l_shipdate"])
    for _ in api.read(plan):
        pass


def add_up(api: TheFlash) -> None:
    """A sum, done by the server."""
    for _ in api.read(api.plan(TABLE, aggregation=_SUM)):
        pass


def main() -> None:
    """Print the figures."""
    print(f"{CALLERS} callers at once: wall time by processes of the server (lower is better)")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as undo:
        store = make_store(workload("tpch"), Path(folder) / "store")
        with connect(store) as here:
            here.compact()
        callers = {
            workers: undo.enter_context(connected(store, Path(folder), workers))
            for workers in (1, 2)
        }
        threads = undo.enter_context(ThreadPoolExecutor(CALLERS))
        for name, work in (("four columns", scan), ("a sum", add_up)):
            walls = measure(threads, work, callers)
            for workers, wall in walls.items():
                beside = f"{walls[1] / wall:.2f} times as fast as one"
                Line(f"{name}, {workers} processes", f"{wall * 1000:.0f} ms", beside).show()


def measure(
    threads: ThreadPoolExecutor,
    work: Callable[[TheFlash], None],
    callers: dict[int, Sequence[TheFlash]],
) -> dict[int, float]:
    """The best wall time of each server, in seconds."""
    best = dict.fromkeys(callers, float("inf"))
    # The first rounds start a process that is not there yet.
    for _ in range(3 + ROUNDS):
        for workers, apis in callers.items():
            started = time.perf_counter()
            list(threads.map(work, apis))
            best[workers] = min(best[workers], time.perf_counter() - started)
    return best


@contextmanager
def connected(store: Path, folder: Path, workers: int) -> Iterator[Sequence[TheFlash]]:
    """Callers of a server of so many processes."""
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "serve", str(store)]
    command += ["--listen", f"unix:{folder}/{workers}.sock", "--workers", str(workers)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        ExitStack() as ends,
    ):
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        yield [ends.enter_context(connect(address)) for _ in range(CALLERS)]
        server.terminate()


if __name__ == "__main__":
    main()
