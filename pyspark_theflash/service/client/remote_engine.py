"""The engine of a store behind a server, for the writer of a stream on another machine.

What `replication` asks of an engine goes over one connection to where the engine is open
(`service/api/writers.py`), under a write latch on the store. A thread renews that over a connection
of its own, since a poll may take longer than the latch lasts.

After an error that is no answer (the connection or the server is gone, the latch has ended) nobody
knows whether the last publication was committed, so nothing is sent again: every call fails until
`open` has taken a new latch, and a new writer reads how far the store is.
"""

import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import LatchLostError, TheFlashError, UnsupportedError
from pyspark_theflash.base.types import Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.service.api.records import batches_of, change_table, view_of
from pyspark_theflash.service.client.transport import Transport
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import (
    COMPACT_TABLES,
    MAINTAIN,
    OPEN_WRITER,
    PUBLISH,
    READ_RECORDS,
    READ_VERSIONS,
    Method,
    method,
)
from pyspark_theflash.storage.engine.api import Handle, Publication, RegionScan, ScanSpec
from pyspark_theflash.storage.mvcc.project import Absence, ScanColumn, StillAbsent
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.manifest import View

TTL_MS: Final = 30_000
CALL_MS: Final = 600_000
_SHORT_MS: Final = 20_000
_WAIT_MS_MAX: Final = 86_000_000
_log = logging.getLogger(__name__)

_STORED: Final = (StillAbsent, Absence)


class RemoteEngine:
    """A `WriterEngine`; used by one thread. `open` comes first, and again after errors."""

    def __init__(self, connect: Callable[[], Transport], *, ttl_ms: int = TTL_MS) -> None:
        """`connect`: makes a transport to the store's server."""
        self._calls, self._renewals = connect(), connect()
        self._ttl_ms = ttl_ms
        self._name = f"stream's writer on {socket.gethostname()} {uuid.uuid4().hex[:8]}"
        self._latch: message.LatchRequest | None = None
        self._number = 0
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="writer's latch", daemon=True)
        self._keeper.start()

    def open(self, wait_ms: int = 0) -> None:
        """Take the write latch on the store, and have its engine opened.

        Raises:
            LatchHeldError: after `wait_ms`, somebody else has it.
            StoreInUseError: after `wait_ms`, another process is still writing the store.
            RoleError: the token may not write.
        """
        self._release()
        wait_ms = min(wait_ms, _WAIT_MS_MAX)
        asked = message.AcquireRequest(
            LatchKind.WRITE.value, ttl_ms=self._ttl_ms, wait_ms=wait_ms, name=self._name
        )
        latch = self._renewals.call(method("AcquireLatch"), asked, wait_ms + _SHORT_MS)
        self._latch, self._number = message.LatchRequest(latch.id, latch.token or 0), 0
        # Whose latch has just ended may need a moment to let go.
        wait_ms = max(wait_ms, self._ttl_ms // 2)
        self._call(OPEN_WRITER, message.WriterRequest(self._held, wait_ms))

    def close(self) -> None:
        """Let others write the store."""
        self._ended.set()
        self._keeper.join()
        with closing(self._calls), closing(self._renewals), suppress(TheFlashError):
            self._release()

    # -- see `storage.engine.api.WriterEngine`

    def read(self, kinds: Sequence[str]) -> View:
        request = message.RecordsRequest(self._held, tuple(kinds))
        with closing(self._calls.scan(READ_RECORDS, request, CALL_MS)) as rows:
            return view_of(rows.read_all())

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        """All of the table as one region: the server knows which there are."""
        return [RegionScan(physical_id, RegionID(0), ())]

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        columns = spec.columns
        if not spec.with_handle or not all(isinstance(c.fill, _STORED) for c in columns):
            raise UnsupportedError("columns that are not as stored", "a store behind a server")
        schema = pa.schema([(column_name(c.id), c.type) for c in columns])
        message = bytes(schema.serialize()) if columns else b""
        return self._versions(region.physical_id, spec.snapshot_ts, message)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        if not (start is None and end is None):
            raise UnsupportedError("a range of handles", "a store behind a server")
        return self._versions(physical_id, None, b"")

    def publish(self, publication: Publication) -> Generation:
        versions = [v for v in publication.versions if v.batch.num_rows]
        ids = tuple(v.physical_id for v in versions)
        request = message.PublishRequest(self._held, self._number + 1, ids)
        rows = [pa.Table.from_batches([v.batch]) for v in versions]
        tables = [change_table(publication.change), *rows]
        published = self._calls.write(PUBLISH, request, tables, CALL_MS)
        self._number += 1
        return Generation(published.generation)

    def compact(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> None:
        """The columns are those of the store's schema history, which the server has, too."""
        self.touched([physical_id], drain=True)

    # --

    def touched(self, tables: Iterable[PhysicalTableID], *, drain: bool = False) -> None:
        """Have tables compacted as far as it pays by now; with `drain`, wait for all of them."""
        request = message.CompactTablesRequest(self._held, tuple(tables), drain)
        self._call(COMPACT_TABLES, request)

    def maintain(
        self,
        open_orphans: Sequence[TimeStamp] = (),
        interval_ms: int | None = None,
        *,
        has_pd: bool = False,
        pd_safe_point: TimeStamp | None = None,
    ) -> message.Maintained:
        """Have a piece of the store's upkeep done; see `MaintainRequest`."""
        request = message.MaintainRequest(
            self._held, tuple(open_orphans), interval_ms, has_pd, pd_safe_point
        )
        done: message.Maintained = self._call(MAINTAIN, request)
        return done

    @property
    def _held(self) -> message.LatchRequest:
        if self._latch is None:
            raise LatchLostError("of this writer", 0)
        return self._latch

    def _call(self, called: Method, request: object) -> Any:  # noqa: ANN401
        return self._calls.call(called, request, CALL_MS)

    def _versions(
        self, physical_id: PhysicalTableID, snapshot_ts: TimeStamp | None, schema: bytes
    ) -> Iterator[pa.RecordBatch]:
        request = message.VersionsRequest(self._held, physical_id, snapshot_ts, schema)
        with closing(self._calls.scan(READ_VERSIONS, request, CALL_MS)) as rows:
            yield from batches_of(rows)

    def _release(self) -> None:
        if self._latch is not None:
            with suppress(LatchLostError):
                self._renewals.call(method("ReleaseLatch"), self._latch, _SHORT_MS)
            self._latch = None

    def _keep(self) -> None:
        while not self._ended.wait(self._ttl_ms / 3000):
            if (latch := self._latch) is None:
                continue
            try:
                self._renewals.call(method("RenewLatch"), latch, _SHORT_MS)
            except TheFlashError as error:
                # The next call of the writer says so, too, if it is for good.
                _log.warning("the latch of the writer cannot be renewed: %s", error)
