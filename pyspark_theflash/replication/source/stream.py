"""Byte streams of binlog files, plain or gzip.

The length to read is fixed in advance: a file may grow meanwhile, and data appended later is left
for the next source. Positions in a `.gz` file are offsets of decompressed bytes. Compressed data is
read and decompressed in chunks of `CHUNK_BYTES`.
"""

import zlib
from typing import BinaryIO, Final

from pyspark_theflash.base.errors import BinlogCorruptionError
from pyspark_theflash.replication.source.frame import ByteStream

CHUNK_BYTES: Final = 1 << 18
_GZIP: Final = zlib.MAX_WBITS | 16
_EXTRA_FLAG: Final = 4


class PlainStream:
    """Bytes `offset` to `size_bytes` of a file; `raw` is positioned at `offset`."""

    def __init__(self, raw: BinaryIO, file: str, size_bytes: int, offset: int = 0) -> None:
        self._raw, self._file = raw, file
        self._size_bytes = size_bytes
        self._left = size_bytes - offset

    def read(self, size: int, /) -> bytes:
        """Read like `ByteStream`; raise `BinlogCorruptionError` if the file has shrunk."""
        expected = min(size, self._left)
        data = self._raw.read(expected)
        self._left -= len(data)
        if len(data) < expected:
            raise BinlogCorruptionError(
                self._file,
                self._size_bytes - self._left,
                f"the file was truncated below its {self._size_bytes} bytes while it was read",
            )
        return data


class GzipStream:
    """Decompressed bytes of a gzip file with any number of members.

    After the end, `truncated` is whether the file ended inside a member.
    """

    def __init__(self, raw: ByteStream, file: str) -> None:
        self._raw, self._file = raw, file
        self._begin_member()
        self._chunk, self._at = b"", 0
        self._inflated = 0
        self._ended = False
        self.truncated = False

    def read(self, size: int, /) -> bytes:
        """Read like `ByteStream`; raise `BinlogCorruptionError` if the data is not gzip."""
        parts = []
        while size and (self._at < len(self._chunk) or self._refill()):
            part = self._chunk[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _refill(self) -> bool:
        """Decompress the next bytes into `_chunk`; return False at the end."""
        self._chunk, self._at = b"", 0
        while not self._chunk and not self._ended:
            if self._inflater.eof:
                self._inflate_next_member()
            elif data := self._inflater.unconsumed_tail or self._raw.read(CHUNK_BYTES):
                self._inflate(data)
            else:
                self._end_early()
        self._inflated += len(self._chunk)
        return bool(self._chunk)

    def _begin_member(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)
        self._header = b""
        self._in_header = True

    def _inflate_next_member(self) -> None:
        if data := self._inflater.unused_data or self._raw.read(CHUNK_BYTES):
            self._begin_member()
            self._inflate(data)
        else:
            self._ended = True

    def _inflate(self, data: bytes) -> None:
        self._header = (self._header + data[:4])[:4]
        try:
            self._chunk = self._inflater.decompress(data, CHUNK_BYTES)
        except zlib.error as error:
            raise self._corrupt(str(error)) from error
        self._in_header = self._in_header and not self._chunk

    def _end_early(self) -> None:
        """Handle a file that ends inside a member.

        The header's extra field, which `gzip` never writes, has a length but no checksum. If its
        flag bit was flipped, the content would be parsed as an extra field longer than the file,
        and the file would seem empty; this is reported as corruption.
        """
        self._chunk = self._inflater.flush()
        flags = self._header[3] if len(self._header) > 3 else 0
        if self._in_header and not self._chunk and flags & _EXTRA_FLAG:
            raise self._corrupt("the header extends past the end of the file")
        self._ended = self.truncated = True

    def _corrupt(self, reason: str) -> BinlogCorruptionError:
        return BinlogCorruptionError(self._file, self._inflated, f"invalid gzip data: {reason}")
