"""The API's calls on one store; knows nothing of how they come in.

Each call opens what it needs and closes it again, so a service is used by many threads, and what
dies with it is nothing: snapshots are latches in the store, which end by themselves when they are
not renewed, and tickets are good for any other service of the same store.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.api import message
from pyspark_theflash.api.call import Call
from pyspark_theflash.api.latches import LatchDesk, kind_of
from pyspark_theflash.api.plans import RecentPlans
from pyspark_theflash.api.pushed import pushed_of
from pyspark_theflash.api.rows import Batches, RowStream, rows_schema, with_dictionaries
from pyspark_theflash.api.seal import (
    Sealer,
    Shape,
    StoreSealer,
    Ticket,
    new_key,
    opened_handle,
    sealed_handle,
)
from pyspark_theflash.api.status import read_latches, read_regions, read_status, told_latch
from pyspark_theflash.api.write import ingestion
from pyspark_theflash.api.writers import Writers
from pyspark_theflash.clock import Clock, Deadline
from pyspark_theflash.codec.digest import TableDigest
from pyspark_theflash.engine.api import RegionScan
from pyspark_theflash.errors import (
    LatchNotFoundError,
    NotCaughtUpError,
    OptionError,
    TicketError,
    UnsupportedError,
)
from pyspark_theflash.fs import FileSystem
from pyspark_theflash.options import STORE, ScanOptions
from pyspark_theflash.options import Moment as WantedMoment
from pyspark_theflash.planner.learned import LearnedOrigin, Replica
from pyspark_theflash.planner.open_store import OpenStore
from pyspark_theflash.planner.origin import FILES, Origin
from pyspark_theflash.planner.present import Presentation, ZeroDates
from pyspark_theflash.planner.read import no_more_than_stored
from pyspark_theflash.planner.scan_plan import ScanPlan, ScanTask, native_strings
from pyspark_theflash.planner.snapshot import LEASE_TTL_MS, Snapshot
from pyspark_theflash.planner.wait import wait_until
from pyspark_theflash.replication.admin import administer
from pyspark_theflash.replication.ingest import ingest
from pyspark_theflash.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.store.command import (
    Argument,
    CollectOrder,
    MergeOrder,
    MoveOrder,
    PurgeOrder,
    SplitOrder,
    Verb,
    handle_of,
)
from pyspark_theflash.store.folder import CurrentIdentity, open_manifest
from pyspark_theflash.store.latch import LatchKind
from pyspark_theflash.store.lease import LeaseTable, ReadLease
from pyspark_theflash.types import PhysicalTableID, RegionID, TimeStamp, from_physical_ms

TTL_MS_MIN: Final = 1_000
TTL_MS_MAX: Final = 3_600_000
PIN_MS_MAX: Final = 366 * 86_400_000
_TICKETS_BYTES_MAX: Final = 32 << 20
_CHECK_MS: Final = 200
"""How often a call that waits looks whether anybody still wants it."""


class Service:
    """The calls on the store at `path`; every method is one of `api.method.METHODS`."""

    def __init__(
        self,
        path: Path,
        *,
        fs: FileSystem,
        clock: Clock,
        spare_key: bytes | None = None,
        replica: Replica | None = None,
    ) -> None:
        """A service of one store.

        Args:
            path: the store.
            fs: where it is.
            clock: of latches and deadlines.
            spare_key: what seals tickets where the store has no key; a new one if not given.
            replica: what the store is read through where TiKV feeds it.

        Raises:
            StoreNotFoundError, StoreFormatError, CorruptionError: see `read_identity`.
        """
        self._path, self._fs, self._clock = path, fs, clock
        self._identity = CurrentIdentity(path, fs)
        self._identity.get()
        self._store_sealer = StoreSealer(path, fs, spare_key or new_key())
        self._plans = RecentPlans()
        self._replica = replica
        over = no_more_than_stored if replica is None else replica.reader
        self._open_store = OpenStore(path, fs, clock, over)
        self._writing = threading.Lock()
        self._desk = LatchDesk(path, fs, clock)
        self._writers = Writers(path, fs, clock)

    def close(self) -> None:
        """Let go of what is open; the next call opens it again."""
        self._writers.close()
        self._open_store.close()

    # -- snapshots

    def take_snapshot(self, request: message.Moment, call: Call) -> message.Snapshot:
        with self._open(request, call) as snapshot:
            # Leaving the block would end the latch.
            if not request.handle:
                snapshot.keep_lease()
            return self._told_snapshot(snapshot.lease)

    def renew_snapshot(self, request: message.SnapshotRequest, call: Call) -> message.Snapshot:
        lease = self._lease_of(request.handle)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).renew(lease)
        return self._told_snapshot(lease)

    def release_snapshot(self, request: message.SnapshotRequest, call: Call) -> message.Done:
        lease = self._lease_of(request.handle)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).release(lease)
        return message.Done("released")

    def pin(self, request: message.Moment, call: Call) -> message.Snapshot:
        ttl_ms = _ttl_ms(request.ttl_ms, PIN_MS_MAX)
        with (
            self._open(replace(request, ttl_ms=0), call) as snapshot,
            closing(open_manifest(self._path, self._fs)) as manifest,
        ):
            # The snapshot's own latch holds the timestamp until the pin does.
            leases = LeaseTable(manifest, self._clock)
            return self._told_snapshot(leases.take(snapshot.snapshot_ts, ttl_ms, LatchKind.PIN))

    # -- latches

    def acquire_latch(self, request: message.AcquireRequest, call: Call) -> message.Latch:
        ttl_ms = _ttl_ms(request.ttl_ms, TTL_MS_MAX)
        if kind_of(request, call) is not LatchKind.READ:
            return told_latch(self._desk.acquire(request, ttl_ms, call), self._clock)
        with self._open(request.moment, call) as snapshot:
            # The snapshot's own latch holds the timestamp until this one does.
            latch = self._desk.acquire(request, ttl_ms, call, snapshot.snapshot_ts)
        lease = ReadLease(latch.id, latch.snapshot_ts, latch.generation, ttl_ms)
        handle = sealed_handle(self.store_id, lease, self._sealer)
        return replace(told_latch(latch, self._clock), handle=handle)

    def renew_latch(self, request: message.LatchRequest, call: Call) -> message.Latch:
        return self._desk.renew(request, call)

    def release_latch(self, request: message.LatchRequest, call: Call) -> message.Done:
        return self._desk.release(request, call)

    # -- tables and rows

    def list_tables(self, request: message.TablesRequest, call: Call) -> message.Tables:
        with self._open(request.moment, call) as snapshot:
            tables = tuple(
                message.TableName(
                    e.table_id,
                    e.full_name,
                    shape.columns,
                    shape.partitions,
                    str(snapshot.lacking(e) or ""),
                )
                for e in snapshot.listed()
                if (shape := e.shape) is not None
            )
            return message.Tables(snapshot.snapshot_ts, tables)

    def describe_table(self, request: message.TableRequest, call: Call) -> message.Table:
        presentation = _presentation(request.presentation)
        with self._open(request.moment, call) as snapshot:
            table = snapshot.table(request.table)
            return _told_table(table, table.public_columns, snapshot, presentation)

    def prepare_read(self, request: message.ReadOptions, call: Call) -> message.Reading:
        texts = {setting.name: setting.value for setting in request.settings}
        asked = _plan_request(ScanOptions.parse({**texts, STORE.name: str(self._path)}))
        with self._open(asked.moment, call) as snapshot:
            plan = _planned(snapshot, _shape(asked))
            presentation = _presentation(asked.presentation)
            fixed = message.Moment(snapshot.snapshot_ts)
            return message.Reading(
                replace(asked, moment=fixed, table=plan.table.full_name),
                _told_table(plan.table, plan.columns, snapshot, presentation),
            )

    def plan_scan(self, request: message.PlanRequest, call: Call) -> message.Plan:
        shape = _shape(request)
        with self._open(request.moment, call) as snapshot:
            plan = _planned(snapshot, shape)
            splits = () if request.no_splits else self._splits(snapshot, shape, plan)
            size = sum(len(split.ticket) for split in splits)
            if request.no_splits and plan.tasks:
                # No less than what all come to, so that what is taken here is not refused later.
                longest = max(plan.tasks, key=lambda task: sum(map(len, task.region.parts)))
                size = len(self._ticket(shape, longest)) * len(plan.tasks)
            if size > _TICKETS_BYTES_MAX:
                raise UnsupportedError("a filter as large as this over so many splits", "PlanScan")
            for task in plan.tasks[:1]:
                self._plans.put((task.lease.id, shape), task)
            if not request.moment.handle:
                snapshot.keep_lease()
            self._open_store.note(snapshot.lease)
            told = self._told_snapshot(snapshot.lease)
            return message.Plan(
                told,
                plan.table.full_name,
                _schema_bytes(plan.schema),
                splits,
                sum(split.versions for split in splits),
            )

    def scan(self, request: message.ScanRequest, call: Call) -> RowStream:
        ticket, *more = (Ticket.opened(t, self._sealer) for t in (request.ticket, *request.more))
        self._check_store(ticket.store_id, "ticket")
        if any(replace(each, region=ticket.region) != ticket for each in more):
            raise TicketError("ticket", "it is of another plan than the first one")
        task = self._task(ticket, call)
        regions = [task.region, *(each.region for each in more)]
        if not request.dictionaries:
            return RowStream(task.schema, self._batches(task, regions, call))
        task = self._open_store.with_dictionaries(task)
        rows = RowStream(task.schema, self._batches(task, regions, call))
        # Whether strings that are stored as such repeat is known; of others a sample tells.
        known = () if task.pushed.aggregation else native_strings(task.output, task.presentation)
        return with_dictionaries(rows, {c.name for c in task.output if c.id in known})

    def compute_digest(self, request: message.TableRequest, call: Call) -> message.Digest:
        with self._open(request.moment, call) as snapshot:
            digest = TableDigest()
            for texts in snapshot.texts(snapshot.plan(request.table)):
                call.check()
                digest.update(texts)
            return message.Digest(snapshot.snapshot_ts, digest.rows, digest.hexdigest())

    def write(
        self, request: message.WriteRequest, call: Call, tables: Sequence[pa.Table] = ()
    ) -> message.Written:
        """`tables`: the rows of each of the request's tables, in order."""
        brought = ingestion(request, tables)
        call.check()
        # What is looked at and published takes several times its size in memory.
        while not self._writing.acquire(timeout=_CHECK_MS / 1000):
            call.check()
        try:
            done = ingest(self._path, brought, fs=self._fs, clock=self._clock, check=call.check)
        finally:
            self._writing.release()
        return message.Written(
            done.generation, done.rows, done.transactions, done.known, done.resolved_ts
        )

    # -- a stream's writer on another machine

    def open_writer(self, request: message.WriterRequest, call: Call) -> message.Done:
        return self._writers.open(request, call)

    def read_records(self, request: message.RecordsRequest, call: Call) -> RowStream:
        return self._writers.read_records(request, call)

    def read_versions(self, request: message.VersionsRequest, call: Call) -> RowStream:
        return self._writers.read_versions(request, call)

    def publish(
        self, request: message.PublishRequest, call: Call, tables: Sequence[pa.Table] = ()
    ) -> message.Published:
        return self._writers.publish(request, call, tables)

    def compact_table(self, request: message.CompactTableRequest, call: Call) -> message.Done:
        return self._writers.compact_table(request, call)

    def maintain(self, request: message.MaintainRequest, call: Call) -> message.Maintained:
        return self._writers.maintain(request, call)

    def writer_gone(self, latch_id: str) -> None:
        """The connection has ended on which the writer with that latch has made its calls."""
        self._writers.gone(latch_id)

    # -- the store

    def get_status(self, request: message.StatusRequest, call: Call) -> message.Status:
        return read_status(self._path, self._fs, self._clock)

    def list_regions(self, request: message.RegionsRequest, call: Call) -> message.Regions:
        return read_regions(self._path, request.table, self._fs, self._clock)

    def list_latches(self, request: message.LatchesRequest, call: Call) -> message.Latches:
        return read_latches(self._path, self._fs, self._clock)

    def remove_latch(self, request: message.LatchRequest, call: Call) -> message.Done:
        if not request.id:
            raise LatchNotFoundError(request.id)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).remove(request.id)
        return message.Done("removed")

    def compact(self, request: message.CompactRequest, call: Call) -> message.Done:
        return self._command(Verb.COMPACT, None, call)

    def flush(self, request: message.FlushRequest, call: Call) -> message.Done:
        return self._command(Verb.FLUSH, None, call)

    def split_region(self, request: message.SplitRequest, call: Call) -> message.Done:
        physical_id, region_id = PhysicalTableID(request.physical_id), RegionID(request.region_id)
        order = SplitOrder(physical_id, region_id, handle_of(request.at))
        return self._command(Verb.SPLIT, order.to_text(), call)

    def merge_regions(self, request: message.MergeRequest, call: Call) -> message.Done:
        regions = RegionID(request.left_id), RegionID(request.right_id)
        order = MergeOrder(PhysicalTableID(request.physical_id), *regions)
        return self._command(Verb.MERGE, order.to_text(), call)

    def move_region(self, request: message.MoveRequest, call: Call) -> message.Done:
        return self._command(Verb.MOVE, _move_order(request).to_text(), call)

    def copy_region(self, request: message.MoveRequest, call: Call) -> message.Done:
        return self._command(Verb.COPY, _move_order(request).to_text(), call)

    def purge_region(self, request: message.PurgeRequest, call: Call) -> message.Done:
        order = PurgeOrder(PhysicalTableID(request.physical_id), RegionID(request.region_id))
        return self._command(Verb.PURGE, order.to_text(), call)

    def collect_garbage(self, request: message.CollectRequest, call: Call) -> message.Done:
        safe_point = None if request.safe_point is None else TimeStamp(request.safe_point)
        order = CollectOrder(safe_point, request.dry_run)
        return self._command(Verb.GC, order.to_text(), call)

    def set_retention(self, request: message.RetentionRequest, call: Call) -> message.Done:
        return self._command(Verb.RETENTION, request.retention_ms, call)

    def set_interval(self, request: message.IntervalRequest, call: Call) -> message.Done:
        return self._command(Verb.INTERVAL, request.interval_ms, call)

    def stop_writer(self, request: message.StopRequest, call: Call) -> message.Done:
        return self._command(Verb.STOP, None, call)

    # -- parts

    @property
    def path(self) -> Path:
        """Where the store is."""
        return self._path

    @property
    def store_id(self) -> str:
        """Of the store that is there now. Raises what `read_identity` does."""
        return self._identity.get().store_id

    @property
    def _sealer(self) -> Sealer:
        """Made when it is first needed: most calls leave the store's folder as it is."""
        return self._store_sealer.get()

    @contextmanager
    def _open(self, moment: message.Moment, call: Call) -> Iterator[Snapshot]:
        """The store as of a moment; ends the latch unless somebody else holds it."""
        lease, ts, ttl_ms = None, moment.snapshot_ts, moment.ttl_ms
        if moment.handle:
            if moment != message.Moment(handle=moment.handle):
                raise OptionError("moment", "a handle says all; nothing else is given with it")
            lease = self._lease_of(moment.handle)
            ts = lease.snapshot_ts
        else:
            ttl_ms = _ttl_ms(moment.ttl_ms, TTL_MS_MAX)
            self._wait(moment, call)
        origin = self._origin(moment.wait_ms, call)
        with self._snapshot(ts, lease, origin, ttl_ms) as snapshot:
            yield snapshot

    def _snapshot(
        self, ts: int | None, lease: ReadLease | None, origin: Origin, ttl_ms: int = LEASE_TTL_MS
    ) -> Snapshot:
        at = None if ts is None else TimeStamp(ts)
        place = self._path, at, self._fs, self._clock
        return Snapshot(*place, ttl_ms=ttl_ms, lease=lease, origin=origin)

    def _origin(self, wait_ms: int, call: Call) -> Origin:
        """Where the rows of one snapshot come from."""
        replica = self._replica
        if replica is None:
            return FILES
        within_ms = min(wait_ms or replica.wait_ms, call.left_ms())
        return LearnedOrigin(replica, Deadline(self._clock, within_ms), may_wait=wait_ms > 0)

    def _wait(self, moment: message.Moment, call: Call) -> None:
        """Until the moment can be answered, somebody still wants it, or its time is over."""
        staleness_ms = moment.max_staleness_ms
        wanted = moment.snapshot_ts
        WantedMoment(
            None if wanted is None else TimeStamp(wanted),
            moment.wait_ms / 1000,
            None if staleness_ms is None else staleness_ms / 1000,
        )  # which says what contradicts itself
        if staleness_ms is not None:
            wanted = from_physical_ms(max(self._clock.wall_ms() - staleness_ms, 0))
        # A replica's newest is the cluster's own.
        if wanted is None or self._replica is not None:
            return
        end_ms = self._clock.boottime_ms() + min(moment.wait_ms, call.left_ms())
        while True:
            look_ms = min(end_ms, self._clock.boottime_ms() + _CHECK_MS)
            try:
                wait_until(self._path, TimeStamp(wanted), look_ms, clock=self._clock, fs=self._fs)
            except NotCaughtUpError:
                call.check()
                if self._clock.boottime_ms() >= end_ms:
                    raise
            else:
                return

    def _splits(
        self, snapshot: Snapshot, shape: Shape, plan: ScanPlan
    ) -> tuple[message.Split, ...]:
        told = snapshot.region_stats(plan.table)
        stored = [told[task.region.physical_id, task.region.region_id] for task in plan.tasks]
        return tuple(
            message.Split(
                self._ticket(shape, task),
                task.region.physical_id,
                task.region.region_id,
                found.rows + found.shared_rows,
                found.bytes + found.shared_bytes,
            )
            for task, found in zip(plan.tasks, stored, strict=True)
        )

    def _ticket(self, shape: Shape, task: ScanTask) -> bytes:
        return Ticket(self.store_id, task.lease, shape, task.region).sealed(self._sealer)

    def _task(self, ticket: Ticket, call: Call) -> ScanTask:
        """The ticket's task: of a plan that was made here, or of the same one made again."""
        task = self._plans.get((ticket.lease.id, ticket.shape))
        if task is None:
            lease = ticket.lease
            with self._snapshot(lease.snapshot_ts, lease, self._origin(0, call)) as snapshot:
                (task,) = _planned(snapshot, ticket.shape, [ticket.region]).tasks
            self._plans.put((ticket.lease.id, ticket.shape), task)
        return replace(task, region=ticket.region)

    def _batches(self, task: ScanTask, regions: Sequence[RegionScan], call: Call) -> Batches:
        yield from self._open_store.read(task, regions, call.check)

    def _lease_of(self, handle: bytes) -> ReadLease:
        store_id, lease = opened_handle(handle, self._sealer)
        self._check_store(store_id, "handle")
        return lease

    def _check_store(self, store_id: str, what: str) -> None:
        if store_id != self.store_id:
            raise TicketError(what, "it is of another store")

    def _told_snapshot(self, lease: ReadLease) -> message.Snapshot:
        handle = sealed_handle(self.store_id, lease, self._sealer)
        return message.Snapshot(handle, lease.id, lease.snapshot_ts, lease.ttl_ms)

    def _command(self, verb: Verb, argument: Argument, call: Call) -> message.Done:
        told = administer(
            self._path,
            verb,
            argument,
            timeout_ms=call.left_ms(),
            fs=self._fs,
            clock=self._clock,
        )
        return message.Done(told)


