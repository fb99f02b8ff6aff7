"""Turning stored columns into the ones a scan asked for.

A file holds the columns that its rows had when they were written. A scan may ask for one that the
file lacks, or that some of its rows do not hold (`mvcc.version`). Its value is then

    Default     ADD COLUMN came later          the column's origin default, the same for all rows
    Converted   MODIFY COLUMN made a new one   the old column's value in the new type
    Computed    a virtual generated column     its expression over the row's other columns

A scan works these out. What copies rows (a compaction, a move to other partitions) copies absence
as well: `carried` and `kept_columns`. So a value that cannot be worked out fails the scans that ask
for its column and nothing else, and a partition that is exchanged takes the defaults of its new
table. Only what `Converted` gives is written down by a compaction: TiDB has rewritten those rows,
too, and each scan would convert them again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.codec.change import Session
from pyspark_theflash.codec.convert import convert_column
from pyspark_theflash.codec.field_type import DATETIME_TYPES, STRING_TYPES, FieldType
from pyspark_theflash.codec.time import packed_times
from pyspark_theflash.errors import (
    CodecError,
    CorruptionError,
    TheFlashError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.mvcc.choose import those_of
from pyspark_theflash.mvcc.version import absence, column_name
from pyspark_theflash.schema.default import origin_value
from pyspark_theflash.schema.generated import compute_column, stored_inputs
from pyspark_theflash.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.types import ColumnID

Stored: TypeAlias = Mapping[str, pa.Array]
SourceOf: TypeAlias = Callable[[ColumnID], ColumnInfo | None]
"""The column that MODIFY COLUMN made a column from, as it was then; None where it made none."""


@dataclass(frozen=True, slots=True)
class Default:
    """One value for every row."""

    value: pa.Scalar = field(repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # Arrow pickles and prints a scalar as Python's value, and Python's dates end at year 9999,
        # where impossible ones begin.
        return _unpickled_default, (self.values({}, 1),)

    def needs(self) -> Iterator["ScanColumn"]:
        return iter(())

    def values(self, stored: Stored, rows: int) -> pa.Array:
        # Arrow does not repeat a list that is null, nor any list zero times.
        if rows == 0 or not self.value.is_valid:
            return pa.nulls(rows, self.value.type)
        return pa.repeat(self.value, rows)


def _unpickled_default(value: pa.Array) -> Default:
    return Default(value[0])


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No value at all: an origin default that is none of its type, for example."""

    error: TheFlashError

    def needs(self) -> Iterator["ScanColumn"]:
        return iter(())

    def values(self, stored: Stored, rows: int) -> pa.Array:
        raise self.error


@dataclass(frozen=True, slots=True)
class Converted:
    """The value of `source`, which has `from_type`, as MODIFY COLUMN converts it to `to_type`."""

    source: "ScanColumn"
    from_type: FieldType
    to_type: FieldType
    where: str
    session: Session | None = None

    def needs(self) -> Iterator["ScanColumn"]:
        yield self.source

    def values(self, stored: Stored, rows: int) -> pa.Array:
        if not rows:
            return pa.nulls(0, arrow_type(self.to_type))
        self._check_fraction(stored, rows)
        old = project(stored, [self.source], rows)[0]
        return convert_column(old, self.from_type, self.to_type, self.where, self.session)

    def _check_fraction(self, stored: Stored, rows: int) -> None:
        """Refuse what TiDB printed without the fraction that its type has, for a while.

        The zero default of a DATETIME(n) has no fraction in TiDB until its row is rewritten, for
        any reason.
        """
        old, fill = self.from_type, self.source.fill
        is_text = old.fsp > 0 and old.tp in DATETIME_TYPES and self.to_type.tp in STRING_TYPES
        if is_text and isinstance(fill, Default) and fill.value.is_valid:
            zero = packed_times(pa.repeat(fill.value, 1))[0] == 0
            _, absence = kept_columns(self.source.id, self.source.type)
            if zero and pc.any(project(stored, [absence], rows)[0]).as_py():
                what = "text made of the zero default of a time with a fraction"
                raise UnsupportedError(what, self.where)


@dataclass(frozen=True, slots=True)
class Computed:
    """The virtual generated `column` of `table`, out of the stored columns `inputs`."""

    table: TableInfo
    column: ColumnInfo
    inputs: tuple["ScanColumn", ...]

    def needs(self) -> Iterator["ScanColumn"]:
        return iter(self.inputs)

    def values(self, stored: Stored, rows: int) -> pa.Array:
        arrays = project(stored, self.inputs, rows)
        by_id = {column.id: values for column, values in zip(self.inputs, arrays, strict=True)}
        return compute_column(self.table, self.column, by_id, rows)


@dataclass(frozen=True, slots=True)
class Kept:
    """Nothing: a copy of the rows does not hold the column either."""

    type: pa.DataType

    def needs(self) -> Iterator["ScanColumn"]:
        return iter(())

    def values(self, stored: Stored, rows: int) -> pa.Array:
        return pa.nulls(rows, self.type)


@dataclass(frozen=True, slots=True)
class Absence:
    """Whether rows do not hold `column`, where a file does not say it of each row."""

    column: "ScanColumn"

    def needs(self) -> Iterator["ScanColumn"]:
        yield self.column

    def values(self, stored: Stored, rows: int) -> pa.Array:
        is_absent = column_name(self.column.id) not in stored
        return pa.repeat(pa.scalar(is_absent), rows)


