"""Registration and heartbeats of a pump.

Heartbeats
    `resolved_ts` advances with each message (see `replication.pairing.pairing`). Without commits
    there are no messages, and a reader at the current time would wait forever. So after an interval
    without messages, the node gets a timestamp T from PD and appends it to the spool as a commit
    without changes.

    A heartbeat asserts that every later prewrite in the spool commits above T. This follows from
    the order

        PD allocates T  <  heartbeat is appended  <  prewrite P is appended after it
                        <  P is acknowledged  <  TiDB gets P's commit_ts from PD

    and from PD's timestamps being monotonic. Only P's place in the spool counts, not when it was
    sent or its start_ts. A prewrite *before* the heartbeat holds back `resolved_ts` until its
    commit arrives, and a commit after the heartbeat belongs to one of these prewrites or a later
    one. So a heartbeat is valid at any time; it is written only when idle to save space.

    Preconditions: *every* transaction goes through this pump, and gets its commit_ts after its
    prewrite is acknowledged. TiDB guarantees the latter when binlog is on, since it then uses
    neither one-phase nor asynchronous commit. The former is violated by a second pump in the
    cluster, so each round checks for one first and then writes no heartbeat. It is also violated by
    TiDB's `ignore-error`, and by a TiDB with binlog off; neither can be detected here.
"""

import logging
import threading
from typing import Final

from pyspark_theflash.base.errors import InternalError, TheFlashError
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.replication.pump.server import DRAIN_MS, PumpServer
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.source.registry import PumpRegistry, PumpState
from pyspark_theflash.replication.source.wire import encode_heartbeat

_log = logging.getLogger(__name__)
INTERVAL_MS: Final = 3000


class PumpNode:
    """Thread that registers a server and writes heartbeats to its spool.

    Without a `registry` it only writes heartbeats: TiDB's configuration names the server's socket.
    """

    def __init__(
        self,
        server: PumpServer,
        spool: Spool,
        pd: PDClient,
        registry: PumpRegistry | None = None,
        *,
        interval_ms: int = INTERVAL_MS,
    ) -> None:
        self._server, self._spool, self._pd, self._registry = server, spool, pd, registry
        self._interval_ms = interval_ms
        self._seen: str | None = None
        self._failure: TheFlashError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pump node", daemon=True)

    def start(self) -> None:
        """Register as online and start the rounds; the server must be running.

        Raises:
            OtherPumpError: The cluster has another pump.
            PDUnavailableError, PDRefusedError: The registration failed.
        """
        if self._registry is not None:
            self._registry.check_alone()
            self._register(PumpState.ONLINE)
            # Of two pumps that register at the same time, at least one sees the other now.
            self._registry.check_alone()
        self._thread.start()

    def check(self) -> None:
        """Raise the error that ended the rounds, if any: the binlog may be incomplete after it."""
        if self._failure is not None:
            raise self._failure

    def round(self) -> None:
        """Check for other pumps, register, and write a heartbeat if the spool did not grow."""
        if self._registry is not None:
            self._registry.check_alone()
            self._register(PumpState.ONLINE)
        position = self._spool.position
        if position == self._seen:
            self._spool.append([encode_heartbeat(self._pd.tso())])
            position = self._spool.position
        self._seen = position

    def stop(self, leave_as: PumpState = PumpState.ONLINE, *, drain_ms: int = DRAIN_MS) -> None:
        """Stop the rounds and the server, which accepts commits only for the last `drain_ms`.

        `leave_as` is the state registered at the end. ONLINE is for a restart: TiDB keeps trying to
        reach this pump. With PAUSED or OFFLINE it does not, and if there is no other pump, the
        TiDB server exits at its next transaction.
        """
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if leave_as is not PumpState.ONLINE:
                self._register(PumpState.PAUSING)
        finally:
            self._server.stop(drain_ms)
        self._register(leave_as)

    def _run(self) -> None:
        while not self._ended.wait(self._interval_ms / 1000) and self._failure is None:
            self._try_round()

    def _try_round(self) -> None:
        try:
            self.round()
        except TheFlashError as error:
            if not error.retryable:
                self._failure = error
            _log.warning("pump node: %s", error)
        except BaseException as error:
            self._failure = InternalError(f"pump node: {error!r}")
            raise

    def _register(self, state: PumpState) -> None:
        if self._registry is not None:
            max_commit_ts = self._server.counters().max_commit_ts
            self._registry.register(state, now_ts=self._pd.tso(), max_commit_ts=max_commit_ts)
