"""The engine of a store behind a server, for a stream's writer on another machine.

The calls of `replication` to the engine go over one connection to the server, which has opened the
engine (`service/api/writers.py`), under a write latch on the store. A thread renews the latch over
another connection, because a call may take longer than the latch's time to live.

After an error without a response (the connection or the server failed, or the latch has ended), the
outcome of the last publication is unknown, so nothing is repeated: every call fails until `open`
has acquired a new latch, and a new writer reads the store's progress.
"""

import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import LatchLostError, TheFlashError, UnsupportedError
from pyspark_theflash.base.types import Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.service.api.records import batches_of, change_table, view_of
from pyspark_theflash.service.client.spilled_tables import SpilledTables
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
    """A `WriterEngine`, for one thread. Call `open` first, and again after errors."""

    def __init__(
        self,
        connect: Callable[[], Transport],
        *,
        ttl_ms: int = TTL_MS,
        folder: Path | None = None,
    ) -> None:
        """Create an engine that is not open.

        Args:
            connect: Returns a new transport to the store's server.
            ttl_ms: Time to live of the write latch.
            folder: For publications that do not fit in memory; None is the system's temporary one.
        """
        self._folder = folder
        self._calls, self._renewals = connect(), connect()
        self._ttl_ms = ttl_ms
        self._name = f"stream's writer on {socket.gethostname()} {uuid.uuid4().hex[:8]}"
        self._latch: message.LatchRequest | None = None
        self._number = 0
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="writer's latch", daemon=True)
        self._keeper.start()

    def open(self, wait_ms: int = 0) -> None:
        """Acquire the write latch on the store, and open its engine on the server.

        Raises:
            LatchHeldError: Another client has held the latch for `wait_ms`.
            StoreInUseError: Another process has written the store for `wait_ms`.
            RoleError: The token's role does not include writing.
        """
        self._release()
        wait_ms = min(wait_ms, _WAIT_MS_MAX)
        request = message.AcquireRequest(
            LatchKind.WRITE.value, ttl_ms=self._ttl_ms, wait_ms=wait_ms, name=self._name
        )
        latch = self._renewals.call(method("AcquireLatch"), request, wait_ms + _SHORT_MS)
        self._latch, self._number = message.LatchRequest(latch.id, latch.token or 0), 0
        # A previous writer whose latch has just ended may need time to close the engine.
        wait_ms = max(wait_ms, self._ttl_ms // 2)
        self._call(OPEN_WRITER, message.WriterRequest(self._held, wait_ms))

    def close(self) -> None:
        """Release the latch and close the connections."""
        self._ended.set()
        self._keeper.join()
        with closing(self._calls), closing(self._renewals), suppress(TheFlashError):
            self._release()

    def read(self, kinds: Sequence[str]) -> View:
        request = message.RecordsRequest(self._held, tuple(kinds))
        with closing(self._calls.scan(READ_RECORDS, request, CALL_MS)) as rows:
            return view_of(rows.read_all())

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        """Return the whole table as one region; the server divides it."""
        return [RegionScan(physical_id, RegionID(0))]

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        columns = spec.columns
        if not spec.with_handle or not all(isinstance(c.fill, _STORED) for c in columns):
            raise UnsupportedError("columns that are not as stored", "a store behind a server")
        schema = pa.schema([(column_name(c.id), c.type) for c in columns])
        schema_bytes = bytes(schema.serialize()) if columns else b""
        return self._versions(region.physical_id, spec.snapshot_ts, schema_bytes)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        if not (start is None and end is None):
            raise UnsupportedError("a range of handles", "a store behind a server")
        return self._versions(physical_id, None, b"")

    def publish(self, publication: Publication) -> Generation:
        tables, ids = SpilledTables(self._folder), list[PhysicalTableID]()
        tables.add(change_table(publication.change))
        for versions in publication.versions:
            if versions.batch.num_rows:
                ids.append(versions.physical_id)
                tables.add(pa.Table.from_batches([versions.batch]))
        request = message.PublishRequest(self._held, self._number + 1, tuple(ids))
        published = self._calls.call(PUBLISH, request, CALL_MS, tables)
        self._number += 1
        return Generation(published.generation)

    def compact(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> None:
        """Compact a table; the server has the columns in the store's schema history."""
        self.touched([physical_id], drain=True)

    def touched(self, tables: Iterable[PhysicalTableID], *, drain: bool = False) -> None:
        """Compact tables as far as it pays; with `drain`, wait until all tables are compacted."""
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
        """Run one round of maintenance on the server; see `MaintainRequest`."""
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
                # If the latch has ended, the writer's next call fails.
                _log.warning("the latch of the writer cannot be renewed: %s", error)