def _planned(
    snapshot: Snapshot, shape: Shape, regions: Sequence[RegionScan] | None = None
) -> ScanPlan:
    """With all splits, or of these regions."""
    presentation = Presentation(ZeroDates(shape.zero_dates), shape.as_text)
    pushed = pushed_of(shape.pushed)
    return snapshot.plan(shape.table, shape.columns, presentation, shape.where, regions, pushed)


def _shape(request: message.PlanRequest) -> Shape:
    if request.columns and request.no_columns:
        raise OptionError("no_columns", "cannot be given together with columns")
    pushed = message.PlanRequest(
        filter=request.filter,
        aggregation=request.aggregation,
        limit=request.limit,
        order=request.order,
    )
    every = not request.columns and not request.no_columns
    presentation = _presentation(request.presentation)
    return Shape(
        request.table,
        None if every else request.columns,
        request.where or None,
        presentation.zero_dates.value,
        presentation.as_text,
        pushed,
    )


def _presentation(told: message.Presentation) -> Presentation:
    known = [each.value for each in ZeroDates]
    zero_dates = told.zero_dates or ZeroDates.RAISE.value
    if zero_dates not in known:
        raise OptionError("zero_dates", f"is none of {', '.join(known)}")
    return Presentation(ZeroDates(zero_dates), told.as_text)


