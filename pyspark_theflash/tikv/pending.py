"""Entries of a column family that belong to open transactions: keys with values.

    fresh   put since the last publication
    stored  published, hence durable
    dead    published, and deleted since

Most transactions are short, so most keys are put and deleted in `fresh` and never written. A
publication writes the fresh entries and the dead keys. An entry of a long transaction is written
once, not by each publication.

    record   u8 version | u8 family | u32 puts | u32 deletes
             u32 key sizes of puts | u32 value sizes | u32 key sizes of deletes | the bytes of each

Integers are little-endian. Records of a family must be read in the order of writing.
"""

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tikv.request import Family

_HEAD: Final = struct.Struct("<BBII")
_VERSION: Final = 1
_LAYER: Final = "pending record"
_ENTRY_BYTES: Final = 128
"""The overhead of an entry in memory."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes of one column family for a publication."""

    puts: Mapping[bytes, bytes]
    deletes: Collection[bytes]


class PendingEntries:
    """The entries of one column family. `size_bytes` is their approximate size in memory."""

    def __init__(self) -> None:
        self._fresh: dict[bytes, bytes] = {}
        self._stored: dict[bytes, bytes] = {}
        self._dead: set[bytes] = set()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._stored) + sum(key not in self._stored for key in self._fresh)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key; None if there is none."""
        value = self._fresh.get(key)
        return self._stored.get(key) if value is None else value

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put values, and delete the keys whose value is None."""
        deleted = [key for key, value in changes.items() if value is None]
        self._grow(changes)
        if not deleted:
            self._fresh.update(changes)  # type: ignore[arg-type]
            return
        self._fresh.update({k: v for k, v in changes.items() if v is not None})
        self.drop(deleted)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Delete keys; missing keys are ignored."""
        fresh, stored = self._fresh, self._stored
        for key in keys:
            value = fresh.pop(key, None)
            if value is not None:
                self.size_bytes -= len(key) + len(value) + _ENTRY_BYTES
            if stored and (value := stored.pop(key, None)) is not None:
                self.size_bytes -= len(key) + len(value) + _ENTRY_BYTES
                self._dead.add(key)

    def within(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries in [start, end), unordered; an empty `end` means no upper bound."""
        for key, value in self._fresh.items():
            if start <= key and (not end or key < end):
                yield key, value
        for key, value in self._stored.items():
            if start <= key and (not end or key < end) and key not in self._fresh:
                yield key, value

    def freeze(self, *, whole: bool) -> Delta:
        """Return the delta to publish, and mark it as stored; `whole` returns all entries."""
        puts, deletes = self._fresh, self._dead
        if self._stored:
            replaced = self._stored.keys() & puts.keys()
            for key in replaced:
                self.size_bytes -= len(key) + len(self._stored[key]) + _ENTRY_BYTES
            self._stored.update(puts)
        else:
            self._stored = dict(puts)
        self._fresh, self._dead = {}, set()
        return Delta(dict(self._stored), ()) if whole else Delta(puts, deletes)

    def restore(self, delta: Delta) -> None:
        """Restore a published delta; deltas must be restored in the order of their records."""
        for key in delta.deletes:
            self._stored.pop(key, None)
        self._stored.update(delta.puts)
        self.size_bytes = sum(len(k) + len(v) + _ENTRY_BYTES for k, v in self._stored.items())

    def _grow(self, changes: Mapping[bytes, bytes | None]) -> None:
        fresh, size = self._fresh, 0
        for key, value in changes.items():
            if value is not None:
                size += len(key) + len(value) + _ENTRY_BYTES
                if (old := fresh.get(key)) is not None:
                    size -= len(key) + len(old) + _ENTRY_BYTES
        self.size_bytes += size


def encode_delta(family: Family, delta: Delta) -> bytes:
    """Encode a record."""
    keys, values = list(delta.puts), list(delta.puts.values())
    deletes = sorted(delta.deletes)
    sizes = [_sizes(each) for each in (keys, values, deletes)]
    head = _HEAD.pack(_VERSION, family, len(keys), len(deletes))
    return b"".join([head, *sizes, *keys, *values, *deletes])


def decode_delta(data: bytes) -> tuple[Family, Delta]:
    """Decode a record.

    Raises:
        CodecError: The bytes are not a record.
    """
    if len(data) < _HEAD.size:
        raise CodecError(_LAYER, "the header is cut off")
    version, family, puts, deletes = _HEAD.unpack_from(data)
    if version != _VERSION or family not in set(Family):
        raise CodecError(_LAYER, f"unknown version {version} or family {family}")
    counts = (puts, puts, deletes)
    at = _HEAD.size + 4 * sum(counts)
    if at > len(data):
        raise CodecError(_LAYER, "the sizes are cut off", len(data))
    sizes = np.frombuffer(data, "<u4", sum(counts), _HEAD.size).astype(np.int64)
    bounds = [at, *(at + np.cumsum(sizes)).tolist()]
    if bounds[-1] != len(data):
        raise CodecError(_LAYER, f"{bounds[-1]} bytes expected, {len(data)} present")
    parts = [data[a:b] for a, b in pairwise(bounds)]
    entries = dict(zip(parts[:puts], parts[puts : 2 * puts], strict=True))
    return Family(family), Delta(entries, parts[2 * puts :])


def _sizes(parts: Sequence[bytes]) -> bytes:
    return np.fromiter(map(len, parts), "<u4", len(parts)).tobytes()
