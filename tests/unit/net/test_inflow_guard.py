"""Headers without an end, sent to each gRPC server on TCP: their connections are closed."""

import select
import socket
import struct
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from types import SimpleNamespace

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.net import inflow
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.inflow import PENDING_MAX
from pyspark_theflash.replication.pump.server import PumpServer
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.wire.message import PlanRequest, StatusRequest
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from pyspark_theflash.tikv.server import EngineServer
from tests.support.flight_client import FlightTransport
from tests.support.grpc_client import GrpcTransport
from tests.support.processes import CLOCK
from tests.support.raw_peer import HTTP2_PREFACE, dial, http2_frame
from tests.support.serving import TOKENS, serving_flight, serving_grpc, tokens

TABLE = table_info(7, "shop.items", [id_column()])
LOOPBACK = "127.0.0.1:0"
NEVER_MS = 600_000
TIMEOUT_S = 60
LOOK_MS = 100
PART = (b"\x00\x01a\x7e" + b"x" * 126) * 100
MORE = http2_frame(9, 0, 3, PART)
INSECURE = Access(is_insecure=True)


@contextmanager
def service(serve, folder, **limits):
    StoreBuilder(folder / "store", TABLE).publish(200, {TABLE: [(1, 110, [1])]})
    settings = {"timeouts": Timeouts(pending_ms=NEVER_MS), "limits": Limits(**limits)}
    with serve(folder / "store", LOOPBACK, tokens=tokens(folder), **settings) as server:
        yield server.address


@contextmanager
def pump(folder):
    with closing(Spool(folder / "spool", LocalFileSystem())) as spool:
        server = PumpServer(spool, LOOPBACK, clock=SystemClock(), access=INSECURE)
        server.start()
        try:
            yield server.address
        finally:
            server.stop(0)


@contextmanager
def engine(_):
    idle = SimpleNamespace(take_progress=list)
    learner = SimpleNamespace(store=idle, tick=lambda: None)
    server = EngineServer(learner, LOOPBACK, clock=CLOCK, access=INSECURE)
    server.start()
    try:
        yield server.address
    finally:
        server.stop()


SERVERS = {
    "grpc": partial(service, serving_grpc),
    "flight": partial(service, serving_flight),
    "pump": pump,
    "engine": engine,
}


@pytest.mark.parametrize("kind", SERVERS)
def test_endless_headers_are_cut(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(inflow, "MUTED_S", 0.5)
    with SERVERS[kind](tmp_path) as address, dial(address) as sock:
        sock.settimeout(TIMEOUT_S)
        data = HTTP2_PREFACE + http2_frame(1, 0, 3, PART) + MORE * 100
        with suppress(ConnectionError):
            sock.sendall(data)
            while sock.recv(1 << 16):
                pass


def send_endlessly(sock):
    while True:
        sock.sendall(MORE)


@pytest.mark.parametrize("kind", SERVERS)
def test_endless_headers_are_muted(kind, tmp_path):
    """The sender waits for acknowledgements that never come."""
    with SERVERS[kind](tmp_path) as address, dial(address) as sock:
        sock.settimeout(1)
        sock.sendall(HTTP2_PREFACE + http2_frame(1, 0, 3, PART))
        with pytest.raises(TimeoutError):
            send_endlessly(sock)


@contextmanager
def muted():
    """Yield the client and server of a muted connection, the peer's name, and what muted it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as undo:
        port = listener.getsockname()[1]
        client = undo.enter_context(socket.create_connection(("127.0.0.1", port)))
        server, (host, peer_port) = listener.accept()
        undo.enter_context(server)
        server.settimeout(TIMEOUT_S)
        decisions = inflow.Inflow(1 << 20)
        guard = inflow.InflowGuard(f"127.0.0.1:{port}", decisions)
        client.sendall(bytes(inflow.FREE_BYTES + 1))
        receive(server, inflow.FREE_BYTES + 1)
        assert guard._look()
        client.sendall(b"more")
        assert select.select([server], [], [], 0.5)[0] == []
        yield client, server, f"ipv4:{host}:{peer_port}", guard


def receive(sock, count):
    while count:
        count -= len(sock.recv(count))


def test_a_connection_is_muted_until_a_call_starts():
    with muted() as (_, server, peer, guard), guard._inflow.receiving(peer, "token 1"):
        assert not guard._look()
        receive(server, 4)


def test_the_end_of_a_muted_connection_is_noticed():
    with muted() as (client, server, _, _):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)


@pytest.mark.parametrize("kind", ["grpc", "flight"])
def test_callers_may_send_large_messages(kind, tmp_path, caplog):
    transports = {"grpc": GrpcTransport, "flight": FlightTransport}
    request = PlanRequest(table="x" * (1 << 19))
    with (
        SERVERS[kind](tmp_path) as address,
        closing(transports[kind](address, TOKENS[Role.READ].value)) as transport,
    ):
        for _ in range(2):
            with pytest.raises(OptionError):
                transport.call(METHODS["PlanScan"], request, 1000 * TIMEOUT_S)
            CLOCK.sleep_ms(5 * LOOK_MS)
    assert "connections closed" not in caplog.text


@pytest.mark.parametrize("kind", SERVERS)
def test_the_oldest_of_too_many_connections_is_closed(kind, tmp_path):
    with SERVERS[kind](tmp_path) as address, ExitStack() as undo:
        first, last = (undo.enter_context(closing(select.epoll())) for _ in range(2))
        for half, count in ((first, PENDING_MAX), (last, PENDING_MAX + 1)):
            for _ in range(count):
                sock = undo.enter_context(dial(address))
                half.register(sock, select.EPOLLRDHUP)
                with suppress(ConnectionError):  # gRPC itself closes those that do not greet
                    sock.sendall(HTTP2_PREFACE)
            # A look lists the first half before the last; those of one look are of the same age.
            CLOCK.sleep_ms(5 * LOOK_MS)
        assert first.poll(TIMEOUT_S / 2)
        assert not last.poll(0)


@pytest.mark.parametrize("kind", ["grpc", "flight"])
def test_connections_of_an_identity_are_limited(kind, tmp_path):
    status = METHODS["GetStatus"]
    transports = {"grpc": GrpcTransport, "flight": FlightTransport}

    def connected(role):
        return undo.enter_context(closing(transports[kind](address, TOKENS[role].value)))

    with SERVERS[kind](tmp_path, connections_per_identity=2) as address, ExitStack() as undo:
        for role in (Role.READ, Role.READ, Role.ADMIN, Role.ADMIN, Role.ADMIN, Role.WRITE):
            connected(role).call(status, StatusRequest(), 1000 * TIMEOUT_S)
        with pytest.raises(ServiceUnavailableError, match="uses its 2 connections"):
            connected(Role.READ).call(status, StatusRequest(), 1000 * TIMEOUT_S)
