"""The API's calls on one store, for every transport.

A call opens what it needs and closes it again, so a service is thread-safe and has no state that
must survive it: snapshots are latches in the store, which expire unless they are renewed, and a
ticket is valid for any service of the store.

The modules that read rows (`reads.py`) or write are imported by the first call that needs them.
This halves the time of a command that only reads a store's status.
"""

import threading
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import LatchNotFoundError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.commands import command_of
from pyspark_theflash.service.api.latches import LatchDesk, kind_of, latch_ttl_ms
from pyspark_theflash.service.api.limits import Limits, Usage
from pyspark_theflash.service.api.status import (
    latch_message,
    read_latches,
    read_regions,
    read_status,
)
from pyspark_theflash.service.api.turns import Turns
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import Method
from pyspark_theflash.storage.store.folder import CurrentIdentity, open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from pyspark_theflash.service.api.reads import Reads
    from pyspark_theflash.service.api.writers import Writers
    from pyspark_theflash.tikv.origin import Replica


_READS: Final = {
    *("take_snapshot", "renew_snapshot", "release_snapshot", "pin", "list_tables"),
    *("describe_table", "prepare_read", "plan_scan", "scan", "compute_digest"),
}
"""The calls that `Reads` answers; `Writers` answers those of a stream's writer."""
_LATCH_CALLS: Final = {"renew_latch", "release_latch"}
_BRIEF: Final = {
    *("renew_snapshot", "release_snapshot", "renew_latch", "release_latch"),
    *("get_status", "list_regions"),
}
"""Calls in one turn of their caller; others have turns for the parts that do not wait."""
_CHECK_MS: Final = 200
"""The interval at which a waiting write checks its deadline and cancellation."""


