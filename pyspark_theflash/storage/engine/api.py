"""The contract of a storage engine, between replication and the scan planner.

                publish(versions, change)           plan(view, physical table) -> RegionScan ...
    replication  ───────────────────────►  Engine  ◄───────────────────────  planner (driver)
                                             ▲
                                             └───  scan(RegionScan, columns, ts)  a task, elsewhere

An engine stores row versions (`storage.mvcc.version`) by physical table and returns those visible
at a snapshot. It also stores the *records* of the layers above (progress, schema history, ledger)
and changes versions and records in one atomic commit. So a transaction over several tables and the
writer's progress are committed together. An engine depends on neither TiDB, sources nor Spark.
`docs/engines.md` describes how to add one, `pyspark_theflash.testing` tests it.

Who calls
    `storage.engine.registry` finds the engine's `EngineDriver` and calls `open_engine` in the one
    process that writes, and `open_reader` in any process that reads. The writer and maintenance
    call the methods of `Engine`, the planner `read`, `plan` and the statistics, a task `scan`, on
    any machine that has the store's folder. A `RegionScan` is pickled for Spark's tasks; for other
    clients its content is encoded as texts and sealed, so no client can change it.

Publication
    A store's folder has a manifest (`storage.store.manifest`): a map of records whose commits are
    atomic and durable. An engine may store its own records there, under kinds of its own. It

    1. writes the versions, durably, so that no reader sees them,
    2. commits the publication's records and its own, which name the versions, in one
       `Manifest.commit` with the fencing token taken at opening and the `guard`,
    3. returns the generation of that commit.

    A crash before 2 leaves versions without a name. They are never visible, and the next
    `open_engine` removes them. Data may be elsewhere than in the folder (a server, an object
    store), with the same steps: rows carry the number of their publication, or the records have the
    version of each table in the other system's log. A commit in that system is not a commit of the
    store, so it may be atomic for one table only.

Visibility
    `scan` at a timestamp returns, for each handle, the newest version with
    `_commit_ts <= snapshot_ts`, unless that is a delete. The result is the same before and after
    each compaction, flush, split, merge, move and collection.

    Each version is written once: deletes come without values, columns without values of this
    version have a mask (`storage.mvcc.version`), and columns of a scan that are not stored have a
    `fill`. `storage.mvcc.project.project` applies masks, fills and conversions to stored columns.

Concurrency
    One thread at a time uses an engine that is open for writing, except for pieces of compactions.
    Any number of readers, in any process, plan and scan meanwhile. A view and its plans stay valid
    until the reader's lease ends: nothing that a generation names is removed while
    `LeaseTable.oldest_generation()` is at or below it. Iterators of `scan` may be consumed in
    another thread.

Errors
    After a failed write or sync, nothing is known about the storage, so the engine rejects further
    writes (`Engine.publish`). Damaged data raises `CorruptionError` that names the file; it is
    never returned, skipped or repaired. Calls on other systems have deadlines and raise
    `EngineError`. What an engine does not have (regions, partitions) raises `UnsupportedError`.
"""

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import ColumnID, Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.mvcc.version import HANDLE, column_name
from pyspark_theflash.storage.store.manifest import Guard, ManifestChange, View
from pyspark_theflash.storage.store.partition import HOME, Partitions

Handle: TypeAlias = int | bytes
"""A row's identity in its physical table; one table's handles are all of one type."""


@dataclass(frozen=True, slots=True)
class VersionBatch:
    """Versions of rows of one physical table, `storage.mvcc.version.version_schema`.

    Invariants: sorted by (_handle, _commit_ts), which are unique together. Within a publication and
    across publications, the versions of a row have increasing `_commit_ts`.
    """

    physical_id: PhysicalTableID
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Publication:
    """Versions and record changes that become visible in one atomic commit.

    `versions` are iterated once, so they need not be in memory at the same time.
    """

    versions: Iterable[VersionBatch]
    change: ManifestChange


class RegionContent(Protocol):
    """Data that an engine reads for a region, as of planning.

    Can be pickled and compared. A scan needs nothing else than this and the store's folder.
    """

    def texts(self) -> tuple[str, ...]:
        """Return the content for tickets, not empty; see `EngineDriver.region_content`."""


@dataclass(frozen=True, slots=True)
class RegionScan:
    """The part of a scan in one region; can be pickled.

    `content` is private to the engine; None if the engine stores nothing for the region. `overlay`
    is the id of the rows in a learner's memory to merge (`tikv.overlay`), or None.
    """

    physical_id: PhysicalTableID
    region_id: RegionID
    content: RegionContent | None = None
    overlay: str | None = None


