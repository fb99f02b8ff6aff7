"""The rows of a write on a bare socket: cut, changed, too many, or not permitted."""

import resource
import struct
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import RoleError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.wire import protobuf as wire
from pyspark_theflash.service.wire.frame import DATA_BYTES_MAX, End, FrameType, Header, Request
from pyspark_theflash.service.wire.message import Error, StatusRequest, WriteRequest
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import id_column, table_info
from tests.support.serving import CLOCK, TOKENS, serving, tokens
from tests.support.writes import latch, request, schema_change, versions, write
from tests.unit.service.server.test_serve_security import dial, hello, receive

TABLE = table_info(7, "shop.items", [id_column()])
ROWS = versions(TABLE, [(n, 150, 140, [n]) for n in range(100)])
IN_TIME_MS = 10_000
BYTES_MAX = 64 << 20


@pytest.fixture
def store(tmp_path):
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    with connect(tmp_path / "store") as api:
        api.held = latch(api)
        schema = (schema_change(TABLE, 100),)
        write(api, api.held, {}, start_ts=100, resolved_ts=100, schema=schema)
        yield api


@pytest.fixture
def address(store, tmp_path):
    timeouts = Timeouts(send_ms=2_000, frame_ms=2_000)
    settings = {"tokens": tokens(tmp_path), "timeouts": timeouts}
    store.release_latch(store.held)
    with (
        serving(tmp_path / "store", "127.0.0.1:0", **settings) as server,
        connect(f"theflash://{server.address}", token=TOKENS[Role.WRITE]) as writer,
    ):
        store.held = latch(writer)
        yield server.address


def state(store):
    """The state that a rejected write does not change."""
    return replace(store.status(), lag_ms=None)


def stream(table=ROWS, **options):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as to:
        to.write_table(table)
    return sink.getvalue().to_pybytes()


def frame(type_, body=b"", call=1):
    return Header(type_, call, len(body)).to_bytes() + body


def request_frame(value, timeout_ms=5_000, name="Write"):
    return frame(FrameType.REQUEST, Request(name, timeout_ms, wire.encode(value)).to_bytes())


def data(body):
    pieces = [body[n : n + DATA_BYTES_MAX] for n in range(0, len(body), DATA_BYTES_MAX)]
    return b"".join(frame(FrameType.DATA, piece) for piece in pieces)


def end(body, batches=1, rows=ROWS.num_rows):
    return frame(FrameType.END, End(batches, rows, len(body)).to_bytes())


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answered(address, *sent, token=TOKENS[Role.WRITE]):
    """Return the error, sent in time and little memory, and whether the connection is usable."""
    begin, before = CLOCK.boottime_ms(), peak_bytes()
    with closing(dial(address)) as sock:
        hello(sock, token)
        for part in sent:
            sock.sendall(part)
        header, body = receive(sock)
        assert header.type is FrameType.ERROR
        assert CLOCK.boottime_ms() - begin < IN_TIME_MS
        assert peak_bytes() - before < BYTES_MAX
        name = wire.decode(Error, body).name
        try:
            sock.sendall(request_frame(StatusRequest(), name="GetStatus"))
            goes_on = receive(sock)
        except OSError:
            goes_on = None
        return name, goes_on is not None and goes_on[0].type is FrameType.RESPONSE


def test_rows_that_are_all_there(store, address):
    body, value = stream(), request(store.held, [TABLE], resolved_ts=200)
    with closing(dial(address)) as sock:
        hello(sock, TOKENS[Role.WRITE])
        sock.sendall(request_frame(value) + data(body) + end(body))
        header, _ = receive(sock)
        assert header.type is FrameType.RESPONSE
    assert store.status().rows == 100


