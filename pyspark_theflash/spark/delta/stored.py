"""Rows of a Delta table of versions at one of its versions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql.functions import col, expr, lit

from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.spark.delta.encoding import COMMON, SHAPE, decode, mask_name, variants
from pyspark_theflash.spark.delta.visibility import visible
from pyspark_theflash.storage.mvcc.project import ScanColumn, stored_names
from pyspark_theflash.storage.mvcc.version import HANDLE, absence, column_id, column_name

Decode = Callable[[pa.RecordBatch], dict[str, pa.Array]]


@dataclass(frozen=True, slots=True)
class ColumnRead:
    """Stored columns to select, and how to decode them: picklable, for tasks.

    Attributes:
        expressions: what to select.
        parts: by name of the version's column, the selected columns and their types' names; null
            for all but one in each row. A mask has no types.
        types: the type of each column.
    """

    expressions: Sequence[Column]
    parts: Mapping[str, Sequence[tuple[str, str]]]
    types: Mapping[str, pa.DataType]

    def decoder(self) -> "BatchDecoder":
        """Return the part for tasks."""
        return BatchDecoder(self.parts, self.types)


@dataclass(frozen=True, slots=True)
class BatchDecoder:
    """Decodes what a `ColumnRead` has selected."""

    parts: Mapping[str, Sequence[tuple[str, str]]]
    types: Mapping[str, pa.DataType]

    def decoded(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Return the columns of versions by name (`storage.mvcc.version`)."""
        return {name: self._column(batch, name) for name in self.parts}

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        parts = [
            decode(batch.column(column), tp) if tp else batch.column(column)
            for column, tp in self.parts[name]
        ]
        if len(parts) == 1:
            return parts[0]
        return pc.coalesce(*(pc.cast(part, self.types[name]) for part in parts))


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Versions of rows; `shapes` are the sets of columns that rows were decoded with."""

    frame: DataFrame
    shapes: Mapping[int, frozenset[int]]

    def visible(
        self, physical_ids: Iterable[PhysicalTableID], ts: TimeStamp, *, is_common: bool
    ) -> DataFrame:
        """Return the versions that a snapshot sees."""
        return visible(self.frame, physical_ids, ts, is_common=is_common)

    def has(self, id: ColumnID) -> bool:
        """Return whether any row may have a column."""
        return bool(variants(self.frame.columns, id))

    def is_absent(self, id: ColumnID) -> str | None:
        """Return, in SQL, whether a row omits a column; None if no row does."""
        without = [number for number, ids in self.shapes.items() if id not in ids]
        marks = [f"{SHAPE} IN ({', '.join(map(str, without))})"] if without else []
        if mask_name(id) in self.frame.columns:
            marks.append(f"coalesce({mask_name(id)}, false)")
        return f"({' OR '.join(marks)})" if marks else None

    def read(self, columns: Sequence[ScanColumn], handle: str | None = None) -> ColumnRead:
        """Return how to read the stored columns that a scan needs.

        Args:
            handle: `HANDLE` or `COMMON`, to read handles too.
        """
        expressions: list[Column] = []
        parts: dict[str, list[tuple[str, str]]] = {}
        if handle is not None:
            expressions.append(col(handle))
            parts[HANDLE] = [(handle, "bin" if handle == COMMON else "i64")]
        for name in stored_names(columns):
            id = column_id(name)
            if id < 0:
                mask = self.is_absent(absence(id))
                if self.has(absence(id)):
                    expressions.append(expr(mask or "false").alias(name))
                    parts[name] = [(name, "")]
            elif stored := variants(self.frame.columns, id):
                expressions += map(col, stored.values())
                parts[name] = [(column, tp) for tp, column in stored.items()]
        types = {column_name(c.id): c.type for c in _all(columns)}
        return ColumnRead(expressions or [lit(1).alias("none")], parts, types)


def _all(columns: Iterable[ScanColumn]) -> Iterator[ScanColumn]:
    for column in columns:
        yield from _all(column.fill.needs())
        yield column
