"""Several processes behind one socket: routing of calls, and the state after one is killed."""

import os
import signal
import socket
import threading

import pytest

from pyspark_theflash.base.errors import (
    AuthenticationError,
    OptionError,
    ServiceUnavailableError,
    StreamCutError,
)
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.server.control import (
    ControlMessage,
    ControlOp,
    Greeted,
    Timeouts,
    WorkerSettings,
)
from pyspark_theflash.service.server.router import ConnectionRouter
from pyspark_theflash.service.wire.frame import PREFACE
from pyspark_theflash.service.wire.message import AcquireRequest, Moment
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.serving import CLOCK, TOKENS, server_tls, serving_workers, write_tokens
from tests.support.tls import tls

WIDE = table_info(
    8, "shop.wide", [id_column(), column("text", MySQLType.BLOB, charset="binary", flen=1 << 20)]
)
ROWS = 400


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """6 MB of rows: more than the buffer of a socket."""
    path = tmp_path_factory.mktemp("wide") / "store"
    rows = [(n, 110, [n, bytes([n % 256]) * (1 << 14)]) for n in range(ROWS)]
    return StoreBuilder(path, WIDE).publish(200, {WIDE: rows}).path


@pytest.fixture(scope="module")
def router(store, tmp_path_factory):
    """Two processes at most, with the default settings."""
    address = f"unix:{tmp_path_factory.mktemp('router')}/s"
    with serving_workers(store, address, workers=2) as made:
        yield made


def wait_until(condition):
    deadline_ms = CLOCK.boottime_ms() + 20_000
    while not condition():
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(10)


def unread(api):
    """A scan that a worker is in the middle of."""
    return api.scan(api.plan("shop.wide").splits[0].ticket)


def busy(router):
    return sorted(router.answering.values())


def both_ready(router):
    """Wait until both workers run: the second is started by a call while the first one answers."""
    with connect(router.address) as one, connect(router.address) as two:
        seen = []
        while seen != [1, 1]:
            held = [unread(one), unread(two)]
            seen = busy(router)
            for rows in held:
                rows.close()
    wait_until(lambda: busy(router) == [0, 0])


def test_calls_at_the_same_time(router):
    """One caller has one worker; the call decides which one, and not the connection."""
    both_ready(router)
    with connect(router.address) as one, connect(router.address) as two:
        one.status()
        two.status()
        wait_until(lambda: busy(router) == [0, 0])
        for _ in range(3):
            held = [unread(one), unread(two)]
            assert busy(router) == [1, 1]
            assert [rows.read_all().num_rows for rows in held] == [ROWS, ROWS]
            wait_until(lambda: busy(router) == [0, 0])


def test_a_worker_that_is_killed(router):
    """Its callers' streams end, other callers are unaffected, and another worker is started."""
    both_ready(router)
    with connect(router.address) as one, connect(router.address) as two:
        first = unread(one)
        (victim,) = (pid for pid, count in router.answering.items() if count)
        second = unread(two)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(StreamCutError) as caught:
            first.read_all()
        assert caught.value.retryable
        assert second.read_all().num_rows == ROWS
        assert unread(one).read_all().num_rows == ROWS
    both_ready(router)
    assert victim not in router.answering


def test_connections_outlive_workers(router):
    """A connection without a call has no worker, so calls that must not be repeated succeed."""
    with connect(router.address) as api:
        api.status()
        wait_until(lambda: not any(busy(router)))
        victims = set(router.answering)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: victims.isdisjoint(router.answering))
        assert api.compact()
        assert not router.idle_ms()


def test_nothing_is_left_of_connections(router):
    def files():
        return len(os.listdir("/proc/self/fd"))

    both_ready(router)
    wait_until(lambda: router.idle_ms() > 0)
    before = files()
    for _ in range(5):
        with connect(router.address) as api:
            unread(api).close()
    wait_until(lambda: files() <= before)


@pytest.mark.slow
def test_too_many_connections(store, tmp_path):
    with serving_workers(
        store, f"unix:{tmp_path}/s", workers=2, limits=Limits(connections=2)
    ) as router:
        with connect(router.address) as one, connect(router.address) as two:
            one.status()
            two.status()
            with (
                connect(router.address) as three,
                pytest.raises(ServiceUnavailableError, match="2 in all"),
            ):
                three.status()
            one.status()
        wait_until(lambda: router.idle_ms() > 0)
        with connect(router.address) as again:
            again.status()


