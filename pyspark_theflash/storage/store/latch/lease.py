"""Leases of readers, which pin timestamps and generations of a store.

A lease is a latch (`latch.py`) that pins: a timestamp against garbage collection, and a manifest
generation against the removal of its files. It ends when it is released, when it expires on the
boot-time clock, or when the machine restarts; changes of the wall clock do not matter. A lease of
another host retains what it pins for its time to live after this host has first seen it. Latches
that exclude others are granted by `queue.py`.

In a read-only folder or on a full disk no latch can be written. There a reader locks `readers.lock`
(`readers_lock.py`), which pins everything; its lease is `shared`. The floor, a transient record, is
the newest generation whose predecessors may have lost files. A shared lease of an older generation
may not have been locked at that time, so it has expired.

    remover   locks readers out, reads the latches, raises the floor, unlocks, removes files
    reader    locks, reads the head (at or above any floor), plans      pinned before the head
    its task  locks, compares its lease with the floor                  raises if files may be gone
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import LatchNotFoundError, LeaseExpiredError, StoreFullError
from pyspark_theflash.base.types import FencingToken, Generation, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import STORE, Grant, Latch, LatchKind, LatchRequest
from pyspark_theflash.storage.store.latch.readers_lock import ReadersLock, exclusive_readers_lock
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.storage.store.transient import FLOOR_KIND, LATCH_KIND, TransientRecords

LEASE_TTL_MS: Final = 600_000
"""Default time after which a read latch expires unless it is renewed."""
_EXTENSION_MS: Final = 1000
_FLOOR_KEY: Final = "generation"
_FOREIGN: Final = "foreign-"
"""Prefix of the keys, in `FLOOR_KIND`, of latches of other hosts."""
_EVERYTHING: Final = 0
"""Below every timestamp and generation that can be read."""


@dataclass(frozen=True, slots=True)
class ReadLease:
    """A lease; can be pickled. `ttl_ms` is its time to live after each renewal.

    A `shared` lease is a lock on the store's readers.lock, taken by each process that uses it.
    """

    id: str
    snapshot_ts: TimeStamp
    generation: Generation
    ttl_ms: int
    shared: bool = False


def id_of(identity: str, random_id: str) -> str:
    """Return the id of a read latch, which begins with a hash of its caller's identity, if any."""
    if not identity:
        return random_id
    return f"{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}-{random_id}"


