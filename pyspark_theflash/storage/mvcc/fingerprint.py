"""Fingerprint (16 bytes) of a transaction's rows, independent of their order and batches.

    value       64 bits: the bytes of a number, a hash of a string or list, a constant for NULL
    row         two sums of its mixed values, each times an odd factor of its column, mixed again
    transaction the two sums of its rows' words, modulo 2**64

It distinguishes a repeated delivery of a transaction from different content. It is not collision
resistant against deliberately constructed content.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]
LANES: Final = 2
_NULL: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))


def row_fingerprints(place: int, columns: Mapping[str, pa.Array]) -> Words:
    """Return the fingerprints of rows, an array of shape (rows, 2).

    Args:
        place: the id of the table.
        columns: at least one, all of one length.
    """
    sums = [np.zeros(len(next(iter(columns.values()))), np.uint64) for _ in range(LANES)]
    for name, column in columns.items():
        words = _words(column)
        for lane, total in enumerate(sums):
            total += _mixed(words) * _factor(name, lane)
    seeds = [_factor(f"table {place}", lane) for lane in range(LANES)]
    return np.stack([_mixed(total + seed) for total, seed in zip(sums, seeds, strict=True)], 1)


def transaction_fingerprints(start_ts: Words, rows: Words) -> dict[int, tuple[int, ...]]:
    """Sum row fingerprints by `start_ts`. `added` adds the sums of several batches."""
    order = np.argsort(start_ts, kind="stable")
    distinct_ts, first = np.unique(start_ts[order], return_index=True)
    sums = [np.add.reduceat(rows[order, lane], first) for lane in range(LANES)]
    pairs = zip(*(lane.tolist() for lane in sums), strict=True)
    return dict(zip(distinct_ts.tolist(), pairs, strict=True)) if len(distinct_ts) else {}


def added(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Add two fingerprints."""
    return tuple((a + b) % (1 << 64) for a, b in zip(left, right, strict=True))


def digest(fingerprint: tuple[int, ...]) -> bytes:
    """Encode a fingerprint as 16 bytes."""
    return b"".join(word.to_bytes(8, "little") for word in fingerprint)


def _words(column: pa.Array) -> Words:
    words = _of_values(column)
    if column.null_count:
        words = np.where(np.asarray(column.is_null()), _NULL, words)
    return words


def _of_values(column: pa.Array) -> Words:
    """Return one word for each value; undefined for NULL."""
    tp = column.type
    if pa.types.is_list(tp):
        lists = (np.array(v or (), "<f8").tobytes() for v in column.to_pylist())
        return np.array([_hash(data) for data in lists], np.uint64)
    if pa.types.is_string(tp) or pa.types.is_binary(tp):
        encoded = column.cast(pa.binary()).dictionary_encode()
        distinct = [_hash(value) for value in encoded.dictionary.to_pylist()]
        hashes: Words = np.array(distinct or [0], np.uint64)
        words: Words = hashes[np.asarray(pc.fill_null(encoded.indices, 0))]
        return words
    if pa.types.is_boolean(tp):
        column, tp = column.cast(pa.uint8()), pa.uint8()
    width = tp.bit_width // 8
    data: npt.NDArray[Any] = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    values = data[column.offset * width : (column.offset + len(column)) * width]
    if width <= 8:
        return values.view(f"<u{width}").astype(np.uint64)
    parts = values.view("<u8").reshape(len(column), width // 8)
    total = np.zeros(len(column), np.uint64)
    for n in range(parts.shape[1]):
        total += _mixed(parts[:, n] + np.uint64(n))
    return total


def _mixed(words: Words) -> Words:
    """Mix the bits of each word, with the finalizer of SplitMix64."""
    first, second, third = _SHIFTS
    words = (words ^ (words >> first)) * _MIX[0]
    words = (words ^ (words >> second)) * _MIX[1]
    mixed: Words = words ^ (words >> third)
    return mixed


def _factor(name: str, lane: int) -> np.uint64:
    factor: np.uint64 = np.uint64(_hash(f"{lane} {name}".encode()) | 1)
    return factor


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
