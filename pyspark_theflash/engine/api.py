"""What an engine is: the one contract between replication and the planner.

                publish(versions, change)           plan(view, physical table) -> RegionScan ...
    replication  ───────────────────────►  Engine  ◄───────────────────────  planner (driver)
                                             ▲
                                             └───  scan(RegionScan, columns, ts)  a task, elsewhere

An engine stores row versions (`mvcc.version`) by physical table and gives them back as of a
snapshot. Beside them it keeps the *records* of those above it (progress, schema history, ledger)
and changes both in one atomic step: that is what makes a transaction over many tables, and the
writer's progress, one thing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pyspark_theflash.errors import CorruptionError
from pyspark_theflash.mvcc.project import ScanColumn
from pyspark_theflash.store.manifest import Change, View
from pyspark_theflash.types import Generation, PhysicalTableID, RegionID, TimeStamp


@dataclass(frozen=True, slots=True)
class VersionBatch:
    """Versions of rows of one physical table, `mvcc.version.version_schema`.

    Invariants: sorted by (_handle, _commit_ts); no two versions share both; within one publication
    and from one to the next, versions of a row come with growing `_commit_ts`.
    """

    physical_id: PhysicalTableID
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Publication:
    """What becomes visible in one step."""

    versions: Sequence[VersionBatch]
    change: Change


@dataclass(frozen=True, slots=True)
class RegionScan:
    """One region's share of a scan; survives pickle. `parts` is the engine's own."""

    physical_id: PhysicalTableID
    region_id: RegionID
    parts: tuple[str, ...]


class EngineReader(Protocol):
    """The reading half, any number at a time.

    `read` and `plan` are called on the driver, `scan` on any executor.
    """

    def read(self, kinds: Sequence[str]) -> View:
        """The records of these kinds and of the engine's own, of one generation, verified."""

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        """The regions of a physical table as of `view`; none where it holds nothing."""

    def scan(
        self,
        region: RegionScan,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a region visible at `snapshot_ts`, which is below MAX_TS.

        They come in no particular order, in bounded batches, with the columns as asked, named
        `column_name(id)`; `_handle` first where asked for. Corrupt data raises `CorruptionError`
        before any row of the damaged part is handed out.
        """

    def check(self, view: View) -> Iterator[CorruptionError]:
        """Every damage in what `view` names, found by reading all of it. Repairs nothing."""

    def close(self) -> None:
        """Let go of everything; closing twice is an error."""


class Engine(EngineReader, Protocol):
    """The writing half as well. One at a time per store, on the writer."""

    def publish(self, publication: Publication) -> Generation:
        """Make versions and records durable, then visible, in one step.

        When it returns, everything is on disk. When it raises `StoreFullError`, nothing has changed
        and it may be tried again. After any other error the engine takes no more writes; opened
        anew, it has all of the publication or nothing.
        """

    def fold(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> None:
        """Rewrite a physical table into the form that reads fastest, where that pays.

        Invisible to every scan. `columns` are all that the table has ever had.
        """
