"""Engine of a store of Delta tables, for its writer.

It is not an `EngineDriver`: it needs a Spark session and not a folder of this machine, its commit
point is a Delta table and not the manifest, and its readers are Spark's executors
(`snapshot.py`). It has the calls of a `WriterEngine`, so pairing, schema, placement and progress
are those of every other engine; `write` takes changes that executors decode.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Final

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, lit
from pyspark.sql.types import StructType

from pyspark_theflash.base.errors import EngineError, StaleTokenError, UnsupportedError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import ColumnID, Generation, PhysicalTableID, RegionID, TableID
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.replication.apply.decoding import DecodeFailure
from pyspark_theflash.spark.delta import table
from pyspark_theflash.spark.delta.decode import (
    Finding,
    FindingsParam,
    chunks_of,
    decoder,
    odd_columns,
    to_rows,
)
from pyspark_theflash.spark.delta.encoding import (
    COMMON,
    PARTITIONED_BY,
    PHYSICAL,
    SYSTEM,
    batch_columns,
    json_ids,
    stored_fields,
)
from pyspark_theflash.spark.delta.publication import (
    HOME_KIND,
    ODD_KIND,
    SHAPE_KIND,
    TABLE_KIND,
    Home,
    Publications,
    PublishedState,
)
from pyspark_theflash.spark.delta.stored import StoredRows
from pyspark_theflash.spark.delta.table import BatchId, Commit
from pyspark_theflash.storage.engine.api import (
    CompactionReport,
    Handle,
    Publication,
    RegionScan,
    ScanSpec,
    VersionBatch,
)
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of, project
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, absence
from pyspark_theflash.storage.store.base_load import BASE_LOAD_KIND
from pyspark_theflash.storage.store.coverage import BASE_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.schema.lineage import double_writes
from pyspark_theflash.tidb.schema.model import TableInfo

ROWS_A_TASK: Final = 4096
"""Minimum number of changes for which a batch is divided into another task."""
_THREADS: Final = 4
_NONE: Final = -1
"""The version of a Delta table that does not exist."""
_REGION: Final = RegionID(1)
Writes = dict[TableID, list[DataFrame]]


class DeltaEngine:
    """The only writer of a store; a later one takes over. Implements `WriterEngine`.

    `owner` returns the definition of a physical table that has no rows yet. `DeltaApplier` sets it.
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        """Become the writer of the store at `path`.

        Raises:
            StoreNotFoundError: There is no store.
        """
        self._spark = spark
        self._publications = Publications(spark, path)
        self.open_again()
        self.owner: Callable[[PhysicalTableID], TableInfo | None] = lambda physical_id: None

    def open_again(self) -> None:
        """Continue from what is published, also after an error. Raises `StoreNotFoundError`."""
        self._state = self._publications.claim()
        # `next` is atomic: several threads write.
        self._numbers = itertools.count(1)
        self._is_failed = False
        self._versions = dict(self._state.versions)
        self._new: dict[tuple[str, str], Record] = {}
        self._homes, self._shapes = self._state.homes, self._state.shapes

    @property
    def store_id(self) -> str:
        """The store's id."""
        return self._state.store_id

    @property
    def state(self) -> PublishedState:
        """The records as last published."""
        return self._state

    def read(self, kinds: Sequence[str]) -> View:
        view = self._state.view()
        return View(view.generation, {kind: view.of_kind(kind) for kind in kinds})

    # -- writing

    def write(self, changes: Sequence[TableChanges]) -> frozenset[DecodeFailure]:
        """Decode changes on executors and write them to the tables, without publishing them.

        Call `commit` to publish them.

        Returns:
            Why the rows of some tables could not be determined.

        Raises:
            StaleTokenError: Another writer has taken over.
            EngineError: An earlier write failed.
        """
        findings = self._spark.sparkContext.accumulator(frozenset(), FindingsParam())
        writes: Writes = defaultdict(list)
        for each in changes:
            fields = stored_fields(_columns_of(each.table), json_ids(each.table))
            schema = StructType([*SYSTEM.fields, *fields])
            shape = self._shape(c.id for c in stored_columns(each.table))
            count = max(1, min(each.count // ROWS_A_TASK, self._parallelism))
            rows = self._spark.createDataFrame(chunks_of(each, count)).mapInArrow(
                decoder(each.table, each.placement, schema, shape, findings), schema
            )
            self._add(writes, rows, each.table, _targets(each))
        self._write(writes)
        self._note_odd(findings.value)
        return frozenset(f for f in findings.value if isinstance(f, DecodeFailure))

    def publish(self, publication: Publication) -> Generation:
        """Write decoded versions and publish them with the change. Raises what `write` does."""
        by_table: dict[tuple[TableID, pa.Schema], list[VersionBatch]] = defaultdict(list)
        for versions in publication.versions:
            home = self._home(versions.physical_id).table_id
            by_table[home, versions.batch.schema].append(versions)
        writes: Writes = defaultdict(list)
        for (home, arrow_schema), batches in by_table.items():
            self._note_odd(each for versions in batches for each in odd_columns(versions))
            columns = batch_columns(arrow_schema)
            json = json_ids(self.owner(batches[0].physical_id))
            schema = StructType([*SYSTEM.fields, *stored_fields(columns, json)])
            shape = self._shape(id for id, _ in columns if id >= 0)
            # The rows of a base are the first ones of their table.
            are_plain = any(r.kind in (BASE_KIND, BASE_LOAD_KIND) for r in publication.change.puts)
            rows = pa.Table.from_batches(
                [to_rows(v, schema, shape, are_plain=are_plain) for v in batches]
            )
            writes[home].append(self._spark.createDataFrame(rows, schema))
        self._write(writes)
        return self.commit(publication.change)

    def commit(self, change: ManifestChange) -> Generation:
        """Publish what was written, and a change of the records, in one step.

        Raises:
            StaleTokenError: Another writer has taken over, and nothing was published.
            EngineError: An earlier write failed.
        """
        self._check()
        versions = [
            Record(TABLE_KIND, str(id), json.dumps(version).encode())
            for id, version in self._versions.items()
            if self._state.versions.get(id) != version
        ]
        puts = [*change.puts, *self._new.values(), *versions]
        self._is_failed = True
        self._state = self._publications.commit(
            self._state, ManifestChange(puts, change.deletes), self._next()
        )
        self._is_failed = False
        self._new.clear()
        return self._state.generation

    def compact(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> object:
        """Do nothing: `maintenance` compacts whole tables."""
        return CompactionReport()

    def optimize(self, table_id: TableID) -> bool:
        """Merge the small files of a table by OPTIMIZE; return whether there were any.

        `commit` publishes it. Raises what `write` does.
        """
        path, published = self.table_path(table_id), self._versions[table_id]
        batch = self._begin()
        table.optimize(self._spark, path, batch)
        later = table.commits_after(self._spark, path, published)
        if later and [commit.tag for commit in later] != [batch.tag]:
            self._check_token([commit for commit in later if commit.tag])
            raise EngineError(path, "has changes that are not published: write to it first")
        self._versions[table_id] = later[-1].version if later else published
        self._is_failed = False
        return bool(later)

    def rewrite(self, table_id: TableID, rows: DataFrame) -> None:
        """Replace all rows of a table. `commit` publishes it. Raises what `write` does."""
        path, published = self.table_path(table_id), self._versions[table_id]
        batch = self._begin()
        table.append(rows, path, batch, partitioned_by=PARTITIONED_BY, replaces=True)
        later = table.commits_after(self._spark, path, published)
        self._check_token(later)
        # The rows are those of the published version, so other commits before it are undone.
        if later[-1].tag != batch.tag:
            raise EngineError(path, "another application writes to this table")
        self._versions[table_id] = later[-1].version
        self._is_failed = False

    def frame(self, table_id: TableID) -> DataFrame:
        """Return all published versions of the rows of a table."""
        return table.read(self._spark, self.table_path(table_id), self._state.versions[table_id])

    def table_path(self, table_id: TableID) -> str:
        """Return the path of a table's Delta table."""
        return self._publications.table_path(table_id)

    @property
    def path(self) -> str:
        """The store's path."""
        return self._publications.path

    def check_fence(self) -> None:
        """Raise `StaleTokenError` if another writer has taken over."""
        if (current := self._publications.read().token) != self._state.token:
            raise StaleTokenError(self._state.token, current)

    def close(self) -> None:
        """Do nothing: the Spark session is the caller's."""

    def _write(self, writes: Writes) -> None:
        """Commit rows to Delta tables, each in one commit, several at the same time."""
        # All tables of the batch have its number.
        batch = self._begin()
        with ThreadPoolExecutor(_THREADS) as threads:
            tasks = [threads.submit(self._append, id, rows, batch) for id, rows in writes.items()]
            versions = [task.result() for task in tasks]
        self._versions |= dict(zip(writes, versions, strict=True))
        self._is_failed = False

    def _append(self, table_id: TableID, parts: Sequence[DataFrame], batch: BatchId) -> int:
        """Commit rows to a Delta table right after its published version; return the new version.

        What an earlier writer left there without publishing it is undone first.
        """
        path = self._publications.table_path(table_id)
        published = self._versions.get(table_id, _NONE)
        rows = reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), parts)
        fail_point("delta.before_table")
        table.append(rows, path, batch, partitioned_by=PARTITIONED_BY)
        later = table.commits_after(self._spark, path, published)
        if [commit.tag for commit in later] != [batch.tag]:
            # Among the others is what an earlier writer has left here without publishing it.
            self._check_token(later)
            later = self._replace(rows, path, published)
        return later[-1].version

    def _replace(self, rows: DataFrame, path: str, published: int) -> list[Commit]:
        """Append rows to the published version of a Delta table, without what came after it."""
        batch, is_new = self._next(), published == _NONE
        if not is_new:
            table.restore(self._spark, path, published)
        table.append(rows, path, batch, partitioned_by=PARTITIONED_BY, replaces=is_new)
        later = table.commits_after(self._spark, path, published)
        self._check_token(later)
        expected = [(batch.tag, None)] if is_new else [("", published), (batch.tag, None)]
        if [(c.tag, c.restored) for c in later[-len(expected) :]] != expected:
            raise EngineError(path, "another application writes to this table")
        return later

    def _check_token(self, commits: Sequence[Commit]) -> None:
        """Raise `StaleTokenError` if a later writer has written to a table."""
        newest = max((commit.token for commit in commits), default=0)
        if newest != self._state.token:
            raise StaleTokenError(self._state.token, newest)

    def _begin(self) -> BatchId:
        """Return the next batch; nothing can be written until `_is_failed` is false again."""
        self._check()
        self._is_failed = True
        return self._next()

    def _check(self) -> None:
        if self._is_failed:
            raise EngineError(self._publications.path, "an earlier write failed: open it again")

    def _next(self) -> BatchId:
        return BatchId(self._state.store_id, self._state.token, next(self._numbers))

    @property
    def _parallelism(self) -> int:
        return self._spark.sparkContext.defaultParallelism

    def _shape(self, ids: Iterable[int]) -> int:
        """Return the number of a set of columns, a new one if necessary."""
        columns = frozenset(ids)
        for number, ids_of_shape in self._shapes.items():
            if ids_of_shape == columns:
                return number
        number = len(self._shapes)
        self._shapes[number] = columns
        record = Record(SHAPE_KIND, str(number), json.dumps(sorted(columns)).encode())
        self._new[record.kind, record.key] = record
        return number

    def _note_odd(self, findings: Iterable[Finding]) -> None:
        """Record the columns that have dates which do not exist."""
        recorded = self._state.records.get(ODD_KIND, {})
        for each in findings:
            if (
                not isinstance(each, DecodeFailure)
                and (key := f"{each[0]},{each[1]}") not in recorded
            ):
                self._new[ODD_KIND, key] = Record(ODD_KIND, key, b"")

    def _home(self, physical_id: PhysicalTableID, owner: TableInfo | None = None) -> Home:
        """Return where the rows of a physical table are."""
        if (home := self._homes.get(physical_id)) is not None:
            return home
        owner = owner or self.owner(physical_id)
        if owner is None:
            raise UnsupportedError("rows of a table without a schema", str(physical_id))
        home = self._homes[physical_id] = Home(owner.id, owner.is_common_handle)
        record = Record(HOME_KIND, str(physical_id), home.to_json())
        self._new[record.kind, record.key] = record
        return home

    def _add(
        self,
        writes: Writes,
        rows: DataFrame,
        info: TableInfo,
        physical_ids: Iterable[PhysicalTableID],
    ) -> None:
        homes: dict[TableID, list[PhysicalTableID]] = defaultdict(list)
        for physical_id in physical_ids:
            homes[self._home(physical_id, info).table_id].append(physical_id)
        for home, ids in homes.items():
            writes[home].append(rows if len(homes) == 1 else rows.where(col(PHYSICAL).isin(ids)))

    # -- reading, for DDL that moves rows, and to determine partitions by rows

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        is_stored = self._stored(physical_id) is not None
        return [RegionScan(physical_id, _REGION)] if is_stored else []

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        if spec.condition is not None or spec.without is not None:
            raise UnsupportedError("a filtered scan by the writer", "engine delta")
        rows = self._stored(region.physical_id)
        if rows is None:
            return
        is_common = self._homes[region.physical_id].is_common
        handle = COMMON if is_common else HANDLE
        frame = rows.visible([region.physical_id], spec.snapshot_ts, is_common=is_common)
        read = rows.read(spec.columns, handle if spec.with_handle else None)
        for batch in frame.select(*read.expressions).toArrow().to_batches():
            stored = read.decoder().decoded(batch)
            handles = [stored[HANDLE]] * spec.with_handle
            arrays = [*handles, *project(stored, spec.columns, batch.num_rows)]
            yield batch_of(spec.names, arrays, batch.num_rows)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        rows = self._stored(physical_id)
        if rows is None:
            return
        frame = rows.frame.where(col(PHYSICAL) == physical_id)
        handle = COMMON if self._homes[physical_id].is_common else HANDLE
        if start is not None:
            frame = frame.where(col(handle) >= lit(start))
        if end is not None:
            frame = frame.where(col(handle) < lit(end))
        keys = frame.select(col(handle).alias(HANDLE), COMMIT_TS, OP).toArrow()
        for batch in keys.to_batches():
            arrays = batch.columns
            yield batch_of(
                [HANDLE, COMMIT_TS, OP],
                [arrays[0], arrays[1].cast(pa.uint64()), arrays[2].cast(pa.uint8())],
                batch.num_rows,
            )

    def _stored(self, physical_id: PhysicalTableID) -> StoredRows | None:
        home = self._homes.get(physical_id)
        version = None if home is None else self._state.versions.get(home.table_id)
        if home is None or version is None:
            return None
        path = self._publications.table_path(home.table_id)
        return StoredRows(table.read(self._spark, path, version), self._shapes)


def _columns_of(info: TableInfo) -> list[tuple[ColumnID, pa.DataType]]:
    """Return the columns and masks that decoded rows of a table may have."""
    columns = []
    for column in stored_columns(info):
        columns.append((column.id, arrow_type(column.type)))
        if column.origin_default is not None or column.changing_offset is not None:
            columns.append((absence(column.id), pa.bool_()))
    return columns


def _targets(changes: TableChanges) -> Iterable[PhysicalTableID]:
    """Return the physical tables that rows may be written to."""
    placement = changes.placement or changes.table
    double = double_writes(placement)
    ids = [*placement.physical_ids]
    if double is not None:
        ids += [*double.first.physical_ids, *double.second.physical_ids]
    return dict.fromkeys(ids)