class Service:
    """The calls on the store at `path`; `answer` makes them."""

    def __init__(
        self,
        path: Path,
        *,
        fs: FileSystem,
        clock: Clock,
        spare_key: bytes | None = None,
        replica: "Replica | None" = None,
        limits: Limits | None = None,
    ) -> None:
        """Check that the store exists.

        Args:
            path: The store's folder.
            fs: Its file system.
            clock: The clock of latches and deadlines.
            spare_key: The key that seals tickets if the store has none; None: a new one.
            replica: The learner through which a store fed by TiKV is read; None: from its files.
            limits: Limits for callers; None: the defaults.

        Raises:
            StoreNotFoundError, StoreFormatError, CorruptionError: See `read_identity`.
        """
        self.path, self._fs, self._clock = path, fs, clock
        self.usage = Usage(limits or Limits(), str(path))
        self._planning = Turns(1, clock)
        self._identity = CurrentIdentity(path, fs)
        self._identity.get()
        self._spare_key, self._replica = spare_key, replica
        self._desk = LatchDesk(path, fs, clock)
        self._writing, self._opening = threading.Lock(), threading.Lock()
        self._opened_reads: Reads | None = None
        self._opened_writers: Writers | None = None

    def close(self) -> None:
        """Close what is open; the next call opens it again."""
        with self._opening:
            parts = self._opened_writers, self._opened_reads
        for part in parts:
            if part is not None:
                part.close()

    def answer(
        self,
        called: Method,
        request: Any,  # noqa: ANN401
        call: CallContext,
        tables: "Sequence[pa.Table] | None" = None,
    ) -> Any:  # noqa: ANN401
        """Answer a call.

        Args:
            called: The call.
            request: A `called.request`.
            call: Its deadline and its caller.
            tables: The rows that follow the request, if the call takes rows.

        Returns:
            A `called.response`, or a `RowStream` if the call gives rows.

        Raises:
            TheFlashError: The call failed.
        """
        owner: Any = self
        if called.of_writer:
            owner = self._writers
        elif called.attribute in _LATCH_CALLS:
            owner = self._desk
        elif called.attribute in _READS:
            owner = self._reads
        rows = () if tables is None else (tables,)
        with self._planning.turn(call) if called.attribute in _BRIEF else nullcontext():
            return getattr(owner, called.attribute)(request, call, *rows)

    def acquire_latch(self, request: message.AcquireRequest, call: CallContext) -> message.Latch:
        ttl_ms = latch_ttl_ms(request.ttl_ms)
        if kind_of(request, call) is not LatchKind.READ:
            return latch_message(self._desk.acquire(request, ttl_ms, call), self._clock)
        with self._reads.opened(request.moment, call) as snapshot:
            self._reads.check_latches(snapshot, call)
            # The snapshot's own latch holds the timestamp until this one does.
            latch = self._desk.acquire(request, ttl_ms, call, snapshot.snapshot_ts)
        lease = ReadLease(latch.id, latch.snapshot_ts, latch.generation, ttl_ms)
        return replace(latch_message(latch, self._clock), handle=self._reads.handle(lease, call))

    def write(
        self, request: message.WriteRequest, call: CallContext, tables: "Sequence[pa.Table]"
    ) -> message.Written:
        """`tables`: the rows of each of the request's tables, in order."""
        # Imports modules that only writes need.
        from pyspark_theflash.replication.ingest import ingest
        from pyspark_theflash.service.api.write import ingestion

        changes = ingestion(request, tables, call.identity)
        call.check()
        # One write at a time: it takes several times its size in memory.
        while not self._writing.acquire(timeout=_CHECK_MS / 1000):
            call.check()
        try:
            done = ingest(self.path, changes, fs=self._fs, clock=self._clock, check=call.check)
        finally:
            self._writing.release()
        return message.Written(
            done.generation,
            done.rows,
            done.transactions,
            done.repeated,
            done.resolved_ts,
            done.commit_ts,
        )

    def writer_gone(self, latch_id: str) -> None:
        """Close the engine of the writer with that latch: its connection has ended."""
        self._writers.gone(latch_id)

    def get_status(self, request: message.StatusRequest, call: CallContext) -> message.Status:
        return read_status(self.path, self._fs, self._clock)

    def list_regions(self, request: message.RegionsRequest, call: CallContext) -> message.Regions:
        return read_regions(self.path, request.table, self._fs, self._clock)

    def list_latches(self, request: message.LatchesRequest, call: CallContext) -> message.Latches:
        return read_latches(self.path, self._fs, self._clock)

    def remove_latch(self, request: message.LatchRequest, call: CallContext) -> message.Done:
        if not request.id:
            raise LatchNotFoundError(request.id)
        with closing(open_manifest(self.path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).remove(request.id)
        return message.Done("removed")

    def command(self, request: Any, call: CallContext) -> message.Done:  # noqa: ANN401
        """Execute a command, or have the store's writer execute it; see `commands.py`."""
        # Imports the writer's modules.
        from pyspark_theflash.replication.upkeep.admin import administer

        verb, argument = command_of(call.method, request)
        report = administer(
            self.path,
            verb,
            argument,
            timeout_ms=call.left_ms(),
            fs=self._fs,
            clock=self._clock,
        )
        return message.Done(report)

    @property
    def store_id(self) -> str:
        """The id of the store that is in the folder now. Raises the errors of `read_identity`."""
        return self._identity.get().store_id

    @property
    def _reads(self) -> "Reads":
        with self._opening:
            if self._opened_reads is None:
                from pyspark_theflash.service.api.reads import Reads

                place = self.path, self._fs, self._clock, self._identity
                more = self._spare_key, self._replica, self.usage.limits, self._planning
                self._opened_reads = Reads(*place, *more)
            return self._opened_reads

    @property
    def _writers(self) -> "Writers":
        with self._opening:
            if self._opened_writers is None:
                from pyspark_theflash.service.api.writers import Writers

                self._opened_writers = Writers(self.path, self._fs, self._clock)
            return self._opened_writers
