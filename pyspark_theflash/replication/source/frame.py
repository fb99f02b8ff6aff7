"""Frames: how pump and drainer put messages into a file.

    4 bytes   magic   471532804, little-endian, as all numbers here
    8 bytes   length  of the payload
    n bytes   payload one message
    4 bytes   CRC32C  (Castagnoli) of the payload

Layout after tidb-binlog's `pkg/binlogfile`. A writer that dies leaves its last frame *cut short*: a
torn tail, which is the end of the file and not an error. Whatever else does not fit is corruption,
and nothing is skipped to find the next good frame.

    [frame][frame][magic, length = 90, 40 bytes]     torn: the 40 bytes are the beginning of 90
    [frame][frame][magic, length = 2**62 ...         corrupt: no frame is that long
    [frame][magic, length = 90][20 bytes, CRC][...   corrupt: the length is a lie, for the first 20
                                                     of what would be 90 bytes satisfy a checksum

The last case is why a frame that reaches beyond the end of its file is searched for a place where
it may have ended: one flipped bit in a length must not hide the rest of a file behind the word
"torn".
"""

import struct
from collections.abc import Iterator
from typing import Final, Protocol

import google_crc32c

from pyspark_theflash.base.errors import BinlogCorruptionError

MAGIC: Final = 471532804
MAX_FRAME_BYTES: Final = 1 << 30
FRAME_OVERHEAD_BYTES: Final = 16
"""How much longer a frame is than its payload."""
_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_HEADER: Final = struct.Struct("<IQ")
_CRC: Final = struct.Struct("<I")


def encode_frame(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """The frame around a payload, in three pieces to be written one behind the other."""
    header = _HEADER.pack(MAGIC, len(payload))
    return header, payload, _CRC.pack(google_crc32c.value(payload))


class ByteStream(Protocol):
    """What frames are read from."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes; fewer only at the end. Allocates no more than there is."""


class FrameReader:
    """The frames of one file, in order. To be iterated once; then its fields are final."""

    def __init__(self, stream: ByteStream, file: str, offset: int = 0) -> None:
        """The next byte of `stream` is that at `offset`, where a frame begins."""
        self._stream, self._file = stream, file
        self.offset = offset
        """Where the next frame begins, in bytes of the stream."""
        self.torn = False
        """Whether a frame cut short stands at `offset`."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(offset, payload) of each whole frame. Raises `BinlogCorruptionError`."""
        while header := self._stream.read(_HEADER.size):
            self._check_magic(header)
            if len(header) < _HEADER.size:
                self.torn = True
                return
            payload = self._payload(_HEADER.unpack(header)[1])
            if payload is None:
                self.torn = True
                return
            yield self.offset, payload
            self.offset += FRAME_OVERHEAD_BYTES + len(payload)

    def _check_magic(self, header: bytes) -> None:
        if header[:4] != _MAGIC_BYTES[: len(header)]:
            raise self._corrupt(f"wrong magic {header[:4].hex()}")

    def _payload(self, length: int) -> bytes | None:
        """A frame's payload; None where the stream ends before it does."""
        if length > MAX_FRAME_BYTES:
            raise self._corrupt(f"impossible frame length {length}")
        body = self._stream.read(length + _CRC.size)
        if len(body) < length + _CRC.size:
            if _holds_whole_payload(body):
                raise self._corrupt(f"wrong frame length {length}")
            return None
        payload = body[:length]
        if google_crc32c.value(payload) != _CRC.unpack_from(body, length)[0]:
            raise self._corrupt("wrong checksum")
        return payload

    def _corrupt(self, reason: str) -> BinlogCorruptionError:
        return BinlogCorruptionError(self._file, self.offset, reason)


def _holds_whole_payload(body: bytes) -> bool:
    """Whether `body` begins with a payload and its checksum, up to its end or to a next frame."""
    crc, summed = 0, 0
    for end in _possible_ends(body):
        crc = google_crc32c.extend(crc, body[summed : end - _CRC.size])
        summed = end - _CRC.size
        if crc == _CRC.unpack_from(body, summed)[0]:
            return True
    return False


def _possible_ends(body: bytes) -> Iterator[int]:
    """Where a frame may end, in growing order: before a magic, itself cut short perhaps."""
    at = body.find(_MAGIC_BYTES, _CRC.size)
    while at >= 0:
        yield at
        at = body.find(_MAGIC_BYTES, at + 1)
    for rest in (3, 2, 1, 0):
        end = len(body) - rest
        if end >= _CRC.size and body[end:] == _MAGIC_BYTES[:rest]:
            yield end
