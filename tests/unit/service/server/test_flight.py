"""The API over Arrow Flight: calls of plain pyarrow, and authentication."""

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import flight

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.wire.message import Error, PlanRequest
from pyspark_theflash.service.wire.method import METHODS, REQUEST_BYTES_MAX, Role
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.flight_client import FlightTransport
from tests.support.serving import (
    CLOCK,
    TOKENS,
    server_tls,
    serving_flight,
    tokens,
    write_tokens,
)
from tests.support.tls import FOLDER, trust

TABLE = table_info(7, "shop.items", [id_column()])
ADMIN = TOKENS[Role.ADMIN].value
TIMEOUT_MS = 1_000
BYTES_MAX = 64 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: [(n, 110, [n]) for n in range(10)]})
    return path


@pytest.fixture(scope="module")
def address(store, tmp_path_factory):
    accepted = tokens(tmp_path_factory.mktemp("tokens"))
    settings = {"tokens": accepted, "timeouts": Timeouts(failure_ms=0)}
    with serving_flight(store, "127.0.0.1:0", **settings) as server:
        yield server.address


@pytest.fixture
def client(address):
    """Plain pyarrow, and the options of an admin's call."""
    transport = FlightTransport(address, ADMIN)
    yield transport.client, transport.options(TIMEOUT_MS)
    transport.close()


def error_name(error):
    return decode(Error, error.value.extra_info).name


def test_the_list_of_tables(client):
    plain, options = client
    (info,) = plain.list_flights(options=options)
    assert [part.decode() for part in info.descriptor.path] == ["shop", "items"]
    assert info.schema.names == ["id"]
    assert plain.get_flight_info(info.descriptor, options).schema == info.schema
    with pytest.raises(flight.FlightError, match="a listing with criteria is not supported"):
        list(plain.list_flights(b"shop", options))


@pytest.mark.parametrize(
    "descriptor",
    [
        flight.FlightDescriptor.for_path("shop", "items"),
        flight.FlightDescriptor.for_path("shop.items"),
        flight.FlightDescriptor.for_command(encode(PlanRequest(table="shop.items"))),
        flight.FlightDescriptor.for_command(b'{"table": "shop.items", "columns": ["id"]}'),
    ],
    ids=["path", "name", "message", "json"],
)
def test_rows(client, descriptor):
    plain, options = client
    info = plain.get_flight_info(descriptor, options)
    (endpoint,) = info.endpoints
    table = plain.do_get(endpoint.ticket, options).read_all()
    assert table.schema == info.schema
    assert sorted(table.column("id").to_pylist()) == list(range(10))
    assert plain.get_schema(descriptor, options).schema == info.schema


def test_actions_in_json(client):
    plain, options = client
    (result,) = plain.do_action(flight.Action("GetStatus", b"{}"), options)
    assert b'"resolvedTs": "200"' in result.body.to_pybytes()
    listed = {action.type for action in plain.list_actions(options)}
    assert listed == set(METHODS)


@pytest.mark.parametrize(
    "action", ["Nonsense", "Scan"], ids=["unknown", "one that answers with rows"]
)
def test_what_is_no_action(client, action):
    plain, options = client
    with pytest.raises(flight.FlightServerError) as caught:
        list(plain.do_action(flight.Action(action, b"{}"), options))
    assert error_name(caught) in ("UnknownMethodError", "UnsupportedError")


def test_nonsense(client):
    plain, options = client
    with pytest.raises(flight.FlightServerError) as caught:
        plain.do_get(flight.Ticket(b"nonsense"), options).read_all()
    assert error_name(caught) == "TicketError"
    with pytest.raises(flight.FlightServerError) as caught:
        plain.get_flight_info(flight.FlightDescriptor.for_command(b"\xff"), options)
    assert error_name(caught) == "CodecError"


REFUSED = [(m.name, role) for m in METHODS.values() for role in Role if role < m.role]
REFUSED += [(name, None) for name in METHODS]


@pytest.mark.parametrize(("name", "role"), REFUSED)
def test_every_method_looks_at_the_token(address, name, role):
    """No token that is known, and each that is not good enough."""
    transport = FlightTransport(address, "not-one-of-them" if role is None else TOKENS[role].value)
    begin = CLOCK.boottime_ms()
    wanted = flight.FlightUnauthenticatedError if role is None else flight.FlightUnauthorizedError
    options = transport.options(TIMEOUT_MS)
    with pytest.raises(wanted):
        list(transport.client.do_action(flight.Action(name, b"{}"), options))
    transport.close()
    assert CLOCK.boottime_ms() - begin < TIMEOUT_MS


def test_rows_need_a_token(address):
    transport = FlightTransport(address, "not-one-of-them")
    options = transport.options(TIMEOUT_MS)
    with pytest.raises(flight.FlightUnauthenticatedError):
        transport.client.do_get(flight.Ticket(b"x"), options).read_all()
    transport.close()


def test_headers_that_are_no_token(address):
    transport = FlightTransport(address, ADMIN)
    for headers in ([], [(b"authorization", b"Basic abc")], [(b"authorization", ADMIN.encode())]):
        options = flight.FlightCallOptions(timeout=1, headers=headers)
        with pytest.raises(flight.FlightUnauthenticatedError):
            list(transport.client.list_actions(options))
    transport.close()


