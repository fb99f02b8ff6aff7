"""Failed authentications: delayed, logged, no burden for others; renewed certificates."""

import logging
import shutil
import ssl
from contextlib import ExitStack, contextmanager

import pytest

from pyspark_theflash.base.errors import AuthenticationError
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.channel import grpc, open_channel
from pyspark_theflash.net.inflow import NEW_FACTOR
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.server.failures import Failures
from pyspark_theflash.service.wire.frame import FrameType, Header
from pyspark_theflash.service.wire.message import StatusRequest
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.grpc_client import GrpcTransport
from tests.support.manual_clock import ManualClock
from tests.support.serving import (
    CLOCK,
    TOKENS,
    serving,
    serving_flight,
    serving_grpc,
    serving_workers,
    tokens,
    write_tokens,
)
from tests.support.tls import FOLDER
from tests.unit.service.server.test_serve_security import dial, receive, wait_until

TABLE = table_info(7, "shop.items", [id_column()])
WRONG = AccessToken("not-one-of-the-tokens")
ADMIN = TOKENS[Role.ADMIN]
NEVER_MS = 120_000
DELAY_MS = 500
"""By default, as docs/limits.md says."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: [(1, 110, [1])]})
    return path


def framed_status(address, token):
    with connect(f"theflash://{address}", token=token) as api:
        return api.status()


def grpc_status(address, token):
    transport = GrpcTransport(address, token.value)
    try:
        return transport.call(METHODS["GetStatus"], StatusRequest(), 20_000)
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("serve", "status"), [(serving, framed_status), (serving_grpc, grpc_status)]
)
def test_a_failure_is_delayed_and_logged(store, tmp_path, caplog, serve, status):
    with (
        serve(store, "127.0.0.1:0", tokens=tokens(tmp_path)) as server,
        caplog.at_level(logging.WARNING),
    ):
        begin = CLOCK.boottime_ms()
        with pytest.raises(AuthenticationError):
            status(server.address, WRONG)
        assert CLOCK.boottime_ms() - begin >= DELAY_MS
        assert status(server.address, ADMIN).resolved_ts == 200
    (line,) = (r.getMessage() for r in caplog.records if "authentication failed" in r.getMessage())
    assert "127.0.0.1" in line
    assert WRONG.value not in line


def test_failures_keep_no_other_out_with_frames(store, tmp_path):
    """The server closes delayed connections first, like other unauthenticated ones."""
    limits, timeouts = Limits(pending=8), Timeouts(failure_ms=NEVER_MS, pending_ms=NEVER_MS)
    settings = {"tokens": tokens(tmp_path), "limits": limits, "timeouts": timeouts}
    with serving(store, "127.0.0.1:0", **settings) as server, ExitStack() as undo:
        for _ in range(4 * limits.pending):
            sock = undo.enter_context(dial(server.address))
            sock.sendall(b"TFLASH\0\1" + Header(FrameType.AUTH, 0, 32).to_bytes() + bytes(32))
        # More input does not shorten the delay.
        sock.sendall(bytes(100))
        assert framed_status(server.address, ADMIN).resolved_ts == 200
        assert receive(sock)[0].type is FrameType.HELLO
        # Of the others, the server has closed all but the newest.
        wait_until(lambda: len(server) <= NEW_FACTOR * limits.pending)


def test_failures_keep_no_other_out_over_grpc(store, tmp_path):
    settings = {"tokens": tokens(tmp_path), "timeouts": Timeouts(failure_ms=NEVER_MS)}
    with serving_grpc(store, "127.0.0.1:0", **settings) as server, ExitStack() as undo:
        channel = open_channel(server.address, None, max_message_bytes=1 << 20)
        undo.callback(channel.close)
        ask = channel.unary_unary("/theflash.v1.TheFlash/GetStatus")
        metadata = [("authorization", f"Bearer {WRONG.value}")]
        calls = [ask.future(b"", metadata=metadata, timeout=60) for _ in range(100)]
        # Above the number of calls that are delayed, they are rejected at once.
        wait_until(lambda: sum(call.done() for call in calls) >= 50)
        assert {call.code().name for call in calls if call.done()} == {"UNAVAILABLE"}
        assert grpc_status(server.address, ADMIN).resolved_ts == 200
        # The connection cannot be used to guess on: the right token is not looked at.
        metadata = [("authorization", f"Bearer {ADMIN.value}")]
        with pytest.raises(grpc.RpcError, match="also of this connection"):
            ask(b"", metadata=metadata, timeout=60)
        for call in calls:
            call.cancel()


def test_a_block_ends():
    clock = ManualClock()
    failures = Failures(clock)
    for peer in ("ipv4:127.0.0.1:1", "unix:"):
        failures.block(peer, 500)
    assert failures.is_blocked("ipv4:127.0.0.1:1")
    assert not failures.is_blocked("unix:")
    assert not failures.is_blocked("ipv4:127.0.0.1:2")
    clock.sleep_ms(500)
    assert not failures.is_blocked("ipv4:127.0.0.1:1")
    failures.block("ipv4:127.0.0.1:2", 500)
    assert len(failures._blocked_ms) == 1


def test_the_log_is_not_flooded(caplog):
    clock = ManualClock()
    failures = Failures(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for _ in range(100):
                failures.note("a peer", AuthenticationError("here", "no"))
            clock.sleep_ms(1_000)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "others=99" in lines[1]


# -- certificates


@contextmanager
def by_workers(store, address, folder, **settings):
    with serving_workers(store, address, workers=1, **settings) as server:
        yield server


@pytest.mark.parametrize("serve", [serving, by_workers, serving_flight, serving_grpc])
def test_renewed_certificates(store, tmp_path, serve):
    """The next connection sees them; half of a renewal changes nothing."""
    chosen = ServerTls(tmp_path / "cert", tmp_path / "key")
    shutil.copy(FOLDER / "server.pem", chosen.cert)
    shutil.copy(FOLDER / "server.key", chosen.key)
    if serve is by_workers:
        serving_it = by_workers(
            store, "localhost:0", tmp_path, tokens=write_tokens(tmp_path / "tokens"), tls=chosen
        )
    else:
        serving_it = serve(store, "localhost:0", tokens=tokens(tmp_path), tls=chosen)
    with serving_it as server:
        host, _, port = server.address.rpartition(":")

        def shown():
            pem = ssl.get_server_certificate((host, int(port)), timeout=20)
            return ssl.PEM_cert_to_DER_cert(pem)

        before, after = (
            ssl.PEM_cert_to_DER_cert(first_certificate(FOLDER / f"{name}.pem"))
            for name in ("server", "other")
        )
        assert shown() == before
        replace_file(chosen.cert, FOLDER / "other.pem")
        assert shown() == before
        replace_file(chosen.key, FOLDER / "other.key")
        assert shown() == after


def replace_file(path, source):
    scratch = path.with_name("scratch")
    shutil.copy(source, scratch)
    scratch.replace(path)


def first_certificate(path):
    text = path.read_text()
    end = "-----END CERTIFICATE-----"
    return text[text.index("-----BEGIN CERTIFICATE") : text.index(end)] + end + "\n"
