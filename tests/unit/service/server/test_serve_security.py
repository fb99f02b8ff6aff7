"""Access to a served store, and attacks by its callers."""

import gc
import os
import resource
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import closing, suppress

import pytest

from pyspark_theflash.base.errors import (
    AuthenticationError,
    LatchLostError,
    OptionError,
    ProtocolError,
    RoleError,
    ServiceUnavailableError,
    StreamCutError,
    TableNotFoundError,
    TheFlashError,
    TicketError,
    UnknownMethodError,
)
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.token import AccessToken, Tokens
from pyspark_theflash.service.client.remote import RemoteTransport
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire import protobuf as wire
from pyspark_theflash.service.wire.frame import (
    GREETING_BYTES_MAX,
    HEADER_BYTES,
    PREFACE,
    FrameType,
    Header,
    Hello,
    Request,
)
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.service.wire.method import METHODS, REQUEST_BYTES_MAX, Role
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.raw_peer import receive
from tests.support.serving import CLOCK, TOKENS, server_tls, serving, tokens, write_tokens
from tests.support.tls import FOLDER, tls, trust

TABLE = table_info(7, "shop.items", [id_column()])
EMPTY = (TicketError, TableNotFoundError, ProtocolError, OptionError, LatchLostError)
"""Errors of empty requests, other than `RoleError`."""
SECOND_MS = 1_000
"""The time within which requests must be rejected."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: [(n, 110, [n]) for n in range(10)]})
    return path


@pytest.fixture(scope="module")
def plain(store, tmp_path_factory):
    """A server on loopback that requires tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    settings = {"tokens": tokens(folder), "timeouts": Timeouts(failure_ms=0)}
    with serving(store, "127.0.0.1:0", **settings) as server:
        yield server.address


def refused(error, action):
    """The text of the error that `action` raises, in time."""
    begin = CLOCK.boottime_ms()
    with pytest.raises(error) as caught:
        action()
    assert CLOCK.boottime_ms() - begin < 4 * SECOND_MS
    return str(caught.value)


def status(address, **options):
    with connect(f"theflash://{address}", **options) as api:
        return api.status()


# -- every method


def test_methods_are_those_of_the_protocol():
    declared = {m.name: (m.input_type.name, m.output_type.name) for m in wire.SERVICE.methods}
    ours = {m.name: (m.request.__name__, m.response.__name__) for m in METHODS.values()}
    assert ours == declared


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("token", [None, AccessToken("not-one-of-the-tokens")])
def test_no_method_without_a_token(plain, name, token):
    transport = RemoteTransport(plain, clock=CLOCK, token=token)
    method = METHODS[name]
    with closing(transport):
        refused(AuthenticationError, lambda: transport.call(method, method.request(), SECOND_MS))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("role", Role)
def test_no_method_with_too_small_a_role(plain, name, role):
    transport = RemoteTransport(plain, clock=CLOCK, token=TOKENS[role])
    method = METHODS[name]
    with closing(transport):
        if role < method.role:
            text = refused(RoleError, lambda: transport.call(method, method.request(), SECOND_MS))
            assert name in text
        elif method.role is Role.READ:
            # An empty request may be rejected, but not because of the caller.
            with suppress(*EMPTY):
                transport.call(method, method.request(), SECOND_MS)


def test_unknown_method(plain):
    method = METHODS["GetStatus"]
    unknown = type(method)("Nonsense", method.role, method.request, method.response, "__init__")
    transport = RemoteTransport(plain, clock=CLOCK, token=TOKENS[Role.ADMIN])
    with closing(transport):
        refused(UnknownMethodError, lambda: transport.call(unknown, message.StatusRequest(), 1000))


# -- tokens


def test_a_proof_is_good_once(plain):
    """A proof that was recorded on one connection is not accepted on another."""

    def greeted(proof):
        sock = dial(plain)
        sock.sendall(PREFACE)
        _, hello = receive(sock)
        nonce = Hello.from_bytes(hello).nonce
        shown = proof or TOKENS[Role.ADMIN].proof(nonce)
        sock.sendall(Header(FrameType.AUTH, 0, len(shown)).to_bytes() + shown)
        with sock:
            return receive(sock), shown

    (first, _), heard = greeted(None)
    assert first.type is FrameType.READY
    (again, body), _ = greeted(heard)
    assert again.type is FrameType.ERROR
    assert wire.decode(Error, body).name == "AuthenticationError"


def test_a_token_that_is_taken_back(store, tmp_path):
    file = write_tokens(tmp_path / "tokens")
    with (
        serving(store, "127.0.0.1:0", tokens=Tokens(file)) as server,
        connect(f"theflash://{server.address}", token=TOKENS[Role.READ]) as api,
    ):
        api.status()
        write_tokens(file, {TOKENS[Role.ADMIN].value: "admin"})
        refused(AuthenticationError, api.status)
        refused(AuthenticationError, api.status)
        file.unlink()
        refused(AuthenticationError, lambda: status(server.address, token=TOKENS[Role.ADMIN]))


