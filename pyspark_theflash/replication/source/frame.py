"""Frames of the binlog files that pump and drainer write.

    4 bytes   magic    471532804; all numbers are little-endian
    8 bytes   length   of the payload
    n bytes   payload  one message
    4 bytes   CRC32C   (Castagnoli) of the payload

The layout is that of tidb-binlog's `pkg/binlogfile`. A writer that crashes may leave its last frame
truncated: such a torn tail ends the file and is not an error. Every other mismatch is corruption;
the reader never skips bytes to find the next valid frame.

    [frame][frame][magic, length = 90, 40 bytes]     torn: the first 40 of 90 bytes
    [frame][frame][magic, length = 2**62 ...         corrupt: above the maximum frame length
    [frame][magic, length = 90][20 bytes, CRC][...   corrupt: the length is wrong, because the
                                                     first 20 bytes match the checksum after them

Because of the last case, a frame that extends past the end of its file is searched for an earlier
end with a matching checksum. Otherwise one flipped bit in a length field would make the rest of the
file look like a torn tail.
"""

import struct
from collections.abc import Iterator
from typing import Final, Protocol

import google_crc32c

from pyspark_theflash.base.errors import BinlogCorruptionError

MAGIC: Final = 471532804
MAX_FRAME_BYTES: Final = 1 << 30
FRAME_OVERHEAD_BYTES: Final = 16
"""Size of a frame without its payload."""
_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_HEADER: Final = struct.Struct("<IQ")
_CRC: Final = struct.Struct("<I")


def encode_frame(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Encode a payload as a frame: header, payload and checksum, to be written in this order."""
    header = _HEADER.pack(MAGIC, len(payload))
    return header, payload, _CRC.pack(google_crc32c.value(payload))


class ByteStream(Protocol):
    """Byte stream that frames are read from."""

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes; fewer only at the end. Allocates no more than the data available."""


class FrameReader:
    """Iterator over the frames of one file; single use. Its fields are final after the last."""

    def __init__(self, stream: ByteStream, file: str, offset: int = 0) -> None:
        """Read frames from `stream`, whose next byte is at `offset`, the start of a frame."""
        self._stream, self._file = stream, file
        self.offset = offset
        """Offset of the next frame in bytes of the stream."""
        self.torn = False
        """Whether the frame at `offset` is truncated."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, payload) of each whole frame; raise `BinlogCorruptionError`."""
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
        """Read a frame's payload; None if the stream ends inside the frame."""
        if length > MAX_FRAME_BYTES:
            raise self._corrupt(f"impossible frame length {length}")
        payload = self._stream.read(length)
        crc = self._stream.read(_CRC.size)
        if len(crc) < _CRC.size:
            if _holds_whole_payload(payload + crc):
                raise self._corrupt(f"wrong frame length {length}")
            return None
        if google_crc32c.value(payload) != _CRC.unpack(crc)[0]:
            raise self._corrupt("wrong checksum")
        return payload

    def _corrupt(self, reason: str) -> BinlogCorruptionError:
        return BinlogCorruptionError(self._file, self.offset, reason)


def _holds_whole_payload(body: bytes) -> bool:
    """Return whether a payload and its checksum end `body` or precede another frame in it."""
    crc, summed = 0, 0
    for end in _possible_ends(body):
        crc = google_crc32c.extend(crc, body[summed : end - _CRC.size])
        summed = end - _CRC.size
        if crc == _CRC.unpack_from(body, summed)[0]:
            return True
    return False


def _possible_ends(body: bytes) -> Iterator[int]:
    """Yield possible frame ends in ascending order: before each magic, also a truncated one."""
    at = body.find(_MAGIC_BYTES, _CRC.size)
    while at >= 0:
        yield at
        at = body.find(_MAGIC_BYTES, at + 1)
    for rest in (3, 2, 1, 0):
        end = len(body) - rest
        if end >= _CRC.size and body[end:] == _MAGIC_BYTES[:rest]:
            yield end