class LeaseTable:
    """The latches of a store, for readers and for the removal of old versions and files."""

    def __init__(
        self, manifest: Manifest, clock: Clock, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._manifest, self._clock, self._new_id = manifest, clock, new_id
        self._readers_lock: ReadersLock | None = None

    def take(
        self,
        snapshot_ts: TimeStamp,
        ttl_ms: int,
        kind: LatchKind = LatchKind.READ,
        *,
        identity: str = "",
    ) -> ReadLease:
        """Pin a timestamp and the manifest's current generation for the caller `identity`.

        The caller must check *afterwards* that `snapshot_ts` is still readable, since garbage
        collection may have passed it just before.

        Raises:
            StoreFullError: The disk is full and `kind` is `PIN`; other kinds use readers.lock.
            EngineError: The store cannot be written and has no readers.lock.
        """
        if not self._manifest.is_writable and kind is not LatchKind.PIN:
            return self._share(snapshot_ts, ttl_ms)
        try:
            return self._insert(snapshot_ts, ttl_ms, kind, identity)
        except StoreFullError:
            if kind is LatchKind.PIN:
                raise
            return self._share(snapshot_ts, ttl_ms)

    def renew(self, lease: ReadLease) -> None:
        """Extend a lease by its TTL from now.

        Raises:
            LeaseExpiredError: The lease has ended; what it pinned may have been removed.
        """
        if lease.shared:
            self._share_again(lease)
            return
        try:
            with transient.opened(self._manifest, write=True) as rows:
                latch = self._living(rows, lease.id)
                if latch is None:
                    raise LeaseExpiredError(lease.id, lease.snapshot_ts)
                self._put(rows, lease, latch.kind, latch.holder, latch.grant)
        except StoreFullError:
            self._share_again(lease)

    def extend(self, lease: ReadLease) -> None:
        """Renew a lease, unless that would extend it by less than a second. Raises like `renew`.

        Several plans for one query follow each other within milliseconds, and a write takes several
        times as long as a check.
        """
        if not lease.shared:
            left_ms = self._checked(lease).expires_ms - self._clock.boottime_ms()
            if left_ms > lease.ttl_ms - min(_EXTENSION_MS, lease.ttl_ms // 16):
                return
        self.renew(lease)

    def check(self, lease: ReadLease) -> None:
        """Raise `LeaseExpiredError` if the lease has ended. Writes nothing."""
        self._checked(lease)

    def release(self, lease: ReadLease) -> None:
        """End a lease; does nothing if it has ended."""
        # A shared lease ends when the manifest is closed. If the disk is full, the row expires.
        if not lease.shared:
            with suppress(StoreFullError), transient.opened(self._manifest, write=True) as rows:
                rows.remove(LATCH_KIND, lease.id)

    def remove(self, id: str) -> None:
        """End a latch by id. Raises `LatchNotFoundError`."""
        with transient.opened(self._manifest, write=True) as rows:
            if self._living(rows, id) is None:
                raise LatchNotFoundError(id)
            rows.remove(LATCH_KIND, id)

    def ids_of(self, identity: str, most: int) -> list[str]:
        """Return the ids of a caller's read latches, through whichever process they were taken.

        Only if there are more than `most`, ended ones are removed and left out.
        """
        prefix = id_of(identity, "")
        with transient.opened(self._manifest, write=False) as rows:
            ids = rows.keys(LATCH_KIND, prefix) if prefix else []
            if len(ids) <= most:
                return ids
            living = [id for id in ids if self._living(rows, id) is not None]
        if len(living) < len(ids):
            with transient.opened(self._manifest, write=True) as rows:
                for id in set(ids).difference(living):
                    rows.remove(LATCH_KIND, id)
        return living

    def living(self) -> list[Latch]:
        """Return the current latches, sorted by expiry."""
        with transient.opened(self._manifest, write=False) as rows:
            latches = rows.load_all(LATCH_KIND, Latch.from_body)
            living = (latch for latch in latches if latch.is_alive(self._clock))
            return sorted(living, key=lambda latch: (latch.expires_ms, latch.id))

    def oldest_generation(self) -> Generation | None:
        """Return the oldest pinned generation; None if none is, so that only the newest is needed.

        Call this only before removing files of older generations: it invalidates shared leases of
        those.

        Raises:
            CorruptionError: A latch is damaged, so what is pinned is unknown.
        """
        with exclusive_readers_lock(self._manifest.folder) as is_locked:
            if not is_locked:
                return Generation(_EVERYTHING)
            with transient.opened(self._manifest, write=True) as rows:
                living = self._sweep(rows)
                pinned = [x.generation for x in living if x.kind.pins_generation]
                oldest = min(pinned, default=None)
                self._raise_floor(rows, oldest)
        return oldest

    def oldest_snapshot_ts(self) -> TimeStamp | None:
        """Return the oldest pinned timestamp; None if none is.

        Call this only for garbage collection. A lease taken later may pin an older timestamp, so
        its owner has to check the store's `oldest_ts` afterwards.

        Raises:
            CorruptionError: A latch is damaged, so what is pinned is unknown.
        """
        with exclusive_readers_lock(self._manifest.folder) as is_locked:
            if not is_locked:
                return TimeStamp(_EVERYTHING)
            with transient.opened(self._manifest, write=True) as rows:
                living = self._sweep(rows)
        return min((x.snapshot_ts for x in living if x.kind.pins_snapshot), default=None)

    # -- rows

    def _insert(
        self, snapshot_ts: TimeStamp, ttl_ms: int, kind: LatchKind, identity: str
    ) -> ReadLease:
        grant = None
        if identity:
            wanted = LatchRequest(kind, STORE, ttl_ms, identity=identity)
            grant = Grant(FencingToken(0), wanted)
        with transient.opened(self._manifest, write=True) as rows:
            generation = self._manifest.head().generation
            id = id_of(identity, self._new_id())
            lease = ReadLease(id, snapshot_ts, generation, ttl_ms)
            self._put(rows, lease, kind, Holder.here(self._clock), grant)
        return lease

    def _put(
        self,
        rows: TransientRecords,
        lease: ReadLease,
        kind: LatchKind,
        holder: Holder | None,
        grant: Grant | None,
    ) -> None:
        latch = Latch(
            lease.id,
            kind,
            lease.snapshot_ts,
            lease.generation,
            self._clock.boot_id(),
            self._clock.boottime_ms() + lease.ttl_ms,
            holder,
            grant,
        )
        rows.put(LATCH_KIND, latch.id, latch.to_body())

    def _checked(self, lease: ReadLease) -> Latch:
        latch = transient.load_one(self._manifest, LATCH_KIND, lease.id, Latch.from_body)
        if latch is None or not latch.is_alive(self._clock):
            raise LeaseExpiredError(lease.id, lease.snapshot_ts)
        return latch

    def _living(self, rows: TransientRecords, id: str) -> Latch | None:
        latch = rows.load(LATCH_KIND, id, Latch.from_body)
        return None if latch is None or not latch.is_alive(self._clock) else latch

    def _sweep(self, rows: TransientRecords) -> list[Latch]:
        """Remove ended latches and return the others."""
        living = []
        for latch in rows.load_all(LATCH_KIND, Latch.from_body):
            if latch.is_alive(self._clock) or self._may_be_alive(rows, latch):
                living.append(latch)
            else:
                rows.remove(LATCH_KIND, latch.id)
                rows.remove(FLOOR_KIND, _FOREIGN + latch.id)
        return living

    def _may_be_alive(self, rows: TransientRecords, latch: Latch) -> bool:
        """Return whether a process on another host may still hold a latch.

        The boot-time clocks of two hosts are not comparable, so its time to live counts from when
        this host has first seen it as it is.
        """
        if latch.holder is None or latch.holder.is_of_this_host(self._clock):
            return False
        seen = [self._clock.boot_id(), latch.boot_id, latch.expires_ms]
        body, now_ms = rows.row(FLOOR_KIND, _FOREIGN + latch.id), self._clock.boottime_ms()
        if body is not None:
            *before, end_ms = json.loads(body)
            if before == seen:
                return bool(now_ms < end_ms)
        ttl_ms = LEASE_TTL_MS if latch.grant is None else latch.grant.wanted.ttl_ms
        rows.put(FLOOR_KIND, _FOREIGN + latch.id, json.dumps([*seen, now_ms + ttl_ms]).encode())
        return True

    # -- without rows

    def _share(self, snapshot_ts: TimeStamp, ttl_ms: int) -> ReadLease:
        self._hold_readers_lock()
        generation = self._manifest.read([]).generation
        return ReadLease(self._new_id(), snapshot_ts, generation, ttl_ms, shared=True)

    def _share_again(self, lease: ReadLease) -> None:
        """Take the shared lock, and raise if files of the lease's generation may be gone."""
        self._hold_readers_lock()
        with transient.opened(self._manifest, write=False) as rows:
            floor = int(rows.row(FLOOR_KIND, _FLOOR_KEY) or 0)
        if lease.generation < floor:
            raise LeaseExpiredError(lease.id, lease.snapshot_ts)

    def _hold_readers_lock(self) -> None:
        if self._readers_lock is None:
            self._readers_lock = ReadersLock(self._manifest.folder, self._clock)
            self._manifest.at_close(self._readers_lock.release)

    def _raise_floor(self, rows: TransientRecords, oldest: Generation | None) -> None:
        floor = self._manifest.head().generation if oldest is None else oldest
        if floor > int(rows.row(FLOOR_KIND, _FLOOR_KEY) or 0):
            rows.put(FLOOR_KIND, _FLOOR_KEY, str(floor).encode())
