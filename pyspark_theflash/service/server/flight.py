"""The API over Arrow Flight, for pyarrow and other engines.

    ListFlights     the tables at the newest timestamp
    GetFlightInfo   path ["db.table"], or a command: a PlanRequest, binary or JSON
    DoGet           a split's ticket, from GetFlightInfo or PlanScan
    DoAction        any other call by its name, with its request, binary or JSON

Each call has its token as metadata `authorization: Bearer TOKEN`. An error's extra info is an
`Error`.

This implements Flight's gRPC service with grpcio: Arrow's own server reads whole messages of any
size before it authenticates the caller (see `listener.py`). pyarrow encodes the messages, except

    FlightData   data_header (2): the flatbuffer of an IPC message   data_body (1000): its buffers
    ActionType   type (1), description (2): strings
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from pyspark_theflash.base.errors import CodecError, TheFlashError, UnsupportedError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.api.limits import SMALL_BYTES
from pyspark_theflash.service.server.listener import Listener
from pyspark_theflash.service.wire.message import (
    Moment,
    Plan,
    PlanRequest,
    ScanRequest,
    Table,
    TableRequest,
    Tables,
    TablesRequest,
)
from pyspark_theflash.service.wire.method import METHODS, SCAN, Role, method
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS

_CONTINUATION_BYTES: Final = 4
_LENGTH_BYTES: Final = 4
_HEADER_TAG: Final = b"\x12"
_BODY_TAG: Final = b"\xc2\x3e"
_MESSAGE_BYTES: Final = 512 << 10
"""The size of a message with rows, unless one row is larger. gRPC copies each twice."""
_PART_BYTES: Final = _MESSAGE_BYTES * 7 // 8
"""The size of its rows, of which some may be larger than others; the rest is for its header."""


class FlightServer(Listener):
    """A server of the API over Arrow Flight."""

    NAME = "Arrow Flight"
    GRPC_SERVICE = "arrow.flight.protocol.FlightService"
    SEND_BYTES_MAX = -1
    ERROR_KEY = "grpc-status-details-bin"
    ERROR_STATUS = grpc.StatusCode.UNKNOWN
    # pyarrow returns a status's details as an error's `extra_info` if Arrow's own status is sent
    # beside them: 5, the status of all of Flight's errors.
    METADATA = (("x-arrow-status", "5"),)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {
            "ListFlights": self.stream(self._list_flights),
            "GetFlightInfo": self.unary(self._get_flight_info),
            "GetSchema": self.unary(self._get_schema),
            "DoGet": self.stream(self._do_get),
            "DoAction": self.stream(self._do_action),
            "ListActions": self.stream(self._list_actions),
        }

    def _list_flights(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Return a flight for each table; a table that cannot be read has no columns."""
        if body:
            raise UnsupportedError("a listing with criteria", self.NAME)
        called, described = METHODS["ListTables"], METHODS["DescribeTable"]
        call = self.call(called, context)
        listed: Tables = self.service.answer(called, TablesRequest(), call)
        for table in listed.tables:
            request = TableRequest(Moment(listed.snapshot_ts), table.name)
            try:
                answer: Table = self.service.answer(described, request, call)
                schema = pa.ipc.read_schema(pa.py_buffer(answer.arrow_schema))
            except TheFlashError:
                schema = pa.schema([])
            descriptor = flight.FlightDescriptor.for_path(*table.name.split(".", 1))
            yield bytes(flight.FlightInfo(schema, descriptor, [], -1, -1).serialize())

    def _get_flight_info(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Plan a scan; each split is an endpoint."""
        return bytes(self._flight_info(body, context).serialize())

    def _get_schema(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        info = self._flight_info(body, context)
        return bytes(flight.SchemaResult(info.schema).serialize())

    def _do_get(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Return the rows of a split."""
        call = self.call(SCAN, context)
        request = ScanRequest(_parsed(flight.Ticket, body).ticket)
        usage, who, is_admin = self.service.usage, call.identity, call.role is Role.ADMIN
        with (
            usage.scans.used(who, is_admin=is_admin),
            usage.memory.used(who, _MESSAGE_BYTES, is_admin=is_admin),
        ):
            rows = self.service.answer(SCAN, request, call)
            yield _flight_data(rows.schema.serialize())
            with closing(rows.batches) as batches:
                for part in (part for batch in batches for part in _parts(batch)):
                    body = _flight_data(part.serialize())
                    more = max(len(body) - _MESSAGE_BYTES, 0)
                    with usage.memory.used(who, more, is_admin=is_admin):
                        yield body

    def _do_action(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Make a call without rows; the response is binary or JSON like the request."""
        action = _parsed(flight.Action, body)
        called = method(action.type)
        call = self.call(called, context)
        if called is SCAN:
            raise UnsupportedError("an action that returns rows (use DoGet)", SCAN.name)
        if not called.is_unary:
            raise UnsupportedError(
                "a call with rows over Arrow Flight (use the API's own protocol)", called.name
            )
        request = action.body.to_pybytes()
        response = self.service.answer(called, _decoded(called.request, request), call)
        result = bytes(flight.Result(encode(response, as_json=_is_json(request))).serialize())
        usage, is_admin = self.service.usage, call.role is Role.ADMIN
        size_bytes = len(result) if len(result) > SMALL_BYTES else 0
        with usage.memory.used(call.identity, size_bytes, is_admin=is_admin):
            yield result

    def _list_actions(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        role, _ = self.authenticate(context)
        for called in METHODS.values():
            if role >= called.role:
                yield _action_type(called.name, f"role {called.role.name.lower()}")

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


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield slices of about `_PART_BYTES`; an empty batch is one."""
    count = max(-(-batch.nbytes // _PART_BYTES), 1)
    rows = max(batch.num_rows // count, 1)
    for start in range(0, max(batch.num_rows, 1), rows):
        yield batch.slice(start, rows)


def _flight_data(message: pa.Buffer) -> bytes:
    """Convert an encapsulated IPC message to FlightData."""
    data: memoryview = memoryview(message)
    length_at = _CONTINUATION_BYTES
    start = length_at + _LENGTH_BYTES
    end = start + int.from_bytes(data[length_at:start], "little")
    header, body = data[start:end], data[end:]
    parts: tuple[Any, ...] = (_HEADER_TAG, _varint(len(header)), header)
    return b"".join((*parts, _BODY_TAG, _varint(len(body)), body))


def _action_type(name: str, description: str) -> bytes:
    """Encode an ActionType, which pyarrow cannot serialize."""
    texts = enumerate((name.encode(), description.encode()), 1)
    return b"".join(bytes([n << 3 | 2]) + _varint(len(text)) + text for n, text in texts)


def _varint(number: int) -> bytes:
    """Encode a number like protobuf: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _parsed(kind: Any, body: bytes) -> Any:  # noqa: ANN401 (a class of pyarrow's)
    try:
        return kind.deserialize(body)
    except (pa.ArrowException, OSError, *SHAPE_ERRORS) as error:
        raise CodecError(kind.__name__, f"not valid ({type(error).__name__})") from error


def _decoded(kind: type, body: bytes) -> Any:  # noqa: ANN401
    return decode(kind, body, as_json=_is_json(body))


def _is_json(body: bytes) -> bool:
    """Whether a message is JSON: a binary one cannot begin with "{", the tag of a group."""
    return body[:1] == b"{"
