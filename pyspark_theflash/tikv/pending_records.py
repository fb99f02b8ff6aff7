"""Manifest records of the pending entries of the column families, written incrementally.

    kv-pending  sequence  entries of a column family (`pending`)

When most of their content is obsolete, they are replaced by records of all current entries.
"""

from collections.abc import Mapping
from typing import Final

from pyspark_theflash.storage.store.manifest import Record
from pyspark_theflash.tikv.cache import Cache
from pyspark_theflash.tikv.pending import decode_delta, encode_delta
from pyspark_theflash.tikv.request import Family

PENDING_RECORD: Final = "kv-pending"
_SPARE_BYTES: Final = 1 << 20


class PendingRecords:
    """The records of one cache. Not thread-safe."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._sizes: dict[str, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def restore(self, records: Mapping[str, bytes]) -> None:
        """Restore the cache's entries from published records.

        Raises:
            CodecError: A record is malformed.
        """
        for key, body in records.items():
            family, delta = decode_delta(body)
            self._cache.restore(Family(family), delta)
            self._sizes[key] = len(body)
            self._next = int(key) + 1

    def freeze(self) -> tuple[list[Record], list[tuple[str, str]]]:
        """Return the records to put and the keys of those to delete for the next publication."""
        families = self._cache.families
        needed = sum(pending.size_bytes for pending in families.values())
        whole = sum(self._sizes.values()) > 2 * needed + _SPARE_BYTES
        puts: list[Record] = []
        deletes = [(PENDING_RECORD, key) for key in self._sizes] if whole else []
        if whole:
            self._sizes.clear()
        for family, pending in families.items():
            delta = pending.freeze(whole=whole)
            if not (delta.puts or delta.deletes):
                continue
            record = Record(PENDING_RECORD, f"{self._next:020d}", encode_delta(family, delta))
            self._sizes[record.key] = len(record.body)
            self._next += 1
            puts.append(record)
        return puts, deletes
