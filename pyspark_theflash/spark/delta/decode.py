"""Decoding changed rows of a table on Spark's executors.

The driver divides the transactions of a batch into chunks. A task decodes a chunk to versions,
computes their partitions, and returns them as Arrow data, which Spark writes. An error that
concerns the contents of one table does not fail the task: the rows before it are returned, and the
error is reported to the driver, which sets the table aside.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Accumulator, AccumulatorParam
from pyspark.sql.types import StructType

from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.replication.apply.changes import ChangesPart, TableChanges
from pyspark_theflash.replication.apply.decoding import DecodeFailure, decode_changes
from pyspark_theflash.spark.delta.encoding import to_delta
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.mvcc.version import Op, column_id, column_name
from pyspark_theflash.tidb.codec.time import has_impossible, is_stored_time
from pyspark_theflash.tidb.schema.model import TableInfo

CHUNK: Final = "chunk"
_IS_PLAIN: Final = ColumnID(1 << 62)
"""Column, of a name that no column of TiDB has, that carries whether a version is plain."""


Finding: TypeAlias = "DecodeFailure | tuple[PhysicalTableID, ColumnID]"
"""A failure, or a column that has a date that does not exist."""
Findings: TypeAlias = frozenset[Finding]


class FindingsParam(AccumulatorParam[Findings]):
    """Set of what tasks report; a task that runs twice changes nothing."""

    def zero(self, value: Findings) -> Findings:
        return frozenset()

    def addInPlace(self, value1: Findings, value2: Findings) -> Findings:
        return value1 | value2


class FlaggedChanges(TableChanges):
    """Changes whose versions have a column `_IS_PLAIN`.

    An insert supersedes nothing, unless its transaction changed the same row before. Writes that
    TiDB repeats while it reorganizes partitions have no such column.
    """

    __slots__ = ()

    def _part(self, columns: dict[ColumnID, pa.Array], rows: int, op: Op) -> ChangesPart:
        part = super()._part(columns, rows, op)
        part.columns[_IS_PLAIN] = pa.repeat(pa.scalar(False), rows)
        return part

    def _inserted(self, rows: Sequence[bytes]) -> ChangesPart:
        part = super()._inserted(rows)
        part.columns[_IS_PLAIN] = pa.repeat(pa.scalar(True), len(rows))
        return part

    def _assemble(self, parts: Sequence[ChangesPart]) -> list[VersionBatch]:
        versions = super()._assemble(parts)
        if sum(v.batch.num_rows for v in versions) == sum(len(part.ops) for part in parts):
            return versions
        # A row was changed twice in one transaction; the chunk is small.
        name = column_name(_IS_PLAIN)
        return [
            VersionBatch(
                v.physical_id,
                v.batch.set_column(
                    v.batch.schema.get_field_index(name),
                    name,
                    pa.repeat(pa.scalar(False), v.batch.num_rows),
                ),
            )
            for v in versions
        ]


def chunks_of(changes: TableChanges, count: int) -> pa.Table:
    """Divide changes at bounds of transactions into up to `count` chunks of similar size."""
    parts = [pickle.dumps(part) for part in changes.divided(count)]
    return pa.table({CHUNK: pa.array(parts, pa.binary())})


def decoder(
    table: TableInfo,
    placement: TableInfo | None,
    schema: StructType,
    shape: int,
    findings: "Accumulator[Findings]",
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function of a task, which decodes chunks of changes to rows of a Delta table."""

    def decode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for chunk in batch.column(CHUNK):
                # Written by the driver of this application, like the task itself.
                changes = FlaggedChanges(table, placement)
                changes.extend(pickle.loads(chunk.as_py()))  # noqa: S301
                decoded, failure = decode_changes(changes)
                if failure is not None:
                    findings.add(frozenset({failure}))
                for versions in decoded:
                    findings.add(odd_columns(versions))
                    yield to_rows(versions, schema, shape)

    return decode


def odd_columns(versions: VersionBatch) -> Findings:
    """Return the columns with dates that do not exist."""
    batch = versions.batch
    return frozenset(
        (versions.physical_id, column_id(field.name))
        for field, values in zip(batch.schema, batch.columns, strict=True)
        if is_stored_time(field.type) and has_impossible(values)
    )


def to_rows(
    versions: VersionBatch, schema: StructType, shape: int, *, are_plain: bool = False
) -> pa.RecordBatch:
    """Convert versions to rows of a Delta table; `are_plain` unless they have flags."""
    batch, name = versions.batch, column_name(_IS_PLAIN)
    at = batch.schema.get_field_index(name)
    plain = pa.repeat(pa.scalar(are_plain), batch.num_rows)
    if at >= 0:
        plain = pc.and_(batch.column(at), pc.equal(batch.column("_op"), int(Op.PUT)))
        batch = batch.remove_column(at)
    return to_delta(versions.physical_id, batch, schema, shape, plain)
