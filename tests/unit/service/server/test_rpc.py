"""The API over gRPC: every method of its descriptor, and authentication."""

import resource

import pytest

from pyspark_theflash.base.errors import AuthenticationError, OptionError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.server.rpc import RpcServer
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.service.wire.method import METHODS, REQUEST_BYTES_MAX, Role
from pyspark_theflash.service.wire.protobuf import SERVICE, decode, encode
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.grpc_client import GrpcTransport
from tests.support.serving import CLOCK, TOKENS, server_tls, serving_grpc, tokens, write_tokens
from tests.support.tls import tls, trust

TABLE = table_info(7, "shop.items", [id_column()])
UNARY = [m.name for m in SERVICE.methods if METHODS[m.name].is_unary]
OTHERS = [m.name for m in SERVICE.methods if m.name not in UNARY]
SECOND_MS = 1_000
BYTES_MAX = 64 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: [(n, 110, [n]) for n in range(10)]})
    return path


@pytest.fixture(scope="module")
def address(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    settings = {"tokens": tokens(folder), "timeouts": Timeouts(failure_ms=0)}
    with serving_grpc(store, "127.0.0.1:0", **settings) as server:
        yield server.address


def refused(address, token, name, body, shown=None):
    """The status and the error with which a call is refused, in time and in little memory."""
    transport = GrpcTransport(address, token, shown)
    begin, before = CLOCK.boottime_ms(), peak_bytes()
    with pytest.raises(grpc.RpcError) as caught:
        transport.raw(name, body, 5 * SECOND_MS)
    transport.close()
    assert CLOCK.boottime_ms() - begin < 4 * SECOND_MS
    assert peak_bytes() - before < BYTES_MAX
    encoded = dict(caught.value.trailing_metadata() or ()).get(RpcServer.ERROR_KEY)
    return caught.value.code(), None if encoded is None else decode(Error, encoded).name


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_unary_methods_are_most():
    of_writer = {name for name, called in METHODS.items() if called.of_writer}
    assert set(OTHERS) <= {"Scan", "Write", *of_writer}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("token", [None, "not-one-of-the-tokens", ""])
def test_no_method_without_a_token(address, name, token):
    refusal = refused(address, token, name, b"")
    assert refusal == (grpc.StatusCode.UNAUTHENTICATED, "AuthenticationError")


@pytest.mark.parametrize(
    ("name", "role"), [(m, r) for m in UNARY for r in Role if r < METHODS[m].role]
)
def test_no_method_with_too_small_a_role(address, name, role):
    refusal = refused(address, TOKENS[role].value, name, b"")
    assert refusal == (grpc.StatusCode.PERMISSION_DENIED, "RoleError")


@pytest.mark.parametrize("name", UNARY)
def test_messages_that_are_too_large(address, name):
    body = bytes(REQUEST_BYTES_MAX + 1)
    code, _ = refused(address, TOKENS[Role.ADMIN].value, name, body)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Without a token, it is not even looked at how large they are.
    code, error = refused(address, None, name, body)
    assert (code, error) == (grpc.StatusCode.UNAUTHENTICATED, "AuthenticationError")


@pytest.mark.parametrize("name", UNARY)
def test_messages_that_are_none(address, name):
    refusal = refused(address, TOKENS[Role.ADMIN].value, name, b"\xff\xff")
    assert refusal == (grpc.StatusCode.INVALID_ARGUMENT, "CodecError")


@pytest.mark.parametrize("name", [*OTHERS, "Nonsense"])
def test_what_is_not_unary(address, name):
    code, _ = refused(address, TOKENS[Role.ADMIN].value, name, b"")
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_a_token_that_is_taken_back(store, tmp_path):
    accepted = tokens(tmp_path)
    with serving_grpc(store, "127.0.0.1:0", tokens=accepted) as server:
        transport = GrpcTransport(server.address, TOKENS[Role.READ].value)
        assert transport.raw("GetStatus", b"", SECOND_MS)
        write_tokens(tmp_path / "tokens", {TOKENS[Role.ADMIN].value: "admin"})
        with pytest.raises(AuthenticationError):
            transport.call(METHODS["GetStatus"], METHODS["GetStatus"].request(), SECOND_MS)
        transport.close()


@pytest.mark.parametrize(
    "shown",
    [trust(), tls("other"), tls("stranger"), tls("client", ca="other-ca"), tls("expired"), None],
    ids=["none", "other authority", "name", "server not trusted", "self-signed, expired", "plain"],
)
def test_certificates(store, tmp_path, shown):
    settings = {"tokens": tokens(tmp_path), "tls": server_tls(), "allowed_names": ("tidb",)}
    with serving_grpc(store, "0.0.0.0:0", **settings) as server:
        address = server.address.replace("0.0.0.0", "localhost")
        admin = TOKENS[Role.ADMIN].value
        transport = GrpcTransport(address, admin, tls("client"))
        assert transport.raw("GetStatus", b"", SECOND_MS)
        transport.close()
        code, _ = refused(address, admin, "GetStatus", b"", shown)
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize(
    ("address", "given"), [("0.0.0.0:0", ["tokens"]), ("127.0.0.1:0", []), ("unix:{}/s", ["tls"])]
)
def test_unsafe_addresses(store, tmp_path, address, given):
    security = {"tokens": tokens(tmp_path), "tls": server_tls()}
    with (
        pytest.raises(OptionError),
        serving_grpc(store, address.format(tmp_path), **{name: security[name] for name in given}),
    ):
        pass


def test_a_unix_socket_is_ours_alone(store, tmp_path):
    with serving_grpc(store, f"unix:{tmp_path}/s") as server:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        transport = GrpcTransport(server.address, None)
        assert transport.raw("Compact", b"", 5 * SECOND_MS)
        transport.close()


def test_deadlines(address):
    transport = GrpcTransport(address, TOKENS[Role.ADMIN].value)
    ask = transport.channel.unary_unary(f"/{SERVICE.full_name}/TakeSnapshot")
    wait = METHODS["TakeSnapshot"].request(snapshot_ts=400, wait_ms=60_000)
    begin = CLOCK.boottime_ms()
    calls = [ask.future(encode(wait), timeout=0.5, metadata=transport.metadata) for _ in range(16)]
    codes = {call.exception().code() for call in calls}
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    assert CLOCK.boottime_ms() - begin < 5 * SECOND_MS
    transport.close()
