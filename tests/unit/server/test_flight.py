"""The API over Arrow Flight: what plain pyarrow sees of it, and who gets in."""

import pytest
from pyarrow import flight

from pyspark_theflash.api.message import Error, PlanRequest
from pyspark_theflash.api.method import METHODS, Role
from pyspark_theflash.api.wire import decode, encode
from pyspark_theflash.errors import OptionError
from tests.support.flight_client import FlightTransport
from tests.support.serving import (
    CLOCK,
    TOKENS,
    server_tls,
    serving_flight,
    tokens,
    write_tokens,
)
from tests.support.stores import StoreBuilder, id_column, table_info
from tests.support.tls import FOLDER

TABLE = table_info(7, "shop.items", [id_column()])
ADMIN = TOKENS[Role.ADMIN].value
TIMEOUT_MS = 1_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: [(n, 110, [n]) for n in range(10)]})
    return path


@pytest.fixture(scope="module")
def address(store, tmp_path_factory):
    known = tokens(tmp_path_factory.mktemp("tokens"))
    with serving_flight(store, "127.0.0.1:0", tokens=known) as server:
        yield server.address


@pytest.fixture
def client(address):
    """Plain pyarrow, and the options of an admin's call."""
    transport = FlightTransport(address, ADMIN)
    yield transport.client, transport.options(TIMEOUT_MS)
    transport.close()


def told(error):
    return decode(Error, error.value.extra_info).name


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
    assert told(caught) in ("UnknownMethodError", "UnsupportedError")


def test_nonsense(client):
    plain, options = client
    with pytest.raises(flight.FlightServerError) as caught:
        plain.do_get(flight.Ticket(b"nonsense"), options).read_all()
    assert told(caught) == "TicketError"
    with pytest.raises(flight.FlightServerError) as caught:
        plain.get_flight_info(flight.FlightDescriptor.for_command(b"\xff"), options)
    assert told(caught) == "CodecError"


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
    known = tokens(tmp_path)
    with serving_flight(store, "127.0.0.1:0", tokens=known) as server:
        transport = FlightTransport(server.address, TOKENS[Role.READ].value)
        assert transport.client.list_actions(transport.options(TIMEOUT_MS))
        write_tokens(tmp_path / "tokens", {ADMIN: "admin"})
        with pytest.raises(flight.FlightUnauthenticatedError):
            transport.client.list_actions(transport.options(TIMEOUT_MS))
        transport.close()


def test_certificates(store, tmp_path):
    settings = {"tokens": tokens(tmp_path), "tls": server_tls()}
    with serving_flight(store, "127.0.0.1:0", **settings) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        without = FlightTransport(address, ADMIN, FOLDER / "ca.pem")
        with pytest.raises(flight.FlightError):
            without.client.list_actions(without.options(TIMEOUT_MS))
        without.close()
        shown = {
            "tls_root_certs": (FOLDER / "ca.pem").read_bytes(),
            "cert_chain": (FOLDER / "client.pem").read_bytes(),
            "private_key": (FOLDER / "client.key").read_bytes(),
        }
        with flight.FlightClient(f"grpc+tls://{address}", **shown) as client:
            assert client.list_actions(without.options(TIMEOUT_MS))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nonsense", "unix:{}/s"])
@pytest.mark.parametrize("with_tls", [False, True])
def test_unsafe_addresses(store, tmp_path, address, with_tls):
    """For other machines a certificate of ours is not enough: they show one, too."""
    shown = server_tls(with_ca=False) if with_tls else None
    with (
        pytest.raises(OptionError),
        serving_flight(store, address.format(tmp_path), tokens=tokens(tmp_path), tls=shown),
    ):
        pass
