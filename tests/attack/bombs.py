"""Input that is small on the wire and large in memory, and input without an end."""

import json
import socket
import ssl
from contextlib import suppress
from typing import Any

import pyarrow as pa

from pyspark_theflash.service.wire.frame import End, FrameType, Header, Request
from pyspark_theflash.service.wire.method import Role
from tests.attack.floods import flood
from tests.attack.harness import Target, attack, breach_if
from tests.attack.servers import ATTACKER, SMALL
from tests.support.raw_peer import (
    HTTP2_PREFACE,
    authenticate,
    http2_call,
    http2_data,
    http2_frame,
    last_error,
    receive,
)
from tests.support.serving import TOKENS
from tests.support.writes import latch

_RST_STREAM, _PING, _CONTINUATION = 3, 6, 9
_ENDLESS, _ENDLESS_FRAMES = 300, 8
"""Connections with endless headers, and the frames of each write."""


def _frame(type_: FrameType, body: bytes, *, is_json: bool = False) -> bytes:
    return Header(type_, 1, len(body), is_json).to_bytes() + body


def _answer(sock: socket.socket) -> str:
    """Receive the answer of call 1: the name of an error, or the frame's type."""
    received = receive(sock)
    if received is None:
        return "closed"
    header, body = received
    if header.type is not FrameType.ERROR:
        return header.type.name
    return str(json.loads(body)["name"]) if header.is_json else body[:40].decode("ascii", "replace")


