"""Floods of connections: admission of callers while others open as many as they can."""

import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager

import pytest

from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError
from pyspark_theflash.net.inflow import NEW_S
from pyspark_theflash.service.api.limits import Limits, Quota
from pyspark_theflash.service.api.token import AccessToken, Tokens
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.server.admission import Admission
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.wire.frame import PREFACE
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.manual_clock import ManualClock
from tests.support.serving import TOKENS, server_tls, serving, serving_workers, write_tokens
from tests.support.tls import FOLDER, trust

TABLE = table_info(7, "shop.items", [id_column()])
OTHER = AccessToken("another-token-that-may-read")
ADMIN = TOKENS[Role.ADMIN]
LIMITS = Limits(pending=8, connections=16, connections_per_identity=3)
PATIENT = Timeouts(greeting_ms=120_000, pending_ms=120_000)
"""Nothing ends by a timeout here, so that only the limits decide."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: [(1, 110, [1])]})
    return path


@contextmanager
def one_process(store, address, tokens, **settings):
    with serving(store, address, tokens=Tokens(tokens), **settings) as server:
        yield server


@contextmanager
def two_workers(store, address, tokens, **settings):
    with serving_workers(store, address, workers=2, tokens=tokens, **settings) as server:
        yield server


@pytest.fixture(params=[one_process, two_workers])
def served(request, store, tmp_path):
    """Serve with `LIMITS` and three tokens: one to administer, two to read."""
    roles = {ADMIN.value: "admin", TOKENS[Role.READ].value: "read", OTHER.value: "read"}
    file = write_tokens(tmp_path / "tokens", roles)

    @contextmanager
    def begin(address, **settings):
        arguments = {"limits": LIMITS, "timeouts": PATIENT, **settings}
        with request.param(store, address, file, **arguments) as server:
            yield server.address

    return begin


def dial(address):
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 20)


@pytest.mark.parametrize(
    ("address", "sent"),
    [("127.0.0.1:0", b""), ("127.0.0.1:0", PREFACE), ("unix:{}/s", PREFACE)],
    ids=["nothing", "preface", "unix"],
)
def test_a_flood_before_the_token(served, tmp_path, address, sent):
    with served(address.format(tmp_path)) as place, ExitStack() as flood:
        for _ in range(5 * LIMITS.pending):
            flood.enter_context(dial(place)).sendall(sent)
        with connect(f"theflash://{place}" if ":" in place[5:] else place, token=ADMIN) as api:
            for _ in range(3):
                assert api.status().resolved_ts == 200


@pytest.mark.parametrize("is_shaken", [False, True], ids=["no handshake", "handshake only"])
def test_a_flood_before_the_token_with_tls(served, is_shaken):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(FOLDER / "ca.pem")
    tls = server_tls(with_ca=False)
    with served("localhost:0", tls=tls) as place, ExitStack() as flood:
        for _ in range(3 * LIMITS.pending):
            sock = flood.enter_context(dial(place))
            if is_shaken:
                flood.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
        with connect(f"theflash://{place}", token=ADMIN, tls=trust()) as api:
            assert api.status().resolved_ts == 200


def test_the_connections_of_one_token(served):
    with served("127.0.0.1:0") as place, ExitStack() as flood:

        def begin(token):
            api = flood.enter_context(connect(f"theflash://{place}", token=token))
            api.status()
            return api

        mine = [begin(TOKENS[Role.READ]) for _ in range(LIMITS.connections_per_identity)]
        with pytest.raises(ServiceUnavailableError, match="3 "):
            begin(TOKENS[Role.READ])
        begin(OTHER).status()
        for _ in range(LIMITS.connections_per_identity + 1):
            begin(ADMIN)
        mine.pop().close()
        wait_until_served(lambda: begin(TOKENS[Role.READ]))


def wait_until_served(call):
    """The server learns of the end of a connection a little later than its client."""
    for _ in range(200):
        try:
            return call()
        except ServiceUnavailableError:  # noqa: PERF203
            threading.Event().wait(0.05)
    return call()


def test_slots_for_administrators():
    quota = Quota("here", "calls", 16, 100)
    for _ in range(14):
        quota.acquire("one")
    with pytest.raises(ServiceUnavailableError, match="all 14 calls"):
        quota.acquire("two")
    for _ in range(2):
        quota.acquire("king", is_admin=True)
    with pytest.raises(ServiceUnavailableError, match="all 16 calls"):
        quota.acquire("king", is_admin=True)
    quota.release("one")
    quota.acquire("king", is_admin=True)


def test_the_oldest_gives_way():
    clock = ManualClock()
    admission = Admission(Limits(pending=3), "here", clock)
    assert [admission.add(n) for n in range(3)] == [None] * 3
    clock.sleep_ms(round(NEW_S * 1000))
    assert admission.add(3) == 0
    assert admission.add(4, lambda each: each == 2) == 2
    admission.admit(1, "one", is_admin=False)
    assert (admission.is_pending(1), admission.is_pending(3)) == (False, True)
    assert admission.add(5) is None
    admission.remove(3)
    assert admission.add(6) is None
    clock.sleep_ms(round(NEW_S * 1000))
    assert admission.add(7, lambda _: False) == 4


def test_new_connections_are_spared():
    clock = ManualClock()
    admission = Admission(Limits(pending=3), "here", clock)
    assert [admission.add(n) for n in range(9)] == [None] * 9
    assert admission.add(9) == 0
    clock.sleep_ms(round(NEW_S * 1000))
    assert [admission.add(n) for n in range(10, 13)] == [1, 2, 3]


def test_limits_by_name():
    assert Limits().with_changes(["pending=7", "memory=9"]) == Limits(pending=7, memory=9)
    for text in ("pending", "pending=", "pending=0", "pending=-1", "nothing=1", "pending=1.5"):
        with pytest.raises(OptionError, match="NAME=NUMBER"):
            Limits().with_changes([text])
