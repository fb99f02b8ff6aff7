"""Stream of binlogs pulled from a pump.

Reading a gRPC stream blocks until a message arrives. A separate thread reads it into a bounded
buffer, so that the consumer can wait with a timeout. When the buffer is full the thread stops
reading, and HTTP/2 flow control stops the pump.
"""

import threading
from collections import deque
from typing import Final

from pyspark_theflash.base.errors import (
    CodecError,
    PumpRefusedError,
    PumpUnavailableError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.channel import connects, describe, grpc, is_transient, open_channel
from pyspark_theflash.replication.pump.wire import PULL_BINLOGS, PulledBinlog, PullRequest

BUFFER_BYTES: Final = 16 << 20


class PullStream:
    """Open stream on its own connection."""

    def __init__(
        self,
        address: str,
        request: PullRequest,
        tls: TlsFiles | None,
        *,
        connect_ms: int,
        max_message_bytes: int,
    ) -> None:
        """Connect and start the stream.

        Raises:
            PumpUnavailableError: No connection within `connect_ms`.
        """
        self._address = address
        self._channel = open_channel(address, tls, max_message_bytes=max_message_bytes)
        if not connects(self._channel, connect_ms):
            self._channel.close()
            reason = f"no connection within {connect_ms} ms; if it runs, compare the TLS settings"
            raise PumpUnavailableError(address, f"{reason} and certificates of both sides")
        self._changed = threading.Condition()
        self._buffer: deque[bytes] = deque()
        self.buffered_bytes = 0
        """Size of the buffer: less than `BUFFER_BYTES` plus one message."""
        self._end: ServiceUnavailableError | ServiceRefusedError | None = None
        self._closed = False
        self._call = self._channel.unary_stream(PULL_BINLOGS)(request.to_bytes())
        self._thread = threading.Thread(target=self._read, name="pull binlogs", daemon=True)
        self._thread.start()

    def next(self, timeout_ms: int) -> PulledBinlog | None:
        """Return the next binlog; None if none arrives within `timeout_ms`.

        Raises:
            PumpUnavailableError: The connection was lost, or the pump ended the stream.
            PumpRefusedError: The pump rejected the request, or sent an invalid message.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._end is not None, timeout_ms / 1000)
            if not self._buffer:
                if self._end is not None:
                    raise self._end
                return None
            data = self._buffer.popleft()
            self.buffered_bytes -= len(data)
            self._changed.notify_all()
        try:
            return PulledBinlog.from_bytes(data)
        except CodecError as error:
            raise PumpRefusedError(self._address, f"sent an invalid message: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def _read(self) -> None:
        end: ServiceUnavailableError | ServiceRefusedError
        try:
            for data in self._call:
                if not self._put(data):
                    return
            end = PumpUnavailableError(self._address, "the pump ended the stream")
        except grpc.RpcError as error:
            kind = PumpUnavailableError if is_transient(error) else PumpRefusedError
            end = kind(self._address, describe(error))
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _put(self, data: bytes) -> bool:
        """Append a message to the buffer; return False if the stream is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.buffered_bytes < BUFFER_BYTES)
            if self._closed:
                return False
            self._buffer.append(data)
            self.buffered_bytes += len(data)
            self._changed.notify_all()
            return True
