"""The calls of a service that read: snapshots, tables and their rows.

`service.py` imports this module at the first of these calls.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    OptionError,
    ServiceUnavailableError,
    TicketError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.base.read_options import STORE, ReadPoint, ScanOptions
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.read.plan.open_store import OpenStore
from pyspark_theflash.read.plan.origin import FILES, Origin
from pyspark_theflash.read.plan.read import no_more_than_stored
from pyspark_theflash.read.plan.scan_plan import ScanPlan, ScanTask, native_strings
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.read.plan.wait import wait_until
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.latches import PIN_MS_MAX, latch_ttl_ms
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.pushed import pushed_of
from pyspark_theflash.service.api.rows import Batches, RowStream, rows_schema, with_dictionaries
from pyspark_theflash.service.api.seal import (
    SealedScan,
    Sealer,
    StoreSealer,
    Ticket,
    new_key,
    opened_handle,
    region_texts,
    sealed_handle,
)
from pyspark_theflash.service.api.turns import Turns
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine.api import RegionScan
from pyspark_theflash.storage.store.folder import CurrentIdentity, open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS, LeaseTable, ReadLease
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

if TYPE_CHECKING:
    from pyspark_theflash.tikv.origin import Replica

_TICKETS_BYTES_MAX: Final = 32 << 20
_CHECK_MS: Final = 200
"""The interval at which a waiting call checks its deadline and cancellation."""
_PLANS_BYTES: Final = 16 << 20
_PLAN_BYTES: Final = 4 << 10
_PARSED: Final = 18
"""Approximate ratio of a parsed request's size to that of its ticket."""
_COLUMN_BYTES: Final = 600


