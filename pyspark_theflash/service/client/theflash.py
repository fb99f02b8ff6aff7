"""A program's view of a store, in this process or behind a server: the same calls, the same errors.

with connect("unix:/run/store.sock") as store:
    plan = store.plan("db.table", columns=["a"])
    for split in plan.splits:                     # anywhere, in any order
        with store.scan(split.ticket) as rows:
            for batch in rows: ...
    store.release(plan.snapshot)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeAlias

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import OptionError, TheFlashError
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.options import timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp
from pyspark_theflash.base.tls import TlsFiles, TlsMaterial
from pyspark_theflash.net.address import SCHEME, is_address
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.client.transport import LocalTransport, Transport
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import Moment, Presentation
from pyspark_theflash.service.wire.method import SCAN, WRITE, Method, method

SHORT_MS: Final = 60_000
LONG_MS: Final = 3_600_000
TRIES: Final = 3
NEWEST: Final = Moment()
AnyMoment: TypeAlias = Moment | AnyTimestamp
"""A moment, or just its timestamp: a TSO, a time with its zone as text, or a `datetime`."""
NATIVE: Final = Presentation()


def connect(
    where: str | Path,
    *,
    token: AccessToken | None = None,
    tls: TlsFiles | TlsMaterial | None = None,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
) -> "TheFlash":
    """The store at `theflash://HOST:PORT`, `unix:PATH` or in a folder.

    A server is called when something is asked of it.

    Raises:
        OptionError: the address, token or certificates do not fit.
        StoreNotFoundError: there is no store in the folder.
    """
    return TheFlash(transport_to(where, token=token, tls=tls, fs=fs, clock=clock))


def transport_to(
    where: str | Path,
    *,
    token: AccessToken | None = None,
    tls: TlsFiles | TlsMaterial | None = None,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
) -> Transport:
    """How calls get to a store; see `connect`."""
    clock, place = clock or SystemClock(), str(where)
    if isinstance(where, str) and is_address(place):
        # Brings in what only connections need.
        from pyspark_theflash.service.client.remote import RemoteTransport

        return RemoteTransport(place.removeprefix(SCHEME), clock=clock, token=token, tls=tls)
    if token is not None or tls is not None:
        raise OptionError("token", "tokens and certificates are for servers")
    return LocalTransport(Path(place), fs=fs or LocalFileSystem(), clock=clock)


class TheFlash:
    """A store. A context manager; used by many threads.

    Every call raises a `TheFlashError`, by its deadline at the latest: `timeout_ms` where it is
    given, a minute elsewhere.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # -- snapshots: see `service.wire.message.Moment`

    def snapshot(
        self, moment: AnyMoment = NEWEST, *, timeout_ms: int = SHORT_MS
    ) -> message.Snapshot:
        """Fix a moment; what is asked of `Moment(handle=snapshot.handle)` is of that moment."""
        return self._call("TakeSnapshot", _moment(moment), timeout_ms)  # type: ignore[no-any-return]

    def renew(self, snapshot: message.Snapshot) -> message.Snapshot:
        """Start a snapshot's time over. Raises `LeaseExpiredError`."""
        request = message.SnapshotRequest(snapshot.handle)
        return self._call("RenewSnapshot", request)  # type: ignore[no-any-return]

    def release(self, snapshot: message.Snapshot) -> None:
        """End a snapshot; harmless if it has ended."""
        self._call("ReleaseSnapshot", message.SnapshotRequest(snapshot.handle))

    # -- latches: see `storage.store.latch.latch` for what excludes what

    def acquire_latch(
        self, request: message.AcquireRequest, *, timeout_ms: int = SHORT_MS
    ) -> message.Latch:
        """Wait for a latch, in the order of asking, and take it.

        It is ours for its `ttl_ms`, or until `release_latch`, whatever becomes of this connection.

        Raises:
            LatchHeldError: others were in the way for all of `wait_ms`.
            LatchOrderError: waiting could end in a deadlock.
            DeadlineExceededError: the call ended before the wait. A latch that was granted
            meanwhile runs out; who must know has a `name` of its own and looks at `latches`.
        """
        return self._call("AcquireLatch", request, timeout_ms)  # type: ignore[no-any-return]

    def renew_latch(self, latch: message.Latch) -> message.Latch:
        """Start a latch's time over. Raises `LatchLostError`."""
        request = message.LatchRequest(latch.id, latch.token or 0)
        return self._call("RenewLatch", request)  # type: ignore[no-any-return]

    def release_latch(self, latch: message.Latch) -> None:
        """End a latch. Raises `LatchLostError`: it had ended before."""
        self._call("ReleaseLatch", message.LatchRequest(latch.id, latch.token or 0))

    # -- tables and rows

    def tables(self, moment: AnyMoment = NEWEST) -> message.Tables:
        """The tables of a moment."""
        return self._call("ListTables", message.TablesRequest(_moment(moment)))  # type: ignore[no-any-return]

    def table(
        self, name: str, moment: AnyMoment = NEWEST, presentation: Presentation = NATIVE
    ) -> message.Table:
        """A table as of a moment, with its Arrow schema. Raises `TableNotFoundError`."""
        request = message.TableRequest(_moment(moment), name, presentation)
        return self._call("DescribeTable", request)  # type: ignore[no-any-return]

    def plan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        moment: AnyMoment = NEWEST,
        where: str = "",
        presentation: Presentation = NATIVE,
        filter: message.Expression | None = None,
        aggregation: message.Aggregation | None = None,
        limit: int = 0,
        order: Sequence[message.SortKey] = (),
        timeout_ms: int = SHORT_MS,
    ) -> message.Plan:
        """Split a scan into splits; `columns` as for `ReadSnapshot.plan`.

        Takes a snapshot unless `moment` is one, which lasts while splits are read, or its `ttl_ms`.
        What is done beside the data (`filter` and so on) is explained with the messages; each split
        does it by itself, so partial aggregates and first rows are to be put together.

        Raises:
            TableNotFoundError, ColumnNotFoundError, NotCaughtUpError, SnapshotTooOldError.
            UnsupportedError: what is to be done beside the data would not be exact.
        """
        request = message.PlanRequest(
            _moment(moment),
            table,
            tuple(columns or ()),
            columns is not None and not columns,
            where,
            presentation,
            filter,
            aggregation,
            limit,
            tuple(order),
        )
        return self._call("PlanScan", request, timeout_ms)  # type: ignore[no-any-return]

    def scan(
        self,
        ticket: bytes,
        *,
        dictionaries: bool = False,
        more: Sequence[bytes] = (),
        timeout_ms: int = 0,
    ) -> Rows:
        """The rows of a split. With `dictionaries`, texts of few values come as such.

        With `more`, tickets of the same plan, those of these splits, too: what the plan pushes down
        is done for all of them together.

        Raises:
            TicketError: a ticket is not one of this store, or of another plan than the first.
            LeaseExpiredError: the plan's snapshot has ended.
            StreamCutError: rows stopped coming; also while they are taken.
        """
        request = message.ScanRequest(ticket, dictionaries, tuple(more))
        return self._transport.scan(SCAN, request, timeout_ms)

    def read(self, plan: message.Plan, *, dictionaries: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows of all splits of a plan.

        A split that fails before its first rows, with an error that may pass, is tried again.
        """
        for split in plan.splits:
            yield from self._split(split, dictionaries)

    def digest(
        self, table: str, moment: AnyMoment = NEWEST, *, timeout_ms: int = LONG_MS
    ) -> message.Digest:
        """A table's row count and checksum."""
        request = message.TableRequest(_moment(moment), table)
        return self._call("ComputeDigest", request, timeout_ms)  # type: ignore[no-any-return]

    def write(
        self,
        request: message.WriteRequest,
        tables: Sequence[pa.Table] = (),
        *,
        timeout_ms: int = LONG_MS,
    ) -> message.Written:
        """Write row versions, schema changes and progress: all at once, durably, or nothing.

        `tables` are the rows of each of the request's tables, as `WriteTable` has them. Where no
        answer came, the same may be written again, or parts of it.

        Raises:
            LatchLostError: one of the latches has ended.
            CodecError, TransactionConflictError, SchemaConflictError, OptionError: see
            `replication.ingest`.
        """
        return self._transport.write(WRITE, request, tables, timeout_ms)  # type: ignore[no-any-return]

    # -- the store

    def status(self) -> message.Status:
        """How the store is."""
        return self._call("GetStatus", message.StatusRequest())  # type: ignore[no-any-return]

    def pin(self, moment: AnyMoment) -> message.Snapshot:
        """Keep a moment readable for `ttl_ms`, whatever becomes of us."""
        return self._call("Pin", _moment(moment))  # type: ignore[no-any-return]

    def latches(self) -> message.Latches:
        """Return the active latches and their holders."""
        return self._call("ListLatches", message.LatchesRequest())  # type: ignore[no-any-return]

    def remove_latch(self, id: str) -> None:
        """End a latch. Raises `LatchNotFoundError`."""
        self._call("RemoveLatch", message.LatchRequest(id))

    def compact(self, *, timeout_ms: int = LONG_MS) -> str:
        """Rewrite all into the form that reads fastest; what was done."""
        return self._told("Compact", message.CompactRequest(), timeout_ms)

    def regions(self, table: str) -> message.Regions:
        """How a table is split into regions and stored now. Raises `TableNotFoundError`."""
        return self._call("ListRegions", message.RegionsRequest(table))  # type: ignore[no-any-return]

    def flush(self, *, timeout_ms: int = LONG_MS) -> str:
        """Distribute recently written rows among the regions of all tables; what was done."""
        return self._told("Flush", message.FlushRequest(), timeout_ms)

    def split_region(
        self, physical_id: int, region_id: int, at: str, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Split a region at a handle, as `regions` shows them; what was done.

        It is one step, while reads go on; doing it again does nothing.

        Raises:
            RegionNotFoundError: there is no such region, or not any more.
            OptionError: the handle is not inside it.
        """
        request = message.SplitRequest(physical_id, region_id, at)
        return self._told("SplitRegion", request, timeout_ms)

    def merge_regions(
        self, physical_id: int, left_id: int, right_id: int, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Merge two neighbours. Otherwise like `split_region`."""
        request = message.MergeRequest(physical_id, left_id, right_id)
        return self._told("MergeRegions", request, timeout_ms)

    def collect_garbage(
        self,
        safe_point: AnyTimestamp | None = None,
        *,
        dry_run: bool = False,
        timeout_ms: int = LONG_MS,
    ) -> str:
        """Drop the versions that no read from the safe point on needs; what was done.

        Args:
            safe_point: the oldest timestamp that stays readable; None: by the store's retention.
            dry_run: drop nothing, only tell what would be dropped.
            timeout_ms: how long it may take.
        """
        wanted = None if safe_point is None else timestamp_option("safe_point", safe_point)
        return self._told("CollectGarbage", message.CollectRequest(wanted, dry_run), timeout_ms)

    def set_retention(self, retention_ms: int, *, timeout_ms: int = SHORT_MS) -> str:
        """How much history garbage collection keeps; what was done."""
        return self._told("SetRetention", message.RetentionRequest(retention_ms), timeout_ms)

    def purge_region(self, physical_id: int, region_id: int, *, timeout_ms: int = LONG_MS) -> str:
        """Remove a region's rows from disk, at every timestamp; what was done.

        Reads that reach into its range raise `PurgedRangeError` from then on. It is one step.

        Raises:
            RegionNotFoundError: there is no such region, or not any more.
            LatchHeldError: a timestamp is pinned.
        """
        request = message.PurgeRequest(physical_id, region_id)
        return self._told("PurgeRegion", request, timeout_ms)

    def move_region(
        self, physical_id: int, region_id: int, partition: int, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Have a region's files in another partition; what was done.

        It is one step, while reads go on; doing it again does nothing.

        Raises:
            RegionNotFoundError: there is no such region, or not any more.
            OptionError: there is no such partition, or its disk is not there.
        """
        request = message.MoveRequest(physical_id, region_id, partition)
        return self._told("MoveRegion", request, timeout_ms)

    def copy_region(
        self, physical_id: int, region_id: int, partition: int, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Have a region's files in one more partition. Otherwise like `move_region`."""
        request = message.MoveRequest(physical_id, region_id, partition)
        return self._told("CopyRegion", request, timeout_ms)

    def set_interval(self, interval_ms: int, *, timeout_ms: int = SHORT_MS) -> str:
        """How often the writer looks for new input; what was done."""
        return self._told("SetInterval", message.IntervalRequest(interval_ms), timeout_ms)

    def stop_writer(self, *, timeout_ms: int = SHORT_MS) -> str:
        """End the writer; what was done."""
        return self._told("StopWriter", message.StopRequest(), timeout_ms)

    def call(self, called: Method, request: object, timeout_ms: int = SHORT_MS) -> Any:  # noqa: ANN401
        """Any call but Scan: a `called.response` for a `called.request`."""
        return self._transport.call(called, request, timeout_ms)

    def close(self) -> None:
        """End all connections."""
        self._transport.close()

    def __enter__(self) -> "TheFlash":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- parts

    def _split(self, split: message.Split, dictionaries: bool) -> Iterator[pa.RecordBatch]:
        for tries_left in reversed(range(TRIES)):
            has_begun = False
            try:
                with self.scan(split.ticket, dictionaries=dictionaries) as rows:
                    for batch in rows:
                        has_begun = True
                        yield batch
                return
            except TheFlashError as error:
                if has_begun or not error.retryable or not tries_left:
                    raise

    def _told(self, name: str, request: object, timeout_ms: int) -> str:
        done: message.Done = self._call(name, request, timeout_ms)
        return done.text

    def _call(self, name: str, request: object, timeout_ms: int = SHORT_MS) -> Any:  # noqa: ANN401
        return self.call(method(name), request, timeout_ms)


def _moment(moment: AnyMoment) -> Moment:
    if isinstance(moment, Moment):
        return moment
    return Moment(timestamp_option("snapshot_ts", moment))
