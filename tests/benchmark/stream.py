"""The processor time of a raft command that is sent alone, over a connection.

The peer is a gRPC stream whose handler does nothing, in the same run: `times` is how much longer
the learner takes for a command, from sending it to its answer. Both run in processes of their own,
in turns; the sender waits for each answer, as where little is written. Commands are those of
`benchmark.raft`, each of a transaction with one row.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.protocol._generated.kvproto import enginepb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tikv.server import EngineServer
from pyspark_theflash.tikv.wire import SERVICE
from tests.benchmark.raft import command_batches, learning, lineitem_rows
from tests.benchmark.report import Line, interval
from tests.benchmark.served import Served, serving, tell
from tests.support.engine_client import APPLY_COMMAND_BATCH
from tests.support.raft_tikv import batch
from tests.support.workloads import workload

ROUNDS = 15
COMMANDS = 1000
TARGET = 1.5


def main() -> None:
    """Print the figures."""
    history = read_schema_file(workload("tpch").schema)
    rows = ROUNDS * COMMANDS // 2
    chosen = argparse.Namespace(rows=rows, transaction=1)
    whole = command_batches(history, lineitem_rows(), chosen, 1)
    lone = [request for data in whole for request in _apart(data)]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(_empty, Path(folder)) as empty,
        serving(_learner, Path(folder)) as learner,
    ):
        _compare(empty, learner, lone)


def _apart(data: bytes) -> Iterator[bytes]:
    """A batch of commands as batches of one."""
    for command in enginepb_pb2.CommandRequestBatch.FromString(data).requests:
        yield batch([command.SerializeToString()])


def _compare(empty: Served, learner: Served, commands: list[bytes]) -> None:
    spent, costs = ([], []), ([], [])
    with _Sender(empty.address) as to_empty, _Sender(learner.address) as to_learner:
        for start in range(0, len(commands), COMMANDS):
            part = commands[start : start + COMMANDS]
            for place, (server, sender) in enumerate(((empty, to_empty), (learner, to_learner))):
                before_s, started = server.cpu_s(), time.perf_counter()
                for command in part:
                    sender.send(command)
                spent[place].append((time.perf_counter() - started) / len(part))
                costs[place].append((server.cpu_s() - before_s) / len(part))
    for name, (theirs, ours) in (("from sending to its answer", spent), ("of CPU", costs)):
        times = interval(b / a for a, b in zip(theirs, ours, strict=True))
        figure = f"{statistics.median(ours) * 1e6:.0f} us"
        beside = f"empty {statistics.median(theirs) * 1e6:.0f} us; times {times}, at most {TARGET}"
        Line(f"a command alone, {name}", figure, beside).show()


class _Sender:
    """A stream of commands, each of which waits for the answer to the one before."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        call: Any = self._channel.stream_stream(APPLY_COMMAND_BATCH)
        self._answers = call(iter(self._requests.get, None))

    def send(self, command: bytes) -> None:
        self._requests.put(command)
        next(self._answers)

    def __enter__(self) -> "_Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        for _answer in self._answers:
            pass
        self._channel.close()


def _empty(pipe: Connection, folder: Path) -> None:
    """Serve a stream of calls that do nothing."""

    def answer(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for _request in requests:
            yield b""

    server = grpc.server(futures.ThreadPoolExecutor(32))
    calls = {"ApplyCommandBatch": grpc.stream_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
    address = f"unix:{folder}/empty.sock"
    server.add_insecure_port(address)
    server.start()
    tell(pipe, address)
    server.stop(None).wait()


def _learner(pipe: Connection, folder: Path) -> None:
    """Serve a learner that flushes only on request."""
    history = read_schema_file(workload("tpch").schema)
    with learning(history, 1) as (learner, _):
        server = EngineServer(learner, f"unix:{folder}/learner.sock", clock=SystemClock())
        server.start()
        tell(pipe, server.address)
        server.stop()


if __name__ == "__main__":
    main()
