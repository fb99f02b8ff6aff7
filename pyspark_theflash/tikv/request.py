"""Vectorized decoding of the puts and deletes in raft commands.

    raft_cmdpb.Request   08 kind | 22 size | 0a size cf | 12 size key | 1a size value     put
                         08 kind | 2a size | 0a size cf | 12 size key                     delete

A batch has tens of thousands of requests of some hundred bytes each. Encoders write fields in the
order of their numbers, so the positions of a message's fields follow from a few bytes, which are
read from all messages at once. A message with another order is re-encoded first.

Only record keys are used. Index entries and meta keys are skipped.

    memcomparable record key   't' id id id id id id id FF   id '_' 'r' h h h h h FF   h h h 0 .. FA
    with a common handle       longer; see `tidb.codec.bytes`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.codec.number import uvarints_at
from pyspark_theflash.tidb.codec.reader import Mask, Positions, Reader, Words
from pyspark_theflash.tidb.codec.row import RowBuffer
from pyspark_theflash.tikv.command import DeleteRange, IngestFile
from pyspark_theflash.tikv.wire import canonical_request, decode_other_request

_LAYER: Final = "raft request"
_HEADS: Final = (b"\x08\x03\x22", b"\x08\x04\x2a")
_PUT_HEAD, _DELETE_HEAD = (int.from_bytes(head, "little") for head in _HEADS)
_KEY_TAG, _VALUE_TAG = 0x12, 0x1A
_PAIR_KEY_TAG, _PAIR_VALUE_TAG = 0x0A, 0x12
_FULL_GROUP: Final = 0xFF
_RECORD: Final = 0x5F72
_GROUP: Final = 9
PIECE_REQUESTS: Final = 1 << 14
"""The number of requests decoded at once. More exceed the CPU cache, and are not faster."""
_INT_KEY_END: Final = _FULL_GROUP - 5
INT_KEY_BYTES: Final = 3 * _GROUP
"""The length of a memcomparable record key with an integer handle."""


RequestPart: TypeAlias = list[bytes] | DeleteRange | IngestFile


class Family(IntEnum):
    """TiKV's column families."""

    DEFAULT = 0
    LOCK = 1
    WRITE = 2


FAMILIES: Final = {"default": Family.DEFAULT, "lock": Family.LOCK, "write": Family.WRITE}


@dataclass(frozen=True, slots=True)
class Requests:
    """The fields of n puts and deletes, as positions in `reader`, in their original order.

    A value extends from `value_at` to the end of the message.
    """

    messages: Sequence[bytes]
    reader: Reader
    family: npt.NDArray[np.uint8]
    is_put: Mask
    key_at: Positions
    key_end: Positions
    value_at: Positions

    def keys(self, rows: Positions) -> list[bytes]:
        """Return the keys of some requests, as encoded."""
        first = self.reader.starts[rows]
        begin, end = (self.key_at[rows] - first).tolist(), (self.key_end[rows] - first).tolist()
        messages = self.messages
        return [messages[n][a:b] for n, a, b in zip(rows.tolist(), begin, end, strict=True)]

    def values(self, rows: Positions) -> list[bytes]:
        """Return the values of some requests."""
        begin = (self.value_at[rows] - self.reader.starts[rows]).tolist()
        messages = self.messages
        return [messages[n][a:] for n, a in zip(rows.tolist(), begin, strict=True)]


def are_plain(messages: Sequence[bytes]) -> bool:
    """Return whether all messages begin like puts and deletes that `decode_requests` accepts."""
    return all(message[:3] in _HEADS for message in messages)


def decode_pieces(messages: Sequence[bytes]) -> list[Requests]:
    """Decode puts and deletes, `PIECE_REQUESTS` at a time; see `decode_requests`."""
    return [
        decode_requests(messages[first : first + PIECE_REQUESTS])
        for first in range(0, len(messages), PIECE_REQUESTS)
    ]


def decode_requests(messages: Sequence[bytes]) -> Requests:
    """Decode puts and deletes with fields in order; for other messages, see `sort_requests`.

    Raises:
        CodecError: A message is neither a put nor a delete, or its fields are not in order.
    """
    reader = Reader(RowBuffer.from_list(messages), _LAYER)
    starts, ends = reader.starts, reader.ends
    kind = reader.words_at(starts) & np.uint64(0xFFFFFF)
    is_put, is_delete = kind == _PUT_HEAD, kind == _DELETE_HEAD
    reader.check(is_put | is_delete, "neither a put nor a delete", starts)
    size, at = _sizes(reader, starts + 3, ends)
    reader.check(at + size == ends, "bytes after the request", at)
    family, at = _families(reader, at)
    reader.check(reader.bytes_at(at) == _KEY_TAG, "no key", at)
    size, key_at = _sizes(reader, at + 1, ends)
    key_end = key_at + size
    value_at = _values(reader, key_at, key_end, _VALUE_TAG)
    reader.check(is_put | (key_end == ends), "a delete with a value", key_end)
    return Requests(messages, reader, family, is_put, key_at, key_end, value_at)


def _values(reader: Reader, key_at: Positions, key_end: Positions, tag: int) -> Positions:
    """Return the positions of the values after the keys; the messages' ends if there is none."""
    ends = reader.ends
    reader.check_ends(key_end, ends, key_at)
    value_at: Positions = ends.copy()
    with_value = np.flatnonzero(key_end < ends)
    if len(with_value):
        at, limit = key_end[with_value], ends[with_value]
        reader.check(reader.bytes_at(at) == tag, "no value", at)
        size, at = _sizes(reader, at + 1, limit)
        reader.check(at + size == limit, "bytes after the value", at)
        value_at[with_value] = at
    return value_at