class Reads:
    """The calls that read one store; see `Service`. Thread-safe."""

    def __init__(
        self,
        path: Path,
        fs: FileSystem,
        clock: Clock,
        identity: CurrentIdentity,
        spare_key: bytes | None,
        replica: "Replica | None",
        limits: Limits,
        planning: Turns,
    ) -> None:
        """See `Service`; `identity` reads the identity of the store in the folder."""
        self._latches_max = limits.snapshots_per_identity
        self._computing, self._planning = Turns(limits.computing_per_identity, clock), planning
        self._path, self._fs, self._clock, self._identity = path, fs, clock, identity
        self._request_bytes = limits.request_memory
        self._store_sealer = StoreSealer(path, fs, spare_key or new_key())
        self._plans = LeastRecent[tuple[str, SealedScan], tuple[ScanTask, pa.Schema]](_PLANS_BYTES)
        """A task of each recent plan, by lease and scan: its columns serve for all splits."""
        self._replica = replica
        over = no_more_than_stored if replica is None else replica.reader
        self._open_store = OpenStore(path, fs, clock, over)

    def close(self) -> None:
        """Close what is open; the next call opens it again."""
        self._open_store.close()

    def check_latches(self, snapshot: ReadSnapshot, call: CallContext) -> None:
        """Raise `ServiceUnavailableError` if a caller has too many latches, with `snapshot`'s."""
        most = self._latches_max
        if call.role is Role.ADMIN or snapshot.latches_of(call.identity, most) <= most:
            return
        reason = f"{call.identity} has {most} snapshots: release some, or shorten the ttl_ms"
        raise ServiceUnavailableError(str(self._path), reason)

    def _keep(self, snapshot: ReadSnapshot, call: CallContext) -> None:
        """Keep a snapshot's latch beyond its block. Raises like `check_latches`."""
        self.check_latches(snapshot, call)
        snapshot.keep_lease()

    def take_snapshot(self, request: message.Moment, call: CallContext) -> message.Snapshot:
        with self.opened(request, call) as snapshot:
            # Otherwise the latch ends with the block.
            if not request.handle:
                self._keep(snapshot, call)
            return self._snapshot_message(snapshot.lease, call)

    def renew_snapshot(
        self, request: message.SnapshotRequest, call: CallContext
    ) -> message.Snapshot:
        lease = self._lease_of(request.handle, call)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).renew(lease)
        return self._snapshot_message(lease, call)

    def release_snapshot(self, request: message.SnapshotRequest, call: CallContext) -> message.Done:
        lease = self._lease_of(request.handle, call)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).release(lease)
        return message.Done("released")

    def pin(self, request: message.Moment, call: CallContext) -> message.Snapshot:
        ttl_ms = latch_ttl_ms(request.ttl_ms, PIN_MS_MAX)
        with (
            self.opened(replace(request, ttl_ms=0), call) as snapshot,
            closing(open_manifest(self._path, self._fs)) as manifest,
        ):
            # The snapshot's own latch holds the timestamp until the pin does.
            leases = LeaseTable(manifest, self._clock)
            at, who = snapshot.snapshot_ts, call.identity
            pin = leases.take(at, ttl_ms, LatchKind.PIN, identity=who)
            return self._snapshot_message(pin, call)

    def list_tables(self, request: message.TablesRequest, call: CallContext) -> message.Tables:
        with self.opened(request.moment, call) as snapshot:
            tables = tuple(
                message.TableName(
                    e.table_id,
                    e.full_name,
                    shape.columns,
                    shape.partitions,
                    str(snapshot.lacking(e) or ""),
                    e.db,
                )
                for e in snapshot.listed()
                if (shape := e.shape) is not None
            )
            return message.Tables(snapshot.snapshot_ts, tables)

    def describe_table(self, request: message.TableRequest, call: CallContext) -> message.Table:
        presentation = _presentation(request.presentation)
        with self.opened(request.moment, call) as snapshot:
            table = snapshot.table(request.table)
            return _table_message(table, table.public_columns, snapshot, presentation)

    def prepare_read(self, request: message.ReadOptions, call: CallContext) -> message.Reading:
        texts = {setting.name: setting.value for setting in request.settings}
        plan_request = _plan_request(ScanOptions.parse({**texts, STORE.name: str(self._path)}))
        with self.opened(plan_request.moment, call) as snapshot:
            with self._turn_to_plan(call):
                plan = _planned(snapshot, _shape(plan_request))
            presentation = _presentation(plan_request.presentation)
            fixed = message.Moment(snapshot.snapshot_ts)
            return message.Reading(
                replace(plan_request, moment=fixed, table=plan.table.full_name),
                _table_message(plan.table, plan.columns, snapshot, presentation),
            )

    def plan_scan(self, request: message.PlanRequest, call: CallContext) -> message.Plan:
        shape = _shape(request)
        with self.opened(request.moment, call) as snapshot:
            with self._turn_to_plan(call):
                plan = _planned(snapshot, shape)
            splits = () if request.no_splits else self._splits(snapshot, shape, plan)
            size = sum(len(split.ticket) for split in splits)
            if request.no_splits and plan.tasks:
                # An upper bound, so that the plan with splits is not rejected later.
                longest = max(plan.tasks, key=lambda task: sum(map(len, region_texts(task.region))))
                size = len(self._ticket(shape, longest)) * len(plan.tasks)
            if size > _TICKETS_BYTES_MAX:
                raise UnsupportedError("a filter as large as this over so many splits", "PlanScan")
            for task in plan.tasks[:1]:
                self._remember(shape, task)
            if not request.moment.handle:
                self._keep(snapshot, call)
            self._open_store.note(snapshot.lease)
            if request.dictionaries:
                plan = plan.with_dictionaries(snapshot.repeating(plan))
            return message.Plan(
                self._snapshot_message(snapshot.lease, call),
                plan.table.full_name,
                _schema_bytes(plan.schema),
                splits,
                sum(split.versions for split in splits),
            )

    def scan(self, request: message.ScanRequest, call: CallContext) -> RowStream:
        sealer, engine = self._sealer, self._identity.get().engine
        ticket = Ticket.opened(request.ticket, sealer, engine)
        self._check_store(ticket.store_id, "ticket")
        regions = [ticket.region]
        for text in request.more:
            other = Ticket.opened(text, sealer, engine)
            if replace(other, region=ticket.region) != ticket:
                raise TicketError("ticket", "it is from another plan than the first one")
            regions.append(other.region)
        places = {(r.physical_id, r.region_id, region_texts(r)) for r in regions}
        if len(places) < len(regions):
            raise TicketError("ticket", "it is repeated in the request")
        task, schema = self._task(ticket, call)
        regions[0] = task.region
        if not request.dictionaries:
            return RowStream(schema, self._batches(task, regions, call))
        task = self._open_store.with_dictionaries(task)
        rows = RowStream(task.schema, self._batches(task, regions, call))
        # Stored strings are dictionaries already if they repeat; others are sampled.
        stored = () if task.pushed.aggregation else native_strings(task.output, task.presentation)
        return with_dictionaries(rows, {c.name for c in task.output if c.id in stored})

    def compute_digest(self, request: message.TableRequest, call: CallContext) -> message.Digest:
        with self.opened(request.moment, call) as snapshot:
            digest = TableDigest()
            for texts in self._computing.of(snapshot.texts(snapshot.plan(request.table)), call):
                call.check()
                digest.update(texts)
            return message.Digest(snapshot.snapshot_ts, digest.rows, digest.hexdigest())

    @contextmanager
    def opened(self, moment: message.Moment, call: CallContext) -> Iterator[ReadSnapshot]:
        """Open the store at a moment. The latch ends with the block unless it is kept."""
        lease, ts, ttl_ms = None, moment.snapshot_ts, moment.ttl_ms
        if moment.handle:
            if moment != message.Moment(handle=moment.handle):
                raise OptionError("moment", "no other field may be set with a handle")
            lease = self._lease_of(moment.handle, call)
            ts = lease.snapshot_ts
        else:
            ttl_ms = latch_ttl_ms(moment.ttl_ms)
            self._wait(moment, call)
        origin = self._origin(moment.wait_ms, call)
        with self._snapshot(ts, lease, origin, call, ttl_ms) as snapshot:
            yield snapshot

    @contextmanager
    def _snapshot(
        self,
        ts: int | None,
        lease: ReadLease | None,
        origin: Origin,
        call: CallContext,
        ttl_ms: int = LEASE_TTL_MS,
    ) -> Iterator[ReadSnapshot]:
        """Open a snapshot and close it, each in a turn."""
        with ExitStack() as last, ExitStack() as undo:
            with self._turn_to_plan(call):
                snapshot = ReadSnapshot(
                    self._path,
                    None if ts is None else TimeStamp(ts),
                    self._fs,
                    self._clock,
                    ttl_ms=ttl_ms,
                    lease=lease,
                    origin=origin,
                    identity=call.identity,
                    budget=self._budget(call),
                )
                undo.enter_context(snapshot)
            try:
                yield snapshot
            finally:
                last.enter_context(self._turn_to_plan(call))

    def _turn_to_plan(self, call: CallContext) -> AbstractContextManager[None]:
        """Return a turn of the caller; none for a replica, whose plans wait for the cluster."""
        return self._planning.turn(call) if self._replica is None else nullcontext()

    def _budget(self, call: CallContext) -> Budget:
        return Budget(self._request_bytes, call.check)

    def _origin(self, wait_ms: int, call: CallContext) -> Origin:
        """Return the source of a snapshot's rows: the files, or a replica."""
        replica = self._replica
        if replica is None:
            return FILES
        within_ms = min(wait_ms or replica.wait_ms, call.left_ms())
        return replica.origin(Deadline(self._clock, within_ms), may_wait=wait_ms > 0)

    def _wait(self, moment: message.Moment, call: CallContext) -> None:
        """Wait until the moment can be read, at most for its `wait_ms`."""
        staleness_ms = moment.max_staleness_ms
        ts = moment.snapshot_ts
        # Raises `OptionError` if the fields contradict each other.
        ReadPoint(
            None if ts is None else TimeStamp(ts),
            moment.wait_ms / 1000,
            None if staleness_ms is None else staleness_ms / 1000,
        )
        if staleness_ms is not None:
            ts = from_physical_ms(max(self._clock.wall_ms() - staleness_ms, 0))
        # A replica is as new as the cluster.
        if ts is None or self._replica is not None:
            return
        end_ms = self._clock.boottime_ms() + min(moment.wait_ms, call.left_ms())
        while True:
            check_ms = min(end_ms, self._clock.boottime_ms() + _CHECK_MS)
            try:
                wait_until(self._path, TimeStamp(ts), check_ms, clock=self._clock, fs=self._fs)
            except NotCaughtUpError:
                call.check()
                if self._clock.boottime_ms() >= end_ms:
                    raise
            else:
                return

    def _splits(
        self, snapshot: ReadSnapshot, shape: SealedScan, plan: ScanPlan
    ) -> tuple[message.Split, ...]:
        all_stats = snapshot.region_stats(plan.table)
        return tuple(
            message.Split(
                self._ticket(shape, task),
                task.region.physical_id,
                task.region.region_id,
                stats.rows + stats.shared_rows,
                stats.bytes + stats.shared_bytes,
            )
            for task in plan.tasks
            for stats in [all_stats[task.region.physical_id, task.region.region_id]]
        )

    def _ticket(self, shape: SealedScan, task: ScanTask) -> bytes:
        return Ticket(self._store_id, task.lease, shape, task.region).sealed(self._sealer)

    def _task(self, ticket: Ticket, call: CallContext) -> tuple[ScanTask, pa.Schema]:
        """Return the ticket's task and its schema, from a recent plan or by planning again."""
        planned = self._plans.get((ticket.lease.id, ticket.shape))
        if planned is None:
            lease = ticket.lease
            opening = self._snapshot(lease.snapshot_ts, lease, self._origin(0, call), call)
            with opening as snapshot, self._turn_to_plan(call):
                (task,) = _planned(snapshot, ticket.shape, [ticket.region]).tasks
            planned = self._remember(ticket.shape, task)
        task, schema = planned
        return replace(task, region=ticket.region), schema

    def _remember(self, shape: SealedScan, task: ScanTask) -> tuple[ScanTask, pa.Schema]:
        """Cache a task and its schema for the other splits of its plan, and return them."""
        columns = len(task.output) + len(task.columns)
        parsed = _PARSED * len(self._ticket(shape, task))
        size_bytes = _PLAN_BYTES + parsed + columns * _COLUMN_BYTES + len(task.stated or b"")
        planned = task, task.schema
        self._plans.put((task.lease.id, shape), planned, size_bytes)
        return planned

    def _batches(self, task: ScanTask, regions: Sequence[RegionScan], call: CallContext) -> Batches:
        with closing(self._open_store.read(task, regions, self._budget(call))) as batches:
            yield from self._computing.of(batches, call)

    def _lease_of(self, handle: bytes, call: CallContext) -> ReadLease:
        store_id, lease = opened_handle(handle, call.identity, self._sealer)
        self._check_store(store_id, "handle")
        return lease

    def _check_store(self, store_id: str, what: str) -> None:
        if store_id != self._store_id:
            raise TicketError(what, "it is from another store")

    def handle(self, lease: ReadLease, call: CallContext) -> bytes:
        """Return the handle of a snapshot's lease, for a caller."""
        return sealed_handle(self._store_id, lease, call.identity, self._sealer)

    def _snapshot_message(self, lease: ReadLease, call: CallContext) -> message.Snapshot:
        handle = self.handle(lease, call)
        return message.Snapshot(handle, lease.id, lease.snapshot_ts, lease.ttl_ms)

    @property
    def _store_id(self) -> str:
        return self._identity.get().store_id

    @property
    def _sealer(self) -> Sealer:
        """Created on demand, because it may create a key file in the store's folder."""
        return self._store_sealer.get()