def damaged():
    """Bytes that are not the rows, and wrong counts of rows."""
    body = stream()
    lie = bytearray(body)
    lie[4:8] = struct.pack("<I", 0x7FFFFFF0)  # how long the schema's message is
    longer = bytearray(body)
    at = body.index(ROWS.to_batches()[0].serialize()[8:40].to_pybytes())
    longer[at : at + 32] = b"\xff" * 32
    batch = ROWS.to_batches()[0].serialize().to_pybytes()
    return {
        "no schema": (batch + batch + b"\xff\xff\xff\xff\0\0\0\0", 1, 100),
        "nothing": (b"", 0, 0),
        "half": (body[: len(body) // 2], 1, 100),
        "all but the last byte": (body[:-1], 1, 100),
        "a byte more": (body + b"\0", 1, 100),
        "twice": (body + body, 2, 200),
        "a row more announced": (body, 1, 101),
        "a length of 2 GiB": (bytes(lie), 1, 100),
        "another message": (bytes(longer), 1, 100),
        "zeros": (bytes(10_000), 1, 100),
        "compressed": (stream(compression="zstd"), 1, 100),
        "lz4": (stream(compression="lz4"), 1, 100),
        "a file": (b"ARROW1\0\0" + body, 1, 100),
    }


@pytest.mark.parametrize("which", damaged())
def test_rows_that_are_damaged(store, address, which):
    body, batches, rows = damaged()[which]
    before = state(store)
    value = request(store.held, [TABLE], resolved_ts=200)
    sent = request_frame(value) + data(body) + end(body, batches, rows)
    assert answered(address, sent) == ("CodecError", True)
    assert state(store) == before


def test_every_flipped_byte_is_refused_or_harmless(store, address):
    """Never anything but a whole write of rows that pass all checks, or an error that is typed."""
    body, value = bytearray(stream(ROWS.slice(0, 3))), request(store.held, [TABLE])
    names = set()
    for at in range(0, len(body), 3):
        body[at] ^= 0xFF
        with closing(dial(address)) as sock:
            hello(sock, TOKENS[Role.WRITE])
            sock.sendall(request_frame(value) + data(bytes(body)) + end(body, 1, 3))
            header, answer = receive(sock)
            if header.type is FrameType.ERROR:
                names.add(wire.decode(Error, answer).name)
        body[at] ^= 0xFF
    assert names <= {"CodecError", "TransactionConflictError", "SchemaOutdatedError"}


@pytest.mark.parametrize("sent", [0, 1, 100, 5000])
def test_a_cut_stream_writes_nothing(store, address, sent, tmp_path):
    body, before = stream(), state(store)
    whole = request_frame(request(store.held, [TABLE], resolved_ts=200)) + data(body) + end(body)
    with closing(dial(address)) as sock:
        hello(sock, TOKENS[Role.WRITE])
        sock.sendall(whole[: len(whole) - 1 - sent % len(whole)])
    CLOCK.sleep_ms(50)
    assert state(store) == before
    assert not [p for p in (tmp_path / "store").iterdir() if p.name.startswith("tmp")]


def test_who_may_not_is_told_before_all_rows_came(store, address):
    """Rows of a caller without the role or a latch are skipped."""
    body, before = stream(), state(store)
    for token, value, error in (
        (TOKENS[Role.READ], request(store.held, [TABLE]), "RoleError"),
        (TOKENS[Role.WRITE], WriteRequest(), "CodecError"),
        (TOKENS[Role.WRITE], request((), [TABLE]), "OptionError"),
    ):
        sent = request_frame(value) + data(body) + end(body)
        assert answered(address, sent, token=token) == (error, True)
    assert state(store) == before


@pytest.mark.parametrize(
    "sent",
    [
        request_frame(StatusRequest(), name="GetStatus"),
        frame(FrameType.DATA, b"x", call=2),
        Header(FrameType.DATA, 1, DATA_BYTES_MAX + 1).to_bytes(),
        Header(FrameType.DATA, 1, (1 << 32) - 1).to_bytes(),
        frame(FrameType.HELLO),
        b"\xff" * 12,
        frame(FrameType.END, b"short"),
    ],
    ids=["a call", "of another call", "too large", "4 GiB", "a greeting", "no frame", "no end"],
)
def test_what_is_no_row(store, address, sent):
    before = state(store)
    value = request(store.held, [TABLE])
    name, _ = answered(address, request_frame(value) + data(stream()[:100]) + sent)
    assert name in ("ProtocolError", "CodecError")
    assert state(store) == before


def test_a_write_that_is_given_up(store, address):
    value = request(store.held, [TABLE])
    sent = request_frame(value) + data(stream()) + frame(FrameType.CANCEL)
    assert answered(address, sent) == ("CallCancelledError", True)


def test_who_does_not_go_on_is_sent_away(store, address):
    with closing(dial(address)) as sock:
        hello(sock, TOKENS[Role.WRITE])
        sock.sendall(request_frame(request(store.held, [TABLE])) + data(stream()[:100]))
        sock.settimeout(IN_TIME_MS / 1000)
        assert receive(sock) is None
    sent = request_frame(request(store.held, [TABLE]), timeout_ms=100) + data(stream()[:100])
    name, _ = answered(address, sent)
    assert name == "DeadlineExceededError"


def test_more_than_a_write_may_have(store, address, monkeypatch):
    monkeypatch.setattr("pyspark_theflash.service.api.write.WRITE_BYTES_MAX", 1000)
    sent = request_frame(request(store.held, [TABLE])) + data(stream()) + end(stream())
    assert answered(address, sent) == ("OptionError", True)


def test_a_client_hears_why_before_it_has_sent_all(store, address):
    """The client stops sending a gigabyte when the server rejects the call."""
    wide = pa.concat_tables([versions(TABLE, [(n, 150, 140, [n]) for n in range(50_000)])] * 60)
    with connect(f"theflash://{address}", token=TOKENS[Role.READ]) as reader:
        for _ in range(3):
            with pytest.raises(RoleError):
                reader.write(request(store.held, [TABLE]), [wide])
            assert reader.status().rows == 0
