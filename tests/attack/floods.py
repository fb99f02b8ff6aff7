"""Peers that occupy a listener and send little: before they have authenticated, and after."""

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.net.address import split_host_port
from pyspark_theflash.service.wire.frame import PREFACE, FrameType, Header
from pyspark_theflash.service.wire.message import Moment, ScanRequest
from pyspark_theflash.service.wire.method import REQUEST_BYTES_MAX, SCAN, Role
from tests.attack.harness import BreachError, Target, attack, breach_if
from tests.attack.servers import ATTACKER
from tests.support.processes import CLOCK
from tests.support.raw_peer import HTTP2_PREFACE, authenticate, dial, http2_call, http2_data
from tests.support.writes import latch

_MANY, _FEW = 700, 50
"""More connections than a server accepts; and fewer."""
_PER_READER = 100
_REFUSED = (OSError, EOFError, AssertionError, TheFlashError, pa.ArrowException)
_SERVICES = {
    "grpc": "/theflash.v1.TheFlash/GetStatus",
    "flight": "/arrow.flight.protocol.FlightService/DoAction",
    "engine": "/enginepb.Engine/ApplySnapshot",
    "pump": "/binlog.Pump/WriteBinlog",
}
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
SERVED = ("tcp", "tls", "mtls")


def flood(target: Target, count: int, open_one: Callable[[], Any]) -> str:
    """Keep `count` connections open, and open others for those that the server closes."""
    socks: list[Any] = []
    opened = refused = 0
    try:
        while target.goes_on():
            for sock in filter(_has_ended, list(socks)):
                sock.close()
                socks.remove(sock)
            for _ in range(count - len(socks)):
                if not target.goes_on():
                    break
                try:
                    socks.append(open_one())
                    opened += 1
                except _REFUSED:
                    refused += 1
                    break
            CLOCK.sleep_ms(20)
        return f"{opened} opened, {len(socks)} at the end, {refused} refused"
    finally:
        for sock in socks:
            with suppress(*_REFUSED):
                sock.close()


def _has_ended(sock: Any) -> bool:
    if not hasattr(sock, "fileno"):
        return False
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    return bool(poller.poll(0))


def _sending(target: Target, data: bytes) -> Callable[[], socket.socket]:
    return lambda: _begun(target.server.dial(target.protocol), lambda sock: sock.sendall(data))


def _begun(sock: socket.socket, begin: Callable[[socket.socket], object]) -> socket.socket:
    """Do the first step on a connection, which is closed if that fails."""
    try:
        begin(sock)
    except BaseException:
        sock.close()
        raise
    return sock


# -- before authentication


@attack("tcp", "unix", "tls", "mtls", "learn", over=["frames"], is_load=True)
def silent_connections(target: Target) -> str:
    """Connect, after the TLS handshake if there is one, and send nothing."""
    return flood(target, _MANY, _sending(target, b""))


@attack("tcp", "unix", "mtls", over=["frames"], is_load=True)
def half_greetings(target: Target) -> str:
    """Send the preface and a part of the proof."""
    begun = Header(FrameType.AUTH, 0, 32).to_bytes() + b"x"
    return flood(target, _MANY, _sending(target, PREFACE + begun))


@attack("mtls", "tls", is_load=True)
def half_tls_handshakes(target: Target) -> str:
    """Send the first bytes of a ClientHello."""
    address = target.server.addresses[target.protocol]

    return flood(
        target, _MANY, lambda: _begun(dial(address), lambda sock: sock.sendall(_CLIENT_HELLO))
    )


@attack("tcp", "mtls", "learn", over=["grpc", "flight", "engine"], is_load=True)
def silent_http2_connections(target: Target) -> str:
    """Send the preface of HTTP/2 only."""
    return flood(target, _MANY, _sending(target, HTTP2_PREFACE))


@attack("tcp", "mtls", over=["grpc", "flight"], is_load=True)
def half_calls_without_a_token(target: Target) -> str:
    """Start calls without a token, 50 on a connection, and send no message."""
    return flood(target, _FEW, _sending(target, _calls(target.protocol, 50)))


