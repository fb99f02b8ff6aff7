"""Turning stored columns into the ones a scan asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.errors import CorruptionError, UnsupportedError
from pyspark_theflash.mvcc.version import column_name
from pyspark_theflash.schema.default import origin_value
from pyspark_theflash.schema.model import ColumnInfo
from pyspark_theflash.types import ColumnID


@dataclass(frozen=True, slots=True)
class ScanColumn:
    """A column to read: the type wanted, and what rows hold that are older than the column."""

    id: ColumnID
    type: pa.DataType
    absent_value: pa.Scalar = field(repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # Arrow pickles and prints a scalar as Python's value, and Python's dates end at year 9999,
        # where impossible ones begin.
        return _unpickle, (self.id, self.type, pa.repeat(self.absent_value, 1))


def _unpickle(column_id: ColumnID, tp: pa.DataType, absent: pa.Array) -> ScanColumn:
    return ScanColumn(column_id, tp, absent[0])


def scan_column(info: ColumnInfo) -> ScanColumn:
    """How to read a column as `info` has it.

    Rows from before ADD COLUMN hold the default of *that* moment (the origin default), not today's.
    """
    if info.is_virtual:
        raise UnsupportedError("reading a virtual generated column", f"column {info.name}")
    return ScanColumn(info.id, arrow_type(info.type), origin_value(info))


def project_column(
    stored: pa.Array | None, wanted: pa.DataType, absent_value: pa.Scalar, rows: int
) -> pa.Array:
    """A column in the wanted type; `stored` is None where the file is older than the column.

    A column keeps its id while its type is widened (INT to BIGINT, a longer DECIMAL), so stored
    types may be older than the wanted one.
    """
    if stored is None:
        return pa.repeat(absent_value.cast(wanted), rows)
    if stored.type == wanted:
        return stored
    try:
        return pc.cast(stored, wanted)
    except pa.ArrowException as error:
        raise CorruptionError("stored column", 0, f"{stored.type} does not fit {wanted}") from error


def stored_names(columns: Sequence[ScanColumn]) -> list[str]:
    """The stored columns that `project` needs for these, each once."""
    return [column_name(column.id) for column in columns]


def project(
    stored: Mapping[str, pa.Array], columns: Sequence[ScanColumn], rows: int
) -> list[pa.Array]:
    """The columns as asked for, out of those of `stored_names` that a file has."""
    return [
        project_column(stored.get(column_name(c.id)), c.type, c.absent_value, rows) for c in columns
    ]


def batch_of(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> pa.RecordBatch:
    """A record batch that keeps its row count even without columns."""
    if columns:
        return pa.RecordBatch.from_arrays(list(columns), names=list(names))
    empty = pa.StructArray.from_arrays([pa.nulls(rows)], names=["rows"])
    return pa.RecordBatch.from_struct_array(empty).select([])
