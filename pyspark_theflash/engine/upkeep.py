"""What an engine does for its own upkeep, and tells of how it keeps a table."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, cast

from pyspark_theflash.engine.api import Engine, EngineReader
from pyspark_theflash.mvcc.project import ScanColumn
from pyspark_theflash.store.manifest import View
from pyspark_theflash.types import Generation, PhysicalTableID, RegionID, TimeStamp


@dataclass(frozen=True, slots=True)
class RegionStats:
    """A region as it is stored: the handles from `start` to before `end`, None for no bound."""

    region_id: RegionID
    start: int | bytes | None
    end: int | bytes | None
    files: int
    rows: int
    bytes: int
    deltas: int


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did. Versions were read, written again, or dropped by the safe point."""

    rows_read: int = 0
    rows_written: int = 0
    rows_dropped: int = 0
    files_replaced: int = 0
    files_written: int = 0
    bytes_written: int = 0

    def plus(self, other: "CompactionReport") -> "CompactionReport":
        """Both together."""
        return CompactionReport(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )


class MaintainedReader(EngineReader, Protocol):
    """An engine that tells how a table is stored."""

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        """How a physical table is stored as of `view`, in handle order; none where it is not."""


class MaintainedEngine(Engine, MaintainedReader, Protocol):
    """An engine that can be compacted and rid of tables."""

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        """Rewrite a physical table into the form that reads fastest.

        Of the versions at or below `safe_point`, only what a read there needs is kept.
        """

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        """Remove all versions of physical tables in one step."""


def maintained(engine: Engine) -> MaintainedEngine:
    """The engine as one that can be maintained."""
    return cast("MaintainedEngine", engine)


def described(engine: EngineReader) -> MaintainedReader:
    """The engine as one that tells how tables are stored."""
    return cast("MaintainedReader", engine)