@dataclass(frozen=True, slots=True)
class ScanColumn:
    """A column to read: the type wanted, and what it is where a file does not hold it."""

    id: ColumnID
    type: pa.DataType
    fill: Default | Unreadable | Converted | Computed | Kept | Absence
    where: str = ""
    """Names the column in errors."""


def no_source(_: ColumnID) -> None:
    """A `SourceOf` of a table whose columns were never modified."""


def scan_column(table: TableInfo, info: ColumnInfo, source_of: SourceOf = no_source) -> ScanColumn:
    """How to read a column of `table` as `info` has it.

    Raises:
        UnsupportedError: a virtual column whose expression is not evaluated here.
    """
    tp, where = arrow_type(info.type), f"{table.full_name}.{info.name}"
    if info.is_virtual:
        inputs = stored_inputs(table, [info.name])
        read = tuple(scan_column(table, column, source_of) for column in inputs)
        return ScanColumn(info.id, tp, Computed(table, info, read), where)
    source = source_of(info.id)
    if source is None:
        return ScanColumn(info.id, tp, _default(info), where)
    read_source = scan_column(table, source, source_of)
    converted = Converted(read_source, source.type, info.type, where, source.session)
    return ScanColumn(info.id, tp, converted, where)


def _default(info: ColumnInfo) -> Default | Unreadable:
    try:
        return Default(origin_value(info))
    except CodecError as error:
        return Unreadable(error)


def kept_columns(id: ColumnID, tp: pa.DataType) -> tuple[ScanColumn, ScanColumn]:
    """How to read a column for a copy of the rows: as it is stored, and which rows lack it."""
    column = ScanColumn(id, tp, Kept(tp))
    return column, ScanColumn(absence(id), pa.bool_(), Absence(column))


def stored_names(columns: Sequence[ScanColumn]) -> list[str]:
    """The stored columns that `project` may need for these, each once."""
    names: dict[str, None] = {}
    for column in columns:
        if not isinstance(column.fill, Computed):
            names[column_name(column.id)] = None
            names[column_name(absence(column.id))] = None
        names.update(dict.fromkeys(stored_names(list(column.fill.needs()))))
    return list(names)


def project(stored: Stored, columns: Sequence[ScanColumn], rows: int) -> list[pa.Array]:
    """The columns as asked for, out of those of `stored_names` that a file has.

    Raises:
        UnsupportedError: a value that only TiDB could work out.
        UnrepresentableValueError: an unsigned integer that is larger than its type.
        CodecError: an origin default that is no value of its type.
        CorruptionError: a stored column of a type that the wanted one cannot come from.
    """
    return [_column(stored, column, rows) for column in columns]


def carried(stored: Stored, columns: Sequence[ScanColumn], rows: int) -> dict[str, pa.Array]:
    """The columns as files are to have them that rows are copied into, with their absence, by name.

    Raises:
        CorruptionError: as `project`.
    """
    copied: dict[str, pa.Array] = {}
    for column in columns:
        kept = kept_columns(column.id, column.type)
        values, is_absent = project(stored, kept, rows)
        if isinstance(column.fill, Converted) and pc.any(is_absent).as_py():
            with suppress(UnsupportedError, CodecError, UnrepresentableValueError):
                values = _column(stored, column, rows)
                is_absent = pa.repeat(pa.scalar(False), rows)
        copied |= {column_name(column.id): values, column_name(absence(column.id)): is_absent}
    return copied


def has_absent(stored: Stored, column: ScanColumn) -> bool:
    """Whether a file says of each row if it holds a column."""
    return column_name(absence(column.id)) in stored


def _column(stored: Stored, column: ScanColumn, rows: int) -> pa.Array:
    found = stored.get(column_name(column.id))
    if found is None:
        return column.fill.values(stored, rows)
    values = _cast(found, column)
    if isinstance(column.fill, Absence) or not has_absent(stored, column):
        return values
    is_absent = stored[column_name(absence(column.id))].to_numpy(zero_copy_only=False)
    count = int(np.count_nonzero(is_absent))
    if not count:
        return values
    others = {
        name: those_of(stored[name], is_absent)
        for name in stored_names(list(column.fill.needs()))
        if name in stored
    }
    filled = column.fill.values(others, count)
    places = np.arange(rows)
    places[is_absent] = rows + np.arange(count)
    return pa.concat_arrays([values, filled]).take(pa.array(places))


def _cast(found: pa.Array, column: ScanColumn) -> pa.Array:
    """A column keeps its id while it is widened (INT to BIGINT): its stored type may be older."""
    if found.type == column.type:
        return found
    try:
        return pc.cast(found, column.type)
    except pa.ArrowException as error:
        if pa.types.is_uint64(found.type) and pa.types.is_unsigned_integer(column.type):
            if isinstance(column.fill, Kept):
                return found
            value = str(pc.max(found).as_py())
            raise UnrepresentableValueError(column.where, value, str(column.type)) from error
        reason = f"{found.type} does not fit {column.type}"
        raise CorruptionError("stored column", 0, reason) from error


def dictionary_of(tp: pa.DataType) -> pa.DictionaryType:
    """The type in which a column of `tp` comes that is asked for as a dictionary."""
    return pa.dictionary(pa.int32(), tp)


def batch_of(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> pa.RecordBatch:
    """A record batch that keeps its row count even without columns."""
    if columns:
        return pa.RecordBatch.from_arrays(list(columns), names=list(names))
    empty = pa.StructArray.from_arrays([pa.nulls(rows)], names=["rows"])
    return pa.RecordBatch.from_struct_array(empty).select([])
