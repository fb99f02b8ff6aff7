"""The data that is applied and not yet in the engine, of all regions together.

    versions   committed rows, ready for the engine: chunks of columns, one a piece of a batch
    locks      what transactions that have not ended hold: lock column family
    defaults   their rows, where these are long: default column family
    orphans    commits of a snapshot whose long rows are yet to come: write column family

A commit finds its row when it is applied: short ones are in the write record, long ones are taken
out of `defaults`. So what remains in `defaults` belongs to transactions that have not ended.

Only in snapshots may a commit come before its row (TiKV may take the column families of a snapshot
at different moments). Such an orphan waits here, and holds back later commits of the same row, for
the engine takes versions of a row in the order of their commits.

Keys are unique over all regions, so it does not matter which region one belongs to; ranges are cut
out when a region goes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import decode_lock
from pyspark_theflash.cluster.write import Write, WriteKind, decode_write
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.codec.number import encode_uint_desc
from pyspark_theflash.tidb.codec.reader import Positions
from pyspark_theflash.tikv.pending import Delta, PendingEntries
from pyspark_theflash.tikv.request import (
    Family,
    Requests,
    record_keys,
)
from pyspark_theflash.tikv.versions import (
    TS_BYTES,
    LongCommit,
    Versions,
    decode_commits,
    split_write_key,
    versions_of,
)

Changes = dict[bytes, bytes | None]


@dataclass(slots=True)
class _Parsed:
    """The changes of some requests; the last one of each key."""

    locks: Changes
    defaults: Changes
    versions: list[Versions]
    consumed: list[bytes]
    orphans: Changes


class Cache:
    """See the module. Not thread-safe: the store that has it is."""

    def __init__(self) -> None:
        self.families: Final = {family: PendingEntries() for family in Family}
        self.versions: list[Versions] = []
        self.version_bytes = 0
        self._waiting: dict[bytes, set[bytes]] = {}
        """Memcomparable key -> its keys among the orphans."""

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
        """About what it takes in memory."""
        return self.version_bytes + sum(each.size_bytes for each in self.families.values())

    def apply(self, requests: Requests) -> None:
        """Puts and deletes, in the order of their commands. If it raises, nothing has changed.

        Raises:
            CodecError: a key or record that is none.
            CorruptionError: a commit whose row is nowhere.
        """
        self._apply(self._parse(requests))

    def add(self, versions: Iterable[Versions]) -> None:
        """Versions that are ready for the engine."""
        for each in versions:
            if len(each):
                self.versions.append(each)
                self.version_bytes += each.size_bytes

    def adopt(self, locks: Changes, defaults: Changes, orphans: Changes) -> None:
        """Take over what a snapshot holds besides versions."""
        self._apply(_Parsed(locks, defaults, [], [], orphans))

    def cut(self, start: bytes, end: bytes) -> None:
        """Forget all that waits in a range of memcomparable keys; versions stay."""
        for family in self.families.values():
            family.drop([key for key, _ in family.within(start, end)])
        for key in [k for k in self._waiting if start <= k and (not end or k < end)]:
            del self._waiting[key]

    def cut_family(self, family: Family, start: bytes, end: bytes) -> None:
        """Forget what waits in a range of one column family."""
        pending = self.families[family]
        pending.drop([key for key, _ in pending.within(start, end)])

    def take_versions(self) -> list[Versions]:
        """All versions, which the caller has from now on."""
        taken, self.versions, self.version_bytes = self.versions, [], 0
        return taken

    def restore(self, family: Family, delta: Delta) -> None:
        """Take over what was published, one record after the other."""
        self.families[family].restore(delta)
        if family is Family.WRITE:
            for write_key in delta.deletes:
                self._forget_orphan(write_key)
            for write_key in delta.puts:
                self._waiting.setdefault(write_key[:-TS_BYTES], set()).add(write_key)

    # -- one piece

    def _parse(self, requests: Requests) -> _Parsed:
        lock_keys, lock_values = self._entries(requests, Family.LOCK)
        default_keys, default_values = self._entries(requests, Family.DEFAULT)

        def is_version(write_key: bytes, record: Write) -> bool:
            if record.gc_fence is not None:
                return False
            key, start_ts = write_key[:-TS_BYTES], record.start_ts
            held = [v for k, v in zip(lock_keys, lock_values, strict=True) if k == key]
            return any(_is_of(v, start_ts) for v in [*held, self.locks.get(key)])

        writes = np.flatnonzero((requests.family == Family.WRITE) & requests.is_put)
        held: Changes = {}
        if self._waiting:
            writes, held = self._held_back(requests, writes)
        commits = decode_commits(requests, writes, is_version)
        # Garbage collection may take a row again that was put, and committed, right before.
        entries = zip(default_keys, default_values, strict=True)
        puts = {key: row for key, row in entries if row is not None} if commits.long else {}
        rows = [self._row_of(commit, puts) for commit in commits.long]
        versions = [*commits.versions, *versions_of(rows)]
        locks = dict(zip(lock_keys, lock_values, strict=True))
        defaults = dict(zip(default_keys, default_values, strict=True))
        consumed = [commit.key for commit in commits.long]
        return _Parsed(locks, defaults, versions, consumed, held)

    def _entries(
        self, requests: Requests, family: Family
    ) -> tuple[list[bytes], list[bytes | None]]:
        """Return what is put into a column family under record keys, or deleted there (None)."""
        rows = np.flatnonzero(requests.family == family)
        rows = record_keys(requests, rows).rows
        is_put = requests.is_put[rows]
        put_values = iter(requests.values(rows[is_put]))
        values = [next(put_values) if put else None for put in is_put.tolist()]
        return requests.keys(rows), values

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
                self._waiting.setdefault(write_key[:-TS_BYTES], set()).add(write_key)
        if self._waiting:
            touched = {key[:-TS_BYTES] for key in (*parsed.defaults, *parsed.orphans)}
            for key in sorted(touched & self._waiting.keys()):
                self._release(key)

    # -- orphans

    def _held_back(self, requests: Requests, writes: Positions) -> tuple[Positions, Changes]:
        """The writes of rows that no orphan holds back, and the others as orphans."""
        keys = requests.keys(writes)
        is_held = np.fromiter((k[:-TS_BYTES] in self._waiting for k in keys), np.bool_, len(keys))
        rows = writes[is_held]
        held: Changes = dict(zip(requests.keys(rows), requests.values(rows), strict=True))
        deletes = np.flatnonzero((requests.family == Family.WRITE) & ~requests.is_put)
        held.update((k, None) for k in requests.keys(deletes) if self.orphans.get(k) is not None)
        return writes[~is_held], held

    def _release(self, key: bytes) -> None:
        """Make versions of the commits of a row, oldest first, up to one whose row is missing."""
        ready: list[tuple[bytes, Write, bytes]] = []
        consumed, done = [], []
        for write_key in sorted(self._waiting[key], reverse=True):
            record = decode_write(self.orphans.get(write_key) or b"")
            row = record.short_value or b""
            if record.kind is WriteKind.PUT and record.short_value is None:
                default_key = key + encode_uint_desc(record.start_ts)
                found = self.defaults.get(default_key)
                if found is None:
                    break
                row = found
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
        left = self._waiting.get(write_key[:-TS_BYTES], set())
        left.discard(write_key)
        if not left:
            self._waiting.pop(write_key[:-TS_BYTES], None)

    def orphans_at(self, start: bytes, end: bytes, snapshot_ts: TimeStamp) -> list[TimeStamp]:
        """Commits at or below a snapshot, in a range, whose rows are yet to come."""
        found = (split_write_key(key)[1] for key, _ in self.orphans.within(start, end))
        return sorted(commit_ts for commit_ts in found if commit_ts <= snapshot_ts)


def _is_of(lock: bytes | None, start_ts: TimeStamp) -> bool:
    return lock is not None and decode_lock(RawKey(b""), lock).start_ts == start_ts