@attack("pump", over=["metrics"], is_load=True)
def half_requests_for_metrics(target: Target) -> str:
    """Send a part of an HTTP request."""
    return flood(target, _MANY, _sending(target, b"GET /metr"))


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def resets(target: Target) -> str:
    """Connect and reset the connection, as fast as possible."""
    host, port = split_host_port(target.server.addresses["frames"])

    def open_one() -> Any:
        sock = socket.create_connection((host, port), 5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        raise ConnectionResetError

    return flood(target, 1, open_one)


@attack("pump_mtls", over=["pump"], is_load=True, is_short=False)
def half_tls_handshakes_with_a_pump(target: Target) -> str:
    """The same with a pump that listens on TCP."""
    return half_tls_handshakes(target)


# -- as a peer of the cluster


@attack("pump", "learn", over=["pump", "engine"], is_load=True)
def half_calls_of_a_peer(target: Target) -> str:
    """Start 40 calls that declare a message, and send none of it."""
    calls = _calls(target.protocol, 1) + http2_data(64 << 20)
    return flood(target, 40, _sending(target, calls))


# -- as a holder of a token that permits reading


def _calls(protocol: str, count: int, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    path = _SERVICES[protocol]
    calls = (http2_call(path, headers, 2 * n + 1) for n in range(count))
    return HTTP2_PREFACE + b"".join(calls)


@attack("tcp", "mtls", over=["grpc", "flight"], is_load=True)
def half_calls_of_a_reader(target: Target) -> str:
    """Start 64 calls on each of several connections, declare 8 MiB for each, and send nothing."""
    token = (("authorization", f"Bearer {ATTACKER.value}"),)
    data = b"".join(http2_data(REQUEST_BYTES_MAX, b"x", 2 * n + 1) for n in range(64))
    calls = _calls(target.protocol, 64, token) + data
    return flood(target, 4, _sending(target, calls))


@attack("tcp", "mtls", over=["grpc", "flight"], is_load=True)
def calling_connections_of_a_reader(target: Target) -> str:
    """Hold many connections, each with a call now and then, as a holder of one token."""
    token = (("authorization", f"Bearer {ATTACKER.value}"),)
    data = _calls(target.protocol, 1, token) + http2_data(0)
    return flood(target, _MANY, _sending(target, data))


def _authenticated(target: Target) -> socket.socket:
    token = ATTACKER if target.server.has_tokens else None
    return _begun(target.server.dial(), lambda sock: authenticate(sock, token))


@attack("tcp", "tls", "learn", over=["frames"], is_load=True)
def idle_connections_of_a_reader(target: Target) -> str:
    """Authenticate, and make no call."""
    return flood(target, _PER_READER, lambda: _authenticated(target))


@attack("tcp", over=["frames"], is_load=True)
def declared_requests(target: Target) -> str:
    """Declare requests of 8 MiB, and send nothing of them."""

    request = Header(FrameType.REQUEST, 1, REQUEST_BYTES_MAX).to_bytes()
    return flood(
        target,
        _PER_READER,
        lambda: _begun(_authenticated(target), lambda sock: sock.sendall(request)),
    )


@attack("tcp", "mtls", over=["frames", "flight"], is_load=True)
def unread_scans(target: Target) -> str:
    """Start scans of many rows, and read none."""
    with target.server.client(ATTACKER) as planner:
        plan = planner.plan("shop.items", moment=Moment(ttl_ms=60_000))
    transports: list[Any] = []

    def open_one() -> Any:
        transport = target.server.transport(target.protocol, ATTACKER)
        transports.append(transport)
        return transport.scan(SCAN, ScanRequest(plan.splits[0].ticket), 30_000)

    try:
        return flood(target, _PER_READER, open_one)
    finally:
        for transport in transports:
            transport.close()


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def bad_tokens(target: Target) -> str:
    """Guess tokens as fast as the server answers."""
    guesses = 0
    while target.goes_on():
        with suppress(*_REFUSED), target.server.dial() as sock:
            sock.settimeout(5)
            authenticate(sock, ATTACKER.__class__("a-token-that-is-a-guess"))
            raise BreachError("a guessed token is valid")
        guesses += 1
    return f"{guesses} guesses"


@attack("learn", over=["frames"], is_load=True, is_short=False)
def snapshots_of_a_reader(target: Target) -> str:
    """Take snapshots, each a latch, and release none."""
    return _snapshots(target)


@attack("tcp", over=["frames"], is_load=True)
def snapshots_without_end(target: Target) -> str:
    """Take snapshots, each a latch, and release none; then a write latch must be granted."""
    return _snapshots(target)


def _snapshots(target: Target) -> str:
    taken, refused = 0, ""
    with target.server.client(ATTACKER) as api:
        while target.goes_on():
            if not (refused := _snapshot(api)):
                taken += 1
    breach_if(not taken, f"no snapshot could be taken: {refused}")
    if target.server.name == "tcp":
        with target.server.client(Role.WRITE) as api:
            start_ms = CLOCK.boottime_ms()
            api.release_latch(latch(api))
            took_ms = CLOCK.boottime_ms() - start_ms
        return f"{taken} taken {refused}, a write latch in {took_ms} ms"
    return f"{taken} taken {refused}"


def _snapshot(api: Any) -> str:
    """Take a snapshot; return the name of the error, if any."""
    try:
        api.snapshot(Moment(ttl_ms=30_000))
    except TheFlashError as error:
        CLOCK.sleep_ms(20)
        return type(error).__name__
    return ""