def _compressed(rows: int, codec: str) -> bytes:
    """A stream of zeros, which takes some KiB."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"_handle": pa.array([0] * rows, pa.int64())})
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@attack("tcp", over=["frames"])
def compressed_rows(target: Target) -> str:
    """Write rows whose buffers are compressed."""
    with target.server.client(Role.WRITE) as api:
        held = latch(api, name="bomb")
        request = {
            "latches": [{"id": held.id, "token": str(held.token)}],
            "tables": [{"tableId": str(SMALL.id)}],
            "resolvedTs": "300",
        }
        rows = (16 if target.is_short else 128) << 17
        for codec in ("zstd", "lz4"):
            data = _compressed(rows, codec)
            with target.server.dial() as sock:
                authenticate(sock, TOKENS[Role.WRITE])
                body = Request("Write", 20_000, json.dumps(request).encode()).to_bytes()
                sock.sendall(_frame(FrameType.REQUEST, body, is_json=True))
                sock.sendall(_frame(FrameType.DATA, data))
                end = End(1, rows, len(data)).to_bytes()
                sock.sendall(_frame(FrameType.END, end))
                answer = _answer(sock)
            breach_if(answer != "CodecError", f"{codec}: {answer}")
        api.release_latch(held)
    return "2 codecs"


@attack("tcp", "unix", over=["frames"])
def declared_lengths(target: Target) -> str:
    """Declare bodies of up to 4 GiB."""
    token = ATTACKER if target.server.has_tokens else None
    for length in (8 << 20 | 1, 64 << 20, (1 << 31) - 1, (1 << 32) - 1):
        for type_ in (FrameType.REQUEST, FrameType.DATA, FrameType.CANCEL):
            with target.server.dial() as sock:
                authenticate(sock, token)
                sock.sendall(Header(type_, 1, length).to_bytes())
                name = last_error(sock)
                breach_if(name != "ProtocolError", f"{type_.name} of {length} bytes: {name}")
    return "12 lengths"


@attack("tcp", over=["frames"])
def nested_documents(target: Target) -> str:
    """Nest a request in JSON and in protobuf, 100,000 deep."""
    nested = b"\x2a\x02"
    for _ in range(12):
        nested = b"\x3a" + bytes([min(len(nested), 127)]) + nested[:127]
    bodies = {
        b'{"filter": ' * 100_000: True,
        b"[" * 1_000_000: True,
        b'{"filter": {"arguments": [' * 50_000: True,
        b"\x3a\xff\xff\xff\x0f" * 100_000: False,
        nested: False,
    }
    for body, is_json in bodies.items():
        with target.server.dial() as sock:
            authenticate(sock, ATTACKER)
            request = Request("PlanScan", 5_000, body).to_bytes()
            sock.sendall(_frame(FrameType.REQUEST, request, is_json=is_json))
            answer = _answer(sock)
            breach_if("Internal" in answer or answer == "RESPONSE", f"{body[:20]!r}: {answer}")
    return f"{len(bodies)} documents"


@attack("tcp", "mtls", "learn", "pump", over=["grpc", "flight", "engine", "pump"], is_load=True)
def rapid_resets(target: Target) -> str:
    """Start calls and reset them at once, 100 to a packet."""
    return _http2_load(
        target, lambda n: _call(target, n) + http2_frame(_RST_STREAM, 0, n, bytes(4))
    )


@attack("tcp", "learn", over=["grpc", "flight", "engine"], is_load=True, is_short=False)
def pings(target: Target) -> str:
    """Send PING frames without an end."""
    return _http2_load(target, lambda _: http2_frame(_PING, 0, 0, bytes(8)))


@attack("tcp", "mtls", over=["grpc", "flight"], is_load=True, is_short=False)
def endless_headers(target: Target) -> str:
    """Send header blocks that never end, on many connections that remain open."""
    return _endless(target, b"")


@attack("tcp", over=["grpc", "flight"], is_load=True, is_short=False)
def endless_headers_of_a_reader(target: Target) -> str:
    """The same after calls of a reader, whose messages never arrive."""
    token = (("authorization", f"Bearer {ATTACKER.value}"),)
    return _endless(target, b"".join(_call(target, n, token) for n in (1, 3, 5)))


def _endless(target: Target, calls: bytes) -> str:
    """Send a part of a block of each connection at a time, after some calls."""
    part = (b"\x00\x01a\x7e" + b"x" * 126) * 100
    more = http2_frame(_CONTINUATION, 0, 7, part) * _ENDLESS_FRAMES
    begin = HTTP2_PREFACE + calls + http2_frame(1, 0, 7, part)
    unsent: dict[Any, bytes] = {}
    opened = sent = 0
    try:
        while target.goes_on():
            with suppress(OSError):
                if len(unsent) < _ENDLESS:
                    sock = target.server.dial(target.protocol)
                    sock.setblocking(False)
                    unsent[sock] = begin
                    opened += 1
            for sock, data in list(unsent.items()):
                try:
                    size = sock.send(data)
                except (BlockingIOError, ssl.SSLWantWriteError):
                    continue
                except OSError:
                    del unsent[sock]
                    sock.close()
                    continue
                unsent[sock], sent = data[size:] or more, sent + size
        return f"{opened} opened, {len(unsent)} at the end, {sent >> 20} MiB"
    finally:
        for sock in unsent:
            sock.close()


@attack("tcp", over=["grpc", "flight"])
def declared_messages(target: Target) -> str:
    """Declare a message of 2 GiB in a call of a reader."""
    headers = (("authorization", f"Bearer {ATTACKER.value}"),)
    with target.server.dial(target.protocol) as sock:
        sock.sendall(HTTP2_PREFACE + http2_call(_path(target), headers))
        sock.sendall(http2_data((1 << 31) - 1, bytes(1 << 14)))
        sock.recv(1 << 16)
    return "1 call"


def _path(target: Target) -> str:
    return {
        "grpc": "/theflash.v1.TheFlash/GetStatus",
        "flight": "/arrow.flight.protocol.FlightService/DoAction",
        "engine": "/enginepb.Engine/ApplyCommandBatch",
        "pump": "/binlog.Pump/WriteBinlog",
    }[target.protocol]


def _call(target: Target, stream: int, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    return http2_call(_path(target), headers, stream)


def _http2_load(target: Target, frame: Any) -> str:
    """Send frames by their odd numbers on one connection after another."""

    def open_one() -> Any:
        with target.server.dial(target.protocol) as sock:
            sock.settimeout(1)
            sock.sendall(HTTP2_PREFACE)
            for start in range(1, 20_000, 200):
                if not target.goes_on():
                    break
                sock.sendall(b"".join(map(frame, range(start, start + 200, 2))))
        raise ConnectionResetError

    return flood(target, 1, open_one)
