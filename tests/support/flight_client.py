"""TheFlash API over Arrow Flight, spoken with nothing but pyarrow and the generated messages."""

from typing import Any

from pyarrow import flight

from pyspark_theflash.base.errors import DeadlineExceededError, UnsupportedError
from pyspark_theflash.base.tls import TlsFiles, TlsMaterial
from pyspark_theflash.service.api.error import decode_error
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.service.wire.method import Method
from pyspark_theflash.service.wire.protobuf import decode, encode


class FlightTransport:
    """A `service.client.transport.Transport`."""

    def __init__(self, address: str, token: str, tls: TlsFiles | None = None) -> None:
        scheme = "grpc+tcp" if tls is None else "grpc+tls"
        options = {} if tls is None else _certificates(tls.read())
        self.address = address
        # Otherwise gRPC may buffer many megabytes of a stream that nothing reads.
        window = [("grpc.http2.bdp_probe", 0)]
        self.client = flight.FlightClient(
            f"{scheme}://{address}", generic_options=window, **options
        )
        self._headers = [(b"authorization", f"Bearer {token}".encode())]

    def options(self, timeout_ms: int) -> flight.FlightCallOptions:
        return flight.FlightCallOptions(
            timeout=(timeout_ms or 60_000) / 1000, headers=self._headers
        )

    def call(self, called: Method, request: Any, timeout_ms: int, tables: object = None) -> Any:
        if tables is not None:
            raise UnsupportedError("rows to write", "Flight")
        action = flight.Action(called.name, encode(request))
        try:
            (result,) = self.client.do_action(action, self.options(timeout_ms))
        except flight.FlightError as error:
            raise self._heard(error) from error
        return decode(called.response, result.body.to_pybytes())

    def scan(self, called: Method, request: Any, timeout_ms: int) -> Rows:
        if request.dictionaries:
            raise UnsupportedError("dictionaries", "Flight")
        try:
            reader = self.client.do_get(flight.Ticket(request.ticket), self.options(timeout_ms))
            return Rows(reader.schema, self._batches(reader), reader.cancel)
        except flight.FlightError as error:
            raise self._heard(error) from error

    def close(self) -> None:
        self.client.close()

    def _batches(self, reader: Any) -> Any:
        try:
            for chunk in reader:
                yield chunk.data
        except flight.FlightError as error:
            raise self._heard(error) from error

    def _heard(self, error: Any) -> Any:
        if isinstance(error, flight.FlightTimedOutError) and not error.extra_info:
            return DeadlineExceededError("a call over Flight", 0)
        if not error.extra_info:
            return error
        assert "Traceback" not in str(error)
        return decode_error(decode(Error, error.extra_info), self.address)


def _certificates(tls: TlsMaterial) -> dict[str, bytes]:
    files = {"tls_root_certs": tls.ca, "cert_chain": tls.cert, "private_key": tls.key}
    return {name: content for name, content in files.items() if content is not None}
