"""Layouts: the files and regions of physical tables in one generation, and their changes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pyspark_theflash.base.errors import InternalError, RegionNotFoundError
from pyspark_theflash.base.types import Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import CompactionReport, FileStats, RegionScan, RegionStats
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile, FileKind, file_path
from pyspark_theflash.storage.engine.magic.region import (
    REGION_KIND,
    Region,
    first_region,
    sorted_regions,
)
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.partition import LINK_MARK

RETIRED_KIND: Final = "retired"
_CACHED: Final = 1 << 13
_CACHED_CHARS_MAX: Final = 1 << 10
"""The length of a cached record; most have 400 characters. Long primary keys are in larger ones."""
_cached_region: Final = lru_cache(_CACHED)(Region.from_json)
_cached_file: Final = lru_cache(_CACHED)(DataFile.from_json)
_cached_file_text: Final = lru_cache(_CACHED)(DataFile.to_json)


def _region(text: str | bytes) -> Region:
    """Decode a region; cached, since successive scans decode the same records."""
    return (_cached_region if len(text) <= _CACHED_CHARS_MAX else Region.from_json)(text)


def _file(text: str | bytes) -> DataFile:
    return (_cached_file if len(text) <= _CACHED_CHARS_MAX else DataFile.from_json)(text)


def _file_text(file: DataFile) -> str:
    texts = (file.min_handle, file.max_handle, *file.paths)
    size = sum(len(each) for each in texts if isinstance(each, bytes | str))
    # A byte of a handle is two characters.
    return _cached_file_text(file) if 2 * size <= _CACHED_CHARS_MAX else file.to_json()


@dataclass(frozen=True, slots=True)
class RegionFiles:
    """A region and the files that overlap it; implements `RegionContent`."""

    region: Region
    files: tuple[DataFile, ...]

    def texts(self) -> tuple[str, ...]:
        return (self.region.to_json(), *map(_file_text, self.files))

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "RegionFiles":
        """Inverse of `texts`. Raises `CodecError`."""
        return cls(_region(texts[0]), tuple(map(_file, texts[1:])))

    @classmethod
    def of(cls, scan: RegionScan) -> "RegionFiles":
        """Return the content of a region that this engine has planned."""
        if not isinstance(scan.content, cls):
            raise InternalError(f"region {scan.region_id} was planned by another engine")
        return scan.content


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a physical table.

    Invariants: `regions` are sorted and cover all handles; `files` are sorted by number.
    """

    physical_id: PhysicalTableID
    regions: tuple[Region, ...]
    files: tuple[DataFile, ...]

    @classmethod
    def of(
        cls, physical_id: PhysicalTableID, regions: Iterable[Region], files: Iterable[DataFile]
    ) -> "Layout":
        """Return the layout of these regions and files of the manifest, in any order."""
        return cls(
            physical_id,
            tuple(sorted_regions(regions)) or (first_region(physical_id),),
            tuple(sorted(files, key=lambda f: f.number)),
        )

    @property
    def deltas(self) -> list[DataFile]:
        """The files that belong to no region."""
        return [f for f in self.files if f.kind is FileKind.DELTA]

    def region(self, region_id: RegionID) -> Region | None:
        """Return a region by id, or None."""
        return next((r for r in self.regions if r.region_id == region_id), None)

    def known_region(self, region_id: RegionID) -> Region:
        """Return a region by id. Raises `RegionNotFoundError` if there is none."""
        if (region := self.region(region_id)) is None:
            raise RegionNotFoundError(self.physical_id, region_id)
        return region

    def by_region(self) -> list[tuple[Region, list[DataFile]]]:
        """Return each region with its own files: the stable file, then layers."""
        own: dict[RegionID, list[DataFile]] = {region.region_id: [] for region in self.regions}
        for info in self.files:
            if info.kind is not FileKind.DELTA:
                own[info.region_id].append(info)
        return [(region, own[region.region_id]) for region in self.regions]

    def scans(self) -> Sequence[RegionScan]:
        """Return one scan for each region; none if there are no files."""
        if not self.files:
            return []
        deltas = self.deltas
        return [
            RegionScan(
                self.physical_id,
                region.region_id,
                RegionFiles(region, (*own, *_overlapping(region, deltas))),
            )
            for region, own in self.by_region()
        ]

    def stats(self) -> Sequence[RegionStats]:
        """Return the statistics of each region; none if there are no files."""
        if not self.files:
            return []
        deltas = self.deltas
        counts = Counter(f.number for r in self.regions for f in _overlapping(r, deltas))
        return [
            RegionStats(
                region_id=region.region_id,
                start=region.start,
                end=region.end,
                files=len(own),
                rows=sum(f.rows for f in own),
                bytes=sum(f.size_bytes for f in own),
                deltas=len(overlapping := _overlapping(region, deltas)),
                partitions=region.partitions,
                shared_rows=sum(f.rows // counts[f.number] for f in overlapping),
                shared_bytes=sum(f.size_bytes // counts[f.number] for f in overlapping),
            )
            for region, own in self.by_region()
        ]

    def collectable(self, safe_point: TimeStamp) -> list[DataFile]:
        """Return the files that may have versions to drop at a safe point.

        This is an upper bound: whether recent files supersede versions of others is only determined
        by merging them.
        """
        collectable = {
            f.number: f
            for region, own in self.by_region()
            if self.has_garbage(region, own, safe_point)
            for f in [*own, *_overlapping(region, self.deltas)]
        }
        return list(collectable.values())

    def has_garbage(self, region: Region, own: Sequence[DataFile], safe_point: TimeStamp) -> bool:
        """Return whether a region with the files `own` may have versions to drop."""
        recent = [f for f in own if f.kind is not FileKind.STABLE]
        recent += _overlapping(region, self.deltas)
        return any(f.garbage_ts <= safe_point for f in [*own, *recent]) or any(
            f.min_commit_ts <= safe_point for f in recent
        )

    def file_stats(self) -> Sequence[FileStats]:
        """Return the statistics of each file, in write order."""
        return [
            FileStats(
                None if f.kind is FileKind.DELTA else f.region_id,
                f.path,
                f.kind.value,
                f.rows,
                f.size_bytes,
                f.min_commit_ts,
                f.max_commit_ts,
            )
            for f in self.files
        ]


def _overlapping(region: Region, deltas: Sequence[DataFile]) -> list[DataFile]:
    return [f for f in deltas if region.overlaps(f.min_handle, f.max_handle)]


class Layouts:
    """Layouts of all physical tables in one view, each decoded on first access."""

    def __init__(self, view: View) -> None:
        self.view: Final = view
        self._files = _by_table(view.of_kind(FILE_KIND))
        self._regions = _by_table(view.of_kind(REGION_KIND))
        self._decoded: dict[PhysicalTableID, Layout] = {}

    def __getitem__(self, physical_id: PhysicalTableID) -> Layout:
        if physical_id not in self._decoded:
            self._decoded[physical_id] = Layout.of(
                physical_id,
                map(_region, self._regions.get(physical_id, ())),
                map(_file, self._files.get(physical_id, ())),
            )
        return self._decoded[physical_id]

    def replace(self, layout: Layout) -> None:
        """Set a table's layout after a commit."""
        self._decoded[layout.physical_id] = layout

    def tables(self) -> Sequence[PhysicalTableID]:
        """Return the physical tables that have files in the view."""
        return sorted(self._files)

    def recorded(self) -> Sequence[PhysicalTableID]:
        """Return the physical tables that have files or regions in the view."""
        return sorted({*self._files, *self._regions})

    def paths(self) -> Iterator[str]:
        """Yield the paths of all files in the view."""
        records = self.view.of_kind(FILE_KIND)
        for key in records:
            physical_id, number = map(int, key.split("-"))
            body = records[key]
            if LINK_MARK.encode() in body:
                yield from _file(body).paths
            else:  # Not decoded, for speed: there may be 100,000 files, and the key suffices.
                yield file_path(PhysicalTableID(physical_id), number)


def _by_table(records: Mapping[str, bytes]) -> Mapping[PhysicalTableID, Sequence[bytes]]:
    """Group file or region records by physical table, the prefix of their keys."""
    groups: dict[PhysicalTableID, list[bytes]] = {}
    for key, body in records.items():
        groups.setdefault(PhysicalTableID(int(key[:20])), []).append(body)
    return groups


@dataclass(frozen=True, slots=True)
class LayoutChange:
    """Changes of one commit to a table's layout.

    `files` and `regions` are added, `replaced` and `dropped` are removed. `vacated` are former
    paths of `files`; `resumed` are current paths of `files` that were vacated before.
    """

    files: Sequence[DataFile] = ()
    replaced: Sequence[DataFile] = ()
    regions: Sequence[Region] = ()
    dropped: Sequence[Region] = ()
    vacated: Sequence[str] = ()
    resumed: Sequence[str] = ()

    def plus(self, other: "LayoutChange") -> "LayoutChange":
        """Return both changes, to be made in one commit."""
        return LayoutChange(
            [*self.files, *other.files],
            [*self.replaced, *other.replaced],
            [*self.regions, *other.regions],
            [*self.dropped, *other.dropped],
            [*self.vacated, *other.vacated],
            [*self.resumed, *other.resumed],
        )

    def report(self) -> CompactionReport:
        """Return the work of merging the replaced files, which have all rows of the new ones."""
        rows, written = sum(f.rows for f in self.replaced), sum(f.rows for f in self.files)
        return CompactionReport(
            rows_read=rows,
            rows_written=written,
            rows_dropped=rows - written,
            files_replaced=len(self.replaced),
            files_written=len(self.files),
            bytes_written=sum(f.size_bytes for f in self.files),
        )

    def records(self, generation: Generation) -> tuple[Sequence[Record], Sequence[tuple[str, str]]]:
        """Return the records to put and to delete; `generation` is the one before the commit."""
        old_paths = [*(path for f in self.replaced for path in f.paths), *self.vacated]
        retired = [Record(RETIRED_KIND, path, str(generation).encode()) for path in old_paths]
        recorded = (r for r in self.regions if r.is_recorded)
        puts = [*(f.to_record() for f in self.files), *(r.to_record() for r in recorded)]
        deletes = [
            *((FILE_KIND, f.key) for f in self.replaced),
            *((REGION_KIND, r.key) for r in self.dropped if r.is_recorded),
            *((RETIRED_KIND, path) for path in self.resumed),
        ]
        return [*puts, *retired], deletes

    def apply(self, layout: Layout) -> Layout:
        """Return the layout after the commit."""
        changed, dropped = {f.number for f in [*self.replaced, *self.files]}, set(self.dropped)
        return Layout.of(
            layout.physical_id,
            [*(r for r in layout.regions if r not in dropped), *self.regions],
            [*(f for f in layout.files if f.number not in changed), *self.files],
        )
