"""Arrow IPC streams of other processes, without compressed buffers, which could expand to any size.

    stream    message ...
    message   0xffffffff, length u32, metadata (a flatbuffer of `length` bytes), body

Arrow has no option to reject compression, but its reader reads each of these parts by one call.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import pyarrow as pa

_CONTINUATION: Final = b"\xff" * 4
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
"""Fields of `Message`."""
_DICTIONARY, _BATCH = 2, 3
"""Header types of messages with buffers."""
_DATA: Final = 1
"""The field of `DictionaryBatch` that has a `RecordBatch`."""
_COMPRESSION: Final = 3
"""A field of `RecordBatch`."""


class _Expected(Enum):
    CONTINUATION = 1
    LENGTH = 2
    METADATA = 3
    BODY = 4


class UncompressedFile:
    """A file for Arrow's reader of a stream, which rejects compressed buffers."""

    closed = False

    def __init__(self, read: Callable[[int], Any], error: Callable[[str], Exception]) -> None:
        """Read with `read`, which returns a buffer of at most that many bytes.

        `error` returns the exception to raise for a reason.
        """
        self._read, self._error = read, error
        self._part = _Expected.CONTINUATION

    def read(self, size_bytes: int = -1) -> Any:  # noqa: ANN401 (a buffer)
        """Return the next bytes."""
        data = self._read(size_bytes)
        view = memoryview(data).cast("B")
        if len(view) < size_bytes or not size_bytes:
            return data  # the end, which Arrow detects
        if self._part is _Expected.CONTINUATION:
            if bytes(view) != _CONTINUATION:
                raise self._error("a message of an Arrow stream does not begin as it must")
            self._part = _Expected.LENGTH
        elif self._part is _Expected.LENGTH:
            self._part = _Expected.METADATA
        elif self._part is _Expected.METADATA:
            self._part = _Expected.BODY if self._has_body(view) else _Expected.CONTINUATION
        else:
            self._part = _Expected.CONTINUATION
        return data

    def _has_body(self, metadata: memoryview) -> bool:
        try:
            is_expanding, has_body = is_compressed(metadata), _body_bytes(metadata) != 0
        except (struct.error, IndexError) as error:
            raise self._error("the metadata of an Arrow stream is damaged") from error
        if is_expanding:
            raise self._error("an Arrow stream is compressed, which is not allowed")
        return has_body


def open_uncompressed(
    read: Callable[[int], Any], error: Callable[[str], Exception]
) -> pa.RecordBatchStreamReader:
    """Open a stream; see `UncompressedFile`. Raises Arrow's errors too."""
    return pa.ipc.open_stream(pa.PythonFile(UncompressedFile(read, error), mode="r"))


def is_compressed(metadata: "memoryview | pa.Buffer") -> bool:
    """Whether a message has compressed buffers. Raises `struct.error` if it is damaged.

    In a flatbuffer, a table begins with the distance back to its vtable, which has the offset of
    each field; 0: the field is missing.
    """
    data = memoryview(metadata).cast("B")
    message = _root(data)
    kind_at = _field(data, message, _HEADER_TYPE)
    kind = data[message + kind_at] if kind_at else 0
    if kind not in (_DICTIONARY, _BATCH):
        return False
    batch = _child(data, message, _HEADER)
    if kind == _DICTIONARY:
        batch = _child(data, batch, _DATA)
    return _field(data, batch, _COMPRESSION) != 0


def _body_bytes(metadata: memoryview) -> int:
    message = _root(metadata)
    at = _field(metadata, message, _BODY_LENGTH)
    return int(struct.unpack_from("<q", metadata, message + at)[0]) if at else 0


def _root(data: memoryview) -> int:
    return int(struct.unpack_from("<I", data)[0])


def _child(data: memoryview, table: int, number: int) -> int:
    """Return the place of a table in a table."""
    at = table + _field(data, table, number)
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: memoryview, table: int, number: int) -> int:
    """Return the offset of a field in a flatbuffer's table; 0: the field is missing."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    at = 4 + 2 * number
    return int(struct.unpack_from("<H", data, vtable + at)[0]) if at < size else 0
