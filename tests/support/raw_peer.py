"""Peers that speak the protocols byte by byte, for tests of what no client sends."""

import socket
import ssl
from collections.abc import Iterable

from pyspark_theflash.base.tls import TlsFiles, client_context
from pyspark_theflash.net.address import UNIX, split_host_port
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.wire import protobuf as wire
from pyspark_theflash.service.wire.frame import HEADER_BYTES, PREFACE, FrameType, Header, Hello
from pyspark_theflash.service.wire.message import Error

TIMEOUT_S = 5
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""The first bytes of a connection of HTTP/2, with empty SETTINGS."""


def dial(address: str, tls: TlsFiles | None = None) -> socket.socket:
    """Connect to `unix:PATH` or HOST:PORT, with TLS if `tls` is passed."""
    if address.startswith(UNIX):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(address.removeprefix(UNIX))
        except OSError:
            sock.close()
            raise
        return sock
    host, port = split_host_port(address)
    sock = socket.create_connection((host, port), TIMEOUT_S)
    return sock if tls is None else secured(sock, tls, host)


def secured(sock: socket.socket, tls: TlsFiles, host: str = "localhost") -> ssl.SSLSocket:
    """Make the TLS handshake of a client that also offers HTTP/2."""
    context = client_context(tls)
    context.set_alpn_protocols(["h2"])
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except OSError:
        sock.close()
        raise


def receive(sock: socket.socket) -> tuple[Header, bytes] | None:
    """Receive a frame: header and body; None if the connection has ended."""
    data = _receive_whole(sock, HEADER_BYTES)
    if len(data) < HEADER_BYTES:
        return None
    header = Header.from_bytes(data, 1 << 20)
    body = _receive_whole(sock, header.length)
    return None if len(body) < header.length else (header, body)


def _receive_whole(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def authenticate(sock: socket.socket, token: AccessToken | None) -> None:
    """Make the handshake of the API's own protocol."""
    sock.sendall(PREFACE)
    received = receive(sock)
    assert received is not None
    proof = b"" if token is None else token.proof(Hello.from_bytes(received[1]).nonce)
    sock.sendall(Header(FrameType.AUTH, 0, len(proof)).to_bytes() + proof)
    received = receive(sock)
    assert received is not None
    assert received[0].type is FrameType.READY


def last_error(sock: socket.socket) -> str:
    """Return the name of the error that the server sends before it closes the connection."""
    received = receive(sock)
    assert received is not None
    header, body = received
    assert header.type is FrameType.ERROR
    error = wire.decode(Error, body, as_json=header.is_json)
    assert receive(sock) is None
    return error.name


def http2_call(path: str, headers: Iterable[tuple[str, str]] = (), stream: int = 1) -> bytes:
    """Return the HEADERS frame of a gRPC call whose message is still to come."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *headers,
    ]
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
    return http2_frame(1, 4, stream, block)


def http2_data(declared: int, sent: bytes = b"", stream: int = 1) -> bytes:
    """Return a DATA frame with the start of a message that declares a length."""
    return http2_frame(0, 0, stream, b"\x00" + declared.to_bytes(4, "big") + sent)


def http2_frame(type_: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    head = len(payload).to_bytes(3, "big") + bytes([type_, flags])
    return head + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data
