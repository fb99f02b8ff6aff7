"""The API over Arrow Flight, for clients that speak nothing of ours: pyarrow, ADBC, other engines.

    GetFlightInfo   path ["db.table"], or a command: a PlanRequest, binary or JSON
    DoGet           a split's ticket, as GetFlightInfo or PlanScan gives it
    DoAction        any other method by its name, with its request, binary or JSON

Tokens come as `authorization: Bearer TOKEN` with each call. An error's extra info is an `Error`.

Flight reads a message whole, of any size, before it asks who sent it, and cannot be told not to. So
other machines must show a certificate, which is asked for before there are messages; whoever has
one, or is on this machine, can make the server take much memory. Our own frames have no such gap.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from pyspark_theflash.api.call import Call
from pyspark_theflash.api.error import told_error
from pyspark_theflash.api.frame import REQUEST_BYTES_MAX
from pyspark_theflash.api.message import Plan, PlanRequest, ScanRequest
from pyspark_theflash.api.method import METHODS, SCAN, Method, Role, method
from pyspark_theflash.api.service import Service
from pyspark_theflash.api.token import Tokens, identity_of
from pyspark_theflash.api.wire import decode, encode
from pyspark_theflash.client.address import is_host_port, split_host_port
from pyspark_theflash.clock import Clock
from pyspark_theflash.errors import (
    AuthenticationError,
    CallCancelledError,
    CodecError,
    DeadlineExceededError,
    OptionError,
    RoleError,
    UnsupportedError,
)
from pyspark_theflash.server.bind import check_safe, is_loopback
from pyspark_theflash.tls import ServerTls

_log = logging.getLogger(__name__)
_MIDDLEWARE: Final = "authentication"
_BEARER: Final = "Bearer "
_HEADER: Final = "authorization"
_NAME: Final = "the Flight server"
_KINDS: Final = (
    (AuthenticationError, flight.FlightUnauthenticatedError),
    (RoleError, flight.FlightUnauthorizedError),
    (CallCancelledError, flight.FlightCancelledError),
    (DeadlineExceededError, flight.FlightTimedOutError),
)


class FlightServer(flight.FlightServerBase):  # type: ignore[misc] # pyarrow has no types
    """A service over Flight at HOST:PORT. Answers from the beginning; `shutdown` ends it."""

    def __init__(
        self,
        service: Service,
        address: str,
        *,
        clock: Clock,
        tokens: Tokens,
        tls: ServerTls | None = None,
    ) -> None:
        """Raises `OptionError`: the address cannot be used, or not safely."""
        if not is_host_port(address):
            raise OptionError("flight", f"{address!r} is not of the form HOST:PORT")
        check_safe(address, has_tls=tls is not None, has_tokens=True)
        if not is_loopback(split_host_port(address)[0]) and (tls is None or tls.ca is None):
            reason = f"{address} is open to other machines: have them show certificates (--ca)"
            raise OptionError("flight", reason)
        self._service, self._clock = service, clock
        secured: dict[str, Any] = {}
        if tls is not None:
            cert, key, ca = tls.read()
            secured["tls_certificates"] = [(cert, key)]
            if ca is not None:
                secured |= {"verify_client": True, "root_certificates": ca}
        scheme = "grpc+tls" if tls is not None else "grpc+tcp"
        try:
            super().__init__(
                f"{scheme}://{address}",
                middleware={_MIDDLEWARE: _Authentication(tokens)},
                **secured,
            )
        except (pa.ArrowException, OSError) as error:
            raise OptionError("flight", f"cannot listen on {address}: {error}") from error
        self.address = f"{address.rpartition(':')[0]}:{self.port}"
        """Where it listens, with the port that port 0 became."""

    def get_flight_info(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
    ) -> flight.FlightInfo:
        """A plan; each split is an endpoint of its own."""
        with _told():
            if descriptor.descriptor_type == flight.DescriptorType.PATH:
                request = PlanRequest(table=".".join(p.decode() for p in descriptor.path))
            else:
                request = _decoded(PlanRequest, descriptor.command)
            plan: Plan = self._answer(context, METHODS["PlanScan"], request)
            schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
            endpoints = [flight.FlightEndpoint(split.ticket, []) for split in plan.splits]
            size_bytes = sum(split.size_bytes for split in plan.splits)
            return flight.FlightInfo(schema, descriptor, endpoints, -1, size_bytes)

    def get_schema(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
    ) -> flight.SchemaResult:
        return flight.SchemaResult(self.get_flight_info(context, descriptor).schema)

    def do_get(
        self, context: flight.ServerCallContext, ticket: flight.Ticket
    ) -> flight.FlightDataStream:
        """The rows of a split."""
        with _told():
            SCAN.check(_role(context))
            rows = self._service.scan(ScanRequest(ticket.ticket), self._call(context, SCAN))
            # A RecordBatchStream would tell the caller our traceback where a batch fails.
            return flight.GeneratorStream(rows.schema, _told_batches(rows.batches))

    def do_action(
        self, context: flight.ServerCallContext, action: flight.Action
    ) -> Iterator[flight.Result]:
        """Any method that does not answer with rows; in the form, binary or JSON, it was asked."""
        with _told():
            called = method(action.type)
            if called is SCAN:
                raise UnsupportedError("an action that answers with rows: use DoGet", SCAN.name)
            if not called.is_unary:
                called.check(_role(context))
                raise UnsupportedError("a call with rows over Flight: use frames", called.name)
            body = action.body.to_pybytes()
            answer = self._answer(context, called, _decoded(called.request, body))
            return iter([flight.Result(encode(answer, as_json=_is_json(body)))])

    def list_actions(self, context: flight.ServerCallContext) -> list[tuple[str, str]]:
        with _told():
            role = _role(context)
            return [
                (m.name, f"role {m.role.name.lower()}") for m in METHODS.values() if role >= m.role
            ]

    def _answer(
        self,
        context: flight.ServerCallContext,
        called: Method,
        request: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        called.check(_role(context))
        return getattr(self._service, called.attribute)(request, self._call(context, called))

    def _call(self, context: flight.ServerCallContext, called: Method) -> Call:
        # Flight does not tell a server the deadline; it cancels what is too late.
        caller: _Caller = context.get_middleware(_MIDDLEWARE)
        return Call(
            called.name,
            0,
            self._clock,
            context.is_cancelled,
            role=caller.role,
            identity=caller.identity,
        )


class _Authentication(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Looks at the token of each call."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> "_Caller":
        with _told():
            said = next(iter(headers.get(_HEADER, [])), "")
            if not isinstance(said, str) or not said.startswith(_BEARER):
                raise AuthenticationError(_NAME, "there is no bearer token")
            try:
                stored = self._tokens.by_token(said.removeprefix(_BEARER))
                role = None if stored is None else self._tokens.role(stored)
            except OptionError as error:
                _log.error("tokens cannot be read: %s", error)
                raise AuthenticationError(_NAME, "it cannot read its tokens") from None
            if role is None:
                raise AuthenticationError(_NAME, "it does not know this token")
            return _Caller(role, identity_of(stored or b""))


class _Caller(flight.ServerMiddleware):  # type: ignore[misc]
    """Who makes a call."""

    def __init__(self, role: Role, identity: str) -> None:
        super().__init__()
        self.role, self.identity = role, identity


@contextmanager
def _told() -> Iterator[None]:
    """Errors as Flight knows them, with ours as extra info."""
    try:
        yield
    except flight.FlightError:
        raise
    except Exception as error:  # the caller is told, whatever it is
        told = told_error(error)
        known = (made for ours, made in _KINDS if isinstance(error, ours))
        other = flight.FlightUnavailableError if told.retryable else flight.FlightServerError
        text = f"{told.name}: {told.text}"
        raise next(known, other)(text, extra_info=encode(told)) from error


def _role(context: flight.ServerCallContext) -> Role:
    caller: _Caller = context.get_middleware(_MIDDLEWARE)
    return caller.role


def _told_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with _told():
        yield from batches


def _decoded(kind: type, body: bytes) -> Any:  # noqa: ANN401
    if len(body) > REQUEST_BYTES_MAX:
        raise CodecError(kind.__name__, f"{len(body)} bytes, and {REQUEST_BYTES_MAX} may be")
    return decode(kind, body, as_json=_is_json(body))


def _is_json(body: bytes) -> bool:
    """No binary message begins so: it would be field 15, a group."""
    return body[:1] == b"{"