def sort_requests(messages: Sequence[bytes]) -> Sequence[RequestPart]:
    """Split requests into runs of puts and deletes, and other requests, in their order.

    Puts and deletes are re-encoded with their fields in order. Requests without effect are
    omitted.

    Raises:
        CodecError: A message is not a request.
    """
    parts: list[RequestPart] = []
    run: list[bytes] = []
    for message in map(canonical_request, messages):
        if message[:3] in _HEADS:
            if not run:
                parts.append(run)
            run.append(message)
        elif (other := decode_other_request(message)) is not None:
            parts.append(other)
            run = []
    return parts


def decode_pairs(messages: Sequence[bytes], family: Family) -> Requests:
    """Decode raft_serverpb.KeyValue messages of one column family as puts.

    Raises:
        CodecError: A message is malformed.
    """
    reader = Reader(RowBuffer.from_list(messages), "snapshot pair")
    starts, ends = reader.starts, reader.ends
    reader.check(reader.bytes_at(starts) == _PAIR_KEY_TAG, "no key", starts)
    size, key_at = _sizes(reader, starts + 1, ends)
    key_end = key_at + size
    value_at = _values(reader, key_at, key_end, _PAIR_VALUE_TAG)
    families = np.full(len(messages), family, np.uint8)
    puts = np.ones(len(messages), np.bool_)
    return Requests(messages, reader, families, puts, key_at, key_end, value_at)


def _sizes(reader: Reader, at: Positions, limit: Positions) -> tuple[Positions, Positions]:
    """Return the varint sizes at positions, and the positions after them."""
    words = reader.words_at(at)
    size = (words & np.uint64(0x7F)).view(np.int64)
    two = words & np.uint64(0x80) != 0
    if not two.any():
        return size, at + 1
    if (two & (words & np.uint64(0x8000) != 0)).any():
        values, value_ends = uvarints_at(reader, at, limit)
        reader.check(values < 1 << 31, "a size above 2 GiB", at)
        return values.view(np.int64), value_ends
    high = (words >> np.uint64(8) & np.uint64(0x7F)).view(np.int64) << 7
    return np.where(two, size | high, size), at + 1 + two


_DEFAULT_HEAD: Final = int.from_bytes(b"\x0a\x07defaul", "little")
_WRITE_HEAD: Final = int.from_bytes(b"\x0a\x05write", "little")
_LOCK_HEAD: Final = int.from_bytes(b"\x0a\x04lock", "little")


def _families(reader: Reader, at: Positions) -> tuple[npt.NDArray[np.uint8], Positions]:
    """Return the column family at each position (default if absent), and the position after it."""
    head = reader.words_at(at)
    is_write = head & np.uint64((1 << 56) - 1) == _WRITE_HEAD
    is_lock = head & np.uint64((1 << 48) - 1) == _LOCK_HEAD
    is_named = head == _DEFAULT_HEAD
    is_default = (head & np.uint64(0xFF) == _KEY_TAG) | is_named
    reader.check(is_write | is_lock | is_default, "unknown column family", at)
    family = (is_lock * np.uint8(Family.LOCK) + is_write * np.uint8(Family.WRITE)).astype(np.uint8)
    return family, at + 7 * is_write + 6 * is_lock + 9 * is_named


@dataclass(frozen=True, slots=True)
class RowKeyPositions:
    """The positions of record keys among keys, and their table ids."""

    rows: Positions
    table_id: npt.NDArray[np.int64]
    _second: Words

    def has_int_handle(self, requests: "Requests", ts_bytes: int) -> Mask:
        """Return which keys, each followed by a timestamp, have integer handles."""
        at, end = requests.key_at[self.rows], requests.key_end[self.rows]
        has_size = end - at == INT_KEY_BYTES + ts_bytes
        last = requests.reader.bytes_at(at + INT_KEY_BYTES - 1)
        result: Mask = has_size & (last == _INT_KEY_END)
        return result

    def int_handles(self, reader: Reader, at: Positions) -> npt.NDArray[np.int64]:
        """Decode the integer handles of the keys at `at`, one for each of `rows`.

        Raises:
            CodecError: A key is not memcomparable.
        """
        third = reader.big_endian_at(at + 2 * _GROUP, 8)
        is_full = reader.bytes_at(at + 2 * _GROUP - 1) == _FULL_GROUP
        is_padded = third & np.uint64((1 << 40) - 1) == 0
        reader.check(is_full & is_padded, "not a memcomparable key", at)
        high = (self._second & np.uint64((1 << 40) - 1)) << np.uint64(24)
        bits: Words = (high | third >> np.uint64(40)) ^ np.uint64(1 << 63)
        return bits.view(np.int64)

    def select(self, chosen: Positions) -> "RowKeyPositions":
        """Select keys by their positions in `rows`."""
        return RowKeyPositions(self.rows[chosen], self.table_id[chosen], self._second[chosen])


def record_keys(requests: Requests, rows: Positions) -> RowKeyPositions:
    """Select the requests whose memcomparable keys are record keys."""
    reader, at = requests.reader, requests.key_at[rows]
    first, second = reader.big_endian_at(at, 8), reader.big_endian_at(at + _GROUP, 8)
    is_record = (first >> np.uint64(56) == ord("t")) & (
        second >> np.uint64(40) & np.uint64(0xFFFF) == _RECORD
    )
    is_record &= reader.bytes_at(at + _GROUP - 1) == _FULL_GROUP
    is_record &= requests.key_end[rows] - at >= INT_KEY_BYTES
    if not is_record.all():
        rows, first, second = rows[is_record], first[is_record], second[is_record]
    bits = (first << np.uint64(8) | second >> np.uint64(56)) ^ np.uint64(1 << 63)
    return RowKeyPositions(rows, bits.view(np.int64), second)
