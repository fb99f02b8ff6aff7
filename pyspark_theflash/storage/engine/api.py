"""What an engine is: the one contract between replication and the planner.

                publish(versions, change)           plan(view, physical table) -> RegionScan ...
    replication  ───────────────────────►  Engine  ◄───────────────────────  planner (driver)
                                             ▲
                                             └───  scan(RegionScan, columns, ts)  a task, elsewhere

An engine stores row versions (`storage.mvcc.version`) by physical table and gives them back as of a
snapshot. Beside them it keeps the *records* of those above it (progress, schema history, ledger)
and changes both in one atomic step: that is what makes a transaction over many tables, and the
writer's progress, one thing.
"""

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.types import ColumnID, Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.manifest import ManifestChange, View
from pyspark_theflash.storage.store.partition import HOME, Partitions

Handle: TypeAlias = int | bytes
"""A row's identity in its physical table; one table's handles are all of one type."""


@dataclass(frozen=True, slots=True)
class VersionBatch:
    """Versions of rows of one physical table, `storage.mvcc.version.version_schema`.

    Invariants: sorted by (_handle, _commit_ts); no two versions share both; within one publication
    and from one to the next, versions of a row come with growing `_commit_ts`.
    """

    physical_id: PhysicalTableID
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Publication:
    """What becomes visible in one step."""

    versions: Sequence[VersionBatch]
    change: ManifestChange


@dataclass(frozen=True, slots=True)
class RegionScan:
    """One region's share of a scan; survives pickle. `parts` is the engine's own."""

    physical_id: PhysicalTableID
    region_id: RegionID
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegionStats:
    """A region as it is stored: the handles from `start` to before `end`, None for no bound.

    `files`, `rows` (versions) and `bytes` are the region's own; `deltas` are recent files of the
    table, not yet distributed among its regions, that reach into this one, `shared_*` what of them
    it has if they are spread evenly. Each of `partitions` has all of the region's own files.
    """

    region_id: RegionID
    start: Handle | None
    end: Handle | None
    files: int
    rows: int
    bytes: int
    deltas: int
    shared_rows: int = 0
    shared_bytes: int = 0
    partitions: Partitions = HOME

    def covers(self, low: Handle, high: Handle) -> bool:
        """Whether all handles from `low` to `high` lie here; all are of one type."""
        is_above = self.start is None or low >= self.start  # type: ignore[operator]
        return is_above and (self.end is None or high < self.end)  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class FileStats:
    """A file of a physical table: of one region, or None. `rows` are versions."""

    region_id: RegionID | None
    path: str
    kind: str
    rows: int
    bytes: int
    min_commit_ts: TimeStamp
    max_commit_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """A partition: its folder, what of the store it holds, and why it cannot be used if so."""

    partition: int
    folder: str
    files: int
    bytes: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class TableStats:
    """A physical table as it is stored; `rows` are versions."""

    files: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did. Versions were read, written again, or dropped by the safe point."""

    rows_read: int = 0
    rows_written: int = 0
    rows_dropped: int = 0
    files_replaced: int = 0
    files_written: int = 0
    bytes_written: int = 0
    discarded: int = 0
    """How often what was written was dropped, since its table had changed meanwhile."""

    def plus(self, other: "CompactionReport") -> "CompactionReport":
        """Both together."""
        return CompactionReport(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )


Piece: TypeAlias = Callable[[], CompactionReport]
"""A piece of a compaction: a callable, which fails like `Engine.publish`. To be run once."""


@dataclass(frozen=True, slots=True, eq=False)
class HandleSet:
    """Handles of rows of one physical table, sorted, all different; `id` is of these alone."""

    handles: pa.Array
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class RowCondition(Protocol):
    """Which rows a scan keeps. Only of those that it does, the other columns are of interest."""

    @property
    def columns(self) -> Sequence[ScanColumn]:
        """The columns that it reads."""

    def rows(
        self, batch: pa.RecordBatch, visible: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which of the visible rows (None: all are) are kept.

        `batch` has the columns as with `as_stored`; what the other rows hold makes no difference.
        Each row is asked about once, for the answer may depend on the rows before. May raise, which
        ends the scan.
        """


