"""The status of a store: its progress, writer, latches, pending transactions and sizes."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import RegionStoppedError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import PhysicalTableID, physical_ms
from pyspark_theflash.replication.pairing.ledger import ENTRY
from pyspark_theflash.replication.pairing.pending import PENDING_KIND, PendingTransaction
from pyspark_theflash.replication.source.merge import places_of
from pyspark_theflash.service.wire.message import (
    FeedStatus,
    Latches,
    LatchScope,
    Process,
    Region,
    Regions,
    Source,
    Status,
)
from pyspark_theflash.service.wire.message import Latch as LatchMessage
from pyspark_theflash.service.wire.message import Orphan as OrphanMessage
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import EngineReader, RegionStats
from pyspark_theflash.storage.store.aside import ASIDE_KIND, asides_texts
from pyspark_theflash.storage.store.catalog import NOW_KINDS, history_now, table_now
from pyspark_theflash.storage.store.command import handle_text
from pyspark_theflash.storage.store.coverage import ASSUMED_KIND
from pyspark_theflash.storage.store.feed import FEED_KIND, MAIN, SIDE, Feed, main_feed
from pyspark_theflash.storage.store.folder import (
    IDENTITY_KIND,
    StoreIdentity,
    format_of,
    open_manifest,
    read_identity,
)
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import Latch, LatchRequest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND, orphans_of
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress, store_progress
from pyspark_theflash.storage.store.setting import SETTING_KIND, interval_ms, retention_ms
from pyspark_theflash.storage.store.stopped import STOPPED_KIND, stopped_regions
from pyspark_theflash.storage.store.writer_lock import current_writer

KINDS: Final = (
    FEED_KIND,
    PROGRESS_KIND,
    *(feed.ledger_kind for feed in (MAIN, SIDE)),
    PENDING_KIND,
    SETTING_KIND,
    ORPHAN_KIND,
    ASSUMED_KIND,
    ASIDE_KIND,
    STOPPED_KIND,
)


def read_status(path: Path, fs: FileSystem, clock: Clock) -> Status:
    """Return the status of the store at `path`. Raises `StoreNotFoundError`."""
    with closing(open_manifest(path, fs)) as manifest:
        latches = LeaseTable(manifest, clock).living()
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
    with closing(registry.open_reader(path, identity, fs, clock)) as engine:
        view = engine.read(KINDS)
        return Status(
            store_id=identity.store_id,
            engine=identity.engine,
            format=format_of(path),
            generation=view.generation,
            **_timestamps(store_progress(view), clock),
            writer=process(current_writer(path, clock)),
            interval_ms=interval_ms(view),
            retention_ms=retention_ms(view),
            latches=len(latches),
            **_transactions(view),
            **_sizes(engine, view),
            orphans=_orphans(view, clock),
            sources=_sources(Progress.of(view)),
            feeds=_feeds(view),
            assumed_empty=tuple(view.of_kind(ASSUMED_KIND)),
            set_aside=asides_texts(view),
            stopped_regions=_stopped(view),
        )


def read_latches(path: Path, fs: FileSystem, clock: Clock) -> Latches:
    """Return the active latches on a store, sorted by expiry, and the pending requests."""
    with closing(open_manifest(path, fs)) as manifest:
        living = LeaseTable(manifest, clock).living()
        waiting = LatchQueue(manifest, clock).waiting()
    latches = tuple(latch_message(latch, clock) for latch in living)
    queue = tuple(_with_request(LatchMessage(), ticket.wanted) for ticket in waiting)
    return Latches(process(current_writer(path, clock)), latches, queue)


def read_regions(path: Path, table: str, fs: FileSystem, clock: Clock) -> Regions:
    """Return the regions of a table, which is looked up at `resolved_ts`.

    Raises:
        TableNotFoundError: There is no such table.
    """
    with closing(registry.open_reader(path, read_identity(path, fs), fs, clock)) as engine:
        view = engine.read(NOW_KINDS)
        return Regions(
            tuple(
                _region(physical_id, region)
                for physical_id in table_now(view, table).physical_ids
                for region in engine.regions(view, physical_id)
            )
        )


def _region(physical_id: PhysicalTableID, region: RegionStats) -> Region:
    start, end = (
        "" if bound is None else handle_text(bound) for bound in (region.start, region.end)
    )
    sizes = region.files, region.rows, region.bytes, region.deltas
    return Region(physical_id, region.region_id, start, end, *sizes, region.partitions)


def process(holder: Holder | None) -> Process | None:
    """Convert a holder to a message; None to None."""
    return None if holder is None else Process(holder.pid, holder.host, holder.program)


def physical_tables(engine: EngineReader, view: View) -> Sequence[tuple[str, PhysicalTableID]]:
    """Return the physical tables with stored versions, sorted by name and id.

    The name of each is the last one up to `resolved_ts`. `view` has `NOW_KINDS`.
    """
    stored, history = set(engine.tables(view)), history_now(view)
    names: dict[PhysicalTableID, str] = {}
    for event in history[0].until(history[1]) if history is not None else ():
        if event.name is not None:
            held = stored.intersection(event.physical_ids)
            names.update(dict.fromkeys(held, f"{event.db}.{event.name}"))
    return sorted((name, physical_id) for physical_id, name in names.items())


def latch_message(latch: Latch, clock: Clock) -> LatchMessage:
    """Convert a latch to a message."""
    result = LatchMessage(
        latch.id,
        latch.kind.value,
        latch.snapshot_ts if latch.kind.pins_snapshot else None,
        latch.generation if latch.kind.pins_generation else None,
        latch.expires_ms - clock.boottime_ms(),
        process(latch.holder),
    )
    if latch.grant is None:
        return result
    return replace(_with_request(result, latch.grant.wanted), token=latch.grant.token)


def _with_request(latch: LatchMessage, request: LatchRequest) -> LatchMessage:
    scope = request.scope
    levels = LatchScope("", scope.table_id or 0, scope.physical_id or 0, scope.region_id or 0)
    return replace(
        latch,
        kind=request.kind.value,
        scope=levels,
        name=request.name,
        identity=request.identity,
        mutates=request.mutates,
    )


def _timestamps(progress: Progress | None, clock: Clock) -> dict[str, Any]:
    if progress is None:
        return {}
    return {
        "resolved_ts": progress.resolved_ts,
        "lag_ms": clock.wall_ms() - physical_ms(progress.resolved_ts),
        "oldest_ts": progress.oldest_ts,
        "position": progress.position,
    }


def _feeds(view: View) -> tuple[FeedStatus, ...]:
    main = main_feed(view)
    feeds = ((feed, Progress.of(view, feed)) for feed in (MAIN, SIDE))
    return tuple(
        FeedStatus(
            main.value if main is not None and feed is MAIN else Feed.API.value,
            progress.oldest_ts,
            progress.resolved_ts,
            progress.position,
        )
        for feed, progress in feeds
        if progress is not None
    )


def _transactions(view: View) -> dict[str, Any]:
    pending = [PendingTransaction.from_bytes(body) for body in view.of_kind(PENDING_KIND).values()]
    holding = [p for p in pending if p.hold_ts]
    ledgers = [view.of_kind(feed.ledger_kind) for feed in (MAIN, SIDE)]
    ledger_bytes = sum(len(body) for ledger in ledgers for body in ledger.values())
    return {
        "pending_transactions": len(pending),
        "held_by_start_ts": min(holding, key=lambda p: p.hold_ts).start_ts if holding else None,
        "ledger_entries": ledger_bytes // ENTRY.itemsize,
        "ledger_bytes": ledger_bytes,
    }


def _sources(progress: Progress | None) -> tuple[Source, ...]:
    places = places_of(progress.position if progress else None)
    return tuple(Source(p.name, p.position or "", p.seen_ts, p.trouble) for p in places)


def _orphans(view: View, clock: Clock) -> tuple[OrphanMessage, ...]:
    now_ms = clock.wall_ms()
    return tuple(
        OrphanMessage(
            orphan.start_ts,
            now_ms - physical_ms(orphan.hold_ts),
            orphan.size_bytes,
            orphan.state,
            orphan.commit_ts,
            orphan.by_hand,
        )
        for orphan in orphans_of(view).values()
    )


def _stopped(view: View) -> tuple[str, ...]:
    """Return the errors of reading the stopped regions."""
    return tuple(
        str(RegionStoppedError(each.region_id, each.applied_index, each.reason))
        for each in stopped_regions(view)
    )


def _sizes(engine: EngineReader, view: View) -> dict[str, Any]:
    ids = engine.tables(view)
    tables = [engine.stats(view, physical_id) for physical_id in ids]
    return {
        "physical_tables": len(ids),
        "regions": sum(len(engine.regions(view, physical_id)) for physical_id in ids),
        "files": sum(table.files for table in tables),
        "rows": sum(table.rows for table in tables),
        "bytes": sum(table.bytes for table in tables),
    }