def _ttl_ms(wanted_ms: int, max_ms: int) -> int:
    ttl_ms = wanted_ms or LEASE_TTL_MS
    if not TTL_MS_MIN <= ttl_ms <= max_ms:
        raise OptionError("ttl_ms", f"{ttl_ms} is not between {TTL_MS_MIN} and {max_ms}")
    return ttl_ms


def _plan_request(options: ScanOptions) -> message.PlanRequest:
    """What a Spark read asks for."""
    moment, staleness_s = options.moment, options.moment.max_staleness_s
    return message.PlanRequest(
        message.Moment(
            moment.snapshot_ts,
            None if staleness_s is None else round(staleness_s * 1000),
            round(moment.wait_s * 1000),
        ),
        options.table,
        options.columns or (),
        where=options.where or "",
        presentation=message.Presentation(options.zero_dates, options.all_as_text),
    )


def _told_table(
    table: TableInfo, columns: Sequence[ColumnInfo], snapshot: Snapshot, presentation: Presentation
) -> message.Table:
    return message.Table(
        table.id,
        table.full_name,
        snapshot.snapshot_ts,
        tuple(_told_column(table, column, presentation) for column in columns),
        _schema_bytes(rows_schema(columns, presentation)),
    )


def _told_column(
    table: TableInfo, column: ColumnInfo, presentation: Presentation
) -> message.Column:
    return message.Column(
        column.id,
        column.name,
        column.type.tp.name,
        column.type.is_unsigned,
        column.type.flen,
        column.type.decimal,
        presentation.may_be_null(column.type),
        column in table.handle_columns,
        column.comment,
        column.type.collate,
    )


def _schema_bytes(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


def _move_order(request: message.MoveRequest) -> MoveOrder:
    physical_id, region_id = PhysicalTableID(request.physical_id), RegionID(request.region_id)
    return MoveOrder(physical_id, region_id, request.partition)
