"""Quotas of a server for each token, and the remaining capacity for others."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError, TicketError
from pyspark_theflash.net.channel import grpc, open_channel
from pyspark_theflash.service.api.limits import SMALL_BYTES, Limits
from pyspark_theflash.service.api.token import AccessToken, Tokens
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.wire import protobuf as wire
from pyspark_theflash.service.wire.frame import FrameType, Header, Request
from pyspark_theflash.service.wire.message import (
    AcquireRequest,
    Error,
    Moment,
    PlanRequest,
    ScanRequest,
    StatusRequest,
)
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.flight_client import FlightTransport
from tests.support.grpc_client import GrpcTransport
from tests.support.processes import wait_until
from tests.support.serving import (
    TOKENS,
    serving,
    serving_flight,
    serving_grpc,
    write_tokens,
)
from tests.unit.service.server.test_serve_security import dial, hello, receive

WIDE = table_info(
    8, "shop.wide", [id_column(), column("text", MySQLType.BLOB, charset="binary", flen=1 << 20)]
)
OTHER = "another-token-that-may-read"
READ, ADMIN = TOKENS[Role.READ].value, TOKENS[Role.ADMIN].value
STATUS = METHODS["GetStatus"]
MIB = 1 << 20
LIMITS = Limits(calls=12, calls_per_identity=8, scans_per_identity=3, memory=4 * MIB)
PATIENT = Timeouts(frame_ms=120_000, rows_ms=120_000, failure_ms=0)
"""Nothing ends by a timeout here, so that only the limits decide."""
HASTY = Timeouts(frame_ms=200, rows_ms=200, failure_ms=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """12 MB of rows: more than the buffers of sockets and gRPC."""
    path = tmp_path_factory.mktemp("wide") / "store"
    rows = [(n, 110, [n, bytes([n % 256]) * (1 << 14)]) for n in range(800)]
    return StoreBuilder(path, WIDE).publish(200, {WIDE: rows}).path


@pytest.fixture
def begin(store, tmp_path):
    """Serve in this process, by one of the transports."""
    roles = {ADMIN: "admin", READ: "read", OTHER: "read"}
    tokens = Tokens(write_tokens(tmp_path / "tokens", roles))

    @contextmanager
    def started(server, timeouts=PATIENT, **limits):
        chosen = Limits(**limits) if limits else LIMITS
        settings = {"tokens": tokens, "timeouts": timeouts, "limits": chosen}
        with server(store, "127.0.0.1:0", **settings) as made:
            yield made.address

    return started


def status(address, token, transport=GrpcTransport):
    made = transport(address, token)
    try:
        return made.call(STATUS, StatusRequest(), 20_000)
    finally:
        made.close()


def half_calls(address, token, count, undo):
    """Calls whose message is never sent: the request is an iterator that does not end."""
    never = threading.Event()
    undo.callback(never.set)

    def nothing():
        never.wait()
        return
        yield b""

    channel = open_channel(address, None, max_message_bytes=1 << 20)
    undo.callback(channel.close)
    ask = channel.stream_unary("/theflash.v1.TheFlash/GetStatus")
    metadata = [("authorization", f"Bearer {token}")]
    calls = [ask.future(nothing(), metadata=metadata, timeout=60) for _ in range(count)]
    undo.callback(lambda: [call.cancel() for call in calls])
    return calls


def test_half_calls_over_grpc(begin):
    """Half calls of two tokens leave slots for administrators; those of one, for all others."""
    with begin(serving_grpc) as address, ExitStack() as undo:
        half_calls(address, READ, 5 * LIMITS.calls, undo)
        wait_until(lambda: refused(lambda: status(address, READ)))
        assert status(address, OTHER).resolved_ts == 200
        half_calls(address, OTHER, 5 * LIMITS.calls, undo)
        wait_until(lambda: refused(lambda: status(address, OTHER)))
        assert status(address, ADMIN).resolved_ts == 200


def test_half_calls_end(begin):
    with begin(serving_grpc, timeouts=HASTY) as address, ExitStack() as undo:
        for call in half_calls(address, READ, 3, undo):
            assert call.exception(timeout=20).code() is grpc.StatusCode.CANCELLED
        assert status(address, READ).resolved_ts == 200


class Stalled(grpc.GenericRpcHandler):
    """Holds up the thread in which a server receives calls."""

    def __init__(self):
        self.ended = threading.Event()

    def service(self, handler_call_details):
        self.ended.wait(60)
        return grpc.unary_unary_rpc_method_handler(lambda body, context: b"")


@pytest.mark.parametrize("transport", [serving_grpc, serving_flight])
def test_calls_that_wait_are_not_dropped(store, tmp_path, transport):
    """By default gRPC drops random calls of any caller if more than 1,000 wait to be handled."""
    stalled = Stalled()
    tokens = Tokens(write_tokens(tmp_path / "tokens", {READ: "read"}))
    with transport(store, "127.0.0.1:0", tokens=tokens) as server, ExitStack() as undo:
        server._server.add_generic_rpc_handlers((stalled,))
        channels = [open_channel(server.address, None, max_message_bytes=MIB) for _ in range(25)]
        for channel in channels:
            undo.callback(channel.close)
        asks = [channel.unary_unary("/unknown/Method") for channel in channels]
        calls = [ask.future(b"", timeout=60) for ask in asks for _ in range(100)]
        with suppress(AssertionError):
            wait_until(lambda: any(call.done() for call in calls), 500)
        stalled.ended.set()
        assert grpc.StatusCode.CANCELLED not in {call.code() for call in calls}


def test_calls_without_a_message_leave_nothing(begin):
    """Neither those that are cancelled nor those that end without one keep their slots."""
    with begin(serving_grpc) as address, ExitStack() as undo:
        for _ in range(2 * LIMITS.calls_per_identity):
            (call,) = half_calls(address, READ, 1, undo)
            call.cancel()
        channel = open_channel(address, None, max_message_bytes=1 << 20)
        undo.callback(channel.close)
        ask = channel.stream_unary("/theflash.v1.TheFlash/GetStatus")
        for _ in range(2 * LIMITS.calls_per_identity):
            with pytest.raises(grpc.RpcError):
                ask(iter(()), metadata=[("authorization", f"Bearer {READ}")], timeout=20)
        wait_until(lambda: not refused(lambda: status(address, READ)))


def refused(call):
    try:
        call()
    except ServiceUnavailableError:
        return True
    return False


def unread(address, token, undo):
    """A scan over Flight of which nothing but the schema is read."""
    transport = FlightTransport(address, token)
    undo.callback(transport.close)
    plan = transport.call(METHODS["PlanScan"], METHODS["PlanScan"].request(table="shop.wide"), 0)
    rows = transport.scan(METHODS["Scan"], ScanRequest(plan.splits[0].ticket), 60_000)
    undo.callback(rows.close)
    return rows


def test_unread_scans_over_flight(begin):
    with begin(serving_flight) as address, ExitStack() as undo:
        for _ in range(LIMITS.scans_per_identity):
            unread(address, READ, undo)
        with pytest.raises(ServiceUnavailableError, match="uses its 3 scans"):
            unread(address, READ, undo)
        for token in (READ, OTHER, ADMIN):
            assert status(address, token, FlightTransport).resolved_ts == 200
        for _ in range(LIMITS.scans_per_identity + 1):
            rows = unread(address, ADMIN, undo)
        assert sum(batch.num_rows for batch in rows) == 800


def test_unread_scans_over_flight_end(begin):
    """The server ends scans whose callers receive no batch within the timeout."""
    with begin(serving_flight, timeouts=HASTY) as address, ExitStack() as undo:
        for _ in range(2 * LIMITS.scans_per_identity):
            wait_until(lambda: not refused(lambda: unread(address, READ, undo)))


def test_memory_of_scans_over_flight(begin):
    """Each is counted with what is sent of it at a time, which does not depend on the batches."""
    limits = {"memory": 4 * MIB, "memory_per_identity": 2 * MIB}
    with begin(serving_flight, **limits) as address, ExitStack() as undo:
        scans = [unread(address, READ, undo) for _ in range(4)]
        with pytest.raises(ServiceUnavailableError, match="uses its 2097152 bytes"):
            unread(address, READ, undo)
        unread(address, OTHER, undo)
        batches = list(scans[0])
        assert sum(batch.num_rows for batch in batches) == 800
        assert max(batch.nbytes for batch in batches) <= MIB // 2
        wait_until(lambda: not refused(lambda: unread(address, READ, undo)))


def test_memory_of_a_large_row_over_flight(tmp_path):
    """A row above the size of a message counts with its own size while it is sent."""
    rows = {WIDE: [(1, 110, [1, bytes(900 << 10)])]}
    store = StoreBuilder(tmp_path / "store", WIDE).publish(200, rows).path
    settings = {
        "tokens": Tokens(write_tokens(tmp_path / "tokens", {READ: "read"})),
        "limits": Limits(memory_per_identity=700 << 10),
    }
    with (
        serving_flight(store, "127.0.0.1:0", **settings) as server,
        ExitStack() as undo,
        pytest.raises(ServiceUnavailableError, match="uses its 716800 bytes"),
    ):
        list(unread(server.address, READ, undo))


def test_unread_scans_with_frames(begin):
    with begin(serving) as address, ExitStack() as undo:

        def connected(token):
            return undo.enter_context(connect(f"theflash://{address}", token=token))

        api, king = connected(TOKENS[Role.READ]), connected(TOKENS[Role.ADMIN])
        ticket = api.plan("shop.wide").splits[0].ticket
        held = [api.scan(ticket) for _ in range(LIMITS.scans_per_identity)]
        with pytest.raises(ServiceUnavailableError, match="uses its 3 scans"):
            api.scan(ticket)
        assert api.status().resolved_ts == 200
        assert king.scan(ticket).read_all().num_rows == 800
        assert held.pop().read_all().num_rows == 800
        assert api.scan(ticket).read_all().num_rows == 800


# -- memory


@pytest.mark.parametrize(
    ("server", "transport"), [(serving_grpc, GrpcTransport), (serving_flight, FlightTransport)]
)
@pytest.mark.parametrize("size", [SMALL_BYTES - 100, SMALL_BYTES + 100])
def test_memory_of_calls(begin, server, transport, size):
    """A response with a ticket is larger than its request; each counts above a size."""
    request = PlanRequest(table="shop.wide", where="id = 1" + " " * size)
    with (
        begin(server, memory_per_identity=SMALL_BYTES) as address,
        closing(transport(address, READ)) as caller,
    ):
        with pytest.raises(ServiceUnavailableError, match=f"uses its {SMALL_BYTES} bytes"):
            caller.call(METHODS["PlanScan"], request, 20_000)
        caller.call(STATUS, StatusRequest(), 20_000)


def send_head(sock, name, size, sent=b""):
    """The beginning of a call whose request has that size."""
    head = Request(name, 0, b"").to_bytes()
    sock.sendall(Header(FrameType.REQUEST, 1, len(head) + size).to_bytes() + head + sent)


def error_of(sock):
    header, body = receive(sock)
    assert header.type is FrameType.ERROR
    return wire.decode(Error, body).name


def test_memory_is_for_what_has_arrived(begin):
    """Declared lengths do not count; received bytes do."""
    with begin(serving, memory=4 * MIB, memory_per_identity=2 * MIB) as address:
        with ExitStack() as undo:
            socks = [undo.enter_context(dial(address)) for _ in range(8)]
            for sock in socks:
                hello(sock, TOKENS[Role.READ])
                send_head(sock, "Scan", 7 * MIB)
            with dial(address) as sock:
                hello(sock, TOKENS[Role.READ])
                send_head(sock, "Scan", MIB, bytes(MIB))
                assert error_of(sock) in ("CodecError", "TicketError")
                # Above the limit of one token; the connection stays usable.
                send_head(sock, "Scan", 3 * MIB, bytes(3 * MIB))
                assert error_of(sock) == "ServiceUnavailableError"
                send_head(sock, "GetStatus", 0)
                assert receive(sock)[0].type is FrameType.RESPONSE
        with dial(address) as sock:
            hello(sock, TOKENS[Role.ADMIN])
            send_head(sock, "Scan", 3 * MIB, bytes(3 * MIB))
            assert error_of(sock) in ("CodecError", "TicketError")


@pytest.mark.parametrize("name", ["Nonsense", "Compact", "PrepareRead"])
def test_the_name_comes_first(begin, name):
    """A call that is not allowed is rejected before its request is read, even if it is large."""
    wanted = {"Nonsense": "UnknownMethodError", "Compact": "RoleError"}
    with begin(serving, memory=1) as address, dial(address) as sock:
        hello(sock, TOKENS[Role.READ])
        send_head(sock, name, 7 * MIB, bytes(7 * MIB))
        assert error_of(sock) == wanted.get(name, OptionError.__name__)
        send_head(sock, "GetStatus", 0)
        assert receive(sock)[0].type is FrameType.RESPONSE


def test_a_request_that_does_not_arrive(begin):
    with begin(serving, timeouts=HASTY) as address, dial(address) as sock:
        hello(sock, TOKENS[Role.READ])
        send_head(sock, "Scan", 7 * MIB, bytes(100_000))
        assert receive(sock) is None


# -- compression


def test_compressed_requests(begin):
    """A message that could expand is refused by the server."""
    with begin(serving_grpc) as address:
        metadata = [("authorization", f"Bearer {READ}")]
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with grpc.insecure_channel(address, compression=compression) as channel:
                ask = channel.unary_unary("/theflash.v1.TheFlash/GetStatus")
                with pytest.raises(grpc.RpcError) as caught:
                    ask(bytes(MIB // 2), metadata=metadata, timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_compressed_responses():
    """And by a client: PD, TiKV and pumps answer channels of the same options."""
    answer = grpc.unary_unary_rpc_method_handler(lambda body, context: bytes(MIB // 2))
    with ExitStack() as undo:
        pool = undo.enter_context(ThreadPoolExecutor(2))
        server = grpc.server(pool, compression=grpc.Compression.Gzip)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("pd", {"Ask": answer}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        undo.callback(lambda: server.stop(None).wait())
        channel = open_channel(f"127.0.0.1:{port}", None, max_message_bytes=MIB)
        undo.callback(channel.close)
        received = b""
        with suppress(grpc.RpcError):
            # gRPC may deliver the message before it notices, but as it is.
            received = channel.unary_unary("/pd/Ask")(b"", timeout=20)
        assert len(received) < MIB // 8


# -- snapshots and tickets


def test_the_snapshots_of_one_token(begin):
    """The limit counts the snapshots of all processes that serve the store; here there are two."""
    limit = {"snapshots_per_identity": 3}
    with begin(serving, **limit) as address, begin(serving, **limit) as twin, ExitStack() as undo:

        def connected(token, at=address):
            return undo.enter_context(connect(f"theflash://{at}", token=token))

        api, king = connected(TOKENS[Role.READ]), connected(TOKENS[Role.ADMIN])
        for latch in king.latches().latches:
            king.remove_latch(latch.id)  # of earlier tests
        for _ in range(5):
            api.release(api.snapshot())
        taken = [connected(TOKENS[Role.READ], twin).snapshot(), api.plan("shop.wide").snapshot]
        latch = api.acquire_latch(AcquireRequest(kind="read"))
        for call in (
            api.snapshot,
            lambda: api.plan("shop.wide"),
            lambda: api.acquire_latch(AcquireRequest(kind="read")),
        ):
            with pytest.raises(ServiceUnavailableError, match="has 3 snapshots"):
                call()
        assert api.plan("shop.wide", moment=Moment(handle=taken[0].handle)).splits
        assert len([king.snapshot() for _ in range(5)]) == 5
        connected(AccessToken(OTHER)).snapshot()
        # Any end of a latch counts.
        king.remove_latch(taken[1].latch_id)
        api.snapshot()
        api.release_latch(latch)
        api.snapshot()


def test_a_handle_is_for_its_caller(begin):
    with begin(serving) as address, ExitStack() as undo:
        owner, *others = (
            undo.enter_context(connect(f"theflash://{address}", token=token))
            for token in (TOKENS[Role.READ], AccessToken(OTHER), TOKENS[Role.ADMIN])
        )
        snapshot = owner.snapshot()
        for api in others:
            for call in (
                lambda api=api: api.renew(snapshot),
                lambda api=api: api.release(snapshot),
                lambda api=api: api.plan("shop.wide", moment=Moment(handle=snapshot.handle)),
                lambda api=api: api.tables(Moment(handle=snapshot.handle)),
            ):
                with pytest.raises(TicketError, match="not issued by this store to this caller"):
                    call()
        assert owner.renew(snapshot).snapshot_ts == 200
        pin = others[1].pin(Moment(ttl_ms=60_000))
        with pytest.raises(TicketError, match="not issued by this store to this caller"):
            owner.release(pin)
        others[1].release(pin)


def test_a_ticket_is_good_once_in_a_request(begin):
    with (
        begin(serving) as address,
        connect(f"theflash://{address}", token=TOKENS[Role.READ]) as api,
    ):
        ticket = api.plan("shop.wide").splits[0].ticket
        assert api.scan(ticket).read_all().num_rows == 800
        with pytest.raises(TicketError, match="repeated"):
            api.scan(ticket, more=(ticket,) * 3)