@pytest.mark.slow
def test_who_says_nothing_is_sent_away(store, tmp_path):
    timeouts = Timeouts(greeting_ms=100, idle_ms=100, frame_ms=100)
    with serving_workers(store, f"unix:{tmp_path}/s", workers=2, timeouts=timeouts) as router:
        for begun in (b"", PREFACE[:3]):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(tmp_path / "s"))
                sock.sendall(begun)
                assert sock.recv(1) == b""
        with connect(router.address) as api:
            api.status()
            assert not router.idle_ms()
            wait_until(lambda: router.idle_ms() > 0)
            # It learns of it when it calls again, and calls once more.
            api.status()


def test_who_calls_is_known_to_every_worker(store, tmp_path):
    """In turns; a latch of one is renewed and released in the other; all reject a revoked token."""
    file = write_tokens(tmp_path / "tokens")
    with (
        serving_workers(store, f"unix:{tmp_path}/s", tokens=file) as router,
        connect(router.address, token=TOKENS[Role.ADMIN]) as api,
    ):
        ticket = api.plan("shop.wide", ["id"], moment=Moment(ttl_ms=60_000)).splits[0].ticket
        for _ in range(2):
            assert api.scan(ticket).read_all().num_rows == ROWS
        wanted = AcquireRequest(kind="write", name="me", ttl_ms=60_000)
        latch = api.acquire_latch(wanted)
        for _ in range(2):
            assert latch.id in {held.id for held in api.latches().latches}
        assert api.renew_latch(latch).id == latch.id
        api.release_latch(latch)
        assert len(router.answering) == 2
        write_tokens(file, {TOKENS[Role.READ].value: "read"})
        for _ in range(2):
            with pytest.raises((AuthenticationError, ServiceUnavailableError)):
                api.status()


@pytest.mark.slow
def test_certificates(store, tmp_path):
    """TLS state stays in the worker that has accepted the connection."""
    settings = {
        "tokens": write_tokens(tmp_path / "tokens"),
        "tls": server_tls(),
        "allowed_names": ("tidb",),
    }
    with serving_workers(store, "127.0.0.1:0", workers=2, **settings) as router:
        address = f"theflash://{router.address}"
        with connect(address, token=TOKENS[Role.READ], tls=tls("client")) as api:
            for _ in range(2):
                CLOCK.sleep_ms(20)
                assert unread(api).read_all().num_rows == ROWS
            assert busy(router) == [0, 1]
            with connect(address, token=TOKENS[Role.READ], tls=tls("client")) as other:
                other.status()
                assert busy(router) == [1, 1]
        wait_until(lambda: router.idle_ms() > 0)


def test_calls_that_have_begun_are_finished(store, tmp_path):
    with (
        serving_workers(store, f"unix:{tmp_path}/s", workers=2) as router,
        connect(router.address) as api,
        connect(router.address) as idle,
    ):
        idle.status()
        rows = unread(api)
        stopping = threading.Thread(target=router.stop)
        stopping.start()
        assert rows.read_all().num_rows == ROWS
        stopping.join()
        assert not router.answering
        assert not (tmp_path / "s").exists()
        for each in (api, idle):
            with pytest.raises(ServiceUnavailableError):
                each.status()


def test_a_worker_that_does_not_start(tmp_path):
    """The error contains the reason, and the router stops retrying."""
    router = ConnectionRouter(
        WorkerSettings(tmp_path, f"unix:{tmp_path}/s"), workers=2, clock=CLOCK
    )
    with pytest.raises(ServiceUnavailableError, match="does not start"):
        router.start()
    router.stop(0)
    assert not (tmp_path / "s").exists()


def test_what_it_does_not_begin_with(tmp_path):
    for address, settings in (
        ("127.0.0.1:0", {}),
        ("0.0.0.0:0", {"tokens": tmp_path}),
        (f"unix:{tmp_path}/s", {"allowed_names": ("x",)}),
        (f"unix:{tmp_path}/s", {"tls": server_tls()}),
    ):
        with pytest.raises(OptionError):
            ConnectionRouter(WorkerSettings(tmp_path, address, **settings), workers=2, clock=CLOCK)


@pytest.mark.parametrize("greeted", [None, Greeted(None), Greeted(bytes(range(32)))])
def test_notes(greeted):
    message = ControlMessage(ControlOp.WAITS, 1 << 40, greeted)
    assert ControlMessage.from_bytes(message.to_bytes()) == message
