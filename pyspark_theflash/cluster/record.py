"""A reader of the primitive values in TiKV's lock and write records.

    u8
    u64              big-endian
    uvarint
    compact bytes    length as a zigzag varint, then the bytes
    tagged fields    a byte that identifies the field, then its value

Every read checks that the record is long enough.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

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

    def peek(self) -> str:
        """Return the next byte as a character without consuming it; "" at the end."""
        return "" if self.is_at_end else chr(self._data[self._at])

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

    def tagged_fields(self, readers: "FieldReaders") -> dict[str, Any]:
        """Read tagged fields by name, up to the end or to an unknown tag."""
        fields: dict[str, Any] = {}
        while not self.is_at_end and (read := readers.get(chr(self.u8()))) is not None:
            fields.update(read(self))
        return fields

    def error(self, reason: str) -> CodecError:
        """Return an error at the current offset, without an excerpt: records contain row values."""
        return CodecError(self._layer, reason, self._at)


FieldReaders: TypeAlias = Mapping[str, Callable[[RecordReader], dict[str, Any]]]
"""tag -> function that reads the value of a field, or the values of several, by name."""
SHARED_FIELDS: Final[FieldReaders] = {
    "v": lambda reader: {"short_value": reader.take(reader.u8())},
    "l": lambda reader: {
        "last_change_ts": reader.u64(),
        "last_change_versions": reader.uvarint(),
    },
}
"""The fields that lock and write records have in common."""
