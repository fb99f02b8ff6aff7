"""Rows of the metadata tables `table$raft` (regions) and `table$locks` (locks on rows)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.cluster.key_range import handle_bounds, record_range
from pyspark_theflash.cluster.lock import Lock, decode_lock
from pyspark_theflash.read.plan.metadata import handle_text, partitions_of, time_value
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tidb.codec.key import RawKey, decode_record_key, table_of
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.region import RegionState
from pyspark_theflash.tikv.region_store import RegionStore


def regions_of(store: RegionStore, physical_id: PhysicalTableID) -> list[tuple[RegionState, int]]:
    """Return the regions of a table in key order, each with its durable applied index."""
    with store.mutex:
        states = store.within(record_range(physical_id))
        durable = store.durable_states(state.id for state in states)
    return [
        (state, applied.state.applied_index if applied.state else 0)
        for state, applied in zip(states, durable, strict=True)
    ]


def locks_of(
    store: RegionStore, physical_id: PhysicalTableID
) -> list[tuple[Lock, RegionID | None]]:
    """Return the locks on rows of a table in key order, each with its region."""
    keys = record_range(physical_id)
    with store.mutex:
        regions = [state.region for state in store.within(keys)]
        entries = list(store.cache.locks.within(keys.start, keys.end))
    locks = []
    for key, value in sorted(entries):
        region_id = next((region.id for region in regions if region.keys.contains(key)), None)
        locks.append((decode_lock(RawKey(decode_bytes(key)[0]), value), region_id))
    return locks


def raft_rows(store: RegionStore, table: TableInfo) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `table$raft`."""
    for name, physical_id in partitions_of(table):
        for state, durable in regions_of(store, physical_id):
            region, applied, peer = state.region, state.applied, state.peer
            bounds = handle_bounds(physical_id, region.keys, is_common=table.is_common_handle)
            yield (
                name,
                physical_id,
                state.id,
                *map(handle_text, bounds or (None, None)),
                region.epoch.conf_ver,
                region.epoch.version,
                state.state.name.lower(),
                applied.applied_index,
                durable,
                *((peer.id, peer.store_id) if peer else (None, None)),
            )


def lock_rows(store: RegionStore, table: TableInfo) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `table$locks`."""
    for name, physical_id in partitions_of(table):
        for lock, region_id in locks_of(store, physical_id):
            yield (
                name,
                physical_id,
                region_id,
                handle_text(decode_record_key(lock.key).handle),
                lock.kind.name.lower(),
                lock.start_ts,
                time_value(lock.start_ts),
                lock.ttl_ms,
                lock.for_update_ts or None,
                lock.min_commit_ts or None,
                int(lock.use_async_commit),
                int(lock.primary == lock.key),
                table_of(lock.primary),
            )


ROWS: Final[Mapping[str, Callable[[RegionStore, TableInfo], Iterator[tuple[Any, ...]]]]] = {
    "raft": raft_rows,
    "locks": lock_rows,
}
"""Functions that return the rows, by the kind of metadata."""