@dataclass(frozen=True, slots=True)
class RegionStats:
    """Storage statistics of a region: handles from `start` to before `end`, None for no bound.

    `files`, `rows` (versions) and `bytes` count the region's own files. `deltas` counts the recent
    files of the table, not distributed among its regions yet, that overlap this region;
    `shared_rows` and `shared_bytes` estimate its part of them, assuming evenly distributed handles.
    Each of `partitions` has all of the region's own files.
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
        """Return whether the region contains all handles from `low` to `high`, both inclusive."""
        is_above = self.start is None or low >= self.start  # type: ignore[operator]
        return is_above and (self.end is None or high < self.end)  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class FileStats:
    """Statistics of a file of a physical table. `rows` are versions.

    `region_id` is None for a file that belongs to no single region.
    """

    region_id: RegionID | None
    path: str
    kind: str
    rows: int
    bytes: int
    min_commit_ts: TimeStamp
    max_commit_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """A partition: its folder, its share of the store, and why it is unusable (None: it is not)."""

    partition: int
    folder: str
    files: int
    bytes: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class TableStats:
    """Storage statistics of a physical table; `rows` are versions."""

    files: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """Work done by a compaction. `rows_dropped` counts versions removed below the safe point."""

    rows_read: int = 0
    rows_written: int = 0
    rows_dropped: int = 0
    files_replaced: int = 0
    files_written: int = 0
    bytes_written: int = 0
    discarded: int = 0
    """Number of merges discarded because the table had changed before the commit."""

    def plus(self, other: "CompactionReport") -> "CompactionReport":
        """Return the sum of both reports."""
        return CompactionReport(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )


Piece: TypeAlias = Callable[[], CompactionReport]
"""One commit's worth of a compaction: a callable to run once. Raises what `Engine.publish` does."""


