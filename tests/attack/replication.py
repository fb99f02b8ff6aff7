"""TiDB's and TiKV's side: forged binlogs and snapshots, large messages, strangers."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.replication.pump.wire import WriteBinlogRequest, decode_write_response
from pyspark_theflash.replication.source.prewrite import INSERT
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import OLDEST_TS
from pyspark_theflash.tidb.codec.datum import DatumFlag
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.attack.floods import flood
from tests.attack.harness import BreachError, Target, attack, breach_if, run_command
from tests.support.binlog_writer import commit, prewrite, prewrite_value
from tests.support.engine_client import EngineClient
from tests.support.learn_command import write_schema
from tests.support.processes import CLOCK
from tests.support.pump_client import CLUSTER, WRITE_BINLOG, PumpWriter
from tests.support.raft_cluster import Ends, cluster_of
from tests.support.raft_tikv import FakeRaftCluster
from tests.support.raw_peer import HTTP2_PREFACE, http2_call, http2_data, http2_frame
from tests.support.serving import command
from tests.support.tls import FOLDER

BIG_MIB = 500
_PART = 16_000
"""The size of a frame of HTTP/2."""
TRANSACTION_S = 60
START_S = 120
"""The time after which a command that should be rejected is taken to run."""


def _outcomes(address: str, send: Callable[[grpc.Channel], str], count: int) -> list[str]:
    """Send `count` times at the same time; return the results and the codes of errors."""

    def outcome(_: int) -> str:
        with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
            try:
                return send(channel)
            except grpc.RpcError as error:
                return str(error.code().name)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(outcome, range(count)))


@attack("pump", over=["pump"])
def prewrites_that_cannot_be_applied(target: Target) -> str:
    """Send prewrites whose values are no PrewriteValue; the writer must outlive them."""
    values = (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"{}", bytes(100))
    with PumpWriter(target.server.addresses["pump"]) as writer:
        for number, value in enumerate(values):
            start_ts = (1 << 60) + (number << 20)
            answer = writer.write(prewrite(start_ts, value))
            breach_if(not answer, f"a prewrite of {value[:8]!r} is acknowledged")
            writer.write(commit(start_ts, start_ts + 1))
        for garbage in (b"\xff\xff", b"\x0a\xff\xff\xff\xff\x0f"):
            breach_if(not writer.write(garbage), f"{garbage!r} is acknowledged")
    CLOCK.sleep_ms(1_000)
    breach_if(not target.server.is_alive, f"the writer has ended: {target.server.log[-300:]}")
    return f"{len(values) + 2} messages"


@attack("pump", over=["pump"], is_load=True, is_short=False)
def large_binlogs(target: Target) -> str:
    """Send messages of 500 MiB, six at a time."""
    address = target.server.addresses["pump"]
    body = WriteBinlogRequest(CLUSTER, bytes(BIG_MIB << 20)).to_bytes()

    def send(channel: grpc.Channel) -> str:
        return decode_write_response(channel.unary_unary(WRITE_BINLOG)(body, timeout=30))[:60]

    outcomes = _outcomes(address, send, 6)
    breach_if("" in outcomes, "a message of 500 MiB is acknowledged")
    return ", ".join(sorted(set(outcomes)))


@attack("pump", over=["pump"], is_load=True, is_short=False)
def large_transactions(target: Target) -> str:
    """Send valid prewrites of 120 MiB, six at a time, and each again until it is acknowledged."""
    row = bytes([DatumFlag.VARINT]) + bytes(1 << 20)
    value = prewrite_value(1, {7: [(INSERT, row)] * 120})
    now_ts = from_physical_ms(CLOCK.wall_ms())
    address, refused = target.server.addresses["pump"], 0

    def send(number: int) -> None:
        nonlocal refused
        message = prewrite(now_ts + number, value)
        with PumpWriter(address) as writer:
            while answer := writer.write(message, TRANSACTION_S):
                breach_if("try again" not in answer, answer)
                refused += 1
                CLOCK.sleep_ms(200)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(send, range(6)))
    return f"6 acknowledged, {refused} told to try again"


@attack("learn", over=["engine"], is_load=True, is_short=False)
def large_snapshots(target: Target) -> str:
    """Send chunks of 120 MiB, eight at a time, again and again, and heed neither window nor answer.

    One of gRPC's own calls shows the answer. It is not repeated, since gRPC copies each message
    before it sends any, which takes the processor from the reader beside it.
    """
    size = 120 << 20
    address = target.server.addresses["engine"]

    def send(channel: grpc.Channel) -> str:
        call = channel.stream_unary("/enginepb.Engine/ApplySnapshot")
        call(iter([bytes(size)]), timeout=30)
        return "done"

    outcomes = _outcomes(address, send, 1)
    breach_if("done" in outcomes, "a snapshot of zeros is applied")
    begin = HTTP2_PREFACE + http2_call("/enginepb.Engine/ApplySnapshot")
    begin += http2_data(size, bytes(_PART))
    more = http2_frame(0, 0, 1, bytes(_PART))

    def open_one() -> socket.socket:
        sock = target.server.dial("engine")
        with suppress(OSError):  # the server has ended it, which `flood` notices
            sock.settimeout(1)
            sock.sendall(begin)
            for _ in range(size // _PART):
                sock.sendall(more)
        return sock

    return f"{', '.join(outcomes)}; {flood(target, 8, open_one)}"


@attack("learn", over=["engine"])
def forged_commands(target: Target) -> str:
    """Send commands and snapshots that are no messages, or none of a known region."""
    payloads = (b"", b"\xff" * 100, b"\x0a\x02\x08\x01", os.urandom(1000), b"\x0a\xff\xff\xff\x7f")
    with EngineClient(target.server.addresses["engine"]) as client:
        for payload in payloads:
            with suppress(grpc.RpcError):
                client.install([payload], 10)
                raise BreachError(f"a snapshot of {payload[:8]!r} is applied")
        for payload in payloads[1:]:
            stream = client.commands(10)
            with suppress(grpc.RpcError, StopIteration):
                stream.send(payload)
            stream.close()
    return f"{2 * len(payloads) - 1} messages"


def _schema(folder: Path) -> str:
    history = SchemaHistory(OLDEST_TS, TimeStamp(1 << 62), (), ())
    return f"file:{write_schema(folder / 'schema.json', history, 1 << 62)}"


def _rejected(target: Target, arguments: list[object]) -> str:
    """Start a command that must not listen; return its error."""
    ran = run_command(command(*arguments), START_S)
    breach_if(ran.status is None, f"it listens: {' '.join(map(str, arguments[2:]))}")
    breach_if(ran.status != 2, f"status {ran.status}: {ran.output[-200:]}")
    return ran.output.strip().splitlines()[-1][-160:]


def _files(*names: str) -> list[object]:
    files = {"ca": "ca.pem", "cert": "server.pem", "key": "server.key"}
    return [word for name in names for word in (f"--{name}", FOLDER / files[name])]


@attack("commands", over=["pump"])
def pumps_without_authentication(target: Target) -> str:
    """Have a writer listen on TCP, where any local user could send binlog."""
    store = target.folder / "store"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    plain = ["writer", store, "--schema", _schema(target.folder)]
    plain += ["--source", "pump-server:127.0.0.1:0"]
    texts = [_rejected(target, plain)]
    if not target.is_short:
        texts.append(_rejected(target, [*plain, *_files("ca", "cert", "key")]))
        everywhere = [*plain[:-1], "pump-server:0.0.0.0:0"]
        texts.append(_rejected(target, everywhere))
    return "; ".join(texts)


@attack("commands", over=["engine"])
def learners_without_authentication(target: Target) -> str:
    """Have a learner listen on TCP, where any local user could send rows."""
    store = target.folder / "store"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    with cluster_of(FakeRaftCluster(), Ends({}, 0)) as cluster:
        plain = ["learn", store, "--pd", cluster.pd.address, "--schema", _schema(target.folder)]
        plain += ["--listen", "127.0.0.1:0"]
        texts = [_rejected(target, plain)]
        if not target.is_short:
            texts.append(_rejected(target, [*plain[:-1], "0.0.0.0:0"]))
    return "; ".join(texts)
