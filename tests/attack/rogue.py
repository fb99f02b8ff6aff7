"""A server that attacks its clients."""

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pyarrow as pa

from pyspark_theflash.service.wire.frame import PREFACE, End, FrameType, Header, Hello, Ready
from pyspark_theflash.service.wire.message import Plan, Snapshot, Split
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.service.wire.protobuf import encode
from tests.attack.harness import BreachError, Target, attack, breach_if, run_command
from tests.support.raw_peer import receive

CLIENT_MIB = 512
END_S = 300
CLIENT = """
import sys
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.service.client.theflash import connect
for address in sys.argv[1:]:
    try:
        with connect(f"theflash://{address}") as api:
            rows = sum(batch.num_rows for batch in api.read(api.plan("a.b", timeout_ms=3000)))
            print("rows", rows)
    except TheFlashError as error:
        print(type(error).__name__)
"""
SPARK_MIB, SPARK_S = 1_024, 180
SPARK = """
import re, sys
from pyspark.sql import SparkSession
from pyspark_theflash.spark.jar import configure_spark
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
builder = builder.config("spark.driver.memory", "512m")
spark = configure_spark(builder).getOrCreate()
for address in sys.argv[1:]:
    try:
        options = {"store": f"theflash://{address}", "table": "a.b"}
        print("answer:", spark.read.format("theflash").options(**options).load().count())
    except Exception as error:
        print("answer:", re.search(r"\\w+(Error|Exception)(?=: )", str(error))[0])
"""
SCHEMA = pa.schema([("x", pa.int64())])
Behaviour = Callable[[socket.socket], None]


def _frame(type_: FrameType, body: bytes, call: int = 1) -> bytes:
    return Header(type_, call, len(body)).to_bytes() + body


def _greet(sock: socket.socket) -> None:
    sock.recv(len(PREFACE))
    sock.sendall(_frame(FrameType.HELLO, Hello(False, bytes(32)).to_bytes(), 0))
    receive(sock)
    sock.sendall(_frame(FrameType.READY, Ready(Role.ADMIN, "store").to_bytes(), 0))


def _planned(sock: socket.socket, schema: bytes = b"") -> int:
    """Answer a plan, and return the number of the call that scans it."""
    schema = schema or SCHEMA.serialize().to_pybytes()
    _greet(sock)
    receive(sock)
    plan = Plan(Snapshot(b"h", "id", 1, 60_000), "a.b", schema, (Split(b"ticket"),), 1)
    sock.sendall(_frame(FrameType.RESPONSE, encode(plan)))
    sock.sendall(_frame(FrameType.END, End().to_bytes()))
    received = receive(sock)
    assert received is not None
    return received[0].call


def _stream(data: bytes, rows: int) -> Behaviour:
    def answer(sock: socket.socket) -> None:
        call = _planned(sock)
        for at in range(0, len(data), 1 << 20):
            sock.sendall(_frame(FrameType.DATA, data[at : at + (1 << 20)], call))
        sock.sendall(_frame(FrameType.END, End(1, rows, len(data)).to_bytes(), call))
        sock.recv(100)

    return answer


def _compressed(rows: int) -> bytes:
    """A batch of 100 columns of zeros."""
    column = pa.nulls(rows, pa.int64()).fill_null(0)
    batch = pa.record_batch([column] * 100, [f"x{n}" for n in range(100)])
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _declared(sock: socket.socket) -> None:
    """A message of Arrow that declares 1 GB."""
    call = _planned(sock)
    body = b"\xff\xff\xff\xff" + (1 << 30).to_bytes(4, "little")
    sock.sendall(_frame(FrameType.DATA, body, call))
    sock.recv(100)


def _endless(sock: socket.socket) -> None:
    call = _planned(sock)
    with pa.BufferOutputStream() as sink, pa.ipc.new_stream(sink, SCHEMA):
        sock.sendall(_frame(FrameType.DATA, sink.getvalue().to_pybytes()[:-8], call))
    while True:
        sock.sendall(_frame(FrameType.DATA, b"\x01" * (1 << 20), call))


def _large_answer(sock: socket.socket) -> None:
    _greet(sock)
    receive(sock)
    sock.sendall(Header(FrameType.RESPONSE, 1, (1 << 32) - 1).to_bytes())
    with suppress(OSError):
        while True:
            sock.sendall(bytes(1 << 20))


def _nested_answer(sock: socket.socket) -> None:
    _greet(sock)
    receive(sock)
    sock.sendall(_frame(FrameType.RESPONSE, b"\x0a\xff\xff\xff\x07" * 1_000_000))
    sock.sendall(_frame(FrameType.END, End().to_bytes()))


def _silence(sock: socket.socket) -> None:
    _greet(sock)
    sock.recv(1 << 16)
    sock.settimeout(END_S)
    sock.recv(1)


BEHAVIOURS: dict[str, Behaviour] = {
    "a large greeting": lambda sock: sock.sendall(Header(FrameType.HELLO, 0, 2**31).to_bytes()),
    "another protocol": lambda sock: sock.sendall(b"HTTP/1.1 400 Bad\r\n\r\n"),
    "a large answer": _large_answer,
    "a nested answer": _nested_answer,
    "a large declared message": _declared,
    "rows without an end": _endless,
    "no answer": _silence,
}


@contextmanager
def _serving(behave: Behaviour) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with suppress(OSError, AssertionError):
                    sock, _ = listener.accept()
                    with sock:
                        sock.settimeout(10)
                        behave(sock)
                        sock.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


def _outcomes(behaviours: Iterable[Behaviour]) -> str:
    """Connect to each server in one process; return its output."""
    with ExitStack() as undo:
        addresses = [undo.enter_context(_serving(behave)) for behave in behaviours]
        ran = run_command([sys.executable, "-c", CLIENT, *addresses], END_S)
    words = ran.output.split()
    if ran.status is None:
        raise BreachError("the client does not end")
    breach_if(
        ran.status or len(words) != len(addresses), f"status {ran.status}: {ran.output[-200:]}"
    )
    breach_if(ran.memory_mib > CLIENT_MIB, f"the client needs {ran.memory_mib} MiB")
    return f"{', '.join(words)} ({ran.memory_mib} MiB)"


@attack("commands", over=["client"])
def answers_of_a_rogue_server(target: Target) -> str:
    """Answer a client with everything but the protocol."""
    return _outcomes(BEHAVIOURS.values())


@attack("commands", over=["client"])
def compressed_answers(target: Target) -> str:
    """Send rows that are 50 KB compressed and 1.7 GB decompressed."""
    rows = 100_000 if target.is_short else 2_100_000
    data = _compressed(rows)
    return f"{len(data)} bytes: {_outcomes([_stream(data, rows)])}"


@attack("commands", over=["client"], is_short=False)
def answers_to_the_jar(target: Target) -> str:
    """Answer Spark's jar with everything but the protocol."""
    names = ("a large greeting", "another protocol", "a large answer", "a nested answer")
    with ExitStack() as undo:
        addresses = [undo.enter_context(_serving(BEHAVIOURS[name])) for name in names]
        ran = run_command([sys.executable, "-c", SPARK, *addresses], SPARK_S)
    outcomes = [line for line in ran.output.splitlines() if line.startswith("answer: ")]
    breach_if(len(outcomes) < len(names), f"status {ran.status}: {ran.output[-300:]}")
    breach_if(set(outcomes) != {"answer: ProtocolError"}, "; ".join(outcomes))
    breach_if(ran.memory_mib > SPARK_MIB, f"Spark needs {ran.memory_mib} MiB")
    return f"{len(names)} answers ({ran.memory_mib} MiB)"
