"""Upkeep of a store behind a server, requested by its writer between polls.

The server does the work where the files are, and returns changes to the writer's state.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.types import Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.service.client.remote_engine import RemoteEngine
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND, Orphan
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress

_log = logging.getLogger(__name__)
PD_MS: Final = 300_000
"""Maximum age of PD's safe point when it is sent; it only increases."""


class RemoteUpkeep:
    """The interface of `Maintenance` for a store behind a server.

    `pd_safe_point` requests it from PD, if an address is configured.
    """

    def __init__(
        self,
        engine: RemoteEngine,
        state: StreamState,
        clock: Clock,
        pd_safe_point: Callable[[], TimeStamp] | None = None,
    ) -> None:
        self._engine, self.memory, self._clock = engine, state, clock
        self._pd_safe_point = pd_safe_point
        self._pd_ts: TimeStamp | None = None
        self._pd_due_ms = 0
        self.interval_ms: int | None = None
        self.is_stopping, self.discarded = False, 0

    def poll(self) -> None:
        self._maintain()

    def set_interval(self, interval_ms: int) -> None:
        self._maintain(interval_ms)

    def touched(self, tables: Iterable[PhysicalTableID]) -> None:
        if tables := tuple(tables):
            self._engine.touched(tables)

    def drain(self) -> None:
        self._engine.touched((), drain=True)

    def _maintain(self, interval_ms: int | None = None) -> None:
        self._ask_pd()
        open_orphans = [ts for ts in self.memory.orphans if self.memory.is_open(ts)]
        done = self._engine.maintain(
            open_orphans,
            interval_ms,
            has_pd=self._pd_safe_point is not None,
            pd_safe_point=self._pd_ts,
        )
        self.interval_ms = done.interval_ms
        self.is_stopping = self.is_stopping or done.is_stopping
        self.discarded = done.discarded
        for record in done.changed:
            if record.kind == ORPHAN_KIND:
                self.memory.decided(Orphan.from_record(record.key, record.body))
            elif record.kind == PROGRESS_KIND:
                view = View(Generation(0), {PROGRESS_KIND: {record.key: record.body}})
                if (progress := Progress.of(view)) is not None:
                    self.memory.collected(progress, done.ledger_records)

    def _ask_pd(self) -> None:
        now_ms = self._clock.boottime_ms()
        if self._pd_safe_point is None or now_ms < self._pd_due_ms:
            return
        self._pd_due_ms = now_ms + PD_MS
        try:
            self._pd_ts = self._pd_safe_point()
        except TheFlashError as error:
            _log.warning("cannot read PD's safe point: %s", error)
