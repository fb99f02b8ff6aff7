"""Read leases: who still needs which state of the store.

A planner takes a lease before it plans; it pins a snapshot against garbage collection and a
manifest generation against the removal of that generation's files. Tasks renew it (the planner may
be gone by then). A lease ends when it is released, when it runs out on the boot-time clock, or when
the machine restarts.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from pyspark_theflash.clock import Clock
from pyspark_theflash.errors import LeaseExpiredError
from pyspark_theflash.store.manifest import Manifest
from pyspark_theflash.types import Generation, TimeStamp


@dataclass(frozen=True, slots=True)
class ReadLease:
    """A granted lease. `ttl_ms` is how long it lives after being taken or renewed."""

    id: str
    snapshot_ts: TimeStamp
    generation: Generation
    ttl_ms: int


class LeaseTable:
    """The leases of one store."""

    def __init__(
        self, manifest: Manifest, clock: Clock, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._manifest, self._clock, self._new_id = manifest, clock, new_id

    def take(self, snapshot_ts: TimeStamp, ttl_ms: int) -> ReadLease:
        """Pin a snapshot, and the manifest's generation so that what is read next is pinned."""
        with self._manifest.leases() as db:
            generation = self._manifest.head().generation
            lease = ReadLease(self._new_id(), snapshot_ts, generation, ttl_ms)
            db.execute(
                "INSERT INTO lease VALUES (?, ?, ?, ?, ?)",
                (
                    lease.id,
                    str(snapshot_ts),
                    generation,
                    self._clock.boot_id(),
                    self._expiry(ttl_ms),
                ),
            )
        return lease

    def renew(self, lease: ReadLease) -> None:
        """Start the lease's time over.

        Raises:
            LeaseExpiredError: it has ended; what it pinned may be gone.
        """
        with self._manifest.leases() as db:
            renewed = db.execute(
                "UPDATE lease SET expires_ms = ? WHERE id = ? AND boot_id = ? AND expires_ms > ?",
                (
                    self._expiry(lease.ttl_ms),
                    lease.id,
                    self._clock.boot_id(),
                    self._clock.boottime_ms(),
                ),
            ).rowcount
        if renewed != 1:
            raise LeaseExpiredError(lease.id, lease.snapshot_ts)

    def release(self, lease: ReadLease) -> None:
        """End the lease; ending it twice is harmless, it may have run out by itself."""
        with self._manifest.leases() as db:
            db.execute("DELETE FROM lease WHERE id = ?", (lease.id,))

    def oldest_generation(self) -> Generation | None:
        """The oldest generation a living lease pins; leases that have ended are removed."""
        with self._manifest.leases() as db:
            db.execute(
                "DELETE FROM lease WHERE boot_id <> ? OR expires_ms <= ?",
                (self._clock.boot_id(), self._clock.boottime_ms()),
            )
            (oldest,) = db.execute("SELECT min(generation) FROM lease").fetchone()
        return None if oldest is None else Generation(oldest)

    def _expiry(self, ttl_ms: int) -> int:
        return self._clock.boottime_ms() + ttl_ms
