"""A running store's service safe point and heartbeats in PD.

    hold = SharedHold(directory, "theflash-7", clock=clock)
    hold.ensure(ts)                  before a read at ts
    hold.follow(lowest)              periodically

All reads share one service safe point: the lowest of their timestamps. It is removed when there is
no read. PD drops it after its TTL.
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
from pyspark_theflash.cluster.tikv.wire.directory import Directory, Store, StoreStats

_log = logging.getLogger(__name__)

HEARTBEAT_MS: Final = 10_000
TTL_S: Final = 300
"""The time to live of a service safe point."""
LABEL: Final = ("engine", "theflash")
"""PD places no regions on stores with an `engine` label that no placement rule matches."""
VERSION: Final = "6.6.0"
"""The protocol version. PD rejects a store whose version is below the cluster's."""
_CALL_MS: Final = 10_000


class SharedHold:
    """A service safe point shared by all reads of a store. Thread-safe."""

    def __init__(self, directory: Directory, service: str, *, clock: Clock) -> None:
        self._directory, self._service, self._clock = directory, service, clock
        self._mutex = threading.RLock()
        self._held: TimeStamp | None = None
        self._renewed_ms = self._held_until_ms = 0

    @property
    def held(self) -> TimeStamp | None:
        """The current safe point; None if there is none."""
        with self._mutex:
            return self._held if self._clock.boottime_ms() < self._held_until_ms else None

    def ensure(self, snapshot_ts: TimeStamp) -> None:
        """Lower the safe point to a timestamp, if needed.

        The caller must have taken the read's latch before, so that `follow` takes it into account.

        Raises:
            SnapshotTooOldError: Versions at the timestamp may have been collected already.
            PDUnavailableError, PDRefusedError: PD does not respond, or returns an error.
        """
        with self._mutex:
            held = self.held
            if held is None or snapshot_ts < held:
                self._hold(snapshot_ts)

    def follow(self, lowest: Callable[[], TimeStamp | None]) -> None:
        """Move the safe point to the lowest timestamp that is being read; remove it if None.

        Raises `PDUnavailableError`, `PDRefusedError`.
        """
        with self._mutex:
            # Called within the mutex: a read that takes its latch after this calls `ensure` later.
            lowest_ts = lowest()
            if lowest_ts is None:
                self._release()
                return
            due_ms = self._renewed_ms + 1000 * TTL_S // 3
            if lowest_ts != self._held or self._clock.boottime_ms() >= due_ms:
                try:
                    self._hold(lowest_ts)
                except SnapshotTooOldError as error:
                    # The hold has expired because PD was unavailable. Protect the newer reads.
                    _log.error("safe point of %s is lost: %s", self._service, error)
                    self._hold(TimeStamp(error.oldest))

    def close(self) -> None:
        """Remove the safe point. If that fails, PD drops it after its TTL."""
        with self._mutex:
            try:
                self._release()
            except (ServiceUnavailableError, ServiceRefusedError) as error:
                _log.warning("safe point of %s remains for %s s: %s", self._service, TTL_S, error)

    def _hold(self, safe_point: TimeStamp) -> None:
        # The TTL is counted from before the call, so it ends here before it ends in PD.
        now_ms = self._clock.boottime_ms()
        lowest = self._update(safe_point, TTL_S)
        if lowest > safe_point:
            raise SnapshotTooOldError(safe_point, lowest)
        self._held, self._renewed_ms = safe_point, now_ms
        self._held_until_ms = now_ms + 1000 * TTL_S

    def _release(self) -> None:
        if self._held is not None:
            self._update(self._held, 0)
            self._held = None

    def _update(self, safe_point: TimeStamp, ttl_s: int) -> TimeStamp:
        deadline = Deadline(self._clock, _CALL_MS)
        return self._directory.hold_safe_point(self._service, safe_point, ttl_s, deadline)


class Heartbeat:
    """The registration and the heartbeats of a store of this package in PD."""

    def __init__(
        self,
        directory: Directory,
        store: Store,
        folder: Path,
        regions: Callable[[], int],
        clock: Clock,
    ) -> None:
        """`folder` is on the disk whose usage is reported; `regions` returns their number."""
        self._directory, self._store, self._folder = directory, store, folder
        self._regions, self._clock = regions, clock
        self._due_ms = 0

    def register(self) -> None:
        """Register the store. Raises `PDUnavailableError`, `PDRefusedError`."""
        self._directory.put_store(self._store, Deadline(self._clock, _CALL_MS))

    def beat(self) -> None:
        """Send a heartbeat if one is due. Raises as `register` does."""
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
    """Return the record with which a store at an address is registered in PD."""
    started_s = clock.wall_ms() // 1000
    return Store(
        store_id,
        address,
        labels=(LABEL,),
        version=VERSION,
        peer_address=address,
        start_s=started_s,
    )
