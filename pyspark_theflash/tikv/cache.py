"""Applied data of all regions that is not in the engine yet.

    versions   committed rows in columnar form, ready for the engine; one chunk per run of requests
    locks      entries of the lock column family: locks of open transactions
    defaults   entries of the default column family: long rows of open transactions
    orphans    entries of the write column family: commits whose long rows have not arrived yet

When a commit is applied, its row is in the write record if it is short; a long row is moved out of
`defaults`. So the remaining `defaults` belong to open transactions.

Only in a snapshot can a commit precede its row, because TiKV may read the column families of a
snapshot at different times. Such an orphan waits here and delays later commits of the same row,
because the engine requires the versions of a row in commit order.

Keys are unique across regions, so entries are not grouped by region. When a region is removed, its
key range is deleted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import decode_lock
from pyspark_theflash.cluster.write import Write, WriteKind, decode_write
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.codec.number import decode_uint_desc, encode_uint_desc
from pyspark_theflash.tidb.codec.reader import Positions
from pyspark_theflash.tikv.pending import Delta, PendingEntries
from pyspark_theflash.tikv.request import Family, Requests, record_keys
from pyspark_theflash.tikv.versions import TS_BYTES, LongCommit, decode_commits, versions_of

Changes = dict[bytes, bytes | None]


@dataclass(slots=True)
class _Parsed:
    """Parsed changes of a run of requests; the last change of each key."""

    locks: Changes
    defaults: Changes
    versions: list[Versions]
    consumed: list[bytes]
    orphans: Changes


class Cache:
    """The cache of one `RegionStore`, which synchronizes access to it."""

    def __init__(self) -> None:
        self.families: Final = {family: PendingEntries() for family in Family}
        self.versions: list[Versions] = []
        self.version_bytes = 0
        self._orphan_keys: dict[bytes, set[bytes]] = {}
        """Memcomparable key -> its write keys in `orphans`."""

    @property
    def locks(self) -> PendingEntries:
        return self.families[Family.LOCK]

    @property
    def defaults(self) -> PendingEntries:
        return self.families[Family.DEFAULT]

    @property
    def orphans(self) -> PendingEntries:
        return self.families[Family.WRITE]

    @property
    def size_bytes(self) -> int:
        """The approximate size in memory."""
        return self.version_bytes + sum(each.size_bytes for each in self.families.values())

    def apply(self, requests: Requests) -> None:
        """Apply puts and deletes in command order. The cache is unchanged after an error.

        Raises:
            CodecError: A key or record is malformed.
            CorruptionError: The row of a commit is missing.
        """
        self._apply(self._parse(requests))

    def add(self, versions: Iterable[Versions]) -> None:
        """Add versions for the engine."""
        for each in versions:
            if len(each):
                self.versions.append(each)
                self.version_bytes += each.size_bytes

    def adopt(self, locks: Changes, defaults: Changes, orphans: Changes) -> None:
        """Add the entries of a snapshot other than versions."""
        self._apply(_Parsed(locks, defaults, [], [], orphans))

    def cut(self, start: bytes, end: bytes) -> None:
        """Delete the entries of all families in a range of memcomparable keys, but no versions."""
        for family in self.families.values():
            family.drop([key for key, _ in family.within(start, end)])
        for key in [k for k in self._orphan_keys if start <= k and (not end or k < end)]:
            del self._orphan_keys[key]

    def cut_family(self, family: Family, start: bytes, end: bytes) -> None:
        """Delete the entries of one column family in a range."""
        pending = self.families[family]
        pending.drop([key for key, _ in pending.within(start, end)])

    def take_versions(self) -> list[Versions]:
        """Remove and return all versions."""
        versions, self.versions, self.version_bytes = self.versions, [], 0
        return versions

    def restore(self, family: Family, delta: Delta) -> None:
        """Restore a published delta. Deltas must be restored in the order of their records."""
        self.families[family].restore(delta)
        if family is Family.WRITE:
            for write_key in delta.deletes:
                self._forget_orphan(write_key)
            for write_key in delta.puts:
                self._orphan_keys.setdefault(write_key[:-TS_BYTES], set()).add(write_key)

    # -- one run of requests

    def _parse(self, requests: Requests) -> _Parsed:
        locks = self._entries(requests, Family.LOCK)
        defaults = self._entries(requests, Family.DEFAULT)

        def is_version(write_key: bytes, record: Write) -> bool:
            if record.gc_fence is not None:
                return False
            key, start_ts = write_key[:-TS_BYTES], record.start_ts
            values = [v for k, v in locks if k == key]
            return any(_is_of(v, start_ts) for v in [*values, self.locks.get(key)])

        writes = np.flatnonzero((requests.family == Family.WRITE) & requests.is_put)
        orphans: Changes = {}
        if self._orphan_keys:
            writes, orphans = self._split_delayed(requests, writes)
        commits = decode_commits(requests, writes, is_version)
        # TiKV's GC may delete a row that was put and committed earlier in the same run.
        puts = {key: row for key, row in defaults if row is not None} if commits.long else {}
        rows = [self._row_of(commit, puts) for commit in commits.long]
        versions = [*commits.versions, *versions_of(rows)]
        consumed = [commit.key for commit in commits.long]
        return _Parsed(dict(locks), dict(defaults), versions, consumed, orphans)

    def _entries(self, requests: Requests, family: Family) -> list[tuple[bytes, bytes | None]]:
        """Return the record keys changed in a column family, with their values or None (delete)."""
        rows = np.flatnonzero(requests.family == family)
        rows = record_keys(requests, rows).rows
        is_put = requests.is_put[rows]
        put_values = iter(requests.values(rows[is_put]))
        values = [next(put_values) if put else None for put in is_put.tolist()]
        return list(zip(requests.keys(rows), values, strict=True))

    def _row_of(
        self, commit: LongCommit, puts: Mapping[bytes, bytes]
    ) -> tuple[bytes, Write, bytes]:
        row = puts.get(commit.key)
        row = self.defaults.get(commit.key) if row is None else row
        if row is None:
            reason = f"no row for start_ts={commit.start_ts} commit_ts={commit.commit_ts}"
            raise CorruptionError("default column family", 0, reason)
        return commit.write_key, Write(WriteKind.PUT, commit.start_ts), row

    def _apply(self, parsed: _Parsed) -> None:
        self.defaults.apply(parsed.defaults)
        self.defaults.drop(parsed.consumed)
        self.locks.apply(parsed.locks)
        self.add(parsed.versions)
        self.orphans.apply(parsed.orphans)
        for write_key, record in parsed.orphans.items():
            if record is None:
                self._forget_orphan(write_key)
            else:
                self._orphan_keys.setdefault(write_key[:-TS_BYTES], set()).add(write_key)
        if self._orphan_keys:
            touched = {key[:-TS_BYTES] for key in (*parsed.defaults, *parsed.orphans)}
            for key in sorted(touched & self._orphan_keys.keys()):
                self._release(key)

    # -- orphans

    def _split_delayed(self, requests: Requests, writes: Positions) -> tuple[Positions, Changes]:
        """Split writes into those of rows without an orphan, and those delayed by one.

        A record that was rewritten with a `gc_fence` does not replace a delayed one, whose row is
        still to come.
        """
        keys = requests.keys(writes)
        is_late = np.fromiter(
            (k[:-TS_BYTES] in self._orphan_keys for k in keys), np.bool_, len(keys)
        )
        rows = writes[is_late]
        late: Changes = {}
        for key, value in zip(requests.keys(rows), requests.values(rows), strict=True):
            is_delayed = key in late or self.orphans.get(key) is not None
            if not is_delayed or decode_write(value).gc_fence is None:
                late[key] = value
        deletes = np.flatnonzero((requests.family == Family.WRITE) & ~requests.is_put)
        late.update((k, None) for k in requests.keys(deletes) if self.orphans.get(k) is not None)
        return writes[~is_late], late

    def _release(self, key: bytes) -> None:
        """Convert delayed commits of a row to versions, oldest first, until a row is missing."""
        ready: list[tuple[bytes, Write, bytes]] = []
        consumed, done = [], []
        for write_key in sorted(self._orphan_keys[key], reverse=True):
            record = decode_write(self.orphans.get(write_key) or b"")
            row = record.short_value or b""
            if record.kind is WriteKind.PUT and record.short_value is None:
                default_key = key + encode_uint_desc(record.start_ts)
                long_row = self.defaults.get(default_key)
                if long_row is None:
                    break
                row = long_row
                consumed.append(default_key)
            done.append(write_key)
            if record.has_data and record.gc_fence is None:
                ready.append((write_key, record, row))
        self.add(versions_of(ready))
        self.defaults.drop(consumed)
        self.orphans.drop(done)
        for write_key in done:
            self._forget_orphan(write_key)

    def _forget_orphan(self, write_key: bytes) -> None:
        write_keys = self._orphan_keys.get(write_key[:-TS_BYTES], set())
        write_keys.discard(write_key)
        if not write_keys:
            self._orphan_keys.pop(write_key[:-TS_BYTES], None)

    def orphans_at(self, start: bytes, end: bytes, snapshot_ts: TimeStamp) -> list[TimeStamp]:
        """Return the commit_ts of orphans in a range at or below a snapshot, in order."""
        keys = (key for key, _ in self.orphans.within(start, end))
        all_ts = (TimeStamp(decode_uint_desc(key, len(key) - TS_BYTES)) for key in keys)
        return sorted(commit_ts for commit_ts in all_ts if commit_ts <= snapshot_ts)


def _is_of(lock: bytes | None, start_ts: TimeStamp) -> bool:
    return lock is not None and decode_lock(RawKey(b""), lock).start_ts == start_ts
