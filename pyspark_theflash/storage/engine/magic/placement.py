"""Choose the files of a publication's versions.

A small publication becomes one delta across all regions of its table. A large one is cut by region
when it is written, which saves a compaction from rewriting it. Rows above all existing ones of a
region become the stable files of new regions, so that appended rows are written only once:

    regions       1 ────────────┬ 2 ─────────────────────
    before        stable, layers│ stable, layers
    publication   ▒▒ layer      │ ▒▒ layer   ██ stable
    after         1 ────────────┼ 3 ─────────┬ 4 ────────

Only the newest files of a region may be merged, so this requires that the table has no deltas.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.types import RegionID
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits, Write, next_id
from pyspark_theflash.storage.engine.magic.encode import FileEncoder
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind, combine_chunks
from pyspark_theflash.storage.engine.magic.handles import first_above, within
from pyspark_theflash.storage.engine.magic.layout import Layout, LayoutChange
from pyspark_theflash.storage.engine.magic.region import Region
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.partition import HOME, Partitions

_LEAST_SHARE: Final = 16
"""A new region has at least this fraction (1/n) of a full region."""


def place(
    layout: Layout, versions: pa.Table, limits: CompactionLimits | None, write: Write
) -> LayoutChange:
    """Write the versions of a publication, at least one; as one delta if `limits` is None."""
    if limits is not None and not layout.deltas:
        parts = [(r, own, _part(versions, r.start, r.end)) for r, own in layout.by_region()]
        overlapping = [one for one in parts if len(one[2])]
        if len(versions) >= limits.direct_rows * len(overlapping):
            change = LayoutChange()
            for region, own, part in overlapping:
                new_id = RegionID(next_id(layout) + len(change.regions))
                change = change.plus(_into_region(region, own, part, limits, write, new_id))
            return change
    return LayoutChange([_write_file(versions, FileKind.DELTA, HOME, write)])


def _into_region(
    region: Region,
    own: Sequence[DataFile],
    part: pa.Table,
    limits: CompactionLimits,
    write: Write,
    new_id: RegionID,
) -> LayoutChange:
    """Write the versions of one region; the ids of new regions start at `new_id`."""
    bounds: list[Handle] = []
    tail = _tail(own, part)
    if not own or _begins_region(own, tail, limits):
        bounds = [*([tail.column(HANDLE)[0].as_py()] if own else []), *_cuts(tail, limits)]
    regions, moved = [region], list(own)
    if bounds:
        regions = region.split_at(bounds, new_id)
        moved = [replace(info, region_id=regions[0].region_id) for info in own]
    files: list[DataFile] = []
    for one in regions:
        versions = _part(part, one.start, one.end)
        if len(versions):
            kind = FileKind.LAYER if own and one is regions[0] else FileKind.STABLE
            file = _write_file(versions, kind, one.partitions, write)
            files.append(replace(file, region_id=one.region_id))
    return LayoutChange([*moved, *files], (), regions, [region]) if bounds else LayoutChange(files)


def _tail(own: Sequence[DataFile], part: pa.Table) -> pa.Table:
    """Return the rows above all handles in a region's files; none if those are unknown."""
    handles, at = combine_chunks(part.column(HANDLE)), 0
    for info in own:
        at = max(
            at, len(part) if info.max_handle is None else first_above(handles, info.max_handle)
        )
    return part.slice(at)


def _begins_region(own: Sequence[DataFile], tail: pa.Table, limits: CompactionLimits) -> bool:
    """Return whether the tail is large enough not to be merged with the region before."""
    rows, size = len(tail), tail.nbytes
    all_rows, all_size = rows + sum(f.rows for f in own), size + sum(f.data_bytes for f in own)
    is_large = _LEAST_SHARE * rows > limits.region_rows or _LEAST_SHARE * size > limits.region_bytes
    return is_large and (2 * all_rows > limits.region_rows or 2 * all_size > limits.region_bytes)


def _cuts(versions: pa.Table, limits: CompactionLimits) -> list[Handle]:
    """Return ascending handles that cut versions into parts of about one region each."""
    count = max(-(-len(versions) // limits.region_rows), -(-versions.nbytes // limits.region_bytes))
    places = (len(versions) * n // count for n in range(1, count))
    handles = versions.column(HANDLE)
    cuts = dict.fromkeys(handles[place].as_py() for place in places)
    return [handle for handle in cuts if handle != handles[0].as_py()]


def _part(versions: pa.Table, start: Handle | None, end: Handle | None) -> pa.Table:
    """Return the versions from `start` to before `end`."""
    return versions.slice(*within(combine_chunks(versions.column(HANDLE)), start, end))


def _write_file(
    versions: pa.Table, kind: FileKind, partitions: Partitions, write: Write
) -> DataFile:
    file = FileEncoder(kind)
    file.add(versions)
    return write(file, partitions)
