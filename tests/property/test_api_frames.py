"""Frames and messages: invalid ones are detected, and truncated ones are never whole answers."""

import io
import socket
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import (
    CodecError,
    InternalError,
    NotCaughtUpError,
    ServiceRefusedError,
    ServiceUnavailableError,
    StreamCutError,
    TheFlashError,
    TicketError,
    UnsupportedError,
)
from pyspark_theflash.service.api.error import decode_error, encode_error
from pyspark_theflash.service.api.seal import Purpose, Sealer
from pyspark_theflash.service.api.token import AccessToken, Tokens
from pyspark_theflash.service.client.remote import RemoteTransport
from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.frame import (
    DATA_BYTES_MAX,
    HEADER_BYTES,
    End,
    FrameType,
    Header,
    Hello,
    Ready,
    Request,
)
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.service.wire.protobuf import DEPTH_MAX, PARTS_MAX, decode, encode
from tests.support.manual_clock import ManualClock
from tests.support.serving import TOKENS, write_tokens

MESSAGES = sorted(
    {kind for m in METHODS.values() for kind in (m.request, m.response)}, key=lambda k: k.__name__
)
uint64 = st.integers(0, (1 << 64) - 1)
# Larger ones may be counts of seconds, which no timestamp is.
small = st.integers(0, 1 << 30)
VALUES = {
    int: small,
    int | None: st.none() | small,
    tuple[int, ...]: st.lists(small).map(tuple),
    str: st.text(st.characters(exclude_categories=["Cs"])),
    str | None: st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    bytes: st.binary(),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
}


@cache
def values_of(kind):
    """Any value of a message's class, which may hold others of the same."""
    hints = get_type_hints(kind)
    return st.deferred(
        lambda: st.builds(kind, **{name: _values_of_field(hints[name]) for name in hints})
    )


def _values_of_field(type_):
    if type_ in VALUES:
        return VALUES[type_]
    for kind in vars(message).values():
        if isinstance(kind, type):
            if type_ == tuple[kind, ...]:
                return st.lists(values_of(kind), max_size=3).map(tuple)
            if type_ == kind | None:
                return st.none() | values_of(kind)
            if type_ is kind:
                return values_of(kind)
    raise AssertionError(type_)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_messages_come_back(kind, as_json, data):
    value = data.draw(values_of(kind))
    assert decode(kind, encode(value, as_json=as_json), as_json=as_json) == value


def nested(depth):
    expression = message.Expression("literal", literal=message.Literal("int", "1"))
    for _ in range(depth - 1):
        expression = message.Expression("not", arguments=(expression,))
    return expression


def wide(parts):
    return message.Expression("or", arguments=(message.Expression(),) * parts)


def requests(expression):
    count = message.Aggregate("sum", expression)
    yield message.PlanRequest(filter=expression)
    yield message.PlanRequest(aggregation=message.Aggregation(aggregates=(count,)))


@pytest.mark.parametrize("as_json", [False, True])
def test_expressions_are_small(as_json):
    for expression in (nested(DEPTH_MAX), wide(PARTS_MAX)):
        for request in requests(expression):
            body = encode(request, as_json=as_json)
            assert decode(message.PlanRequest, body, as_json=as_json) == request
    for expression in (nested(DEPTH_MAX + 1), wide(PARTS_MAX + 1)):
        for request in requests(expression):
            body = encode(request, as_json=as_json)
            with pytest.raises(UnsupportedError, match="expression"):
                decode(message.PlanRequest, body, as_json=as_json)
    many = message.PlanRequest(order=(message.SortKey(),) * (PARTS_MAX + 1))
    with pytest.raises(UnsupportedError):
        decode(message.PlanRequest, encode(many, as_json=as_json), as_json=as_json)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("depth", [100, 400])
def test_expressions_nested_beyond_all_reason(as_json, depth):
    """Protobuf itself rejects them."""
    body = _nested_json(depth) if as_json else _nested_binary(depth)
    with pytest.raises(CodecError):
        decode(message.PlanRequest, body, as_json=as_json)


def _nested_json(depth):
    return b'{"filter":' + b'{"arguments":[' * depth + b"]}" * depth + b"}"


def _nested_binary(depth):
    body = b""
    for _ in range(depth):
        body = b"\x22" + _varint(len(body)) + body
    return b"\x3a" + _varint(len(body)) + body


def _varint(number):
    head = bytes([number & 127 | (128 if number > 127 else 0)])
    return head + (_varint(number >> 7) if number > 127 else b"")


@given(st.sampled_from(MESSAGES), st.booleans(), st.binary())
def test_any_bytes_are_a_message_or_none(kind, as_json, body):
    with suppress(CodecError):
        assert isinstance(decode(kind, body, as_json=as_json), kind)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES), st.integers(0, 1 << 32))
def test_any_bytes_are_a_header_or_none(data, length_max):
    try:
        header = Header.from_bytes(data, length_max)
    except CodecError:
        return
    assert header.length <= length_max
    assert header.to_bytes() == data


@given(st.sampled_from(FrameType), uint64.map(lambda n: n >> 32), st.booleans())
def test_headers_come_back(type_, number, is_json):
    header = Header(type_, number, number, is_json)
    assert Header.from_bytes(header.to_bytes(), 1 << 32) == header


@given(st.sampled_from([Hello, Ready, End]), st.binary(max_size=80))
def test_any_bytes_are_a_body_or_none(kind, body):
    with suppress(CodecError):
        assert kind.from_bytes(body).to_bytes() == body


