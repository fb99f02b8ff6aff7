"""The client of a store: the same calls and errors in process, over a socket and over TLS.

with connect("unix:/run/store.sock") as store:
    plan = store.plan("db.table", columns=["a"])
    for split in plan.splits:                     # in any process and order
        with store.scan(split.ticket) as rows:
            for batch in rows: ...
    store.release(plan.snapshot)
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.read_options import timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp
from pyspark_theflash.base.tls import TlsFiles, TlsMaterial
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.client.table import TableStream
from pyspark_theflash.service.client.transport import Transport, transport_to
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import Moment, Presentation
from pyspark_theflash.service.wire.method import SCAN, WRITE, Method, method

SHORT_MS: Final = 60_000
LONG_MS: Final = 3_600_000
TRIES: Final = 3
NEWEST: Final = Moment()
AnyMoment: TypeAlias = Moment | AnyTimestamp
"""A moment or its timestamp: a TSO, a time with its zone as text, or a `datetime`."""
NATIVE: Final = Presentation()


def connect(
    where: str | os.PathLike[str],
    *,
    token: AccessToken | str | None = None,
    tls: TlsFiles | TlsMaterial | None = None,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
    limits: Sequence[str] = (),
) -> "TheFlash":
    """Open a store. A server is contacted by the first call.

    Args:
        where: `theflash://HOST:PORT`, `unix:PATH` or a folder.
        token: The token for a server.
        tls: Certificates for a server.
        fs: The file system of a folder; None: the local one.
        clock: The clock of timeouts; None: the system's.
        limits: Limits for calls on a folder, NAME=N, such as `request_memory=N`; others have their
            defaults.

    Returns:
        The store, which is a context manager.

    Raises:
        OptionError: The address, certificates or limits are invalid, or a token or certificates are
            passed for a folder, or limits for a server.
        StoreNotFoundError: The folder has no store.
    """
    return TheFlash(transport_to(where, token=token, tls=tls, fs=fs, clock=clock, limits=limits))


class TheFlash:
    """A store. A context manager; thread-safe.

    Every call raises a `TheFlashError`, after its timeout a `DeadlineExceededError`. The timeout is
    the argument `timeout_ms`, and one minute for calls without it.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def snapshot(
        self, moment: AnyMoment = NEWEST, *, timeout_ms: int = SHORT_MS
    ) -> message.Snapshot:
        """Keep a timestamp readable by a read latch.

        Args:
            moment: The timestamp, or a moment with the latch's `ttl_ms`.
            timeout_ms: The call's timeout.

        Returns:
            The snapshot; `Moment(handle=snapshot.handle)` reads at its timestamp.

        Raises:
            NotCaughtUpError: The timestamp is above the store's `resolved_ts`.
            SnapshotTooOldError: The timestamp is below the store's `oldest_ts`.
        """
        return self._call("TakeSnapshot", _moment(moment), timeout_ms)  # type: ignore[no-any-return]

    def renew(self, snapshot: message.Snapshot) -> message.Snapshot:
        """Restart the time to live of a snapshot. Raises `LeaseExpiredError`: it has ended."""
        request = message.SnapshotRequest(snapshot.handle)
        return self._call("RenewSnapshot", request)  # type: ignore[no-any-return]

    def release(self, snapshot: message.Snapshot) -> None:
        """End a snapshot; does nothing if it has ended."""
        self._call("ReleaseSnapshot", message.SnapshotRequest(snapshot.handle))

    def acquire_latch(
        self, request: message.AcquireRequest, *, timeout_ms: int = SHORT_MS
    ) -> message.Latch:
        """Wait for a latch, in the order of requests, and acquire it.

        The latch lasts for its `ttl_ms` after each renewal or until `release_latch`, also if this
        connection ends. `storage.store.latch.latch` defines which latches conflict.

        Args:
            request: The kind and scope of the latch, its `ttl_ms`, and how long to wait.
            timeout_ms: The call's timeout.

        Returns:
            The latch, with the token that `write` and `renew_latch` require.

        Raises:
            LatchHeldError: Conflicting latches were held for `wait_ms`.
            LatchOrderError: Waiting could cause a deadlock.
            RoleError: The token's role may not hold a latch of this kind.
            DeadlineExceededError: The call ended before the wait did. If a latch was granted
                nevertheless, it expires; `latches` shows it by its `name`.
        """
        return self._call("AcquireLatch", request, timeout_ms)  # type: ignore[no-any-return]

    def renew_latch(self, latch: message.Latch) -> message.Latch:
        """Restart the time to live of a latch. Raises `LatchLostError`: it has ended."""
        request = message.LatchRequest(latch.id, latch.token or 0)
        return self._call("RenewLatch", request)  # type: ignore[no-any-return]

    def release_latch(self, latch: message.Latch) -> None:
        """End a latch. Raises `LatchLostError`: it has ended already."""
        self._call("ReleaseLatch", message.LatchRequest(latch.id, latch.token or 0))

    def tables(self, moment: AnyMoment = NEWEST) -> message.Tables:
        """Return the tables at a timestamp."""
        return self._call("ListTables", message.TablesRequest(_moment(moment)))  # type: ignore[no-any-return]

    def table(self, name: str, presentation: Presentation = NATIVE) -> TableStream:
        """Return the rows of DB.TABLE for Arrow, pandas, Polars and DuckDB; no call is made."""
        return TableStream(self, name, presentation=presentation)

    def describe(
        self, name: str, moment: AnyMoment = NEWEST, presentation: Presentation = NATIVE
    ) -> message.Table:
        """Return the columns of a table and their Arrow schema at a timestamp.

        Args:
            name: DB.TABLE.
            moment: The timestamp.
            presentation: The form of values, on which the schema depends.

        Raises:
            TableNotFoundError: There is no such table.
        """
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
        dictionaries: bool = False,
        timeout_ms: int = SHORT_MS,
    ) -> message.Plan:
        """Divide a scan into splits.

        The plan has a snapshot, which lasts while its splits are read, or for the moment's
        `ttl_ms`. Each split applies what is pushed down (`filter` to `order`) to its own rows only,
        so the caller combines partial aggregates and the first rows of splits.

        Args:
            table: DB.TABLE.
            columns: Names of columns; None: all.
            moment: The timestamp, or a moment with the handle of a snapshot, which is then used.
            where: A condition in SQL; "": none.
            presentation: The form of values.
            filter: A condition as an expression; None: none.
            aggregation: Aggregates to compute; None: none.
            limit: The largest number of rows of a split; 0: no limit.
            order: The order of which the first `limit` rows are returned.
            dictionaries: Whether the schema has dictionaries for strings that are mostly stored so.
            timeout_ms: The call's timeout.

        Returns:
            The plan, with the Arrow schema of its rows and a ticket for each split.

        Raises:
            TableNotFoundError, ColumnNotFoundError: The table or a column does not exist.
            NotCaughtUpError, SnapshotTooOldError: See `snapshot`.
            UnsupportedError: A pushed-down operation would not be exact.
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
            dictionaries=dictionaries,
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
        """Read the rows of one or more splits.

        Args:
            ticket: A split's ticket.
            dictionaries: Return string columns with few distinct values as Arrow dictionaries.
            more: Tickets of further splits of the plan. What the plan pushes down is applied to
                the rows of all these splits together.
            timeout_ms: The timeout for all rows; 0: the longest, one day.

        Returns:
            The rows, a context manager. Iterating over them raises the same errors.

        Raises:
            TicketError: A ticket is not from this store, or not from the same plan as the first.
            LeaseExpiredError: The plan's snapshot has ended.
            StreamCutError: The rows are incomplete, because the connection was lost.
        """
        request = message.ScanRequest(ticket, dictionaries, tuple(more))
        return self._transport.scan(SCAN, request, timeout_ms)

    def read(self, plan: message.Plan, *, dictionaries: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the rows of all splits of a plan.

        A split that fails with a retryable error before its first batch is read again, up to two
        times.

        Args:
            plan: The plan.
            dictionaries: See `scan`.
        """
        for split in plan.splits:
            yield from self._split(split, dictionaries)

    def digest(
        self, table: str, moment: AnyMoment = NEWEST, *, timeout_ms: int = LONG_MS
    ) -> message.Digest:
        """Compute the row count and the checksum of a table at a timestamp."""
        request = message.TableRequest(_moment(moment), table)
        return self._call("ComputeDigest", request, timeout_ms)  # type: ignore[no-any-return]

    def write(
        self,
        request: message.WriteRequest,
        tables: Sequence[pa.Table] = (),
        *,
        timeout_ms: int = LONG_MS,
    ) -> message.Written:
        """Write row versions, schema changes and progress in one durable commit.

        If there was no response, the same request may be written again, in whole or in parts.

        Args:
            request: The changes, and the latches that permit them.
            tables: The rows of each of the request's tables, in order; see `WriteTable`.
            timeout_ms: The call's timeout.

        Raises:
            LatchLostError: One of the latches has ended.
            CodecError, TransactionConflictError, SchemaConflictError, OptionError: See
                `replication.ingest`. Nothing was written.
        """
        return self._transport.call(WRITE, request, timeout_ms, tables)  # type: ignore[no-any-return]

    def status(self) -> message.Status:
        """Return the state of the store: progress, writer, latches and sizes."""
        return self._call("GetStatus", message.StatusRequest())  # type: ignore[no-any-return]

    def pin(self, moment: AnyMoment) -> message.Snapshot:
        """Keep a timestamp readable for the moment's `ttl_ms`, which may be up to 366 days.

        Raises:
            NotCaughtUpError, SnapshotTooOldError: See `snapshot`.
        """
        return self._call("Pin", _moment(moment))  # type: ignore[no-any-return]

    def latches(self) -> message.Latches:
        """Return the active latches and their holders."""
        return self._call("ListLatches", message.LatchesRequest())  # type: ignore[no-any-return]

    def remove_latch(self, id: str) -> None:
        """End any latch. Raises `LatchNotFoundError`."""
        self._call("RemoveLatch", message.LatchRequest(id))

    def regions(self, table: str) -> message.Regions:
        """Return the regions of a table and their sizes. Raises `TableNotFoundError`."""
        return self._call("ListRegions", message.RegionsRequest(table))  # type: ignore[no-any-return]

    # Commands to the writer. Reads continue meanwhile.

    def compact(self, *, timeout_ms: int = LONG_MS) -> str:
        """Rewrite all tables into the form that reads fastest; returns a report."""
        return self._command("Compact", message.CompactRequest(), timeout_ms)

    def flush(self, *, timeout_ms: int = LONG_MS) -> str:
        """Distribute recently written rows among the regions of all tables; returns a report."""
        return self._command("Flush", message.FlushRequest(), timeout_ms)

    def split_region(
        self, physical_id: int, region_id: int, at: str, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Split a region in one commit. To repeat the command does nothing.

        Args:
            physical_id: The physical table.
            region_id: The region.
            at: The first handle of the new region, in the form that `regions` shows.
            timeout_ms: The call's timeout.

        Returns:
            A report of what was done.

        Raises:
            RegionNotFoundError: There is no such region, or no longer.
            OptionError: The handle is not inside the region.
        """
        request = message.SplitRequest(physical_id, region_id, at)
        return self._command("SplitRegion", request, timeout_ms)

    def merge_regions(
        self, physical_id: int, left_id: int, right_id: int, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Merge two adjacent regions of a physical table; see `split_region`."""
        request = message.MergeRequest(physical_id, left_id, right_id)
        return self._command("MergeRegions", request, timeout_ms)

    def collect_garbage(
        self,
        safe_point: AnyTimestamp | None = None,
        *,
        dry_run: bool = False,
        timeout_ms: int = LONG_MS,
    ) -> str:
        """Delete the versions that no read at the safe point or later needs.

        Args:
            safe_point: The oldest timestamp that remains readable; None: by the store's retention.
            dry_run: Delete nothing; only report what would be deleted.
            timeout_ms: The call's timeout.

        Returns:
            A report of what was done.
        """
        ts = None if safe_point is None else timestamp_option("safe_point", safe_point)
        return self._command("CollectGarbage", message.CollectRequest(ts, dry_run), timeout_ms)

    def set_retention(self, retention_ms: int, *, timeout_ms: int = SHORT_MS) -> str:
        """Set the duration of history that garbage collection keeps; returns a report."""
        return self._command("SetRetention", message.RetentionRequest(retention_ms), timeout_ms)

    def purge_region(self, physical_id: int, region_id: int, *, timeout_ms: int = LONG_MS) -> str:
        """Delete a region's rows at all timestamps, in one commit; returns a report.

        Reads of its range raise `PurgedRangeError` from then on.

        Raises:
            RegionNotFoundError: There is no such region, or no longer.
            LatchHeldError: A timestamp is pinned.
        """
        request = message.PurgeRequest(physical_id, region_id)
        return self._command("PurgeRegion", request, timeout_ms)

    def move_region(
        self, physical_id: int, region_id: int, partition: int, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Move a region's files to another partition of the store, in one commit.

        To repeat the command does nothing.

        Args:
            physical_id: The physical table.
            region_id: The region.
            partition: The number of the partition.
            timeout_ms: The call's timeout.

        Returns:
            A report of what was done.

        Raises:
            RegionNotFoundError: There is no such region, or no longer.
            OptionError: There is no such partition, or its disk is missing.
        """
        request = message.MoveRequest(physical_id, region_id, partition)
        return self._command("MoveRegion", request, timeout_ms)

    def copy_region(
        self, physical_id: int, region_id: int, partition: int, *, timeout_ms: int = LONG_MS
    ) -> str:
        """Copy a region's files to one more partition of the store; see `move_region`."""
        request = message.MoveRequest(physical_id, region_id, partition)
        return self._command("CopyRegion", request, timeout_ms)

    def set_interval(self, interval_ms: int, *, timeout_ms: int = SHORT_MS) -> str:
        """Set how often the writer polls its source for input; returns a report."""
        return self._command("SetInterval", message.IntervalRequest(interval_ms), timeout_ms)

    def stop_writer(self, *, timeout_ms: int = SHORT_MS) -> str:
        """Stop the writer; returns a report."""
        return self._command("StopWriter", message.StopRequest(), timeout_ms)

    def call(self, called: Method, request: object, timeout_ms: int = SHORT_MS) -> Any:  # noqa: ANN401
        """Make any call without rows.

        Args:
            called: The call; see `service.wire.method.METHODS`.
            request: A `called.request`.
            timeout_ms: The call's timeout.

        Returns:
            A `called.response`.
        """
        return self._transport.call(called, request, timeout_ms)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __repr__(self) -> str:
        return f"<store {self._transport}>"

    def __enter__(self) -> "TheFlash":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _command(self, name: str, request: object, timeout_ms: int) -> str:
        done: message.Done = self._call(name, request, timeout_ms)
        return done.text

    def _call(self, name: str, request: object, timeout_ms: int = SHORT_MS) -> Any:  # noqa: ANN401
        return self.call(method(name), request, timeout_ms)


def _moment(moment: AnyMoment) -> Moment:
    if isinstance(moment, Moment):
        return moment
    return Moment(timestamp_option("snapshot_ts", moment))