def test_a_token_that_is_taken_back(store, tmp_path):
    accepted = tokens(tmp_path)
    with serving_flight(store, "127.0.0.1:0", tokens=accepted) as server:
        transport = FlightTransport(server.address, TOKENS[Role.READ].value)
        assert transport.client.list_actions(transport.options(TIMEOUT_MS))
        write_tokens(tmp_path / "tokens", {ADMIN: "admin"})
        with pytest.raises(flight.FlightUnauthenticatedError):
            transport.client.list_actions(transport.options(TIMEOUT_MS))
        transport.close()


def shown(name, ca="ca"):
    """Options of a caller: trusted authority and own certificate."""
    options = {"tls_root_certs": (FOLDER / f"{ca}.pem").read_bytes()}
    if name is None:
        return options
    return options | {
        "cert_chain": (FOLDER / f"{name}.pem").read_bytes(),
        "private_key": (FOLDER / f"{name}.key").read_bytes(),
    }


BAD = {
    "none": shown(None),
    "of another authority": shown("other"),
    "of a name not allowed": shown("stranger"),
    "self-signed and expired": shown("expired"),
    "server not trusted": shown("client", "other-ca"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_certificates(store, tmp_path, bad):
    settings = {"tokens": tokens(tmp_path), "tls": server_tls(), "allowed_names": ("tidb",)}
    with serving_flight(store, "0.0.0.0:0", **settings) as server:
        address = server.address.replace("0.0.0.0", "localhost")
        options = FlightTransport(address, ADMIN, trust()).options(5 * TIMEOUT_MS)
        with flight.FlightClient(f"grpc+tls://{address}", **shown("client")) as client:
            assert client.list_actions(options)
        begin = CLOCK.boottime_ms()
        with (
            flight.FlightClient(f"grpc+tls://{address}", **bad) as client,
            pytest.raises(flight.FlightError),
        ):
            client.list_actions(options)
        assert CLOCK.boottime_ms() - begin < TIMEOUT_MS


@pytest.mark.parametrize("token", [None, ADMIN])
@pytest.mark.parametrize("call", ["DoAction", "GetFlightInfo", "DoGet"])
def test_messages_that_are_too_large(address, call, token):
    """They are rejected by their length, and those without a token before their length is read."""
    body = bytes(REQUEST_BYTES_MAX + 1)
    transport = FlightTransport(address, token or "not-one-of-them")
    client, options = transport.client, transport.options(5 * TIMEOUT_MS)
    calls = {
        "DoAction": lambda: list(client.do_action(flight.Action("GetStatus", body), options)),
        "GetFlightInfo": lambda: client.get_flight_info(
            flight.FlightDescriptor.for_command(body), options
        ),
        "DoGet": lambda: client.do_get(flight.Ticket(body), options).read_all(),
    }
    begin, before = CLOCK.boottime_ms(), peak_bytes()
    wanted = flight.FlightUnauthenticatedError if token is None else pa.ArrowException
    with pytest.raises(wanted):
        calls[call]()
    transport.close()
    assert CLOCK.boottime_ms() - begin < TIMEOUT_MS
    assert peak_bytes() - before < BYTES_MAX


def test_much_more_than_may_be(store, tmp_path):
    """Half a gigabyte takes hardly any memory of the server, which is a separate process."""
    file = write_tokens(tmp_path / "tokens")
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "serve", str(store)]
    command += ["--listen", f"unix:{tmp_path}/s", "--flight", "127.0.0.1:0", "--tokens", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[-1]
            for token in ("not-one-of-them", ADMIN):
                transport = FlightTransport(address, token)
                action = flight.Action("GetStatus", b"{}")
                with suppress(flight.FlightError):
                    list(transport.client.do_action(action, transport.options(5 * TIMEOUT_MS)))
                before = resident_bytes(process.pid)
                huge = flight.Action("GetStatus", bytes(512 << 20))
                with pytest.raises(pa.ArrowException):
                    list(transport.client.do_action(huge, transport.options(20 * TIMEOUT_MS)))
                assert resident_bytes(process.pid) - before < BYTES_MAX
                transport.close()
        finally:
            process.terminate()


def test_deadlines(client):
    """Over Flight, too, a call that waits ends by its deadline."""
    plain, _ = client
    options = FlightTransport("localhost:1", ADMIN).options(300)
    begin = CLOCK.boottime_ms()
    wait = flight.Action("TakeSnapshot", b'{"snapshotTs": "400", "waitMs": "60000"}')
    with pytest.raises((flight.FlightTimedOutError, flight.FlightUnavailableError)):
        list(plain.do_action(wait, options))
    assert CLOCK.boottime_ms() - begin < 5 * TIMEOUT_MS


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes(pid):
    """The most that a process has had in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize(
    ("address", "given"),
    [
        ("0.0.0.0:0", ["tokens"]),
        ("127.0.0.1:0", []),
        ("nonsense", ["tokens"]),
        ("unix:{}/s", ["tls"]),
    ],
)
def test_unsafe_addresses(store, tmp_path, address, given):
    security = {"tokens": tokens(tmp_path), "tls": server_tls()}
    with (
        pytest.raises(OptionError),
        serving_flight(store, address.format(tmp_path), **{name: security[name] for name in given}),
    ):
        pass


def test_a_unix_socket_is_ours_alone(store, tmp_path):
    with serving_flight(store, f"unix:{tmp_path}/s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        with flight.FlightClient(f"grpc+unix://{tmp_path}/s") as client:
            assert client.list_actions()
