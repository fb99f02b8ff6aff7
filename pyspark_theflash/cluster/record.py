"""A reader of the primitive values in TiKV's lock and write records.

    u8
    u64              big-endian
    uvarint
    compact bytes    length as a zigzag varint, then the bytes

Every read checks that the record is long enough.
"""

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.number import decode_uint, decode_uvarint, decode_varint


class RecordReader:
    """A cursor over a record."""

    def __init__(self, layer: str, data: bytes) -> None:
        self._layer, self._data, self._at = layer, data, 0

    @property
    def is_at_end(self) -> bool:
        """Whether all bytes have been read."""
        return self._at == len(self._data)

    def peek(self) -> int:
        """Return the next byte without consuming it; -1 at the end."""
        return -1 if self.is_at_end else self._data[self._at]

    def u8(self) -> int:
        """Read one byte."""
        return self.take(1)[0]

    def u64(self) -> int:
        """Read a big-endian integer of eight bytes."""
        return decode_uint(self.take(8))

    def uvarint(self) -> int:
        """Read an unsigned varint."""
        value, self._at = decode_uvarint(self._data, self._at)
        return value

    def compact_bytes(self) -> bytes:
        """Read bytes that follow their length."""
        size, self._at = decode_varint(self._data, self._at)
        return self.take(size)

    def count(self) -> int:
        """Read a number of elements, which is at most the number of remaining bytes."""
        number = self.uvarint()
        if number > len(self._data) - self._at:
            left = len(self._data) - self._at
            raise self.error(f"{number} elements expected, {left} bytes left")
        return number

    def take(self, size: int) -> bytes:
        """Read `size` bytes.

        Raises:
            CodecError: Fewer bytes are left.
        """
        if not 0 <= size <= len(self._data) - self._at:
            raise self.error(f"{size} bytes expected, {len(self._data) - self._at} left")
        self._at += size
        return self._data[self._at - size : self._at]

    def error(self, reason: str) -> CodecError:
        """Return an error at the current offset, without an excerpt: records contain row values."""
        return CodecError(self._layer, reason, self._at)
