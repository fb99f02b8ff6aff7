"""What a store of ours owes the cluster while it runs: its safe point, and signs of life.

    hold = SharedHold(directory, "theflash-7", clock=clock)
    hold.ensure(ts)                  before a read at ts
    hold.follow(lowest)              every now and then

One service safe point stands for all that read: it is the lowest of their timestamps, and goes when
nobody reads. PD forgets it by itself after its time to live.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    ServiceRefusedError,
    ServiceUnavailableError,
    SnapshotTooOldError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.tikv.directory import Directory
from pyspark_theflash.cluster.tikv.safe_point import TTL_S
from pyspark_theflash.cluster.tikv.wire.region import Store, StoreStats

_log = logging.getLogger(__name__)

HEARTBEAT_MS: Final = 10_000
LABEL: Final = ("engine", "theflash")
"""PD keeps regions from stores with an engine that no placement rule names."""
VERSION: Final = "6.6.0"
"""Of the protocol that is spoken; PD refuses a store that is older than the cluster's oldest."""
_CALL_MS: Final = 10_000


class SharedHold:
    """See the module. Thread-safe."""

    def __init__(
        self, directory: Directory, service: str, *, clock: Clock, ttl_s: int = TTL_S
    ) -> None:
        self._directory, self._service = directory, service
        self._clock, self._ttl_s = clock, ttl_s
        self._mutex = threading.Lock()
        self._held: TimeStamp | None = None
        self._told_ms = self._held_until_ms = 0

    @property
    def held(self) -> TimeStamp | None:
        """What is held now; None if nothing is."""
        with self._mutex:
            return self._held if self._clock.boottime_ms() < self._held_until_ms else None

    def ensure(self, snapshot_ts: TimeStamp) -> None:
        """Hold what a read at that timestamp needs; its latch, which `follow` sees, comes first.

        Raises:
            SnapshotTooOldError: versions of that timestamp may be gone already.
            PDUnavailableError, PDRefusedError: as PD says.
        """
        with self._mutex:
            is_held = self._held is not None and self._clock.boottime_ms() < self._held_until_ms
            if self._held is not None and is_held and self._held <= snapshot_ts:
                return
            self._hold(min(self._held, snapshot_ts) if self._held and is_held else snapshot_ts)

    def follow(self, lowest: Callable[[], TimeStamp | None]) -> None:
        """Hold the lowest timestamp that is read now, or what of it PD still has; None: nothing.

        Raises `PDUnavailableError`, `PDRefusedError`.
        """
        with self._mutex:
            # Within the mutex: a read that takes its latch behind this look comes to `ensure`.
            wanted = lowest()
            if wanted is None:
                self._release()
                return
            due_ms = self._told_ms + 1000 * self._ttl_s // 3
            if wanted != self._held or self._clock.boottime_ms() >= due_ms:
                try:
                    self._hold(wanted)
                except SnapshotTooOldError as error:
                    # Held too late, after PD was away for long: the others are not to be lost, too.
                    _log.error("safe point of %s is lost: %s", self._service, error)
                    self._hold(TimeStamp(error.oldest))

    def close(self) -> None:
        """Let go; PD forgets it by itself where that fails."""
        with self._mutex:
            try:
                self._release()
            except (ServiceUnavailableError, ServiceRefusedError) as error:
                _log.warning(
                    "safe point of %s stays for %s s: %s", self._service, self._ttl_s, error
                )

    def _hold(self, wanted: TimeStamp) -> None:
        # Counted from before the call: PD's own count begins later.
        now_ms = self._clock.boottime_ms()
        lowest = self._tell(wanted, self._ttl_s)
        if lowest > wanted:
            raise SnapshotTooOldError(wanted, lowest)
        self._held, self._told_ms = wanted, now_ms
        self._held_until_ms = now_ms + 1000 * self._ttl_s

    def _release(self) -> None:
        if self._held is not None:
            self._tell(self._held, 0)
            self._held = None

    def _tell(self, safe_point: TimeStamp, ttl_s: int) -> TimeStamp:
        deadline = Deadline(self._clock, min(_CALL_MS, 1000 * self._ttl_s))
        return self._directory.hold_safe_point(self._service, safe_point, ttl_s, deadline)


class Heartbeat:
    """A store of ours among PD's: registered once, then heard of every ten seconds or so."""

    def __init__(
        self,
        directory: Directory,
        store: Store,
        folder: Path,
        regions: Callable[[], int],
        clock: Clock,
    ) -> None:
        """`folder`: whose disk PD is told of; `regions`: how many there are now."""
        self._directory, self._store, self._folder = directory, store, folder
        self._regions, self._clock = regions, clock
        self._due_ms = 0

    def register(self) -> None:
        """Raises `PDUnavailableError`, `PDRefusedError`."""
        self._directory.put_store(self._store, Deadline(self._clock, _CALL_MS))

    def beat(self) -> None:
        """Tell PD if it is time to. Raises as `register` does."""
        now_ms = self._clock.boottime_ms()
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + HEARTBEAT_MS
        disk = shutil.disk_usage(self._folder)
        stats = StoreStats(
            self._store.id, disk.total, disk.free, disk.used, self._regions(), self._store.start_s
        )
        self._directory.heartbeat(stats, Deadline(self._clock, _CALL_MS))


def store_of_ours(store_id: int, address: str, clock: Clock) -> Store:
    """How a store that listens at an address is told to PD."""
    started_s = clock.wall_ms() // 1000
    return Store(
        store_id,
        address,
        labels=(LABEL,),
        version=VERSION,
        peer_address=address,
        start_s=started_s,
    )
