"""What a pump does besides being written to: it says that it is there, and how late it is.

Heartbeats
    `resolved_ts` grows with what arrives (see `replication.pairing.pairing`). Where nothing is
    committed nothing arrives, and readers of "now" would wait for ever. So after an interval in
    which nothing came, the node asks PD for a timestamp T and appends it to the spool as a commit
    of nothing.

    That claims: what comes behind it commits above T. It holds because of this order:

        PD hands out T  <  heartbeat is appended  <  prewrite P is appended behind it
                        <  P is acknowledged  <  TiDB asks PD for P's commit_ts

    and PD's timestamps only grow. P may have been under way long before, may have waited in a queue
    or have begun below T: its place in the spool, which readers go by, decides. A prewrite *before*
    the heartbeat holds `resolved_ts` back on its own until its commit is there, and a commit behind
    the heartbeat is of such a prewrite. So a heartbeat is true at any time, also between others;
    that it is written only when nothing came is to save room.

    What it needs: that *every* transaction comes through this pump, and gets its commit_ts after
    its prewrite is acknowledged. The latter is how TiDB commits with binlog on: neither in one
    phase nor asynchronously. The former fails with a second pump in the cluster, so each round
    looks for one first and writes no heartbeat if there is; and with TiDB's `ignore-error`, or a
    TiDB without binlog, which nobody here can see.
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
    """Registers a server and keeps time for its spool, in a thread of its own.

    Without a `registry` it keeps time only: TiDB is told of the server's socket otherwise.
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
        """Go online; the server answers already.

        Raises:
            OtherPumpError: there is another pump; this one is not registered.
            PDUnavailableError, PDRefusedError: PD cannot be told.
        """
        if self._registry is not None:
            self._registry.check_alone()
            self._register(PumpState.ONLINE)
            # Who did the same at the same time sees it now, or we do.
            self._registry.check_alone()
        self._thread.start()

    def check(self) -> None:
        """Raise what has ended the rounds, if anything has: nothing is complete from there on."""
        if self._failure is not None:
            raise self._failure

    def round(self) -> None:
        """What is done every interval: look for other pumps, register, and write a heartbeat."""
        if self._registry is not None:
            self._registry.check_alone()
            self._register(PumpState.ONLINE)
        position = self._spool.position
        if position == self._seen:
            self._spool.append([encode_heartbeat(self._pd.tso())])
            position = self._spool.position
        self._seen = position

    def stop(self, leave_as: PumpState = PumpState.ONLINE, *, drain_ms: int = DRAIN_MS) -> None:
        """End the rounds and the server, after `drain_ms` in which it takes commits only.

        `leave_as` is what TiDB finds then. ONLINE: it tries to reach this pump for a while, so this
        is for a restart. PAUSED or OFFLINE: it does not try, and where there is no other pump, its
        next transaction ends the TiDB server.
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
