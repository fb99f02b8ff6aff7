"""The regions of a physical table that a replica has at present, and the locks on its rows."""

from pyspark_theflash.codec.bytes import decode_bytes
from pyspark_theflash.codec.key import RawKey
from pyspark_theflash.kvstore.key_range import record_range
from pyspark_theflash.kvstore.lock import Lock, decode_lock
from pyspark_theflash.kvstore.region import RegionState
from pyspark_theflash.kvstore.store import RegionStore
from pyspark_theflash.types import PhysicalTableID, RegionID


def regions_of(store: RegionStore, physical_id: PhysicalTableID) -> list[tuple[RegionState, int]]:
    """The regions that have rows of a table, in key order, and up to where each is durable."""
    with store.mutex:
        found = store.within(record_range(physical_id))
        durable = store.answers(state.id for state in found)
    return [
        (state, answer.state.applied_index if answer.state else 0)
        for state, answer in zip(found, durable, strict=True)
    ]


def locks_of(
    store: RegionStore, physical_id: PhysicalTableID
) -> list[tuple[Lock, RegionID | None]]:
    """The locks on rows of a table, in key order, and the region of each."""
    keys = record_range(physical_id)
    with store.mutex:
        regions = [state.region for state in store.within(keys)]
        held = list(store.cache.locks.within(keys.start, keys.end))
    found = []
    for key, value in sorted(held):
        region_id = next((region.id for region in regions if region.contains(key)), None)
        found.append((decode_lock(RawKey(decode_bytes(key)[0]), value), region_id))
    return found
