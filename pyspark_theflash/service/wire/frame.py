"""Frames, the units of the API's own protocol, as bytes.

    type u8 | flags u8 | 0 u16 | call u32 | length u32 | body

`protos/theflash/v1/theflash.proto` describes the types and their bodies. A length is checked before
memory is allocated for the body.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.service.wire.method import Role

VERSION: Final = 1
PREFACE: Final = b"TFLASH" + VERSION.to_bytes(2, "big")
_PREFACE_NAME: Final = b"TFLASH"
HEADER_BYTES: Final = 12
JSON_FLAG: Final = 1
GREETING_BYTES_MAX: Final = 4 << 10
"""The size limit of frames from a caller that is not authenticated yet."""
RESPONSE_BYTES_MAX: Final = 64 << 20
DATA_BYTES_MAX: Final = 4 << 20
_HEADER: Final = struct.Struct(">BBHII")
NONCE_BYTES: Final = 32
_HELLO: Final = struct.Struct(f">H?{NONCE_BYTES}s")
_REQUEST: Final = struct.Struct(">IB")
_END: Final = struct.Struct(">QQQ")
_LAYER: Final = "frame"


class FrameType(IntEnum):
    """The type of a frame; the value is on the wire."""

    HELLO = 1
    AUTH = 2
    READY = 3
    REQUEST = 4
    RESPONSE = 5
    DATA = 6
    END = 7
    ERROR = 8
    CANCEL = 9


@dataclass(frozen=True, slots=True)
class Header:
    """A frame without its body."""

    type: FrameType
    call: int
    length: int
    is_json: bool = False

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.type, JSON_FLAG * self.is_json, 0, self.call, self.length)

    @classmethod
    def from_bytes(cls, data: bytes, length_max: int) -> "Header":
        """Inverse of `to_bytes`.

        Raises:
            CodecError: The bytes are not a header, or the body is longer than `length_max`.
        """
        type_, flags, zero, call, length = _HEADER.unpack(data)
        if type_ not in FrameType._value2member_map_ or flags & ~JSON_FLAG or zero:
            raise CodecError(_LAYER, "not a frame", 0, data[:HEADER_BYTES].hex())
        if length > length_max:
            raise CodecError(_LAYER, f"a body of {length} bytes; at most {length_max} are allowed")
        return cls(FrameType(type_), call, length, bool(flags))


@dataclass(frozen=True, slots=True)
class Hello:
    """The server's first frame."""

    needs_token: bool
    nonce: bytes

    def to_bytes(self) -> bytes:
        return _HELLO.pack(VERSION, self.needs_token, self.nonce)

    @classmethod
    def from_bytes(cls, body: bytes) -> "Hello":
        """Inverse of `to_bytes`. Raises `CodecError`."""
        if len(body) != _HELLO.size:
            raise CodecError("hello", f"{len(body)} bytes")
        version, needs_token, nonce = _HELLO.unpack(body)
        if version != VERSION:
            raise CodecError("hello", f"version {version}; only {VERSION} is supported")
        return cls(needs_token, nonce)


@dataclass(frozen=True, slots=True)
class Ready:
    """The server's answer to a caller that it accepts."""

    role: Role
    store_id: str

    def to_bytes(self) -> bytes:
        return bytes([self.role]) + self.store_id.encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> "Ready":
        """Inverse of `to_bytes`. Raises `CodecError`."""
        try:
            return cls(Role(body[0]), body[1:].decode())
        except (IndexError, ValueError) as error:
            raise CodecError("ready", "not a role and a store's id") from error


@dataclass(frozen=True, slots=True)
class Request:
    """A call; `body` is its encoded request."""

    method: str
    timeout_ms: int
    body: bytes

    def to_bytes(self) -> bytes:
        name = self.method.encode()
        return _REQUEST.pack(self.timeout_ms, len(name)) + name + self.body

    @classmethod
    def read(cls, header: Header, receive: Callable[[int], bytes]) -> tuple["Request", int]:
        """Read a call without its encoded request.

        Args:
            header: The frame's header.
            receive: Returns the next bytes of the frame's body.

        Returns:
            The call, and the size of its encoded request, which follows.

        Raises:
            CodecError: The bytes are not a call.
        """
        if header.length < _REQUEST.size:
            raise CodecError("request", "too short")
        timeout_ms, name_bytes = _REQUEST.unpack(receive(_REQUEST.size))
        left_bytes = header.length - _REQUEST.size - name_bytes
        if left_bytes < 0 or not (name := receive(name_bytes)).isascii():
            raise CodecError("request", "not the name of a method")
        return cls(name.decode(), timeout_ms, b""), left_bytes


@dataclass(frozen=True, slots=True)
class End:
    """The counts of the rows before it, which the receiver compares with its own."""

    batches: int = 0
    rows: int = 0
    size_bytes: int = 0

    def to_bytes(self) -> bytes:
        return _END.pack(self.batches, self.rows, self.size_bytes)

    @classmethod
    def from_bytes(cls, body: bytes) -> "End":
        """Inverse of `to_bytes`. Raises `CodecError`."""
        if len(body) != _END.size:
            raise CodecError("end", f"{len(body)} bytes")
        return cls(*_END.unpack(body))


def encode_frame(
    type_: FrameType, call: int, body: bytes = b"", *, is_json: bool = False
) -> list[bytes | memoryview]:
    """Return the header and the body of a frame."""
    return [Header(type_, call, len(body), is_json).to_bytes(), body]


def check_preface(data: bytes) -> None:
    """Raise `CodecError` unless `data` is the first bytes of a connection of this version."""
    if data[: len(_PREFACE_NAME)] != _PREFACE_NAME:
        raise CodecError("preface", "not TheFlash's protocol")
    version = int.from_bytes(data[len(_PREFACE_NAME) :], "big")
    if version != VERSION:
        raise CodecError("preface", f"version {version}; only {VERSION} is supported")
