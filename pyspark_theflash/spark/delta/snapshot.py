"""Reads of a store of Delta tables: DataFrames of any timestamp.

    snapshot = DeltaSnapshot(spark, "s3a://bucket/store")
    snapshot.table("shop.orders").where("o_total > 100").count()

A snapshot takes the versions of all Delta tables from one version of the publication table. Spark's
own Parquet reader reads them on executors, with its pruning and push-down; visibility and columns
are Spark expressions. Only columns that no expression can compute (`native.py`) are computed in
Python, on executors.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.base.errors import PurgedError, TableNotReplicatedError, UnsupportedError
from pyspark_theflash.base.read_options import timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.read.plan.columns import named_columns
from pyspark_theflash.read.plan.origin import FILES
from pyspark_theflash.read.present import NATIVE, Presentation
from pyspark_theflash.spark.delta import table
from pyspark_theflash.spark.delta.encoding import COMMON
from pyspark_theflash.spark.delta.native import native_columns, select
from pyspark_theflash.spark.delta.publication import Publications
from pyspark_theflash.spark.delta.stored import ColumnRead, StoredRows
from pyspark_theflash.spark.reader import arrow_schema, spark_batches
from pyspark_theflash.spark.schema import spark_schema
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of, project, scan_column
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.coverage import Coverage
from pyspark_theflash.storage.store.purged import purged_at
from pyspark_theflash.storage.store.scope import ScopedTables, TableScope
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ColumnInfo, TableInfo
from pyspark_theflash.tidb.schema.owners import Owners

ScanColumns = tuple[ScanColumn, ...]


class DeltaSnapshot:
    """A store of Delta tables at `snapshot_ts`, which is fixed on creation."""

    snapshot_ts: Final[TimeStamp]

    def __init__(
        self, spark: SparkSession, path: str, snapshot_ts: AnyTimestamp | None = None
    ) -> None:
        """Fix the timestamp; without `snapshot_ts`, the newest that can be read.

        Args:
            spark: a session with Delta Lake's jars and extension.
            path: the store's folder or URL, for any of Spark's file systems.
            snapshot_ts: a TSO, a time with its zone as text, or a `datetime` with a time zone.

        Raises:
            OptionError: `snapshot_ts` is not a timestamp.
            StoreNotFoundError: There is no store.
            NotCaughtUpError: The store has not applied everything up to `snapshot_ts`.
            SnapshotTooOldError: `snapshot_ts` is before the store's oldest readable timestamp.
        """
        wanted = None if snapshot_ts is None else timestamp_option("snapshot_ts", snapshot_ts)
        self._spark, self._publications = spark, Publications(spark, path)
        self._state = self._publications.read()
        self._view = self._state.view()
        self.snapshot_ts = ts = FILES.choose(self._view, wanted)
        history = FILES.history(self._view, ts)
        self._history = history or SchemaHistory(ts, ts, (), ())
        self._scope = ScopedTables(TableScope.of(self._view) or TableScope(), self._history)
        self._coverage = Coverage(self._view, self._history)
        self._owners = Owners(self._history)

    @property
    def tables(self) -> list[str]:
        """`db.table` of every table at the timestamp."""
        events = self._history.listed_at(self.snapshot_ts)
        return [e.full_name for e in events if self._scope.contains(e.table_id)]

    def info(self, name: str) -> TableInfo:
        """Return the definition of the table `db.table`.

        Raises:
            TableNotFoundError: There is no such table.
            TableNotReplicatedError: The store's scope excludes the table.
            UnsupportedError: It is a view or a sequence.
            TableNotLoadedError, TableSetAsideError: Not all of its rows are known.
        """
        table_info = self._history.table_by_name(name, self.snapshot_ts)
        if not self._scope.contains(table_info.id):
            raise TableNotReplicatedError(table_info.full_name)
        if not table_info.holds_rows:
            raise UnsupportedError("reading a view or a sequence", table_info.full_name)
        FILES.check_table(self._view, table_info, self.snapshot_ts)
        self._coverage.check(table_info, self.snapshot_ts)
        for physical_id in table_info.physical_ids:
            if (safe_point := purged_at(self._view, physical_id)) is not None:
                raise PurgedError(table_info.full_name, safe_point)
        return table_info

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        presentation: Presentation = NATIVE,
    ) -> DataFrame:
        """Return a table as a DataFrame.

        Args:
            columns: names in output order, also `_tidb_rowid` if the table has one. None: those of
                `SELECT *`.
            presentation: the returned form; TiDB's texts are computed in Python.

        Raises:
            ColumnNotFoundError: There is no such column. Otherwise what `info` raises.
        """
        info = self.info(name)
        chosen = named_columns(info, columns)
        parts = [
            self._part(info, home, ids, chosen, scanned, presentation)
            for home, ids, scanned in self._groups(info, chosen)
        ]
        if not parts:
            return self._spark.createDataFrame([], spark_schema(chosen, presentation))
        first, *others = parts
        for other in others:
            first = first.union(other)
        return first

    def view_sql(self, name: str) -> str:
        """Return a query of a table's rows for Spark with Delta Lake, without this package.

        Raises:
            UnsupportedError: A column needs Python. Otherwise what `info` raises.
        """
        info = self.info(name)
        chosen, queries = info.public_columns, []
        for home, ids, scanned in self._groups(info, chosen):
            rows, odd = self._rows(home), self._odd(ids)
            native = native_columns(rows, chosen, scanned, NATIVE, odd)
            if native is None:
                raise UnsupportedError("a view with columns that Spark cannot compute", name)
            path = table.quoted(self._publications.table_path(home))
            version = self._state.versions[home]
            source = f"(SELECT * FROM {path} VERSION AS OF {version})"  # noqa: S608 (quoted)
            is_common = info.is_common_handle
            queries.append(select(source, native, ids, self.snapshot_ts, is_common=is_common))
        if not queries:
            raise UnsupportedError("a view of a table that never had rows", name)
        return " UNION ALL ".join(queries)

    def _rows(self, home: TableID) -> StoredRows:
        path, version = self._publications.table_path(home), self._state.versions[home]
        return StoredRows(table.read(self._spark, path, version), self._state.shapes)

    def _odd(self, ids: Sequence[PhysicalTableID]) -> frozenset[int]:
        return frozenset(column for physical_id, column in self._state.odd if physical_id in ids)

    def _groups(
        self, info: TableInfo, chosen: Sequence[ColumnInfo]
    ) -> Iterator[tuple[TableID, Sequence[PhysicalTableID], ScanColumns]]:
        """Yield Delta tables, and the physical tables there whose columns are read alike."""
        columns = [c for c in chosen if c is not ROWID_COLUMN]
        usual = self._owners.past_of(info, self.snapshot_ts)
        homes, versions = self._state.homes, self._state.versions
        alike: dict[TableID, list[PhysicalTableID]] = defaultdict(list)
        for physical_id in info.physical_ids:
            home = homes.get(physical_id)
            if home is None or home.table_id not in versions:
                continue
            past = self._owners.past(info, physical_id, self.snapshot_ts)
            if not past.moved_from and all(owner.id == info.id for owner in past.tables):
                alike[home.table_id].append(physical_id)
                continue
            past = replace(past, has_base=self._coverage.is_from_folder(past.tables[0]))
            scanned = tuple(scan_column(info, c, past) for c in columns)
            yield home.table_id, [physical_id], scanned
        for table_id, ids in alike.items():
            yield table_id, ids, tuple(scan_column(info, c, usual) for c in columns)

    def _part(
        self,
        info: TableInfo,
        home: TableID,
        ids: Sequence[PhysicalTableID],
        chosen: Sequence[ColumnInfo],
        scanned: ScanColumns,
        presentation: Presentation,
    ) -> DataFrame:
        rows = self._rows(home)
        visible = rows.visible(ids, self.snapshot_ts, is_common=info.is_common_handle)
        native = native_columns(rows, chosen, scanned, presentation, self._odd(ids))
        if native is not None:
            return visible.selectExpr(*native)
        handle = COMMON if info.is_common_handle else HANDLE
        read = rows.read(scanned, handle)
        return _computed(visible, read, chosen, scanned, presentation)


def _computed(
    visible: DataFrame,
    read: ColumnRead,
    chosen: Sequence[ColumnInfo],
    scanned: ScanColumns,
    presentation: Presentation,
) -> DataFrame:
    """Return the columns of a scan as computed by `storage.mvcc.project` on executors."""
    schema = spark_schema(chosen, presentation)
    decoder, expected = read.decoder(), arrow_schema(schema)

    def compute(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            stored = decoder.decoded(batch)
            values = iter(project(stored, scanned, batch.num_rows))
            columns = [
                stored[HANDLE]
                if column.id == ROWID_COLUMN.id
                else presentation.apply(next(values), column.type, column.name)
                for column in chosen
            ]
            shown = batch_of([column.name for column in chosen], columns, batch.num_rows)
            yield from spark_batches(shown, chosen, expected)

    return visible.select(*read.expressions).mapInArrow(compute, schema)
