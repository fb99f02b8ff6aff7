"""Bloom filters of data files, to find the row groups that may have a value.

They are Parquet's own split block Bloom filters, which pyarrow writes and does not read. A filter
has no checksum; the file has the CRC-32 of each of its pages (`PAGE_BYTES`) right before the
footer, where the footer's checksum covers them. A lookup reads one page.

Source: https://parquet.apache.org/docs/file-format/bloomfilter/
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.storage.engine.magic.file import is_text

BLOOM_OPTIONS: Final = {"ndv": 1 << 18, "fpp": 0.01}
"""For a row group of full size; pyarrow makes filters of fewer values smaller."""
PAGE_BYTES: Final = 1 << 14
TEXT_BYTES: Final = 40
"""The average length of strings above which columns have no filters. Neither do those of which all
contain spaces: such texts are not looked up."""
_CRC_BYTES: Final = 4
_BLOCK_BYTES: Final = 32
_SALTS: Final = (
    *(0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D),
    *(0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31),
)
_MASK: Final = (1 << 64) - 1
_PRIMES: Final = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """Place of the bits of a filter in the file, and the CRC-32 of each page."""

    offset: int
    size_bytes: int
    crcs: Sequence[int]
    is_of_32_bits: bool
    """Whether the values are stored as 32-bit integers."""

    def page_of(self, hash: int) -> int:
        """Return the page that a value with this hash is in."""
        return self._block(hash) * _BLOCK_BYTES // self._page_bytes

    def range_of(self, page: int) -> tuple[int, int]:
        """Return offset and size of a page."""
        return self.offset + page * self._page_bytes, self._page_bytes

    def may_have(self, hash: int, page: bytes) -> bool:
        """Return whether the row group may have a value with this hash, which is in `page`."""
        at = self._block(hash) * _BLOCK_BYTES % self._page_bytes
        words = struct.unpack_from("<8I", page, at)
        places = ((hash * salt & 0xFFFFFFFF) >> 27 for salt in _SALTS)
        return all(word >> place & 1 for word, place in zip(words, places, strict=True))

    @property
    def _page_bytes(self) -> int:
        return min(PAGE_BYTES, self.size_bytes)

    def _block(self, hash: int) -> int:
        return (hash >> 32) * (self.size_bytes // _BLOCK_BYTES) >> 32


def worth_filtering(sample: pa.Table, distinct: Mapping[str, int]) -> list[str]:
    """Return the columns of which values are looked up, by a sample of the rows.

    Their values are integers or short strings, almost all different, and not in order: bounds are
    enough to find those.
    """
    most = sample.num_rows - sample.num_rows // 1000
    return [
        name
        for name, count in distinct.items()
        if count >= most and _can_filter(sample.column(name)) and not _is_ordered(sample, name)
    ]


def _can_filter(column: pa.ChunkedArray) -> bool:
    if is_text(column.type):
        are_short = pc.mean(pc.binary_length(column)).as_py() <= TEXT_BYTES
        return are_short and not pc.all(pc.match_substring(column, " ")).as_py()
    return bool(pa.types.is_integer(column.type))


def _is_ordered(sample: pa.Table, name: str) -> bool:
    values = sample.column(name).drop_null()
    return bool(pc.all(pc.less_equal(values[:-1], values[1:])).as_py())


def with_checksums(data: pa.Buffer) -> tuple[pa.Buffer, int]:
    """Insert the checksums of a file's filters before the footer; return their size, too."""
    view = memoryview(data)
    footer_bytes = footer_size(view[-8:])
    crcs = b"".join(
        zlib.crc32(view[at : min(at + PAGE_BYTES, start + size)]).to_bytes(_CRC_BYTES, "little")
        for _, _, start, size in _places(pq.read_metadata(pa.BufferReader(data)))
        for at in range(start, start + size, PAGE_BYTES)
    )
    if not crcs:
        return data, 0
    end = len(view) - footer_bytes
    return pa.py_buffer(b"".join((view[:end], crcs, view[end:]))), len(crcs)


def footer_size(end: bytes | memoryview) -> int:
    """Return the size of a footer with its length and Parquet's closing magic, the last 8 bytes."""
    return int.from_bytes(end[:4], "little") + 8


def filters_of(metadata: pq.FileMetaData, footer: bytes) -> Mapping[tuple[int, str], BloomFilter]:
    """Return the filters of a file by row group and column.

    Args:
        footer: the end of the file that its footer's checksum covers.
    """
    words = len(footer) - footer_size(footer[-8:])
    crcs = [crc for (crc,) in struct.iter_unpack("<I", footer[:words])]
    filters, first = {}, 0
    for group, column, start, size in _places(metadata):
        pages = -(-size // PAGE_BYTES)
        name, is_short = column.path_in_schema, column.physical_type == "INT32"
        own = crcs[first : first + pages]
        filters[group, name] = BloomFilter(start, size, own, is_short)
        first += pages
    return filters


def _places(
    metadata: pq.FileMetaData,
) -> Iterator[tuple[int, pq.ColumnChunkMetaData, int, int]]:
    """Yield row group, column, and offset and size of the bits of each filter of a file.

    The bits follow a header of some bytes; their number is a power of two.
    """
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for at in range(metadata.num_columns):
            column = row_group.column(at)
            if (length := column.bloom_filter_length) is not None:
                size = 1 << (length.bit_length() - 1)
                yield group, column, column.bloom_filter_offset + length - size, size


def hash_of(value: int | str | bytes, *, is_of_32_bits: bool) -> int | None:
    """Return the XXH64 of a value as Parquet stores it; None: the type cannot store it."""
    if isinstance(value, int):
        bits = 32 if is_of_32_bits else 64
        if not -(1 << bits - 1) <= value < 1 << bits:
            return None
        return xxh64((value % (1 << bits)).to_bytes(bits // 8, "little"))
    return xxh64(value.encode() if isinstance(value, str) else value)


def xxh64(data: bytes) -> int:
    """Return the XXH64 of `data`, with seed 0.

    Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
    """
    first, second, third, fourth, fifth = _PRIMES
    at = 0
    if len(data) >= 32:
        lanes = [(first + second) & _MASK, second, 0, -first & _MASK]
        while at + 32 <= len(data):
            lanes = list(map(_round, lanes, struct.unpack_from("<4Q", data, at)))
            at += 32
        rotations = zip(lanes, (1, 7, 12, 18), strict=True)
        hash = sum(_rotated(lane, bits) for lane, bits in rotations) & _MASK
        for lane in lanes:
            hash = ((hash ^ _round(0, lane)) * first + fourth) & _MASK
    else:
        hash = fifth
    hash = (hash + len(data)) & _MASK
    while at + 8 <= len(data):
        (word,) = struct.unpack_from("<Q", data, at)
        hash = (_rotated(hash ^ _round(0, word), 27) * first + fourth) & _MASK
        at += 8
    if at + 4 <= len(data):
        (half,) = struct.unpack_from("<I", data, at)
        hash = (_rotated(hash ^ (half * first & _MASK), 23) * second + third) & _MASK
        at += 4
    for byte in data[at:]:
        hash = _rotated(hash ^ (byte * fifth & _MASK), 11) * first & _MASK
    hash = (hash ^ (hash >> 33)) * second & _MASK
    hash = (hash ^ (hash >> 29)) * third & _MASK
    return hash ^ (hash >> 32)


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _PRIMES[1]) & _MASK, 31) * _PRIMES[0] & _MASK


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK
