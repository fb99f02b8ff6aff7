"""gRPC channels, and classification of their errors.

All modules import `grpc` from here, so that a missing `grpcio` raises one error.
"""

import threading
from typing import Final

from pyspark_theflash.base.errors import MissingExtraError, OptionError
from pyspark_theflash.base.tls import Renewed, TlsFiles, TlsMaterial, client_context
from pyspark_theflash.net.address import UNIX, is_host_port

try:
    import grpc
except ImportError as error:
    raise MissingExtraError("grpcio", "server") from error

__all__ = [
    "IDENTITY_ONLY",
    "Channels",
    "connects",
    "describe",
    "grpc",
    "is_transient",
    "open_channel",
]

IDENTITY_ONLY: Final = (
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.per_message_decompression", 0),
)
"""Options of channels and servers that reject compressed messages.

gRPC checks the size of a message before it decompresses it, to any size.
"""
_REASON_CHARS: Final = 500
_RECONNECT_MS_MAX: Final = 2000
_CONNECT_MS: Final = 5000
_NO_METHOD: Final = "/theflash.Nobody/HasThis"
_TRANSIENT: Final = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)


def open_channel(
    address: str,
    tls: TlsFiles | TlsMaterial | None,
    *,
    max_message_bytes: int,
    keepalive_ms: int | None = None,
) -> grpc.Channel:
    """Return a channel to `unix:PATH` or `HOST:PORT`, which connects on first use.

    With `keepalive_ms`, a connection with calls is tested after so long without data, and closed if
    the server does not respond within the same time.

    Raises:
        OptionError: The address or the certificates are invalid.
    """
    is_socket = address.startswith(UNIX)
    if not (address.isprintable() and tls is None if is_socket else is_host_port(address)):
        form = "HOST:PORT" if tls is not None else "HOST:PORT or unix:PATH"
        raise OptionError("address", f"{address!r} is not of the form {form}")
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        *IDENTITY_ONLY,
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name, this is the minimum connect timeout.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS_MAX),
        # Otherwise channels to the same server share a connection, even a dead one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if keepalive_ms is not None:
        options += [
            ("grpc.keepalive_time_ms", keepalive_ms),
            ("grpc.keepalive_timeout_ms", keepalive_ms),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if tls is None:
        return grpc.insecure_channel(address, options)
    material = tls.read() if isinstance(tls, TlsFiles) else tls
    credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.cert)
    return grpc.secure_channel(address, credentials, options)


class Channels:
    """Channels by address, kept until they are closed or the certificates change. Thread-safe."""

    def __init__(
        self, tls: TlsFiles | None, max_message_bytes: int, keepalive_ms: int | None = None
    ) -> None:
        self._tls, self._max_message_bytes = tls, max_message_bytes
        self._keepalive_ms = keepalive_ms
        self._mutex = threading.Lock()
        self._files: Renewed[TlsMaterial] | None = None
        self._open: dict[str, tuple[TlsMaterial | None, grpc.Channel]] = {}

    def get(self, address: str) -> grpc.Channel:
        """Return a channel. Raises like `open_channel`."""
        with self._mutex:
            material = self._material()
            opened = self._open.get(address)
            if opened is None or opened[0] is not material:
                # An earlier channel ends with its last call.
                channel = open_channel(
                    address,
                    material,
                    max_message_bytes=self._max_message_bytes,
                    keepalive_ms=self._keepalive_ms,
                )
                opened = self._open[address] = material, channel
            return opened[1]

    def drop(self, address: str) -> None:
        """Close the channel to an address, if there is one."""
        with self._mutex:
            opened = self._open.pop(address, None)
        if opened is not None:
            opened[1].close()

    def close(self) -> None:
        """Close all channels."""
        for address in list(self._open):
            self.drop(address)

    def _material(self) -> TlsMaterial | None:
        if self._tls is None:
            return None
        if self._files is None:
            tls = self._tls
            self._files = Renewed((tls.ca, tls.cert, tls.key), lambda: _checked(tls))
        return self._files.get()


def _checked(tls: TlsFiles) -> TlsMaterial:
    material = tls.read()
    client_context(material)  # raises if certificate and key do not match, as during a renewal
    return material


def connects(channel: grpc.Channel, timeout_ms: int) -> bool:
    """Return whether a server responds within the timeout.

    Calls a method that does not exist: an error about that is a response. (Watching the channel's
    state needs a gRPC thread that outlives the channel and logs errors.)
    """
    try:
        channel.unary_unary(_NO_METHOD)(b"", timeout=timeout_ms / 1000, wait_for_ready=True)
    except grpc.RpcError as error:
        return error.code() not in _TRANSIENT
    return True


def is_transient(error: grpc.RpcError) -> bool:
    """Return whether the same call may succeed later, or on another connection."""
    return error.code() in _TRANSIENT


def describe(error: grpc.RpcError) -> str:
    """Format the error of a failed call, truncated for use in an error message."""
    return f"{error.code().name}: {error.details()}"[:_REASON_CHARS]
