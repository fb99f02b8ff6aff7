"""TheFlash API from both sides: requests, responses, and sealed tickets that callers return."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import NotCaughtUpError
from pyspark_theflash.base.types import Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.service.api import seal, token
from pyspark_theflash.service.api.error import decode_error, encode_error
from pyspark_theflash.service.api.limits import Limits, Usage
from pyspark_theflash.service.api.rows import RowStream
from pyspark_theflash.service.api.seal import (
    SealedScan,
    Sealer,
    Ticket,
    opened_handle,
    sealed_handle,
)
from pyspark_theflash.service.client.remote import Connection, RemoteTransport
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.server.session import ConnectionSession
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.frame import (
    PREFACE,
    End,
    FrameType,
    Header,
    Hello,
    Ready,
    Request,
    check_preface,
)
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.method import METHODS, SCAN, Method, Role
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.storage.engine.api import RegionScan
from pyspark_theflash.storage.engine.magic.layout import RegionFiles
from pyspark_theflash.storage.engine.magic.region import first_region
from pyspark_theflash.storage.store.latch.lease import ReadLease
from tests.fuzz.mutate import TEXT_WORDS, bytes_like, json_like
from tests.fuzz.run import Target

if TYPE_CHECKING:
    import socket

_LEASE = ReadLease("0123456789abcdef", TimeStamp(470 << 50), Generation(7), 600_000, False)
_SPLIT = message.Split(b"ticket", 108, 3, 1 << 40, 1 << 33)
_MESSAGES: tuple[Any, ...] = (
    message.Moment(470 << 50, 1000, 50, 60_000, b"handle"),
    message.Snapshot(b"handle", "id", 470 << 50, 60_000),
    message.Tables(9, (message.TableName(1, "d.t", 3, 1), message.TableName(-1, "é", 0, 0))),
    message.Table(1, "d.t", 9, (message.Column(1, "a", "LONGLONG", comment="x"),), b"schema"),
    message.PlanRequest(message.Moment(7), "d.t", ("a", "b"), where="a > 1"),
    message.Plan(message.Snapshot(b"h", "id", 9, 1), "d.t", b"schema", (_SPLIT, _SPLIT)),
    message.ScanRequest(b"ticket", dictionaries=True),
    message.Status("id", "magic", 4, writer=message.Process(1, "h", "p"), lag_ms=-5),
    message.Latches(None, (message.Latch("id", "read", 9, 3, -1),)),
    message.Error("NotCaughtUpError", "text", "[1, 2]", True),
)
_KINDS = tuple(sorted({type(m) for m in _MESSAGES}, key=lambda kind: kind.__name__))


def api_message(_: Path) -> Target:
    """Messages in protobuf's form; the first byte selects the message."""
    seeds = [bytes([_KINDS.index(type(m))]) + encode(m) for m in _MESSAGES]
    return Target(seeds, bytes_like(seeds), _decoding(as_json=False))


def api_json(_: Path) -> Target:
    """The same in JSON: of whichever class, an object has its fields or is refused."""
    bodies = [encode(m, as_json=True) for m in _MESSAGES]
    seeds = [bytes([_KINDS.index(type(m))]) + b for m, b in zip(_MESSAGES, bodies, strict=True)]
    changed = json_like([json.loads(body) for body in bodies])
    return Target(
        seeds, lambda rng: bytes([rng.randrange(len(_KINDS))]) + changed(rng), _decoding(True)
    )


def _decoding(as_json: bool) -> Callable[[bytes], object]:
    def parse(data: bytes) -> None:
        kind = _KINDS[(data[0] if data else 0) % len(_KINDS)]
        encode(decode(kind, data[1:], as_json=as_json), as_json=not as_json)

    return parse


