"""Old versions that TiKV's garbage collection leaves where they are while they are being read.

    with SafePointHold(directory, "theflash-7", ts, clock=clock) as hold:
        ...  # read at ts
        hold.check()

PD keeps the hold for a time to live and forgets it then, so a reader that dies blocks nobody for
ever; a thread renews it at a third of that time. A read that outlives its hold must not be
believed: ask `check` when it is done.
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
    """A service safe point at PD, from `with` to its end. `service` is of this reader alone."""

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
        """Take it.

        Raises:
            SnapshotTooOldError: versions of that timestamp may be gone already.
            PDUnavailableError, PDRefusedError: as PD says.
        """
        self._renew()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go; PD forgets it by itself where that fails."""
        self._over.set()
        self._thread.join()
        try:
            self._hold(0)
        except (ServiceUnavailableError, ServiceRefusedError) as error:
            _log.warning(
                "safe point of %s stays for up to %s s: %s", self._service, self._ttl_s, error
            )

    def check(self) -> None:
        """Whether it has been held all the time.

        Raises:
            LeaseExpiredError: PD could not be told in time; what was read may lack versions.
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
        # Counted from before the call: PD's own count begins later.
        until_ms = self._clock.boottime_ms() + 1000 * self._ttl_s
        lowest = self._hold(self._ttl_s)
        if lowest > self._ts:
            raise SnapshotTooOldError(self._ts, lowest)
        self._held_until_ms = until_ms

    def _hold(self, ttl_s: int) -> TimeStamp:
        deadline = Deadline(self._clock, min(_CALL_MS, 1000 * self._ttl_s))
        return self._directory.hold_safe_point(self._service, self._ts, ttl_s, deadline)
