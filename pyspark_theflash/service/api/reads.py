"""The calls of a service that read: snapshots, tables and their rows.

Apart from `service.py`, so that a process which never reads brings in nothing of what plans a scan.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    OptionError,
    TicketError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.options import STORE, ScanOptions
from pyspark_theflash.base.options import ReadPoint as WantedMoment
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
from pyspark_theflash.service.api.plans import RecentPlans
from pyspark_theflash.service.api.pushed import pushed_of
from pyspark_theflash.service.api.rows import Batches, RowStream, rows_schema, with_dictionaries
from pyspark_theflash.service.api.seal import (
    SealedScan,
    Sealer,
    StoreSealer,
    Ticket,
    new_key,
    opened_handle,
    sealed_handle,
)
from pyspark_theflash.service.wire import message
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
"""How often a call that waits looks whether anybody still wants it."""


class Reads:
    """The calls that read the store at `path`; see `Service`. Used by many threads."""

    def __init__(
        self,
        path: Path,
        *,
        fs: FileSystem,
        clock: Clock,
        identity: CurrentIdentity,
        spare_key: bytes | None,
        replica: "Replica | None",
    ) -> None:
        """The arguments are those of `Service`; `identity` is that of the store there is now."""
        self._path, self._fs, self._clock, self._identity = path, fs, clock, identity
        self._store_sealer = StoreSealer(path, fs, spare_key or new_key())
        self._plans = RecentPlans()
        self._replica = replica
        over = no_more_than_stored if replica is None else replica.reader
        self._open_store = OpenStore(path, fs, clock, over)

    def close(self) -> None:
        """Let go of what is open; the next call opens it again."""
        self._open_store.close()

    # -- snapshots

    def take_snapshot(self, request: message.Moment, call: CallContext) -> message.Snapshot:
        with self.opened(request, call) as snapshot:
            # Leaving the block would end the latch.
            if not request.handle:
                snapshot.keep_lease()
            return self._told_snapshot(snapshot.lease)

    def renew_snapshot(
        self, request: message.SnapshotRequest, call: CallContext
    ) -> message.Snapshot:
        lease = self._lease_of(request.handle)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).renew(lease)
        return self._told_snapshot(lease)

    def release_snapshot(self, request: message.SnapshotRequest, call: CallContext) -> message.Done:
        lease = self._lease_of(request.handle)
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
            return self._told_snapshot(leases.take(snapshot.snapshot_ts, ttl_ms, LatchKind.PIN))

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
            return _told_table(table, table.public_columns, snapshot, presentation)

    def prepare_read(self, request: message.ReadOptions, call: CallContext) -> message.Reading:
        texts = {setting.name: setting.value for setting in request.settings}
        asked = _plan_request(ScanOptions.parse({**texts, STORE.name: str(self._path)}))
        with self.opened(asked.moment, call) as snapshot:
            plan = _planned(snapshot, _shape(asked))
            presentation = _presentation(asked.presentation)
            fixed = message.Moment(snapshot.snapshot_ts)
            return message.Reading(
                replace(asked, moment=fixed, table=plan.table.full_name),
                _told_table(plan.table, plan.columns, snapshot, presentation),
            )

    def plan_scan(self, request: message.PlanRequest, call: CallContext) -> message.Plan:
        shape = _shape(request)
        with self.opened(request.moment, call) as snapshot:
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

    def scan(self, request: message.ScanRequest, call: CallContext) -> RowStream:
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

    def compute_digest(self, request: message.TableRequest, call: CallContext) -> message.Digest:
        with self.opened(request.moment, call) as snapshot:
            digest = TableDigest()
            for texts in snapshot.texts(snapshot.plan(request.table)):
                call.check()
                digest.update(texts)
            return message.Digest(snapshot.snapshot_ts, digest.rows, digest.hexdigest())

    # -- parts

    @contextmanager
    def opened(self, moment: message.Moment, call: CallContext) -> Iterator[ReadSnapshot]:
        """The store as of a moment; ends the latch unless somebody else holds it."""
        lease, ts, ttl_ms = None, moment.snapshot_ts, moment.ttl_ms
        if moment.handle:
            if moment != message.Moment(handle=moment.handle):
                raise OptionError("moment", "a handle says all; nothing else is given with it")
            lease = self._lease_of(moment.handle)
            ts = lease.snapshot_ts
        else:
            ttl_ms = latch_ttl_ms(moment.ttl_ms)
            self._wait(moment, call)
        origin = self._origin(moment.wait_ms, call)
        with self._snapshot(ts, lease, origin, ttl_ms) as snapshot:
            yield snapshot

    def _snapshot(
        self, ts: int | None, lease: ReadLease | None, origin: Origin, ttl_ms: int = LEASE_TTL_MS
    ) -> ReadSnapshot:
        at = None if ts is None else TimeStamp(ts)
        place = self._path, at, self._fs, self._clock
        return ReadSnapshot(*place, ttl_ms=ttl_ms, lease=lease, origin=origin)

    def _origin(self, wait_ms: int, call: CallContext) -> Origin:
        """Where the rows of one snapshot come from."""
        replica = self._replica
        if replica is None:
            return FILES
        within_ms = min(wait_ms or replica.wait_ms, call.left_ms())
        return replica.origin(Deadline(self._clock, within_ms), may_wait=wait_ms > 0)

    def _wait(self, moment: message.Moment, call: CallContext) -> None:
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
        self, snapshot: ReadSnapshot, shape: SealedScan, plan: ScanPlan
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

    def _ticket(self, shape: SealedScan, task: ScanTask) -> bytes:
        return Ticket(self._store_id, task.lease, shape, task.region).sealed(self._sealer)

    def _task(self, ticket: Ticket, call: CallContext) -> ScanTask:
        """The ticket's task: of a plan that was made here, or of the same one made again."""
        task = self._plans.get((ticket.lease.id, ticket.shape))
        if task is None:
            lease = ticket.lease
            with self._snapshot(lease.snapshot_ts, lease, self._origin(0, call)) as snapshot:
                (task,) = _planned(snapshot, ticket.shape, [ticket.region]).tasks
            self._plans.put((ticket.lease.id, ticket.shape), task)
        return replace(task, region=ticket.region)

    def _batches(self, task: ScanTask, regions: Sequence[RegionScan], call: CallContext) -> Batches:
        yield from self._open_store.read(task, regions, call.check)

    def _lease_of(self, handle: bytes) -> ReadLease:
        store_id, lease = opened_handle(handle, self._sealer)
        self._check_store(store_id, "handle")
        return lease

    def _check_store(self, store_id: str, what: str) -> None:
        if store_id != self._store_id:
            raise TicketError(what, "it is of another store")

    def handle(self, lease: ReadLease) -> bytes:
        """The handle of a latch on a snapshot."""
        return sealed_handle(self._store_id, lease, self._sealer)

    def _told_snapshot(self, lease: ReadLease) -> message.Snapshot:
        return message.Snapshot(self.handle(lease), lease.id, lease.snapshot_ts, lease.ttl_ms)

    @property
    def _store_id(self) -> str:
        return self._identity.get().store_id

    @property
    def _sealer(self) -> Sealer:
        """Made when it is first needed: most calls leave the store's folder as it is."""
        return self._store_sealer.get()


def _planned(
    snapshot: ReadSnapshot, shape: SealedScan, regions: Sequence[RegionScan] | None = None
) -> ScanPlan:
    """With all splits, or of these regions."""
    presentation = Presentation(ZeroDates(shape.zero_dates), shape.as_text)
    pushed = pushed_of(shape.pushed)
    return snapshot.plan(shape.table, shape.columns, presentation, shape.where, regions, pushed)


def _shape(request: message.PlanRequest) -> SealedScan:
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
    return SealedScan(
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
    table: TableInfo,
    columns: Sequence[ColumnInfo],
    snapshot: ReadSnapshot,
    presentation: Presentation,
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
