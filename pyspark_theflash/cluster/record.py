"""Reads the pieces of which TiKV's lock and write records are made, one after the other.

    u8 · u64 big-endian · uvarint · compact bytes: zigzag varint length, then as many bytes

Every read checks that the record goes on that far.
"""

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.number import decode_uint, decode_uvarint, decode_varint


class RecordReader:
    """A place in a record, which moves on with each read."""

    def __init__(self, layer: str, data: bytes) -> None:
        self._layer, self._data, self._at = layer, data, 0

    @property
    def is_at_end(self) -> bool:
        """Whether everything has been read."""
        return self._at == len(self._data)

    def peek(self) -> int:
        """The next byte, which is not read by this; -1 at the end."""
        return -1 if self.is_at_end else self._data[self._at]

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u64(self) -> int:
        """Eight bytes, big-endian."""
        return decode_uint(self.take(8))

    def uvarint(self) -> int:
        """An unsigned integer of as few bytes as it takes."""
        value, self._at = decode_uvarint(self._data, self._at)
        return value

    def compact_bytes(self) -> bytes:
        """Bytes behind their length."""
        size, self._at = decode_varint(self._data, self._at)
        return self.take(size)

    def count(self) -> int:
        """How many pieces follow; no more than there are bytes left."""
        number = self.uvarint()
        if number > len(self._data) - self._at:
            raise self.error(f"{number} pieces announced, {len(self._data) - self._at} bytes left")
        return number

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            CodecError: the record ends before that.
        """
        if not 0 <= size <= len(self._data) - self._at:
            raise self.error(f"{size} bytes wanted, {len(self._data) - self._at} left")
        self._at += size
        return self._data[self._at - size : self._at]

    def error(self, reason: str) -> CodecError:
        """An error at this place. No excerpt: records hold rows' values."""
        return CodecError(self._layer, reason, self._at)
