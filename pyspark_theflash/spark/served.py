"""The read of a table from a server: planned on the driver, run on executors, as in `reader.py`.

The server says what the options mean and hands out rows; here they get the form that Spark takes.
A plan's latch ends when nothing has been read for a while, and a task that comes later plans anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from pyspark.sql.datasource import DataSourceReader, InputPartition
from pyspark.sql.types import StructType

from pyspark_theflash.base.errors import LeaseExpiredError, UnsupportedError
from pyspark_theflash.base.options import WAIT
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.read.present import Presentation, ZeroDates
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
from pyspark_theflash.spark.convert import arrow_schema, spark_batches
from pyspark_theflash.spark.place import Server, without_secrets
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.schema.model import ColumnInfo

if TYPE_CHECKING:
    from pyspark_theflash.service.client.theflash import TheFlash

_SHORT_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """What is read, at a moment that is fixed; `columns` are those that the options ask for."""

    server: Server
    request: PlanRequest
    table: str
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation

    @classmethod
    def look_up(cls, server: Server, options: Mapping[str, str]) -> "ServedTarget":
        """Ask the server what `options` come to.

        Raises:
            TheFlashError: what the call fails with, which is what a folder would fail with.
        """
        settings = without_secrets(options)
        wait_s = WAIT.value_in({name.lower(): text for name, text in settings.items()}) or 0.0
        asked = ReadOptions(tuple(Setting(*each) for each in sorted(settings.items())))
        with server.connect() as store:
            timeout_ms = _SHORT_MS + round(wait_s * 1000)
            told: Reading = store.call(method("PrepareRead"), asked, timeout_ms)
        schema = pa.ipc.read_schema(pa.py_buffer(told.table.arrow_schema))
        shown = told.request.presentation
        return cls(
            server,
            told.request,
            told.table.name,
            tuple(map(_column, told.table.columns, schema)),
            Presentation(ZeroDates(shown.zero_dates or "raise"), shown.as_text),
        )

    def reader(self, columns: Sequence[ColumnInfo], schema: StructType) -> DataSourceReader:
        """A reader of these columns."""
        return ServedReader(self, columns, schema)


class SplitPartition(InputPartition):
    """A split; `regions` are all that the plan has of its physical table, its own among them."""

    value: Split

    def __init__(self, split: Split, regions: frozenset[int]) -> None:
        super().__init__(split)
        self.regions = regions


class ServedReader(DataSourceReader):
    """A table of a server. Pickled to every task; takes no filters, see `TheFlashReader`."""

    def __init__(
        self, target: ServedTarget, columns: Sequence[ColumnInfo], schema: StructType
    ) -> None:
        self._server, self._columns, self._schema = target.server, columns, schema
        names = tuple(column.name for column in columns)
        self._request = replace(target.request, columns=names, no_columns=not names)

    def partitions(self) -> Sequence[InputPartition]:
        """One partition a split."""
        with self._server.connect() as store:
            plan = self._plan(store)
            if not plan.splits:
                store.release(plan.snapshot)
        return [SplitPartition(s, frozenset(_like(s, plan.splits))) for s in plan.splits]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a partition. Where there is none, Spark makes one itself, without a task."""
        if not isinstance(partition, SplitPartition):
            return
        schema = arrow_schema(self._schema)
        with self._server.connect() as store:
            for batch in self._scan(store, partition):
                yield from spark_batches(batch, self._columns, schema)

    def _scan(self, store: "TheFlash", partition: SplitPartition) -> Iterator[pa.RecordBatch]:
        batches = store.read(Plan(splits=(partition.value,)))
        try:
            first = next(batches, None)
        except LeaseExpiredError as error:
            again = _like(partition.value, self._plan(store).splits)
            if again.keys() != partition.regions:
                # Splits of both plans do not mix.
                raise error from None
            batches = store.read(Plan(splits=(again[partition.value.region_id],)))
            first = next(batches, None)
        return iter(()) if first is None else chain([first], batches)

    def _plan(self, store: "TheFlash") -> Plan:
        """The splits, to which the read latch taken here is left."""
        plan: Plan = store.call(method("PlanScan"), self._request, _SHORT_MS)
        return plan


def _like(split: Split, splits: Sequence[Split]) -> Mapping[int, Split]:
    """The splits of the same physical table, by region."""
    return {s.region_id: s for s in splits if s.physical_id == split.physical_id}


def _column(told: Column, field: "pa.Field[pa.DataType]") -> ColumnInfo:
    """A column as the server tells of it, as far as a reader needs to know."""
    try:
        tp = MySQLType[told.type]
    except KeyError:
        raise UnsupportedError(f"type {told.type}", f"column {told.name}") from None
    flag = (ColumnFlag.UNSIGNED if told.unsigned else 0) | (
        0 if told.nullable else ColumnFlag.NOT_NULL
    )
    charset = "binary" if pa.types.is_binary(field.type) else "utf8mb4"
    kind = FieldType(tp, int(flag), told.flen, told.decimal, charset, told.collation)
    return ColumnInfo(ColumnID(told.id), told.name, 0, kind, comment=told.comment)