@dataclass(frozen=True, slots=True, eq=False)
class HandleSet:
    """Sorted, distinct row handles of one physical table; `id` identifies this set."""

    handles: pa.Array
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class RowCondition(Protocol):
    """Row filter of a scan, evaluated before the scan reads its other columns."""

    @property
    def columns(self) -> Sequence[ScanColumn]:
        """The columns that the condition reads."""

    def rows(
        self, batch: pa.RecordBatch, visible: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return a mask of the rows to return, among the visible ones.

        Called once for each row, since the result may depend on earlier rows. An exception ends the
        scan.

        Args:
            batch: the condition's columns, as read with `as_stored`.
            visible: the mask of visible rows, None if all are; other rows may hold any values.
        """


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of the values in each of `parts` parts of a region.

    Attributes:
        low: By column, a value for each part that no value in it is below; null: unknown.
        high: The same for the largest values.
        has_null: By column, whether each part may have NULLs. The other columns may have some.
    """

    parts: int
    low: Mapping[ColumnID, pa.Array]
    high: Mapping[ColumnID, pa.Array]
    has_null: Mapping[ColumnID, npt.NDArray[np.bool_]]


class PartCondition(Protocol):
    """Condition of all rows that a scan returns, for engines that skip parts of their files."""

    @property
    def columns(self) -> Sequence[ScanColumn]:
        """The columns of the condition; bounds must be of their types."""

    @property
    def sought(self) -> Mapping[ColumnID, Sequence[int | str | bytes]]:
        """By column, the values of which each row has one."""

    def possible(self, bounds: Bounds) -> npt.NDArray[np.bool_]:
        """Return a mask of the parts that may have rows to return."""


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """The columns, rows and timestamp of a scan of a region.

    Attributes:
        columns: The columns to return.
        snapshot_ts: The read timestamp, below MAX_TS.
        with_handle: Return `_handle` as the first column.
        dictionaries: Columns to return as `dictionary_of` their type; each batch has its own
            dictionary.
        as_stored: Other columns may be dictionaries, too, and decimals may be narrow
            (`tidb.codec.narrow`), whichever needs no conversion.
        condition: Returns which of the remaining rows to return.
        parts: Is true for the rows that `condition` returns; engines need not use it.
        without: Rows to leave out, before `condition`.
        budget: Memory and time for computed values.
    """

    columns: Sequence[ScanColumn]
    snapshot_ts: TimeStamp
    with_handle: bool = False
    dictionaries: Collection[ColumnID] = ()
    as_stored: bool = False
    condition: RowCondition | None = None
    parts: PartCondition | None = None
    without: HandleSet | None = None
    budget: Budget = DEFAULT_BUDGET

    @property
    def names(self) -> list[str]:
        """The names of the columns of the batches."""
        return [*[HANDLE] * self.with_handle, *(column_name(column.id) for column in self.columns)]


class WriterEngine(Protocol):
    """The part of `Engine` that the writer of a change stream uses, in process or over a server.

    Methods behave as those of `Engine`. After an error, the caller creates a new writer, which
    resumes from the state that `read` returns.
    """

    def read(self, kinds: Sequence[str]) -> View: ...

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]: ...

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]: ...

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]: ...

    def publish(self, publication: Publication) -> Generation: ...

    def compact(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> object: ...


class EngineReader(Protocol):
    """The read methods of an engine. Any number of readers may be open at the same time.

    `read` and `plan` are called on the driver, `scan` on any executor.
    """

    def read(self, kinds: Sequence[str]) -> View:
        """Return the verified records of these kinds and the engine's own, of one generation."""

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        """Return the regions of a physical table in `view`; none if the table has no versions."""

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        """Read the visible rows of a region.

        The iterator may be consumed in any thread, and after the engine is closed.

        Returns:
            Batches of bounded size in no particular order, with columns named `column_name(id)`.

        Raises:
            CorruptionError: Data is damaged. No row of the damaged part has been returned.
            UnsupportedError: Values cannot be computed, or are too many or too long for Arrow.
            SqlMemoryError: A computed value needs more memory than the budget.
        """

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        """Read `_handle`, `_commit_ts`, `_op` of all versions of rows from `start` to before `end`.

        Includes versions that no snapshot sees, for writers that check what is stored. Batches are
        in no particular order. A bound of None is open.

        Raises:
            CorruptionError: Data is damaged.
        """

    def versions(
        self,
        view: View,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        start: Handle | None,
    ) -> Iterator[pa.RecordBatch]:
        """Read all versions of rows from `start` on, to write them to another store.

        Includes versions that no snapshot sees. A `start` of None is open.

        Args:
            columns: all columns that the table has ever had, as for `Engine.compact`.

        Returns:
            Batches of bounded size, whose rows are sorted by (_handle, _commit_ts) over all
            batches. They have the four system columns of `version_schema`, then the columns of
            `copied_columns`: each with its absence mask, also if no row or all rows have it.

        Raises:
            CorruptionError: Data is damaged. No row of the damaged part has been returned.
        """

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        """Return the string columns that most of the region stores with dictionary encoding.

        They are cheaper to scan as dictionaries.
        """

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        """Return those of `columns` that are known to have no NULL in any row of the region.

        Raises:
            CorruptionError: A file's footer is damaged.
        """

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        """Return the physical tables that have versions in `view`, in order of their ids."""

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        """Return the regions of a physical table in `view`, in handle order; maybe none."""

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        """Return the size of a physical table in `view`; zeros if it is not stored."""

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        """Return what a garbage collection of a physical table at `safe_point` would rewrite."""

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        """Return the files of a physical table in `view`; none if the engine uses no files."""

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        """Return the partitions in `view`; none if the engine uses no files."""

    def check(self, view: View) -> Iterator[CorruptionError]:
        """Read everything that `view` names and yield each damage. Repairs nothing."""

    def close(self) -> None:
        """Release all resources; closing twice is an error."""


class Engine(EngineReader, Protocol):
    """A storage engine with its write methods. A store has at most one open at a time.

    One thread uses it, except for pieces of compactions (`begin`), which may run in another.
    """

    def publish(self, publication: Publication) -> Generation:
        """Commit versions and records atomically. Everything is durable when this returns.

        After `EngineError`, `StaleTokenError`, `InternalError` or an exception from outside this
        package, the engine rejects further writes. When the store is opened again, it has the whole
        publication or nothing of it. After any other error nothing has changed and the engine
        remains usable; after `StoreFullError` the same publication may be retried.
        """

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        """Merge the files of a physical table for faster reads.

        Does the merges that are worth their cost at present. A call without any is cheap, so it can
        be made after each publication. Raises what `publish` does; commits before the error remain.

        Args:
            columns: all columns that the table has ever had.
            safe_point: no snapshot below it is read any more. Of each rewritten row, the versions
                at or below it are dropped, except the newest, unless that is a delete. Scans at or
                above it are unaffected.
            everything: merge all recent files and drop all garbage, regardless of cost.
        """

    def begin(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        everything_to: TimeStamp | None = None,
        garbage_to: TimeStamp | None = None,
    ) -> Piece | None:
        """Plan one piece of a compaction, to be run in another thread; None: nothing to do.

        Called in the publishing thread, while no scan of this engine without a lease is running.
        Run each piece before planning the next, until None is returned. Anything else may be done
        between pieces and while one runs. A piece takes as long as rewriting a few regions;
        publications wait only for its commit.

        Args:
            everything_to: also merge recent files with commits up to this timestamp, regardless of
                cost; None: only the merges that are worth it.
            garbage_to: a safe point; only drop versions that no snapshot at or above it sees.
        """

    def is_behind(self, physical_id: PhysicalTableID) -> bool:
        """Return whether compaction lags so far behind that publishers should wait."""

    def flush(
        self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]
    ) -> CompactionReport:
        """Distribute recently published rows among the regions. Otherwise like `compact`."""

    def divide(self, physical_id: PhysicalTableID, bounds: Sequence[Handle]) -> None:
        """Divide a physical table without rows at ascending handles, if it is not divided yet.

        Rows that are published in order within each part are then not written again.
        """

    def split(
        self,
        physical_id: PhysicalTableID,
        region_id: RegionID,
        at: Handle,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        """Split a region into two, below `at` and from `at` on, in one commit.

        Both get new ids and are never merged automatically. Scans are unaffected. Does nothing if
        this split was done before. Raises what `publish` does, and

        Raises:
            RegionNotFoundError: The region does not exist (any more).
            OptionError: `at` is not inside the region.
            UnsupportedError: The engine has no regions.
        """

    def merge(
        self,
        physical_id: PhysicalTableID,
        left_id: RegionID,
        right_id: RegionID,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        """Merge two adjacent regions into one, in one commit. Otherwise like `split`.

        Raises:
            OptionError: The regions are not adjacent, or are too large for one region.
        """

    def move(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        """Move a region's own files to this partition, in one commit.

        Scans are unaffected. Does nothing if the files are in this partition only. Raises what
        `publish` does, and

        Raises:
            RegionNotFoundError: The region does not exist (any more).
            OptionError: The partition does not exist or its folder is missing.
            CorruptionError: A file of the region is damaged in all partitions that have it.
            UnsupportedError: The engine has no regions.
        """

    def copy(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        """Store a region's own files in this partition as well, present and future ones.

        A scan reads another copy if one is damaged. Otherwise like `move`.
        """

    def add_partition(self, folder: Path) -> int:
        """Make an empty folder a partition, and return the partition's number.

        Does nothing but return the number if the folder already is one of the store's partitions.
        Raises what `publish` does, and

        Raises:
            OptionError: The folder does not exist, is not empty, or is inside the store.
            UnsupportedError: The engine uses no files.
        """

    def remove_partition(self, partition: int) -> None:
        """Remove a partition, and the store's marks from its folder.

        Raises what `publish` does, and

        Raises:
            OptionError: The partition does not exist, or regions or pinned files are still in it.
            UnsupportedError: The engine uses no files.
        """

    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        """Remove all versions of rows from `start` to before `end`, and commit `others` with it.

        A bound of None is open. Does nothing if there are no such rows and `others` is None. Scans
        planned under a read latch still return the rows; later scans do not, so their planner has
        to check for purged ranges. Otherwise like `compact`.
        """

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        """Remove all versions of physical tables in one commit. Raises what `publish` does.

        Scans that were planned under a read latch still return the rows.
        """


class EngineDriver(Protocol):
    """The functions of an engine that `storage.engine.registry` calls; usually a module.

    They are called with the folder of a store of this engine, which has a manifest. `fs` does all
    file operations and `clock` all waiting, so that tests can make them fail. Importing the driver
    should import little: every command that opens a store does so.
    """

    def open_reader(self, path: Path, fs: FileSystem, clock: Clock) -> EngineReader:
        """Open a store for reading, also while it is written.

        Raises:
            CorruptionError: The store is damaged.
            StoreInUseError: Only one process can open it, and another has (never with files).
        """

    def open_engine(self, path: Path, fs: FileSystem, clock: Clock, guard: Guard | None) -> Engine:
        """Open a store as its only writer, and remove what was written but never committed.

        Args:
            guard: pass it to each `Manifest.commit` of the publications; it rejects commits.

        Raises:
            StoreInUseError: Another process has the store open for writing.
            CorruptionError: The store is damaged.
        """

    def region_content(self, texts: Sequence[str]) -> RegionContent:
        """Decode `RegionContent.texts`. Raises `CodecError`: the texts are of another version."""