def api_frame(_: Path) -> Target:
    """Heads and bodies of frames; the first byte selects the type."""
    takers: list[Callable[[bytes], object]] = [
        lambda data: Header.from_bytes(data.ljust(12, b"\0")[:12], 1 << 20),
        Hello.from_bytes,
        Ready.from_bytes,
        _read_request,
        End.from_bytes,
        lambda data: check_preface(data.ljust(len(PREFACE))[: len(PREFACE)]),
    ]
    bodies = [
        Header(FrameType.DATA, 3, 1000, is_json=True).to_bytes(),
        Hello(needs_token=True, nonce=bytes(range(32))).to_bytes(),
        Ready(Role.WRITE, "store é").to_bytes(),
        Request("PlanScan", 5000, b"body").to_bytes(),
        End(1, 2, 3).to_bytes(),
        PREFACE,
    ]
    seeds = [bytes([n]) + body for n, body in enumerate(bodies)]

    def parse(data: bytes) -> None:
        takers[(data[0] if data else 0) % len(takers)](data[1:])

    return Target(seeds, bytes_like(seeds), parse)


def served_connection(_: Path) -> Target:
    """The bytes that a caller sends on a connection."""
    calls = [("GetStatus", message.StatusRequest()), ("Scan", message.ScanRequest(b"ticket"))]
    calls += [("PlanScan", m) for m in _MESSAGES if isinstance(m, message.PlanRequest)]
    frames = [_frame(FrameType.AUTH, b"")]
    frames += [
        _frame(FrameType.REQUEST, Request(name, 1000, encode(request)).to_bytes())
        for name, request in calls
    ]
    list_tables = Request("ListTables", 0, b'{"moment": {"snapshot_ts": "7"}}').to_bytes()
    frames += [_frame(FrameType.REQUEST, list_tables, is_json=True), _frame(FrameType.CANCEL, b"")]
    seeds = [PREFACE + b"".join(frames), PREFACE + frames[0] + frames[2]]

    def parse(data: bytes) -> None:
        link = cast("Link", _HeardLink(data))
        service = cast("Any", _EmptyService())
        ConnectionSession(
            link, service, None, clock=SystemClock(), address="fuzz", timeouts=Timeouts()
        ).run()

    return Target(seeds, bytes_like(seeds), parse)


