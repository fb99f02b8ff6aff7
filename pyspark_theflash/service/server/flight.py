"""The API over Arrow Flight, for clients that speak nothing of ours: pyarrow, ADBC, other engines.

    GetFlightInfo   path ["db.table"], or a command: a PlanRequest, binary or JSON
    DoGet           a split's ticket, as GetFlightInfo or PlanScan gives it
    DoAction        any other method by its name, with its request, binary or JSON

Tokens come as `authorization: Bearer TOKEN` with each call. An error's extra info is an `Error`.

Flight is a gRPC service, and this is that service. Arrow's own server reads a message whole, of any
size, before it asks who sent it, and cannot be told not to; here a message has a limit, and nothing
of it is read of who shows no token (`listener.py`). What is in messages is left to Arrow, but for
rows:

    FlightData   data_header (2): the flatbuffer of an IPC message   data_body (1000): its buffers
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.listener import Dialect, Listener
from pyspark_theflash.service.wire.message import Plan, PlanRequest, ScanRequest
from pyspark_theflash.service.wire.method import METHODS, SCAN, Method, method
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS

_SERVICE: Final = "arrow.flight.protocol.FlightService"
# Arrow hands the details of a status to callers as an error's extra info, if there is a status of
# its own beside them: 5, which all of Flight's are.
_DIALECT: Final = Dialect(
    "Arrow Flight",
    "grpc-status-details-bin",
    grpc.StatusCode.UNKNOWN,
    metadata=(("x-arrow-status", "5"),),
)
_CONTINUATION_BYTES: Final = 4
_LENGTH_BYTES: Final = 4
_HEADER_TAG: Final = b"\x12"
_BODY_TAG: Final = b"\xc2\x3e"


class FlightServer(Listener):
    """A service over Flight at `HOST:PORT` or `unix:PATH`. Answers from the beginning."""

    def __init__(
        self,
        service: Service,
        address: str,
        *,
        clock: Clock,
        tokens: Tokens | None = None,
        tls: ServerTls | None = None,
        allowed_names: tuple[str, ...] = (),
    ) -> None:
        """Raises `OptionError`: the address cannot be used, or not safely."""
        super().__init__(
            service,
            address,
            _DIALECT,
            clock=clock,
            tokens=tokens,
            tls=tls,
            allowed_names=allowed_names,
            send_bytes_max=-1,
        )
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {
            "GetFlightInfo": unary(self._get_flight_info),
            "GetSchema": unary(self._get_schema),
            "DoGet": stream(self._do_get),
            "DoAction": stream(self._do_action),
            "ListActions": stream(self._list_actions),
        }
        self.offer(_SERVICE, handlers)
        self.start()

    def __enter__(self) -> "FlightServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _get_flight_info(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """A plan; each split is an endpoint of its own."""
        with self.telling(context):
            return bytes(self._flight_info(body, context).serialize())

    def _get_schema(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        with self.telling(context):
            info = self._flight_info(body, context)
            return bytes(flight.SchemaResult(info.schema).serialize())

    def _do_get(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """The rows of a split."""
        with self.telling(context):
            call = self.call(SCAN.name, context)
            SCAN.check(call.role)
            rows = self.service.scan(ScanRequest(_parsed(flight.Ticket, body).ticket), call)
            yield _flight_data(rows.schema.serialize())
            with closing(rows.batches) as batches:
                for batch in batches:
                    yield _flight_data(batch.serialize())

    def _do_action(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Any method without rows; answered in the form, binary or JSON, it was asked."""
        with self.telling(context):
            action = _parsed(flight.Action, body)
            called = method(action.type)
            call = self.call(called.name, context)
            called.check(call.role)
            if called is SCAN:
                raise UnsupportedError("an action that answers with rows: use DoGet", SCAN.name)
            if not called.is_unary:
                raise UnsupportedError("a call with rows over Flight: use frames", called.name)
            asked = action.body.to_pybytes()
            answer = self._answer(called, _decoded(called.request, asked), call)
            yield bytes(flight.Result(encode(answer, as_json=_is_json(asked))).serialize())

    def _list_actions(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        with self.telling(context):
            role = self.call("ListActions", context).role
            for known in METHODS.values():
                if role >= known.role:
                    yield _action_type(known.name, f"role {known.role.name.lower()}")

    def _flight_info(self, body: bytes, context: grpc.ServicerContext) -> flight.FlightInfo:
        called = METHODS["PlanScan"]
        call = self.call(called.name, context)
        called.check(call.role)
        descriptor = _parsed(flight.FlightDescriptor, body)
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            request = PlanRequest(table=".".join(p.decode() for p in descriptor.path))
        else:
            request = _decoded(PlanRequest, descriptor.command)
        plan: Plan = self._answer(called, request, call)
        schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        endpoints = [flight.FlightEndpoint(split.ticket, []) for split in plan.splits]
        size_bytes = sum(split.size_bytes for split in plan.splits)
        return flight.FlightInfo(schema, descriptor, endpoints, -1, size_bytes)

    def _answer(self, called: Method, request: Any, call: CallContext) -> Any:  # noqa: ANN401
        return getattr(self.service, called.attribute)(request, call)


def _flight_data(message: pa.Buffer) -> bytes:
    """An encapsulated IPC message as FlightData."""
    data: memoryview = memoryview(message)
    length_at = _CONTINUATION_BYTES
    start = length_at + _LENGTH_BYTES
    end = start + int.from_bytes(data[length_at:start], "little")
    header, body = data[start:end], data[end:]
    parts: tuple[Any, ...] = (_HEADER_TAG, _varint(len(header)), header)
    return b"".join((*parts, _BODY_TAG, _varint(len(body)), body))


def _action_type(name: str, description: str) -> bytes:
    """`ActionType`, which pyarrow does not write: two texts."""
    texts = enumerate((name.encode(), description.encode()), 1)
    return b"".join(bytes([n << 3 | 2]) + _varint(len(text)) + text for n, text in texts)


def _varint(number: int) -> bytes:
    """A number of protobuf's: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _parsed(kind: Any, body: bytes) -> Any:  # noqa: ANN401 (of Arrow's)
    try:
        return kind.deserialize(body)
    except (pa.ArrowException, OSError, *SHAPE_ERRORS) as error:
        raise CodecError(kind.__name__, f"not one ({type(error).__name__})") from error


def _decoded(kind: type, body: bytes) -> Any:  # noqa: ANN401
    return decode(kind, body, as_json=_is_json(body))


def _is_json(body: bytes) -> bool:
    """No binary message begins so: it would be field 15, a group."""
    return body[:1] == b"{"
