"""The files and regions of physical tables, as one generation has them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pyspark_theflash.base.errors import RegionNotFoundError
from pyspark_theflash.base.types import Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import FileStats, RegionScan, RegionStats
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile, FileKind, file_path
from pyspark_theflash.storage.engine.magic.region import REGION_KIND, Region, first_region, in_order
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.partition import LINK_MARK

RETIRED_KIND: Final = "retired"
# Scan after scan asks for the same ones.
_region: Final = lru_cache(1 << 13)(Region.from_json)
_file: Final = lru_cache(1 << 13)(DataFile.from_json)
_file_text: Final = lru_cache(1 << 13)(DataFile.to_json)


@dataclass(frozen=True, slots=True)
class Layout:
    """Invariants: `regions` cover all handles, in order; `files` are in the order of writing."""

    physical_id: PhysicalTableID
    regions: tuple[Region, ...]
    files: tuple[DataFile, ...]

    @classmethod
    def of(
        cls, physical_id: PhysicalTableID, regions: Iterable[Region], files: Iterable[DataFile]
    ) -> "Layout":
        """Of what the manifest has."""
        return cls(
            physical_id,
            tuple(in_order(regions)) or (first_region(physical_id),),
            tuple(sorted(files, key=lambda f: f.number)),
        )

    @property
    def deltas(self) -> list[DataFile]:
        """The files that belong to no region."""
        return [f for f in self.files if f.kind is FileKind.DELTA]

    def region(self, region_id: RegionID) -> Region | None:
        """The region of that id, if there is one."""
        return next((r for r in self.regions if r.region_id == region_id), None)

    def known_region(self, region_id: RegionID) -> Region:
        """The same; raises `RegionNotFoundError` where there is none."""
        if (found := self.region(region_id)) is None:
            raise RegionNotFoundError(self.physical_id, region_id)
        return found

    def by_region(self) -> list[tuple[Region, list[DataFile]]]:
        """Each region with its own files: the stable one, then layers."""
        own: dict[RegionID, list[DataFile]] = {region.region_id: [] for region in self.regions}
        for info in self.files:
            if info.kind is not FileKind.DELTA:
                own[info.region_id].append(info)
        return [(region, own[region.region_id]) for region in self.regions]

    def scans(self) -> Sequence[RegionScan]:
        """One scan a region; none where there is no file."""
        if not self.files:
            return []
        deltas = self.deltas
        return [
            RegionScan(self.physical_id, region.region_id, _parts(region, own, deltas))
            for region, own in self.by_region()
        ]

    def stats(self) -> Sequence[RegionStats]:
        """What each region holds; none where there is no file."""
        if not self.files:
            return []
        deltas = self.deltas
        reached = {f.number: self._reached(f) for f in deltas}
        return [
            RegionStats(
                region_id=region.region_id,
                start=region.start,
                end=region.end,
                files=len(own),
                rows=sum(f.rows for f in own),
                bytes=sum(f.size_bytes for f in own),
                deltas=len(reaching := _reaching(region, deltas)),
                partitions=region.partitions,
                shared_rows=sum(f.rows // reached[f.number] for f in reaching),
                shared_bytes=sum(f.size_bytes // reached[f.number] for f in reaching),
            )
            for region, own in self.by_region()
        ]

    def _reached(self, delta: DataFile) -> int:
        """How many regions a delta reaches into."""
        return sum(r.reaches(delta.min_handle, delta.max_handle) for r in self.regions)

    def collectable(self, safe_point: TimeStamp) -> list[DataFile]:
        """The files that have, or may have, versions which a safe point drops.

        What a version supersedes in another file is known when both are merged.
        """
        found = {
            f.number: f
            for region, own in self.by_region()
            if self.has_garbage(region, own, safe_point)
            for f in [*own, *_reaching(region, self.deltas)]
        }
        return list(found.values())

    def has_garbage(self, region: Region, own: Sequence[DataFile], safe_point: TimeStamp) -> bool:
        """Whether a region may have versions that a safe point drops; `own` are its files."""
        recent = [f for f in own if f.kind is not FileKind.STABLE]
        recent += _reaching(region, self.deltas)
        return any(f.garbage_ts <= safe_point for f in [*own, *recent]) or any(
            f.min_commit_ts <= safe_point for f in recent
        )

    def file_stats(self) -> Sequence[FileStats]:
        """Each file, in the order of writing."""
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


def _parts(region: Region, own: Sequence[DataFile], deltas: Sequence[DataFile]) -> tuple[str, ...]:
    """What a scan of the region needs to know: its range, and the files that reach into it."""
    return (region.to_json(), *map(_file_text, [*own, *_reaching(region, deltas)]))


def _reaching(region: Region, deltas: Sequence[DataFile]) -> list[DataFile]:
    return [f for f in deltas if region.reaches(f.min_handle, f.max_handle)]


def scanned(parts: Sequence[str]) -> tuple[Region, list[DataFile]]:
    """The reverse: the region and the files of a scan."""
    return _region(parts[0]), [_file(part) for part in parts[1:]]


class Layouts:
    """The layouts of all physical tables of one view, each made when it is asked for."""

    def __init__(self, view: View) -> None:
        self.view: Final = view
        self._files = _by_table(view.of_kind(FILE_KIND))
        self._regions = _by_table(view.of_kind(REGION_KIND))
        self._made: dict[PhysicalTableID, Layout] = {}

    def __getitem__(self, physical_id: PhysicalTableID) -> Layout:
        if physical_id not in self._made:
            self._made[physical_id] = Layout.of(
                physical_id,
                map(_region, self._regions.get(physical_id, ())),
                map(_file, self._files.get(physical_id, ())),
            )
        return self._made[physical_id]

    def replace(self, layout: Layout) -> None:
        """What a commit has made of a table."""
        self._made[layout.physical_id] = layout

    def tables(self) -> Sequence[PhysicalTableID]:
        """The physical tables that have files in the view."""
        return sorted(self._files)

    def recorded(self) -> Sequence[PhysicalTableID]:
        """The physical tables that have files or regions in the view."""
        return sorted({*self._files, *self._regions})

    def paths(self) -> Iterator[str]:
        """Where the files of the view are."""
        records = self.view.of_kind(FILE_KIND)
        for key in records:
            physical_id, number = map(int, key.split("-"))
            body = records[key]
            if LINK_MARK.encode() in body:
                yield from _file(body).paths
            else:  # There may be a hundred thousand: the key says enough.
                yield file_path(PhysicalTableID(physical_id), number)


def _by_table(records: Mapping[str, bytes]) -> Mapping[PhysicalTableID, Sequence[bytes]]:
    """Records of files or regions by physical table, with which their keys begin."""
    found: dict[PhysicalTableID, list[bytes]] = {}
    for key, body in records.items():
        found.setdefault(PhysicalTableID(int(key[:20])), []).append(body)
    return found


@dataclass(frozen=True, slots=True)
class LayoutChange:
    """What one commit changes of a table's layout: what comes, and what goes.

    `vacated` are paths that files of `files` had until now; `resumed`, paths that they had once,
    were vacated, and have again.
    """

    files: Sequence[DataFile] = ()
    replaced: Sequence[DataFile] = ()
    regions: Sequence[Region] = ()
    dropped: Sequence[Region] = ()
    vacated: Sequence[str] = ()
    resumed: Sequence[str] = ()

    def plus(self, other: "LayoutChange") -> "LayoutChange":
        """Both in one commit."""
        return LayoutChange(
            [*self.files, *other.files],
            [*self.replaced, *other.replaced],
            [*self.regions, *other.regions],
            [*self.dropped, *other.dropped],
            [*self.vacated, *other.vacated],
            [*self.resumed, *other.resumed],
        )

    def records(self, generation: Generation) -> tuple[Sequence[Record], Sequence[tuple[str, str]]]:
        """The records to put and to delete; `generation` is the last that names the old files."""
        gone = [*(path for f in self.replaced for path in f.paths), *self.vacated]
        retired = [Record(RETIRED_KIND, path, str(generation).encode()) for path in gone]
        recorded = (r for r in self.regions if r.is_recorded)
        puts = [*(f.to_record() for f in self.files), *(r.to_record() for r in recorded)]
        deletes = [
            *((FILE_KIND, f.key) for f in self.replaced),
            *((REGION_KIND, r.key) for r in self.dropped if r.is_recorded),
            *((RETIRED_KIND, path) for path in self.resumed),
        ]
        return [*puts, *retired], deletes

    def apply(self, layout: Layout) -> Layout:
        """The layout after the commit."""
        gone, dropped = {f.number for f in [*self.replaced, *self.files]}, set(self.dropped)
        return Layout.of(
            layout.physical_id,
            [*(r for r in layout.regions if r not in dropped), *self.regions],
            [*(f for f in layout.files if f.number not in gone), *self.files],
        )