class WriterEngine(Protocol):
    """The engine as the writer of a stream uses it, in this process or behind a server.

    Each does what that of `Engine` does. Whoever calls again after an error has made a new writer,
    which begins with what `read` says.
    """

    def read(self, kinds: Sequence[str]) -> View: ...

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]: ...

    def scan(
        self,
        region: RegionScan,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool = False,
    ) -> Iterator[pa.RecordBatch]: ...

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]: ...

    def publish(self, publication: Publication) -> Generation: ...

    def compact(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> object: ...


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
        dictionaries: Collection[ColumnID] = (),
        as_stored: bool = False,
        condition: RowCondition | None = None,
        without: HandleSet | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a region visible at `snapshot_ts`, which is below MAX_TS.

        They come in no particular order, in bounded batches, with the columns as asked, named
        `column_name(id)`; `_handle` first where asked for. Those of `dictionaries` come as
        `dictionary_of` their type, each batch with its own; with `as_stored`, others may, too, and
        decimals may be narrow (`tidb.codec.narrow`), as it is least work. Rows `without` are left
        out; of the others, a condition is asked which to keep. Corrupt data raises
        `CorruptionError` before any row of the damaged part is handed out.

        Safe in any thread and, since a stream may outlive what it was begun from, after `close`.
        """

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        """All versions stored of rows from `start` to before `end`: `_handle`, `_commit_ts`, `_op`.

        They come in no particular order; None for no bound. For those who must know what is there
        before they write: snapshots see less. Corrupt data raises `CorruptionError`.
        """

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        """Columns of strings that cost less as dictionaries, as most of the region is stored."""

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        """Those of `columns` that no row of the region has NULL in, where that is known.

        Raises `CorruptionError`.
        """

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        """The physical tables that hold versions as of `view`, in order of their ids."""

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        """How a physical table is stored as of `view`, in handle order; none where it is not."""

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        """How much a physical table takes as of `view`; nothing where it is not."""

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        """What of a physical table a compaction of everything at `safe_point` would rewrite."""

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        """The files of a physical table as of `view`; none where it is not, or not in files."""

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        """The partitions as of `view`; none where the engine has no files."""

    def check(self, view: View) -> Iterator[CorruptionError]:
        """Every damage in what `view` names, found by reading all of it. Repairs nothing."""

    def close(self) -> None:
        """Let go of everything; closing twice is an error."""


class Engine(EngineReader, Protocol):
    """The writing half as well. One at a time per store, on the writer.

    One thread uses it, but for the pieces of compactions, which may run in another one.
    """

    def publish(self, publication: Publication) -> Generation:
        """Make versions and records durable, then visible, in one step.

        When it returns, everything is on disk. After `EngineError`, `StaleTokenError`,
        `InternalError` and what is no error of this package the engine takes no more writes; opened
        anew, it has all of the publication or nothing. After any other error nothing has changed,
        and the engine goes on; after `StoreFullError` the same may be tried again.
        """

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        """Rewrite a physical table into the form that reads fastest.

        Does what pays by now, and costs next to nothing where nothing does: call it after each
        publication. With `everything` it leaves neither recent files nor garbage. Invisible to
        every scan, but for this: of the versions at or below `safe_point`, what is rewritten keeps
        of each row only the newest, and not that one either if it is a delete. No snapshot below
        `safe_point` may be read any more. `columns` are all that the table has ever had.

        Fails like `publish`; of several steps, those before the failed one stand.
        """

    def begin(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        everything_to: TimeStamp | None = None,
        garbage_to: TimeStamp | None = None,
    ) -> Piece | None:
        """A piece of what `compact` would do, to be run in another thread; None: nothing to do.

        Called by whoever publishes, in the midst of no scan of this engine's that has no lease.
        Until None comes, a piece is run, and the next one begun; in between and beside a piece,
        anything may be done. A piece takes as long as rewriting a few regions, and publications
        wait for its commit only.

        Args:
            everything_to: leave no recent files of what commits up to there; None: what pays.
            garbage_to: a safe point; only drop what no snapshot at or above it sees, until there
                is none.
        """

    def is_behind(self, physical_id: PhysicalTableID) -> bool:
        """Whether so much of a physical table is to be compacted that publishers should wait."""

    def flush(
        self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]
    ) -> CompactionReport:
        """Distribute recently published rows among the regions. Otherwise like `compact`."""

    def split(
        self,
        physical_id: PhysicalTableID,
        region_id: RegionID,
        at: Handle,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        """Put two regions in the place of one, in one step: below `at`, and from it on.

        They get ids of their own, and stay two. Invisible to every scan; does nothing where it was
        done before. Fails like `publish`, and

        Raises:
            RegionNotFoundError: the region is not there, or not any more.
            OptionError: `at` is not inside it.
            UnsupportedError: this engine has no regions.
        """

    def merge(
        self,
        physical_id: PhysicalTableID,
        left_id: RegionID,
        right_id: RegionID,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        """Put one region in the place of two neighbours, in one step. Otherwise like `split`.

        Raises:
            OptionError: they are no neighbours, or too large for one.
        """

    def move(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        """Have a region's own files in this partition alone, in one step.

        Invisible to every scan; does nothing where it was done before. Fails like `publish`, and

        Raises:
            RegionNotFoundError: the region is not there, or not any more.
            OptionError: there is no such partition, or it is missing.
            CorruptionError: a file of the region is damaged in all partitions that have it.
            UnsupportedError: this engine has no regions.
        """

    def copy(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        """Have a region's own files in this partition as well, now and from now on.

        A scan reads whichever copy is sound. Otherwise like `move`.
        """

    def add_partition(self, folder: Path) -> int:
        """Make an empty folder a partition; the number of the one in it where that was done before.

        Fails like `publish`, and

        Raises:
            OptionError: the folder is not there, not empty, or inside the store.
            UnsupportedError: this engine has no files.
        """

    def remove_partition(self, partition: int) -> None:
        """Give a partition's folder back.

        Fails like `publish`, and

        Raises:
            OptionError: there is no such partition, or it still has regions or files to be read.
            UnsupportedError: this engine has no files.
        """

    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        """Remove all versions of the rows from `start` to before `end`, with `others` in one step.

        None is no bound. Does nothing where nothing is there and no record changes. Scans that were
        planned under a read latch go on; later ones find nothing there, so whoever plans them must
        know. Otherwise like `compact`.
        """

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        """Remove all versions of physical tables in one step. Fails like `publish`.

        Scans that were planned under a read latch go on.
        """
