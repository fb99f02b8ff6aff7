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

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.server.listener import Listener
from pyspark_theflash.service.wire.message import Plan, PlanRequest, ScanRequest
from pyspark_theflash.service.wire.method import METHODS, SCAN, method
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS

_CONTINUATION_BYTES: Final = 4
_LENGTH_BYTES: Final = 4
_HEADER_TAG: Final = b"\x12"
_BODY_TAG: Final = b"\xc2\x3e"


class FlightServer(Listener):
    """A service over Flight at `HOST:PORT` or `unix:PATH`. Answers from the beginning."""

    NAME = "Arrow Flight"
    GRPC_SERVICE = "arrow.flight.protocol.FlightService"
    SEND_BYTES_MAX = -1
    ERROR_KEY = "grpc-status-details-bin"
    ERROR_STATUS = grpc.StatusCode.UNKNOWN
    # pyarrow returns a status's details as an error's `extra_info` if Arrow's own status is sent
    # beside them: 5, the status of all of Flight's errors.
    METADATA = (("x-arrow-status", "5"),)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {
            "GetFlightInfo": unary(self._get_flight_info),
            "GetSchema": unary(self._get_schema),
            "DoGet": stream(self._do_get),
            "DoAction": stream(self._do_action),
            "ListActions": stream(self._list_actions),
        }

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
            call = self.call(SCAN, context)
            request = ScanRequest(_parsed(flight.Ticket, body).ticket)
            rows = self.service.answer(SCAN, request, call)
            yield _flight_data(rows.schema.serialize())
            with closing(rows.batches) as batches:
                for batch in batches:
                    yield _flight_data(batch.serialize())

    def _do_action(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Any method without rows; answered in the form, binary or JSON, it was asked."""
        with self.telling(context):
            action = _parsed(flight.Action, body)
            called = method(action.type)
            call = self.call(called, context)
            if called is SCAN:
                raise UnsupportedError("an action that answers with rows: use DoGet", SCAN.name)
            if not called.is_unary:
                raise UnsupportedError("a call with rows over Flight: use frames", called.name)
            asked = action.body.to_pybytes()
            answer = self.service.answer(called, _decoded(called.request, asked), call)
            yield bytes(flight.Result(encode(answer, as_json=_is_json(asked))).serialize())

    def _list_actions(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        with self.telling(context):
            role, _ = self.authenticate(context)
            for known in METHODS.values():
                if role >= known.role:
                    yield _action_type(known.name, f"role {known.role.name.lower()}")

    def _flight_info(self, body: bytes, context: grpc.ServicerContext) -> flight.FlightInfo:
        called = METHODS["PlanScan"]
        call = self.call(called, context)
        descriptor = _parsed(flight.FlightDescriptor, body)
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            request = PlanRequest(table=".".join(p.decode() for p in descriptor.path))
        else:
            request = _decoded(PlanRequest, descriptor.command)
        plan: Plan = self.service.answer(called, request, call)
        schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        endpoints = [flight.FlightEndpoint(split.ticket, []) for split in plan.splits]
        size_bytes = sum(split.size_bytes for split in plan.splits)
        return flight.FlightInfo(schema, descriptor, endpoints, -1, size_bytes)


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
