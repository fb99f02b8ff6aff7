"""Reads of a table: planned on the driver, executed on executors.

Spark plans a DataFrame's read once, at its first action, and keeps the partitions for later ones.
The plan's read latch expires when nothing has been read for a while, and the plan's files may then
be removed. A task that starts later plans the read again at the same timestamp: the rows are the
same, only the files differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.datasource import DataSourceReader, InputPartition
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from pyspark_theflash.base.errors import CorruptionError, LeaseExpiredError, UnsupportedError
from pyspark_theflash.base.read_options import WAIT, ScanOptions
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.service.client.theflash import SHORT_MS, TheFlash
from pyspark_theflash.service.wire.message import (
    Column,
    Plan,
    PlanRequest,
    Reading,
    ReadOptions,
    Setting,
    Split,
)
from pyspark_theflash.service.wire.method import method
from pyspark_theflash.spark.place import Place, without_secrets
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.model import ColumnInfo

MAX_BATCH_ROWS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class ScanTarget:
    """Table at a fixed timestamp, with the columns that the options select."""

    place: Place
    request: PlanRequest
    table: str
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation

    @classmethod
    def look_up(cls, options: Mapping[str, str]) -> "ScanTarget":
        """Resolve the options of a read.

        Raises:
            OptionError: An option is missing, unknown or invalid.
            TheFlashError: The timestamp or table cannot be read, or the server cannot be reached.
        """
        place = Place.of(options)
        if place.is_folder:
            ScanOptions.parse(options)
        settings = without_secrets(options)
        wait_s = WAIT.value_in({name.lower(): text for name, text in settings.items()}) or 0.0
        request = ReadOptions(tuple(Setting(*each) for each in sorted(settings.items())))
        with place.connect() as store:
            timeout_ms = SHORT_MS + round(wait_s * 1000)
            reading: Reading = store.call(method("PrepareRead"), request, timeout_ms)
        schema = pa.ipc.read_schema(pa.py_buffer(reading.table.arrow_schema))
        shown = reading.request.presentation
        return cls(
            place,
            reading.request,
            reading.table.name,
            tuple(map(_column, reading.table.columns, schema)),
            Presentation(ZeroDates(shown.zero_dates or "raise"), shown.as_text),
        )


class SplitPartition(InputPartition):
    """A split of a plan.

    `regions` are the ids of all regions in the plan of the split's physical table.
    """

    value: Split

    def __init__(self, split: Split, regions: frozenset[int]) -> None:
        super().__init__(split)
        self.regions = regions


class TheFlashReader(DataSourceReader):
    """Reader of some columns of a table. Pickled to every task, so it contains values only.

    It accepts no filters from Spark. Spark 4.2 reuses what a reader with filters has planned for
    the next query on the same DataFrame, whose filters differ: rows would be missing. The option
    `where` filters rows before Spark.
    """

    def __init__(
        self, target: ScanTarget, columns: Sequence[ColumnInfo], schema: StructType
    ) -> None:
        self._place, self._columns, self._schema = target.place, columns, schema
        names = tuple(column.name for column in columns)
        self._request = replace(target.request, columns=names, no_columns=not names)

    def partitions(self) -> Sequence[InputPartition]:
        """Return one partition for each split."""
        with self._place.opened() as store:
            plan = self._plan(store)
            if not plan.splits:
                store.release(plan.snapshot)
        return [SplitPartition(s, frozenset(_like(s, plan.splits))) for s in plan.splits]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a partition. For a plan without partitions, Spark passes its own."""
        if not isinstance(partition, SplitPartition):
            return
        schema = arrow_schema(self._schema)
        with self._place.opened() as store:
            for batch in self._scan(store, partition):
                yield from spark_batches(batch, self._columns, schema)

    def _scan(self, store: TheFlash, partition: SplitPartition) -> Iterator[pa.RecordBatch]:
        batches = store.read(Plan(splits=(partition.value,)))
        try:
            first = next(batches, None)
        except LeaseExpiredError as error:
            new_splits = _like(partition.value, self._plan(store).splits)
            if new_splits.keys() != partition.regions:
                # The regions have changed, so splits of both plans would miss or repeat rows.
                raise error from None
            batches = store.read(Plan(splits=(new_splits[partition.value.region_id],)))
            first = next(batches, None)
        return iter(()) if first is None else chain([first], batches)

    def _plan(self, store: TheFlash) -> Plan:
        """Plan the read; its tasks use the plan's read latch."""
        plan: Plan = store.call(method("PlanScan"), self._request, SHORT_MS)
        return plan


def _like(split: Split, splits: Sequence[Split]) -> Mapping[int, Split]:
    """Return the splits of the same physical table, by region."""
    return {s.region_id: s for s in splits if s.physical_id == split.physical_id}


def _column(column: Column, field: "pa.Field[pa.DataType]") -> ColumnInfo:
    """Convert a column of the API; sets only what a reader needs."""
    try:
        tp = MySQLType[column.type]
    except KeyError:
        raise UnsupportedError(f"type {column.type}", f"column {column.name}") from None
    flag = (ColumnFlag.UNSIGNED if column.unsigned else 0) | (
        0 if column.nullable else ColumnFlag.NOT_NULL
    )
    charset = "binary" if pa.types.is_binary(field.type) else "utf8mb4"
    kind = FieldType(tp, int(flag), column.flen, column.decimal, charset, column.collation)
    return ColumnInfo(ColumnID(column.id), column.name, 0, kind, comment=column.comment)


def arrow_schema(schema: StructType) -> pa.Schema:
    """Return the Arrow schema that Spark expects of batches of `schema`."""
    return to_arrow_schema(schema, timezone="UTC")


def spark_batches(
    batch: pa.RecordBatch, columns: Sequence[ColumnInfo], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Cast a scanned batch for Spark, and split it into batches of at most `MAX_BATCH_ROWS` rows.

    Spark compares the first batch of a task with the schema's Arrow form (order, type, unit,
    nullability) and trusts the rest, so every batch is cast.

    Raises:
        CorruptionError: A NOT NULL column contains a NULL; Spark would read an arbitrary value.
    """
    for start in range(0, batch.num_rows, MAX_BATCH_ROWS):
        part = batch.slice(start, MAX_BATCH_ROWS)
        arrays = [_cast(*each) for each in zip(part.columns, columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(values: pa.Array, column: ColumnInfo, field: pa.Field) -> pa.Array:
    if values.null_count and not field.nullable:
        raise CorruptionError(f"column {column.name}", 0, "a NULL in a NOT NULL column")
    if pa.types.is_decimal256(values.type):
        values = format_column(values, column.type)
    return pc.cast(values, field.type)