def _planned(
    snapshot: ReadSnapshot, shape: SealedScan, regions: Sequence[RegionScan] | None = None
) -> ScanPlan:
    """Plan a scan of all regions, or of those passed."""
    presentation = Presentation(ZeroDates(shape.zero_dates), shape.as_text)
    pushed = pushed_of(shape.pushed)
    return snapshot.plan(shape.table, shape.columns, presentation, shape.where, regions, pushed)


def _shape(request: message.PlanRequest) -> SealedScan:
    if request.columns and request.no_columns:
        raise OptionError("no_columns", "must not be set together with columns")
    pushed = message.PlanRequest(
        filter=request.filter,
        aggregation=request.aggregation,
        limit=request.limit,
        order=request.order,
    )
    every = not request.columns and not request.no_columns
    presentation = _presentation(request.presentation)
    return SealedScan(
        request.table,
        None if every else request.columns,
        request.where or None,
        presentation.zero_dates.value,
        presentation.as_text,
        pushed,
    )


def _presentation(presentation: message.Presentation) -> Presentation:
    values = [each.value for each in ZeroDates]
    zero_dates = presentation.zero_dates or ZeroDates.RAISE.value
    if zero_dates not in values:
        raise OptionError("zero_dates", f"is none of {', '.join(values)}")
    return Presentation(ZeroDates(zero_dates), presentation.as_text)


def _plan_request(options: ScanOptions) -> message.PlanRequest:
    """Convert the options of a Spark read to a request."""
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


def _table_message(
    table: TableInfo,
    columns: Sequence[ColumnInfo],
    snapshot: ReadSnapshot,
    presentation: Presentation,
) -> message.Table:
    return message.Table(
        table.id,
        table.full_name,
        snapshot.snapshot_ts,
        tuple(_column_message(table, column, presentation) for column in columns),
        _schema_bytes(rows_schema(columns, presentation)),
    )


def _column_message(
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
