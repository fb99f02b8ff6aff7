"""A service safe point, which keeps TiKV from collecting versions while they are read.

    with SafePointHold(directory, "theflash-7", ts, clock=clock) as hold:
        ...  # read at ts
        hold.check()

PD drops the safe point after its TTL, so a reader that dies does not block GC for ever. A thread
renews it after a third of the TTL. Call `check` after a read: if the hold was lost meanwhile, the
result may miss versions and must be discarded.
"""

import logging
import threading
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    LeaseExpiredError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SnapshotTooOldError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.tikv.directory import Directory

_log = logging.getLogger(__name__)

TTL_S: Final = 300
_CALL_MS: Final = 10_000


class SafePointHold:
    """A service safe point in PD during a `with` block. `service` is unique to this reader."""

    def __init__(
        self,
        directory: Directory,
        service: str,
        snapshot_ts: TimeStamp,
        *,
        clock: Clock,
        ttl_s: int = TTL_S,
    ) -> None:
        self._directory, self._service, self._ts = directory, service, snapshot_ts
        self._clock, self._ttl_s = clock, ttl_s
        self._over = threading.Event()
        self._held_until_ms = 0
        self._thread = threading.Thread(target=self._keep, name="safe-point", daemon=True)

    def __enter__(self) -> "SafePointHold":
        """Set the safe point.

        Raises:
            SnapshotTooOldError: Versions at the timestamp may have been collected already.
            PDUnavailableError, PDRefusedError: PD does not respond, or returns an error.
        """
        self._renew()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the safe point. If that fails, PD drops it after its TTL."""
        self._over.set()
        self._thread.join()
        try:
            self._hold(0)
        except (ServiceUnavailableError, ServiceRefusedError) as error:
            _log.warning(
                "safe point of %s remains for up to %s s: %s", self._service, self._ttl_s, error
            )

    def check(self) -> None:
        """Check that the safe point has been held without interruption.

        Raises:
            LeaseExpiredError: It was not renewed in time; the read may have missed versions.
        """
        if self._clock.boottime_ms() >= self._held_until_ms:
            raise LeaseExpiredError(self._service, self._ts)

    def _keep(self) -> None:
        try:
            while not self._over.wait(self._ttl_s / 3):
                self.check()
                self._try_renew()
        except (LeaseExpiredError, SnapshotTooOldError) as error:
            self._held_until_ms = 0
            _log.error("safe point of %s is lost: %s", self._service, error)

    def _try_renew(self) -> None:
        try:
            self._renew()
        except (ServiceUnavailableError, ServiceRefusedError) as error:
            _log.warning("safe point of %s was not renewed: %s", self._service, error)

    def _renew(self) -> None:
        # The TTL is counted from before the call, so it ends here before it ends in PD.
        until_ms = self._clock.boottime_ms() + 1000 * self._ttl_s
        lowest = self._hold(self._ttl_s)
        if lowest > self._ts:
            raise SnapshotTooOldError(self._ts, lowest)
        self._held_until_ms = until_ms

    def _hold(self, ttl_s: int) -> TimeStamp:
        deadline = Deadline(self._clock, min(_CALL_MS, 1000 * self._ttl_s))
        return self._directory.hold_safe_point(self._service, self._ts, ttl_s, deadline)
