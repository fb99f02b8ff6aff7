"""Leases: who still needs which state of the store.

A latch (`latch.py`) is held as a lease: it ends when it is released, when it runs out on the
boot-time clock, or when the machine restarts; wall-clock jumps mean nothing to it. What excludes
others is granted by `grants.py`; here is what pins.

A timestamp is pinned against garbage collection, a manifest generation against the removal of the
files it names.

A folder that cannot be written and a full disk take no rows. There a reader holds `readers.lock`
(`readers_lock.py`), which pins everything; its lease is `shared`. The floor, a row of the transient
records, is the newest generation whose predecessors may have lost files: a shared lease of an older
one may have had a gap in which files went, so it has expired.

    remover   shuts readers out, reads the latches, raises the floor, lets readers in, then removes
    reader    locks, reads the head (at or above any floor), plans      pinned since before the head
    its task  locks, compares its lease with the floor                  nothing went, or it raises
"""

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    LatchNotFoundError,
    LeaseExpiredError,
    StoreFullError,
)
from pyspark_theflash.base.types import Generation, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import Grant, Latch, LatchKind
from pyspark_theflash.storage.store.latch.readers_lock import ReadersLock, readers_shut_out
from pyspark_theflash.storage.store.manifest import DATABASE, Manifest
from pyspark_theflash.storage.store.transient import FLOOR_KIND, LATCH_KIND, TransientRecords

LEASE_TTL_MS: Final = 600_000
"""How long a read latch lives that is not renewed, unless its owner says."""
_FLOOR_KEY: Final = "generation"
_EVERYTHING: Final = 0
"""Below every timestamp and generation that can be read."""


@dataclass(frozen=True, slots=True)
class ReadLease:
    """A granted latch; survives pickle. `ttl_ms` is how long it lives after being taken or renewed.

    A `shared` one is the lock on the store's readers.lock, held by each process that uses it.
    """

    id: str
    snapshot_ts: TimeStamp
    generation: Generation
    ttl_ms: int
    shared: bool = False


