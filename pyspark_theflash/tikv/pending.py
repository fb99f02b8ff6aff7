"""Entries of a column family that wait for the end of their transaction: keys with values.

    fresh   put since the last publication
    kept    published, and so on disk
    dead    published and deleted since

Most transactions end soon after they begin, so most keys come and go in `fresh` and are never
written. A publication writes what is fresh and which keys are dead; a large transaction that stays
is written once, and not again with each publication.

    record   u8 version | u8 family | u32 puts | u32 deletes
             u32 key sizes of puts | u32 value sizes | u32 key sizes of deletes | the bytes of each

All little-endian. Records of a family are read in the order in which they were written.
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
"""The size of an entry besides its bytes."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The changes that a publication is to write."""

    puts: Mapping[bytes, bytes]
    deletes: Collection[bytes]


class PendingEntries:
    """The entries of one column family. `size_bytes`: about what they take in memory."""

    def __init__(self) -> None:
        self._fresh: dict[bytes, bytes] = {}
        self._kept: dict[bytes, bytes] = {}
        self._dead: set[bytes] = set()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept) + sum(key not in self._kept for key in self._fresh)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None where there is none."""
        found = self._fresh.get(key)
        return self._kept.get(key) if found is None else found

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put values, and delete the keys that have None."""
        gone = [key for key, value in changes.items() if value is None]
        self._grow(changes)
        if not gone:
            self._fresh.update(changes)  # type: ignore[arg-type]
            return
        self._fresh.update({k: v for k, v in changes.items() if v is not None})
        self.drop(gone)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Delete keys, whether they are there or not."""
        fresh, kept = self._fresh, self._kept
        for key in keys:
            value = fresh.pop(key, None)
            if value is not None:
                self.size_bytes -= len(key) + len(value) + _ENTRY_BYTES
            if kept and (value := kept.pop(key, None)) is not None:
                self.size_bytes -= len(key) + len(value) + _ENTRY_BYTES
                self._dead.add(key)

    def within(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries in [start, end), in no order; an empty `end` is behind all keys."""
        for key, value in self._fresh.items():
            if start <= key and (not end or key < end):
                yield key, value
        for key, value in self._kept.items():
            if start <= key and (not end or key < end) and key not in self._fresh:
                yield key, value

    def freeze(self, *, whole: bool) -> Delta:
        """Return what is to be published, as if it were; with `whole`, to replace all before."""
        puts, deletes = self._fresh, self._dead
        if self._kept:
            replaced = self._kept.keys() & puts.keys()
            for key in replaced:
                self.size_bytes -= len(key) + len(self._kept[key]) + _ENTRY_BYTES
            self._kept.update(puts)
        else:
            self._kept = dict(puts)
        self._fresh, self._dead = {}, set()
        return Delta(dict(self._kept), ()) if whole else Delta(puts, deletes)

    def restore(self, delta: Delta) -> None:
        """Take over a record, in the order of records."""
        for key in delta.deletes:
            self._kept.pop(key, None)
        self._kept.update(delta.puts)
        self.size_bytes = sum(len(k) + len(v) + _ENTRY_BYTES for k, v in self._kept.items())

    def _grow(self, changes: Mapping[bytes, bytes | None]) -> None:
        fresh, size = self._fresh, 0
        for key, value in changes.items():
            if value is not None:
                size += len(key) + len(value) + _ENTRY_BYTES
                if (old := fresh.get(key)) is not None:
                    size -= len(key) + len(old) + _ENTRY_BYTES
        self.size_bytes += size


def encode_delta(family: Family, delta: Delta) -> bytes:
    """A record."""
    keys, values = list(delta.puts), list(delta.puts.values())
    deletes = sorted(delta.deletes)
    sizes = [_sizes(each) for each in (keys, values, deletes)]
    head = _HEAD.pack(_VERSION, family, len(keys), len(deletes))
    return b"".join([head, *sizes, *keys, *values, *deletes])


def decode_delta(data: bytes) -> tuple[Family, Delta]:
    """The inverse of `encode_delta`.

    Raises:
        CodecError: the bytes are no record.
    """
    if len(data) < _HEAD.size:
        raise CodecError(_LAYER, "no room for a head")
    version, family, puts, deletes = _HEAD.unpack_from(data)
    if version != _VERSION or family not in set(Family):
        raise CodecError(_LAYER, f"version {version}, family {family}")
    counts = (puts, puts, deletes)
    at = _HEAD.size + 4 * sum(counts)
    if at > len(data):
        raise CodecError(_LAYER, "the bytes end within the sizes", len(data))
    sizes = np.frombuffer(data, "<u4", sum(counts), _HEAD.size).astype(np.int64)
    bounds = [at, *(at + np.cumsum(sizes)).tolist()]
    if bounds[-1] != len(data):
        raise CodecError(_LAYER, f"{bounds[-1]} bytes announced, {len(data)} are there")
    parts = [data[a:b] for a, b in pairwise(bounds)]
    found = dict(zip(parts[:puts], parts[puts : 2 * puts], strict=True))
    return Family(family), Delta(found, parts[2 * puts :])


def _sizes(parts: Sequence[bytes]) -> bytes:
    return np.fromiter(map(len, parts), "<u4", len(parts)).tobytes()