def server_answer(_: Path) -> Target:
    """The bytes that a server sends for a call, or for a scan if the first byte is odd."""
    hello, ready = Hello(needs_token=False, nonce=bytes(32)), Ready(Role.READ, "id")
    greeting = _frame(FrameType.HELLO, hello.to_bytes()) + _frame(FrameType.READY, ready.to_bytes())
    status = encode(message.Status("id", "magic"))
    batch = pa.record_batch({"a": [1, 2, None], "s": ["x", None, "é"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    error = encode(encode_error(NotCaughtUpError(TimeStamp(1), TimeStamp(2))))
    rows = [_frame(FrameType.DATA, stream[:100], 1), _frame(FrameType.DATA, stream[100:], 1)]
    end = _frame(FrameType.END, End(1, 3, len(stream)).to_bytes(), 1)
    seeds = [
        b"\0"
        + greeting
        + _frame(FrameType.RESPONSE, status, 1)
        + _frame(FrameType.END, bytes(24), 1),
        b"\1" + greeting + b"".join(rows) + end,
    ]
    wrong = b"\0" + greeting + _frame(FrameType.ERROR, error, 1)

    def parse(data: bytes) -> None:
        transport = _AnsweredTransport(data[1:])
        if not data or not data[0] % 2:
            transport.call(METHODS["GetStatus"], message.StatusRequest(), 1000)
            return
        with transport.scan(SCAN, message.ScanRequest(b"ticket"), 1000) as rows:
            rows.read_all()

    return Target(seeds, bytes_like([*seeds, wrong]), parse)


def error_messages(_: Path) -> Target:
    """Errors that a server sends: decoded to a class of this package, never to another one."""
    encoded = encode_error(NotCaughtUpError(TimeStamp(1), TimeStamp(2)))
    documents = [[encoded.name, encoded.text, json.loads(encoded.arguments), encoded.retryable]]
    documents += [["RoleError", "text", ["Compact", "admin", "read"], False], ["os", "", [], True]]

    def parse(data: bytes) -> None:
        with suppress(ValueError, TypeError, RecursionError):
            name, text, arguments, retryable = json.loads(data)
            shown = arguments if isinstance(arguments, str) else json.dumps(arguments)
            error = message.Error(str(name), str(text), shown, bool(retryable))
            # JSON may contain text that UTF-8 cannot encode.
            heard = decode(message.Error, encode(error)) if error.text.isascii() else error
            str(decode_error(heard, "fuzz"))

    return Target([json.dumps(d).encode() for d in documents], json_like(documents), parse)


def sealed_ticket(_: Path) -> Target:
    """Tickets and handles with any content, sealed with the right key."""
    key = bytes(32)
    sealer = Sealer(key)
    shape = SealedScan("d.t", ("a",), "a > 1", "raise", False, message.PlanRequest())
    table = PhysicalTableID(108)
    region = RegionScan(table, RegionID(3), RegionFiles(first_region(table), ()), "overlay")
    bodies = [
        Ticket("id", _LEASE, shape, region).sealed(sealer),
        sealed_handle("id", _LEASE, "", sealer),
    ]
    documents = [json.loads(body[2:-32]) for body in bodies]
    seeds = [b"\1" + bodies[0][2:-32], b"\2" + bodies[1][2:-32]]
    changed = json_like(documents)

    def parse(data: bytes) -> None:
        purpose = seal.Purpose.HANDLE if data[:1] == b"\2" else seal.Purpose.TICKET
        body = bytes([1, purpose]) + data[1:]
        whole = body + seal._mac(key, body)
        if purpose is seal.Purpose.TICKET:
            Ticket.opened(whole, sealer, "magic")
        else:
            opened_handle(whole, "", sealer)

    return Target(seeds, lambda rng: bytes([rng.randrange(1, 3)]) + changed(rng), parse)


def tokens_file(_: Path) -> Target:
    seeds = [
        b"read 0123456789abcdef # a comment\n\nadmin sha256d:" + b"ab" * 32 + b"\n",
        b"write ________________________________",
    ]
    words = (*TEXT_WORDS, b"#", b"read ", b"admin ", b"sha256d:", b"\r")
    return Target(
        seeds, bytes_like(seeds, words), lambda data: token._parse(data.decode("ascii", "replace"))
    )


def _read_request(data: bytes) -> object:
    source = io.BytesIO(data)
    return Request.read(Header(FrameType.REQUEST, 1, len(data)), source.read)


def _frame(type_: FrameType, body: bytes, call: int = 0, *, is_json: bool = False) -> bytes:
    return Header(type_, call, len(body), is_json).to_bytes() + body


class _HeardLink(Link):
    """A connection with fixed input, whose output is discarded."""

    def __init__(self, data: bytes) -> None:
        super().__init__(cast("socket.socket", None), SystemClock())
        self._data, self._at = data, 0

    def receive_into(self, view: memoryview, timeout_ms: int) -> None:
        if self._at + len(view) > len(self._data):
            raise EOFError("the connection was closed")
        view.cast("B")[:] = self._data[self._at : self._at + len(view)]
        self._at += len(view)

    def has_input(self) -> bool:
        return False

    def send(self, parts: Any, timeout_ms: int) -> None:
        pass

    def close(self) -> None:
        pass

    def close_gently(self) -> None:
        pass


class _EmptyService:
    """Answers every call, with nothing."""

    store_id = "id"
    usage = Usage(Limits(), "fuzz")

    def answer(self, called: Method, *_: object) -> object:
        if called.gives_rows:
            return RowStream(pa.schema([]), (b for b in ()))
        return called.response()

    def writer_gone(self, latch_id: str) -> None:
        pass


class _AnsweredTransport(RemoteTransport):
    """A transport to a server with the same response to every request."""

    def __init__(self, data: bytes) -> None:
        super().__init__("localhost:1", clock=SystemClock())
        self._data = data

    def _opened(self) -> Connection:
        return _AnsweredConnection(self._data)


class _AnsweredConnection(Connection):
    def __init__(self, data: bytes) -> None:
        self.address, self._clock = "fuzz", SystemClock()
        self._calls, self.is_usable = 0, False
        self._link = _HeardLink(data)
        self._greet(None)
        self.is_usable = True