class LeaseTable:
    """The latches of one store."""

    def __init__(
        self, manifest: Manifest, clock: Clock, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._manifest, self._clock, self._new_id = manifest, clock, new_id
        self._readers_lock: ReadersLock | None = None

    def take(
        self, snapshot_ts: TimeStamp, ttl_ms: int, kind: LatchKind = LatchKind.READ
    ) -> ReadLease:
        """Pin a snapshot, and the manifest's generation so that what is read next is pinned.

        Whoever means to read at `snapshot_ts` must see *after* this that it still can be: garbage
        collection may have passed it just before.

        Raises:
            StoreFullError: a pin needs room; other kinds do without.
            EngineError: the store cannot be written, and has no readers.lock either.
        """
        if not self._manifest.is_writable and kind is not LatchKind.PIN:
            return self._share(snapshot_ts, ttl_ms)
        try:
            return self._insert(snapshot_ts, ttl_ms, kind)
        except StoreFullError:
            if kind is LatchKind.PIN:
                raise
            return self._share(snapshot_ts, ttl_ms)

    def renew(self, lease: ReadLease) -> None:
        """Start the lease's time over.

        Raises:
            LeaseExpiredError: it has ended; what it pinned may be gone.
        """
        if lease.shared:
            self._share_again(lease)
            return
        try:
            with transient.opened(self._manifest, write=True) as rows:
                latch = self._find(rows, lease.id)
                if latch is None or not latch.is_alive(self._clock):
                    raise LeaseExpiredError(lease.id, lease.snapshot_ts)
                self._put(rows, lease, latch.kind, latch.holder, latch.grant)
        except StoreFullError:
            self._share_again(lease)

    def check(self, lease: ReadLease) -> None:
        """Raise `LeaseExpiredError` if the lease has ended. Writes nothing, so it costs little."""
        with transient.opened(self._manifest, write=False) as rows:
            latch = self._find(rows, lease.id)
        if latch is None or not latch.is_alive(self._clock):
            raise LeaseExpiredError(lease.id, lease.snapshot_ts)

    def release(self, lease: ReadLease) -> None:
        """End the lease; ending it twice is harmless, it may have run out by itself."""
        # A shared one ends with the manifest that is open here, the lock being closed with it;
        # one that cannot be removed for lack of room runs out.
        if not lease.shared:
            with suppress(StoreFullError), transient.opened(self._manifest, write=True) as rows:
                rows.remove(LATCH_KIND, lease.id)

    def remove(self, id: str) -> None:
        """End a latch of which only the id is known.

        Raises:
            LatchNotFoundError: there is none of that id, or it has run out.
        """
        with transient.opened(self._manifest, write=True) as rows:
            latch = self._find(rows, id)
            if latch is None or not latch.is_alive(self._clock):
                raise LatchNotFoundError(id)
            rows.remove(LATCH_KIND, id)

    def living(self) -> list[Latch]:
        """The latches that pin something now, those that end first at the front."""
        with transient.opened(self._manifest, write=False) as rows:
            living = (latch for latch in self._all(rows) if latch.is_alive(self._clock))
            return sorted(living, key=lambda latch: (latch.expires_ms, latch.id))

    def oldest_generation(self) -> Generation | None:
        """The oldest generation that is pinned; None if none is, so that all but the newest may go.

        Only for who is about to remove files that older generations name: shared leases of
        those are void from now on.

        Raises:
            CorruptionError: a latch is damaged, so what is pinned cannot be told.
        """
        with readers_shut_out(self._manifest.folder) as alone:
            if not alone:
                return Generation(_EVERYTHING)
            with transient.opened(self._manifest, write=True) as rows:
                living = self._sweep(rows)
                pinned = [x.generation for x in living if x.kind.pins_generation]
                oldest = min(pinned, default=None)
                self._raise_floor(rows, oldest)
        return oldest

    def oldest_snapshot_ts(self) -> TimeStamp | None:
        """The oldest timestamp that is pinned; None if none is.

        Only for who collects garbage: what it answers holds for those who take a latch from now on
        only if they look at the store's `oldest_ts` afterwards.

        Raises:
            CorruptionError: a latch is damaged, so what is pinned cannot be told.
        """
        with readers_shut_out(self._manifest.folder) as alone:
            if not alone:
                return TimeStamp(_EVERYTHING)
            with transient.opened(self._manifest, write=True) as rows:
                living = self._sweep(rows)
        return min((x.snapshot_ts for x in living if x.kind.pins_snapshot), default=None)

    # -- rows

    def _insert(self, snapshot_ts: TimeStamp, ttl_ms: int, kind: LatchKind) -> ReadLease:
        with transient.opened(self._manifest, write=True) as rows:
            generation = self._manifest.head().generation
            lease = ReadLease(self._new_id(), snapshot_ts, generation, ttl_ms)
            self._put(rows, lease, kind, Holder.here(self._clock))
        return lease

    def _put(
        self,
        rows: TransientRecords,
        lease: ReadLease,
        kind: LatchKind,
        holder: Holder | None,
        grant: Grant | None = None,
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

    def _find(self, rows: TransientRecords, id: str) -> Latch | None:
        body = rows.row(LATCH_KIND, id)
        return None if body is None else self._latch(id, body)

    def _all(self, rows: TransientRecords) -> list[Latch]:
        return [self._latch(id, body) for id, body in rows.rows(LATCH_KIND).items()]

    def _sweep(self, rows: TransientRecords) -> list[Latch]:
        """The living latches; the others are removed."""
        living = []
        for latch in self._all(rows):
            if latch.is_alive(self._clock):
                living.append(latch)
            else:
                rows.remove(LATCH_KIND, latch.id)
        return living

    def _latch(self, id: str, body: bytes) -> Latch:
        try:
            return Latch.from_body(id, body)
        except CodecError as error:
            raise CorruptionError(
                str(self._manifest.folder / DATABASE), 0, f"latch {id} is not one"
            ) from error

    # -- without rows

    def _share(self, snapshot_ts: TimeStamp, ttl_ms: int) -> ReadLease:
        self._hold_readers_lock()
        generation = self._manifest.read([]).generation
        return ReadLease(self._new_id(), snapshot_ts, generation, ttl_ms, shared=True)

    def _share_again(self, lease: ReadLease) -> None:
        """Pin everything from now on, if what `lease` pinned is still there."""
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
