"""Comparable (fixed 8 bytes) and variable-length encodings of integers and floats.

    comparable int     big-endian two's complement with the sign bit flipped
    comparable uint    big-endian
    comparable float   big-endian IEEE double; positive: sign bit set, negative: all bits inverted
    descending         any of these with all bits inverted
    uvarint            7 bits per byte, lowest first, high bit = more follows; at most 10 bytes
    varint             zigzag (0, -1, 1, -2 ... as 0, 1, 2, 3 ...) as a uvarint

The byte order of comparable numbers is their numeric order. See TiDB's `util/codec/number.go`. The
functions for single values are used for keys, the `_at` functions for rows, a column at a time.
"""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words

_SIGN: Final = 1 << 63
_U64: Final = (1 << 64) - 1
_MAX_VARINT_BYTES: Final = 10

_ONE: Final = np.uint64(1)
_CONTINUES: Final = np.uint64(0x8080808080808080)
_PAYLOAD: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
# (kept, moved, by) of three rounds that close the gaps between 7-bit groups: between the groups,
# then between pairs, then between quadruples.
_SQUEEZE: Final = tuple(
    (np.uint64(kept), np.uint64(moved), np.uint64(by))
    for kept, moved, by in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)


def encode_int(value: int) -> bytes:
    """Encode a signed 64-bit integer as comparable."""
    return struct.pack(">Q", (value & _U64) ^ _SIGN)


def decode_int(data: bytes, offset: int = 0) -> int:
    """Decode the comparable signed integer at `offset`. Raises `CodecError`."""
    value = decode_uint(data, offset) ^ _SIGN
    return value - (1 << 64) if value & _SIGN else value


def encode_uint(value: int) -> bytes:
    """Encode an unsigned 64-bit integer as comparable."""
    return struct.pack(">Q", value)


def decode_uint(data: bytes, offset: int = 0) -> int:
    """Decode the comparable unsigned integer at `offset`. Raises `CodecError`."""
    if len(data) < offset + 8:
        raise CodecError("comparable number", "fewer than 8 bytes", offset)
    return int.from_bytes(data[offset : offset + 8], "big")


def encode_uint_desc(value: int) -> bytes:
    """Encode an unsigned 64-bit integer as descending."""
    return struct.pack(">Q", value ^ _U64)


def decode_uint_desc(data: bytes, offset: int = 0) -> int:
    """Decode the descending unsigned integer at `offset`. Raises `CodecError`."""
    return decode_uint(data, offset) ^ _U64


def encode_uvarint(value: int) -> bytes:
    """Encode an unsigned integer as a uvarint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_uvarint(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Decode the uvarint at `offset`; return it and the offset after it. Raises `CodecError`."""
    value = 0
    for i, byte in enumerate(data[offset : offset + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value > _U64:
                break
            return value, offset + i + 1
    else:
        if len(data) - offset < _MAX_VARINT_BYTES:
            raise CodecError("varint", "data ends within the number", offset)
    raise CodecError("varint", "more than 64 bits", offset)


def decode_varint(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Decode the varint at `offset`; return it and the offset after it. Raises `CodecError`."""
    value, end = decode_uvarint(data, offset)
    return value >> 1 ^ -(value & 1), end


def uvarints_at(
    reader: Reader, at: Positions, limit: Positions, words: Words | None = None
) -> tuple[Words, Positions]:
    """Decode the uvarint at each position; also return the end positions.

    Args:
        words: The first bytes at `at`, if already loaded, padded to eight with 0xFF.

    Raises:
        CodecError: A number extends beyond its `limit`, or exceeds 64 bits.
    """
    stops = None if words is None else ~words & _CONTINUES
    if words is None or stops is None or not stops.all():
        words = reader.words_at(at)
        stops = ~words & _CONTINUES
    # All bits below the last byte's high bit; all 64 bits if the number has more than eight bytes.
    below = (stops & (~stops + _ONE)) - _ONE
    values = words & below & _PAYLOAD
    ends: Positions = at + (np.bitwise_count(below) >> 3) + 1
    if values.size and int(values.max()) > 0x7F:
        for kept, moved, by in _SQUEEZE:
            values = (values & kept) | ((values & moved) >> by)
    if not stops.all():
        _add_ninth_byte(reader, at, values, ends, np.flatnonzero(stops == 0))
    reader.check_ends(ends, limit, at)
    return values, ends


def _add_ninth_byte(
    reader: Reader, at: Positions, values: Words, ends: Positions, long: Positions
) -> None:
    """Add the last bytes to varints of 9 or 10 bytes, in place."""
    ninth = reader.bytes_at(at[long] + 8).astype(np.uint64)
    tenth = reader.bytes_at(at[long] + 9).astype(np.uint64)
    more = ninth >= 0x80
    reader.check(~more | (tenth <= 1), "varint exceeds 64 bits", at[long])
    values[long] |= (ninth & np.uint64(0x7F)) << np.uint64(56)
    values[long] |= np.where(more, tenth, np.uint64(0)) << np.uint64(63)
    ends[long] += more


def varints_at(
    reader: Reader, at: Positions, limit: Positions, words: Words | None = None
) -> tuple[npt.NDArray[np.int64], Positions]:
    """Decode the varint at each position; arguments and errors are as for `uvarints_at`."""
    values, ends = uvarints_at(reader, at, limit, words)
    halves = (values >> _ONE).view(np.int64)
    return halves ^ -(values & _ONE).view(np.int64), ends


def floats_from_comparable(words: Words) -> npt.NDArray[np.float64]:
    """Decode comparable doubles, which are already loaded as big-endian integers."""
    sign = np.uint64(_SIGN)
    return np.where(words & sign, words ^ sign, ~words).view(np.float64)


def comparable_from_floats(values: npt.NDArray[np.float64]) -> Words:
    """Encode doubles as comparable. As in TiDB's encoder, -0.0 becomes 0.0."""
    bits = values.view(np.uint64)
    return np.where(values >= 0, bits | np.uint64(_SIGN), ~bits)
