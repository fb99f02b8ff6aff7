"""Responses to snapshot scans, decoded to Arrow arrays of keys and values.

    ScanResponse   12 size pair | 12 size pair ...
    pair           12 size key | 1a size value

Only the sizes of the pairs are read one after the other; their fields are read from all pairs at
once. A message of another form (locks, errors, fields in another order) is decoded by protobuf.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.cluster.tikv.wire.call import Answer, ReadResult, decode_scan
from pyspark_theflash.tidb.codec.number import uvarints_at
from pyspark_theflash.tidb.codec.reader import Reader
from pyspark_theflash.tidb.codec.row import SPARE_BYTES, RowBuffer

_PAIR_TAG, _KEY_TAG, _VALUE_TAG = 0x12, 0x12, 0x1A
_MAX_VARINT_BITS: Final = 35


def _nothing() -> pa.Array:
    return pa.array([], pa.binary())


@dataclass(frozen=True, slots=True)
class ScanPage(ReadResult):
    """The result of one scan request: raw keys and their values, or locks. `pairs` is empty."""

    keys: pa.Array = field(default_factory=_nothing, repr=False)
    values: pa.Array = field(default_factory=_nothing, repr=False)

    @property
    def is_ordered(self) -> bool:
        """Whether the keys ascend."""
        return pc.all(pc.less(self.keys[:-1], self.keys[1:])).as_py() is not False


def decode_scan_page(data: bytes) -> Answer[ScanPage]:
    """Decode keys and values, ordered by key. Raises `CodecError`."""
    pairs = _pair_bounds(data)
    page = None if pairs is None else _decode_pairs(data, *pairs)
    if page is not None:
        return Answer(page)
    answer = decode_scan(data)
    if answer.value is None:
        return Answer(None, answer.region_error)
    read = answer.value
    keys, values = zip(*read.pairs, strict=True) if read.pairs else ((), ())
    arrays = (pa.array(keys, pa.binary()), pa.array(values, pa.binary()))
    return Answer(ScanPage((), read.locks, read.failure, *arrays))


def _pair_bounds(data: bytes) -> tuple[list[int], list[int]] | None:
    """Return where each pair starts and ends; None if the message has other fields."""
    starts, ends, at, end = list[int](), list[int](), 0, len(data)
    try:
        while at < end:
            if data[at] != _PAIR_TAG:
                return None
            size = data[at + 1]
            at += 2
            shift, more = 7, size >= 0x80
            size &= 0x7F
            while more:
                size |= (data[at] & 0x7F) << shift
                more = data[at] >= 0x80
                at, shift = at + 1, shift + 7
                if shift > _MAX_VARINT_BITS:
                    return None
            starts.append(at)
            at += size
            ends.append(at)
    except IndexError:
        return None
    return (starts, ends) if at == end else None


def _decode_pairs(data: bytes, starts: list[int], ends: list[int]) -> ScanPage | None:
    """Decode the pairs in these bounds; None if one has other fields than a key and a value."""
    if not starts:
        return ScanPage()
    start, end = np.array(starts, np.int64), np.array(ends, np.int64)
    buffer = np.frombuffer(data + bytes(SPARE_BYTES), np.uint8)
    reader = Reader(RowBuffer(buffer, np.array([*starts, ends[-1]], np.int64)), "scan response")
    try:
        sizes, key_at = uvarints_at(reader, start + 1, end)
        if (sizes > len(data)).any():
            return None
        key_end = key_at + sizes.view(np.int64)
        if (key_end >= end).any():
            return None
        sizes, value_at = uvarints_at(reader, key_end + 1, end)
    except CodecError:
        return None
    is_whole = (sizes > 0) & (sizes == (end - value_at).view(np.uint64))
    is_whole &= (reader.bytes_at(start) == _KEY_TAG) & (reader.bytes_at(key_end) == _VALUE_TAG)
    if not is_whole.all():
        return None
    return ScanPage(keys=reader.slices(key_at, key_end), values=reader.slices(value_at, end))