def test_files_of_tokens(tmp_path):
    file = write_tokens(tmp_path / "tokens")
    assert AccessToken.from_file(
        write_private(tmp_path / "one", "a-token-in-its-file\n")
    ) == AccessToken("a-token-in-its-file")
    file.chmod(0o640)
    assert "chmod 600" in refused(OptionError, lambda: Tokens(file))
    assert "cannot read" in refused(OptionError, lambda: Tokens(tmp_path / "none"))
    for text in (
        "",
        "read",
        "read short",
        "king a-token-that-may-read",
        "read a b",
        "read sha256d:0",
    ):
        refused(OptionError, lambda text=text: Tokens(write_private(tmp_path / "bad", text)))


def test_a_hashed_token(store, tmp_path):
    """As `openssl` would make it."""
    inner = subprocess.run(
        ["openssl", "dgst", "-sha256", "-binary"], input=b"a-secret-for-a-test", capture_output=True
    )
    outer = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hex"], input=inner.stdout, capture_output=True
    )
    digits = outer.stdout.decode().split()[-1]
    file = write_private(tmp_path / "tokens", f"read sha256d:{digits}")
    with serving(store, "127.0.0.1:0", tokens=Tokens(file)) as server:
        assert status(server.address, token=AccessToken("a-secret-for-a-test")).resolved_ts == 200


def test_secrets_are_not_shown(store, tmp_path):
    secret = TOKENS[Role.ADMIN].value
    assert secret not in repr(TOKENS[Role.ADMIN])
    shown = f"{vars(RemoteTransport('127.0.0.1:1', clock=CLOCK, token=TOKENS[Role.ADMIN]))}"
    assert secret not in shown
    with connect(store) as api:
        plan = api.plan("shop.items")
    assert repr(plan.snapshot.handle)[2:20] not in repr(plan)
    assert (store / "serve.key").stat().st_mode & 0o777 == 0o600


# -- certificates


@pytest.fixture(scope="module")
def secured(store, tmp_path_factory):
    """A server that requires certificates and tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    settings = {"tokens": tokens(folder), "tls": server_tls(), "allowed_names": ("tidb",)}
    with serving(store, "0.0.0.0:0", **settings) as server:
        yield server.address.replace("0.0.0.0", "localhost")


def test_a_good_certificate(secured):
    assert status(secured, tls=tls("client"), token=TOKENS[Role.READ]).resolved_ts == 200


@pytest.mark.parametrize(
    "shown",
    [trust(), tls("other"), tls("stranger"), tls("client", ca="other-ca")],
    ids=["none", "of another authority", "of a name not allowed", "server not trusted"],
)
def test_bad_certificates(secured, shown):
    refused(AuthenticationError, lambda: status(secured, tls=shown, token=TOKENS[Role.ADMIN]))


def test_a_certificate_is_no_token(secured):
    refused(AuthenticationError, lambda: status(secured, tls=tls("client")))


def test_a_server_of_another_name(secured):
    elsewhere = secured.replace("localhost", "127.0.0.2")
    text = refused(
        AuthenticationError, lambda: status(elsewhere, tls=tls("client"), token=TOKENS[Role.READ])
    )
    assert "127.0.0.2" in text


def test_an_expired_certificate(store, tmp_path):
    context = server_tls(name="expired", with_ca=False)
    with serving(store, "127.0.0.1:0", tokens=tokens(tmp_path), tls=context) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        shown = trust("expired")
        text = refused(
            AuthenticationError, lambda: status(address, tls=shown, token=TOKENS[Role.READ])
        )
        assert "expired" in text


def test_plain_text_where_tls_is_spoken(secured):
    refused(TheFlashError, lambda: status(secured, token=TOKENS[Role.READ]))


def test_tls_where_plain_text_is_spoken(plain):
    address = plain.replace("127.0.0.1", "localhost")
    refused(AuthenticationError, lambda: status(address, tls=tls("client")))


def test_old_tls(secured):
    host, port = secured.split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(FOLDER / "ca.pem")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, int(port)), 1) as sock,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(sock, server_hostname=host)


# -- where to listen


@pytest.mark.parametrize(
    ("address", "settings", "reason"),
    [
        ("0.0.0.0:0", ["tokens"], "open to other machines"),
        ("[::]:0", ["tokens"], "open to other machines"),
        ("0.0.0.0:0", ["tls"], "give tokens"),
        ("127.0.0.1:0", [], "give tokens"),
        ("unix:{}/s", ["tls"], "takes no certificates"),
        ("unix:/tmp/s", [], "not writable by others"),
        ("unix:{}/" + "x" * 120, [], "bytes of a socket"),
        ("nonsense", ["tokens", "tls"], "not of the form"),
    ],
)
def test_unsafe_addresses(store, tmp_path, address, settings, reason):
    security = {"tokens": tokens(tmp_path), "tls": server_tls()}
    chosen = {name: security[name] for name in settings}

    def begin():
        with serving(store, address.format(tmp_path), **chosen):
            pass

    assert reason in refused(OptionError, begin)


def test_a_unix_socket_is_ours_alone(store, tmp_path):
    with serving(store, f"unix:{tmp_path}/s") as server:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        with connect(server.address) as api:
            assert api.compact()

        def second():
            with serving(store, f"unix:{tmp_path}/s"):
                pass

        assert "another process listens" in refused(OptionError, second)
    assert not (tmp_path / "s").exists()


# -- invalid calls


def dial(address):
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), 2)
    sock.settimeout(2)
    return sock


def hello(sock, token=TOKENS[Role.ADMIN]):
    """Get in."""
    sock.sendall(PREFACE)
    _, body = receive(sock)
    proof = token.proof(Hello.from_bytes(body).nonce)
    sock.sendall(Header(FrameType.AUTH, 0, len(proof)).to_bytes() + proof)
    assert receive(sock)[0].type is FrameType.READY


def read_error(sock):
    """Return the name of the error that the server sends before it closes the connection."""
    header, body = receive(sock)
    assert header.type is FrameType.ERROR
    error = wire.decode(Error, body, as_json=header.is_json)
    assert receive(sock) is None
    return error.name


BEFORE = {
    "no preface": b"GET / HTTP/1.1\r\n\r\n",
    "another version": PREFACE[:-1] + b"\x09",
    "a request before the token": PREFACE + Header(FrameType.REQUEST, 1, 0).to_bytes(),
    "a greeting that is too large": PREFACE
    + Header(FrameType.AUTH, 0, GREETING_BYTES_MAX + 1).to_bytes(),
    "a length of 4 GiB": PREFACE + Header(FrameType.AUTH, 0, (1 << 32) - 1).to_bytes(),
    "no frame": PREFACE + bytes(HEADER_BYTES),
}
AFTER = {
    "no frame": b"\xff" * HEADER_BYTES,
    "a request that is too large": Header(FrameType.REQUEST, 1, REQUEST_BYTES_MAX + 1).to_bytes()
    + bytes(1 << 20),
    "a length of 4 GiB": Header(FrameType.REQUEST, 1, (1 << 32) - 1).to_bytes(),
    "an answer": Header(FrameType.END, 1, 0).to_bytes(),
}


@pytest.mark.parametrize("sent", BEFORE.values(), ids=BEFORE)
def test_nonsense_before_the_token(plain, sent):
    begin = CLOCK.boottime_ms()
    with dial(plain) as sock:
        sock.sendall(sent)
        header, body = receive(sock)
        if header.type is FrameType.HELLO:
            header, body = receive(sock)
        assert header.type is FrameType.ERROR
        assert wire.decode(Error, body).name == "ProtocolError"
        assert receive(sock) is None
    assert CLOCK.boottime_ms() - begin < 4 * SECOND_MS


@pytest.mark.parametrize("sent", AFTER.values(), ids=AFTER)
def test_nonsense_after_the_token(plain, sent):
    begin = CLOCK.boottime_ms()
    before = peak_bytes()
    with dial(plain) as sock:
        hello(sock)
        sock.sendall(sent)
        assert read_error(sock) == "ProtocolError"
    assert CLOCK.boottime_ms() - begin < 4 * SECOND_MS
    assert peak_bytes() - before < 64 << 20


@pytest.mark.parametrize("is_json", [False, True])
def test_requests_that_say_nothing(plain, is_json):
    """The call fails, the connection stays."""
    with dial(plain) as sock:
        hello(sock)
        for body in (b"\xff\xff", b'{"moment": 7}', b"[" * 10_000, b'{"nonsense": 1}'):
            request = Request("PlanScan", 0, body).to_bytes()
            sock.sendall(Header(FrameType.REQUEST, 5, len(request), is_json).to_bytes() + request)
            header, answer = receive(sock)
            assert (header.type, header.call, header.is_json) == (FrameType.ERROR, 5, is_json)
            name = wire.decode(Error, answer, as_json=is_json).name
            assert name in ("CodecError", "TableNotFoundError")
        sock.sendall(Header(FrameType.REQUEST, 6, 3).to_bytes() + b"abc")
        assert read_error(sock) == "ProtocolError"


def test_json_is_enough(plain):
    """A client with nothing but a socket and a JSON parser."""
    with dial(plain) as sock:
        hello(sock)
        body = struct.pack(">IB", 1000, 9) + b"GetStatus" + b"{}"
        sock.sendall(struct.pack(">BBHII", 4, 1, 0, 77, len(body)) + body)
        header, answer = receive(sock)
        assert (header.type, header.call, header.is_json) == (FrameType.RESPONSE, 77, True)
        assert b'"resolvedTs": "200"' in answer
        assert receive(sock)[0].type is FrameType.END


def test_who_says_nothing_is_sent_away(store, tmp_path):
    timeouts = Timeouts(greeting_ms=100, idle_ms=100, frame_ms=100)
    settings = {"tokens": tokens(tmp_path), "timeouts": timeouts}
    with serving(store, "127.0.0.1:0", **settings) as server:
        for begun in (b"", PREFACE[:3]):
            with dial(server.address) as sock:
                sock.sendall(begun)
                assert receive(sock) is None
        for begun in (b"", Header(FrameType.REQUEST, 1, 100).to_bytes() + b"x", b"\4\0\0"):
            with dial(server.address) as sock:
                hello(sock)
                sock.sendall(begun)
                assert receive(sock) is None


def test_connections_that_were_idle_for_too_long(store, tmp_path):
    """A client learns of it when it calls again, and calls once more."""
    timeouts = Timeouts(idle_ms=50)
    with (
        serving(store, f"unix:{tmp_path}/s", timeouts=timeouts) as server,
        connect(server.address) as api,
    ):
        ticket = api.plan("shop.items").splits[0].ticket
        for call in (api.status, lambda: api.scan(ticket).read_all()):
            wait_until(lambda: server.idle_ms() > 0)
            call()
        wait_until(lambda: server.idle_ms() > 0)
        # A call with side effects is not repeated, because it may have been executed.
        refused(ServiceUnavailableError, api.stop_writer)


def test_who_takes_nothing_is_sent_away(tmp_path):
    """Rows are buffered in the socket, not in memory, and for a limited time."""
    wide = table_info(
        8, "shop.wide", [id_column(), column("text", MySQLType.BLOB, charset="binary")]
    )
    made = StoreBuilder(tmp_path / "store", wide)
    made.publish(200, {wide: [(n, 110, [n, bytes(1 << 14)]) for n in range(1000)]})
    timeouts = Timeouts(rows_ms=100)
    with (
        serving(made.path, f"unix:{tmp_path}/s", timeouts=timeouts) as server,
        connect(server.address) as api,
    ):
        rows = api.scan(api.plan("shop.wide").splits[0].ticket)
        wait_until(lambda: server.idle_ms() > 0)
        with pytest.raises(StreamCutError):
            rows.read_all()
        # The server does not wait for a caller that cancels, and keeps its connection.
        api.scan(api.plan("shop.wide").splits[0].ticket).close()
        assert api.status().rows == 1000


def test_too_many_connections(store, tmp_path):
    with serving(store, f"unix:{tmp_path}/s", limits=Limits(connections=2)) as server:
        with connect(server.address) as one, connect(server.address) as two:
            one.status()
            two.status()
            with connect(server.address) as three:
                assert "2 connections" in refused(ServiceUnavailableError, three.status)
            assert ServiceUnavailableError.retryable
            one.status()
        wait_until(lambda: server.idle_ms() > 0)
        with connect(server.address) as again:
            again.status()


def test_nothing_is_left_of_connections(store, tmp_path):
    def threads_and_files():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def scan():
        with connect(server.address) as api:
            api.scan(api.plan("shop.items").splits[0].ticket)

    with serving(store, f"unix:{tmp_path}/s") as server:
        for _ in range(3):  # the store and a connection to its database stay open from now on
            scan()
        gc.collect()
        before = threads_and_files()
        for _ in range(20):
            scan()
        wait_until(lambda: threads_and_files() <= before)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_a_server_that_speaks_nonsense(tmp_path):
    """Limits of a client on the lengths that a server declares."""
    huge = Header(FrameType.HELLO, 0, (1 << 32) - 1).to_bytes()
    for said in (
        huge,
        b"\xff" * 64,
        Header(FrameType.END, 0, 0).to_bytes(),
        b"HTTP/1.1 400 Bad\r\n",
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=answer_with, args=(listener, said))
            thread.start()
            port = listener.getsockname()[1]
            api = TheFlash(RemoteTransport(f"127.0.0.1:{port}", clock=CLOCK))
            refused(ProtocolError, api.status)
            thread.join()


def answer_with(listener, said):
    sock, _ = listener.accept()
    with sock:
        sock.sendall(said)
        sock.recv(100)


def write_private(path, text):
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(text)
    return path


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def wait_until(condition):
    deadline_ms = CLOCK.boottime_ms() + 5_000
    while not condition():
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(10)