@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_none(body):
    left = io.BytesIO(body)
    with suppress(CodecError):
        request, size = Request.read(Header(FrameType.REQUEST, 1, len(body)), left.read)
        encoded = left.read()
        assert size == len(encoded)
        assert replace(request, body=encoded).to_bytes() == body


@given(st.binary(min_size=32, max_size=32), st.binary(), st.integers(0), st.integers(1, 255))
def test_a_seal_shows_every_change(key, body, place, change):
    sealer = Sealer(key)
    sealed = bytearray(sealer.seal(Purpose.TICKET, body.hex()))
    assert sealer.unseal(Purpose.TICKET, bytes(sealed)) == body.hex()
    sealed[place % len(sealed)] ^= change
    with pytest.raises(TicketError):
        sealer.unseal(Purpose.TICKET, bytes(sealed))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_proof_is_of_one_nonce(one, other):
    with tempfile.TemporaryDirectory() as folder:
        tokens = Tokens(write_tokens(Path(folder) / "tokens"))
        token = TOKENS[Role.WRITE]
        stored = tokens.by_proof(one, token.proof(one))
        assert tokens.role(stored) is Role.WRITE
        assert tokens.by_token(token.value) == (stored, Role.WRITE)
        assert (tokens.by_proof(other, token.proof(one)) is None) == (one != other)
        assert tokens.by_proof(one, AccessToken("another-token-than-those").proof(one)) is None


def test_errors_come_back():
    error = NotCaughtUpError(1, 2)
    again = decode_error(decode(message.Error, encode(encode_error(error))), "here")
    assert (type(again), again.args) == (NotCaughtUpError, (1, 2))
    bug = encode_error(KeyError("a row's value"))
    assert "value" not in bug.text
    assert isinstance(decode_error(bug, "here"), InternalError)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (message.Error("LaterError", "why", "[]", retryable=True), ServiceUnavailableError),
        (message.Error("LaterError", "why", "[]"), ServiceRefusedError),
        (message.Error("NotCaughtUpError", "why", "[1]"), ServiceRefusedError),
        (message.Error("OSError", "why", '["x"]'), ServiceRefusedError),
        (message.Error("invariant", "why", '[true, "x"]'), ServiceRefusedError),
        (message.Error("TheFlashError", "why", "nonsense"), ServiceRefusedError),
    ],
)
def test_errors_that_are_not_known(sent, expected):
    error = decode_error(sent, "here")
    assert type(error) is expected
    assert "why" in str(error)


# -- a whole answer, cut

BATCH = pa.record_batch({"a": list(range(50)), "b": [str(n % 3) for n in range(50)]})


def frame(type_, body, call=1):
    return Header(type_, call, len(body)).to_bytes() + body


def answer(batches=3, announced=3):
    """Return the bytes that a server sends for a scan: greeting, rows, their end."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, BATCH.schema) as writer:
        for _ in range(batches):
            writer.write_batch(BATCH)
    rows = sink.getvalue().to_pybytes()
    cuts = [rows[n : n + 1000] for n in range(0, len(rows), 1000)]
    return b"".join(
        [
            frame(FrameType.HELLO, Hello(needs_token=False, nonce=bytes(32)).to_bytes(), 0),
            frame(FrameType.READY, Ready(Role.READ, "store").to_bytes(), 0),
            *(frame(FrameType.DATA, cut) for cut in cuts),
            frame(FrameType.END, End(announced, announced * BATCH.num_rows, len(rows)).to_bytes()),
        ]
    )


WHOLE = answer()


def scanned(said):
    """Return the number of rows that a client receives from a server that sends these bytes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        thread = threading.Thread(target=_say, args=(listener, said))
        thread.start()
        try:
            with TheFlash(RemoteTransport(f"unix:{folder}/s", clock=ManualClock())) as api:
                return api.scan(b"ticket", timeout_ms=5_000).read_all().num_rows
        finally:
            thread.join()


def _say(listener, said):
    sock, _ = listener.accept()
    listener.close()  # a client whose greeting is cut connects again
    # A client that has seen enough hangs up.
    with sock, suppress(OSError):
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass


def test_a_whole_answer():
    assert scanned(WHOLE) == 3 * BATCH.num_rows


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_answer_is_an_error(end):
    with pytest.raises(TheFlashError) as caught:
        scanned(WHOLE[:end])
    assert isinstance(caught.value, StreamCutError | ServiceUnavailableError)


@pytest.mark.parametrize(("batches", "announced"), [(2, 3), (3, 2), (0, 1)])
def test_an_answer_of_other_rows_than_announced(batches, announced):
    with pytest.raises(StreamCutError):
        scanned(answer(batches, announced))


@given(st.integers(0, WHOLE.rindex(b"\xff\xff\xff\xff")), st.binary(min_size=1, max_size=40))
def test_nonsense_between_frames(end, nonsense):
    """Somewhere frames stop making sense."""
    starts = _starts()
    start = starts[end % len(starts)]
    type_ = FrameType.ERROR if start else FrameType.HELLO
    for said in (nonsense, frame(type_, nonsense), Header(type_, 1, DATA_BYTES_MAX + 1).to_bytes()):
        with pytest.raises(TheFlashError):
            scanned(WHOLE[:start] + said)


def _starts():
    """Return the offsets of the frames."""
    starts, place = [], 0
    while place < len(WHOLE):
        starts.append(place)
        place += (
            HEADER_BYTES + Header.from_bytes(WHOLE[place : place + HEADER_BYTES], 1 << 32).length
        )
    return starts
