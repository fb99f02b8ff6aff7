"""A minimal client of MySQL's text protocol, for tests with a TiDB.

    packet      length (3 bytes, little-endian), sequence number, payload
    handshake   server: greeting        client: capabilities, user, no password, no database
    COM_QUERY   client: 03 statement    server: OK | ERR | column count, columns, EOF, rows, EOF

Values are the texts that the server sends, None for NULL.
"""

import socket
import struct
from types import TracebackType
from typing import Final

Row = tuple[str | None, ...]

_COM_QUERY: Final = b"\x03"
_OK, _ERR, _EOF, _NULL = 0x00, 0xFF, 0xFE, 0xFB
_MAX_EOF_BYTES: Final = 9
# LONG_PASSWORD, LONG_FLAG, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION
_CAPABILITIES: Final = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000
_UTF8MB4_BIN: Final = 46
_MAX_PACKET: Final = (1 << 24) - 1
_LENGTHS: Final = {0xFC: 2, 0xFD: 3, 0xFE: 8}


class MySqlError(Exception):
    """An error of the server; `code` is its number in MySQL."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class MySqlConnection:
    """One session, as `root` without a password."""

    def __init__(self, host: str, port: int, timeout_s: float = 300.0) -> None:
        self._socket = socket.create_connection((host, port), timeout_s)
        self._stream = self._socket.makefile("rb")
        self._sequence = 0
        self._read_packet()
        answer = struct.pack("<IIB23x", _CAPABILITIES, _MAX_PACKET, _UTF8MB4_BIN) + b"root\0\0"
        self._send(answer)
        self._read_packet()

    def __enter__(self) -> "MySqlConnection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; an open transaction is rolled back."""
        self._stream.close()
        self._socket.close()

    def query(self, statement: str) -> list[Row]:
        """Execute a statement; return its rows, none if it is not a query.

        Raises:
            MySqlError: The server rejected it.
        """
        self._sequence = 0
        self._send(_COM_QUERY + statement.encode())
        head = self._read_packet()
        if head[0] == _OK:
            return []
        count, _ = _length(head, 0)
        for _ in range(count + 1):
            self._read_packet()
        rows = []
        while not _is_eof(packet := self._read_packet()):
            rows.append(_row(packet, count))
        return rows

    def _send(self, payload: bytes) -> None:
        if len(payload) >= _MAX_PACKET:
            raise ValueError("a statement longer than a packet")
        self._socket.sendall(struct.pack("<I", len(payload) | self._sequence << 24) + payload)
        self._sequence += 1

    def _read_packet(self) -> bytes:
        payload = b""
        while True:
            (head,) = struct.unpack("<I", self._read(4))
            self._sequence = (head >> 24) + 1
            size = head & _MAX_PACKET
            payload += self._read(size)
            if size < _MAX_PACKET:
                break
        if payload[0] == _ERR:
            # Marker, code, '#' and five characters of SQL state, message.
            raise MySqlError(
                int.from_bytes(payload[1:3], "little"), payload[9:].decode(errors="replace")
            )
        return payload

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ConnectionError("the server closed the connection")
        return data


def _is_eof(packet: bytes) -> bool:
    return packet[0] == _EOF and len(packet) < _MAX_EOF_BYTES


def _row(packet: bytes, count: int) -> Row:
    values: list[str | None] = []
    at = 0
    for _ in range(count):
        if packet[at] == _NULL:
            values.append(None)
            at += 1
        else:
            size, at = _length(packet, at)
            values.append(packet[at : at + size].decode(errors="surrogateescape"))
            at += size
    return tuple(values)


def _length(packet: bytes, at: int) -> tuple[int, int]:
    """Decode a length-encoded integer; return it and the offset after it."""
    first = packet[at]
    if first not in _LENGTHS:
        return first, at + 1
    end = at + 1 + _LENGTHS[first]
    return int.from_bytes(packet[at + 1 : end], "little"), end
