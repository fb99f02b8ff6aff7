"""The GC barrier of a store that follows a cluster: a service safe point in PD.

TiKV removes old versions below the lowest safe point of all services. A barrier at a timestamp
keeps the newest version of each key at that timestamp and all later ones, which is what a snapshot
scan at the timestamp and a change feed from it read.

PD drops a barrier `TTL_S` after its last renewal, so that a store without a writer does
not stop garbage collection forever. It outlives the process that holds it: a process that is killed
or stopped continues at the same timestamp if it is started again within that time.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import GCBarrierLostError, TheFlashError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.tikv.wire.directory import Directory

TTL_S: Final = 86_400
"""The time to live of a barrier: a day, as that of TiCDC's safe points."""
RENEW_MS: Final = 60_000
_RETRY_MS: Final = 5_000
_CALL_MS: Final = 10_000
_LOOK_S: Final = 1.0
_log = logging.getLogger(__name__)


def barrier_name(store_id: str) -> str:
    """Return the name of a store's barrier among PD's service safe points."""
    return f"theflash-{store_id}"


class GCBarrier:
    """The barrier of one store, renewed by a thread from `start` to `close`. Thread-safe."""

    def __init__(self, directory: Directory, service: str, *, clock: Clock) -> None:
        self._directory, self._service, self._clock = directory, service, clock
        self._mutex = threading.Lock()
        self._lost: GCBarrierLostError | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, ts: TimeStamp) -> None:
        """Set the barrier to a timestamp, and renew it.

        Raises:
            GCBarrierLostError: Versions after `ts` may have been collected already.
            PDUnavailableError, PDRefusedError: PD does not respond, or returns an error.
        """
        with self._mutex:
            deadline = Deadline(self._clock, _CALL_MS)
            lowest = self._directory.hold_safe_point(self._service, ts, TTL_S, deadline)
            if lowest > ts:
                self._lost = GCBarrierLostError(self._service, ts, lowest)
                raise self._lost
            self._lost = None

    def check(self, needed_ts: TimeStamp) -> None:
        """Check that TiKV has the versions after `needed_ts`, by the last renewal.

        Raises:
            GCBarrierLostError: It may have collected some.
        """
        if self._lost is not None and self._lost.safe_point > needed_ts:
            raise self._lost

    def start(self, ts: Callable[[], TimeStamp]) -> None:
        """Renew the barrier every minute, at the timestamp that `ts` returns, until `close`.

        Errors of a renewal are logged, and it is repeated; a loss is reported by `check`.
        """
        self._thread = threading.Thread(
            target=self._keep, args=(ts,), name="GC barrier", daemon=True
        )
        self._thread.start()

    def renew(self, ts: Callable[[], TimeStamp]) -> bool:
        """Renew the barrier; log errors, and return whether there was none."""
        try:
            self.hold(ts())
        except TheFlashError as error:
            _log.warning("the GC barrier %s is not renewed: %s", self._service, error)
            return False
        return True

    def close(self) -> None:
        """Stop renewing. PD drops the barrier after its time to live."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _keep(self, ts: Callable[[], TimeStamp]) -> None:
        due_ms = self._clock.boottime_ms() + RENEW_MS
        while not self._ended.wait(_LOOK_S):
            if self._clock.boottime_ms() >= due_ms:
                is_renewed = self.renew(ts)
                due_ms = self._clock.boottime_ms() + (RENEW_MS if is_renewed else _RETRY_MS)
