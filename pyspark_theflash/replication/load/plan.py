"""Choose the tables of a first load, and stripes of their keys that are read in parallel."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cluster.key_range import EncodedKeyRange, handle_bounds
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.load.scan import record_keys
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.store.load import Stripe
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.model import TableInfo

STRIPES: Final = 8
"""Stripes per process, so that all processes have work until the end."""


def physical_tables(tables: Sequence[TableInfo]) -> dict[PhysicalTableID, TableInfo]:
    """Return the physical tables that rows are read from, each with its table.

    Those that DDL is filling are included: changes to them are followed as they come, so the rows
    from before are needed, too.
    """
    return {physical_id: table for table in tables for physical_id in table.stored_ids}


def plan_stripes(
    client: TiKVClient, physical_ids: Sequence[PhysicalTableID], count: int, deadline: Deadline
) -> list[Stripe]:
    """Divide the keys of tables into at most about `count` stripes, at bounds of TiKV's regions.

    Raises the errors of `TiKVClient`.
    """
    starts = region_starts(client, physical_ids, deadline)
    if not starts:
        return []
    each = -(-len(starts) // count)
    bounds = [*starts[::each], record_keys(max(physical_ids)).end]
    return [
        Stripe(number, start, end, start) for number, (start, end) in enumerate(pairwise(bounds))
    ]


def plan_by_table(
    client: TiKVClient, physical_ids: Sequence[PhysicalTableID], count: int, deadline: Deadline
) -> list[Stripe]:
    """Divide the keys of tables into stripes of one table each, about `count` if there are few.

    Raises the errors of `TiKVClient`.
    """
    starts = region_starts(client, physical_ids, deadline)
    each = max(1, -(-len(starts) // count))
    stripes: list[Stripe] = []
    for physical_id in sorted(physical_ids):
        keys = record_keys(physical_id)
        own = [start for start in starts if keys.start <= start < keys.end]
        for start, end in pairwise([*own[::each], keys.end]):
            stripes.append(Stripe(len(stripes), start, end, start))
    return stripes


def region_starts(
    client: TiKVClient, physical_ids: Sequence[PhysicalTableID], deadline: Deadline
) -> list[RawKey]:
    """Return, in order, the first key of each part of the tables' keys that is in one region."""
    ranges = [record_keys(physical_id) for physical_id in sorted(physical_ids)]
    return sorted(part.start for _, parts in client.cover(ranges, deadline) for part in parts)


def inner_bounds(
    stripes: Sequence[Stripe], tables: Mapping[PhysicalTableID, TableInfo]
) -> dict[PhysicalTableID, list[Handle]]:
    """Return the handles at which stripes begin within tables, in order, by physical table."""
    bounds: dict[PhysicalTableID, list[Handle]] = {}
    for physical_id, table in sorted(tables.items(), key=lambda item: item[0]):
        keys = record_keys(physical_id)
        for stripe in stripes:
            if keys.start < stripe.start < keys.end and stripe.start != keys.start:
                start = first_handle(physical_id, stripe.start, table)
                if start is not None and start not in bounds.get(physical_id, ()):
                    bounds.setdefault(physical_id, []).append(start)
    return bounds


def first_handle(physical_id: PhysicalTableID, key: RawKey, table: TableInfo) -> Handle | None:
    """Return the smallest handle at or above a key; None if there is no other below it."""
    keys = EncodedKeyRange(encode_bytes(key), b"")
    bounds = handle_bounds(physical_id, keys, is_common=table.is_common_handle)
    return None if bounds is None else bounds[0]
