"""Convert stored columns to the columns of a scan.

A file has the columns that its rows had when they were written. A scan may read a column that is
missing in the file, or absent from some of its rows (`storage.mvcc.version`). Its value is then

    Default     ADD COLUMN came later, or NULL    the column's origin default, the same for all rows
    Converted   MODIFY COLUMN made a new column   the old column's value in the new type
    Rewritten   MODIFY COLUMN rewrote the rows    the origin default of that time in those rows
    Computed    a virtual generated column        its expression over the row's other columns

Scans compute these values. Operations that copy rows (compaction, a move to other partitions) copy
the absence instead: `columns_to_copy` and `copied_columns`. So a value that cannot be computed
fails only the scans that read its column, and an exchanged partition gets the defaults of its new
table. A compaction stores only the results of MODIFY COLUMN: TiDB has rewritten those rows, too,
and each scan would have to convert them again.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    TheFlashError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.version import (
    absence,
    absence_name,
    column_name,
    is_absence,
)
from pyspark_theflash.tidb.codec.array import joined
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, STRING_TYPES, FieldType
from pyspark_theflash.tidb.codec.time import packed_times
from pyspark_theflash.tidb.expression.allowance import reserve
from pyspark_theflash.tidb.schema.default import origin_value
from pyspark_theflash.tidb.schema.generated import compute_column, stored_inputs
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.tidb.schema.owners import Past

Stored: TypeAlias = Mapping[str, pa.Array]
_TEXTS_BYTES_MAX: Final = (1 << 31) - 1


class Fill(ABC):
    """Values of a column in rows where it is absent."""

    __slots__ = ()

    def needs(self) -> Iterator["ScanColumn"]:
        """Yield the columns that the values are computed from."""
        return iter(())

    @abstractmethod
    def values(self, stored: Stored, rows: int) -> pa.Array:
        """Return the values, computed from the stored columns of these rows."""


@dataclass(frozen=True, slots=True)
class Default(Fill):
    """The same value for every row."""

    value: pa.Scalar = field(repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # Arrow pickles and prints a scalar as a Python value, and Python's dates end at year 9999,
        # but the encoding of invalid dates such as zero dates begins there.
        return _unpickled_default, (self.values({}, 1),)

    def values(self, stored: Stored, rows: int) -> pa.Array:
        # pa.repeat fails for a null list, and for any list repeated zero times.
        if rows == 0 or not self.value.is_valid:
            return pa.nulls(rows, self.value.type)
        if isinstance(self.value, pa.BinaryScalar):
            size_bytes = rows * self.value.as_buffer().size
            reserve(size_bytes)
            if size_bytes > _TEXTS_BYTES_MAX:
                # pa.repeat does not check it, and returns an invalid array.
                raise pa.ArrowCapacityError("values of a default exceed 2 GiB")
        return pa.repeat(self.value, rows)


def _unpickled_default(value: pa.Array) -> Default:
    return Default(value[0])


@dataclass(frozen=True, slots=True)
class Unreadable(Fill):
    """Raises `error` when read: the origin default is not a value of the column's type, say."""

    error: TheFlashError

    def values(self, stored: Stored, rows: int) -> pa.Array:
        raise self.error


@dataclass(frozen=True, slots=True)
class Converted(Fill):
    """The value of `source`, converted from `from_type` to `to_type` as by MODIFY COLUMN."""

    source: "ScanColumn"
    from_type: FieldType
    to_type: FieldType
    where: str
    session: ReorgSession | None = None
    rows_untouched: bool = False
    """DDL on other columns has not written `source` into rows where it was absent."""

    def needs(self) -> Iterator["ScanColumn"]:
        yield self.source

    def values(self, stored: Stored, rows: int) -> pa.Array:
        if not rows:
            return pa.nulls(0, arrow_type(self.to_type))
        old = project(stored, [self.source], rows)[0]
        values = self._convert(old, self.from_type)
        return self._without_fraction(values, old, stored) if self._is_zero_text() else values

    def _convert(self, old: pa.Array, from_type: FieldType) -> pa.Array:
        return convert_column(old, from_type, self.to_type, self.where, self.session)

    def _is_zero_text(self) -> bool:
        """Return whether a zero default of a DATETIME(n), n > 0, is converted to a string.

        TiDB prints it without a fraction until the row is rewritten for any reason.
        """
        old, fill = self.from_type, self.source.fill
        is_text = old.fsp > 0 and old.tp in DATETIME_TYPES and self.to_type.tp in STRING_TYPES
        if not (is_text and isinstance(fill, Default) and fill.value.is_valid):
            return False
        return bool(packed_times(pa.repeat(fill.value, 1))[0] == 0)

    def _without_fraction(self, values: pa.Array, old: pa.Array, stored: Stored) -> pa.Array:
        """Replace the strings of rows where the source is absent by ones without a fraction."""
        _, absence = columns_to_copy(self.source.id, self.source.type)
        is_absent = project(stored, [absence], len(old))[0]
        if not pc.any(is_absent).as_py():
            return values
        if not self.rows_untouched:
            what = "converting the zero default of a DATETIME with a fraction to a string"
            raise UnsupportedError(what, self.where)
        return pc.if_else(is_absent, self._convert(old, replace(self.from_type, decimal=0)), values)


@dataclass(frozen=True, slots=True)
class Rewritten(Fill):
    """`value` where `is_rewritten`, a boolean column, is true; `otherwise` in the other rows."""

    is_rewritten: "ScanColumn"
    value: Fill
    otherwise: Fill

    def needs(self) -> Iterator["ScanColumn"]:
        yield self.is_rewritten
        yield from self.otherwise.needs()

    def values(self, stored: Stored, rows: int) -> pa.Array:
        (is_rewritten,) = project(stored, [self.is_rewritten], rows)
        mask = is_rewritten.to_numpy(zero_copy_only=False)
        count = int(np.count_nonzero(mask))
        if not count:
            return self.otherwise.values(stored, rows)
        rewritten = self.value.values({}, count)
        if count == rows:
            return rewritten
        others = {name: filter_rows(values, ~mask) for name, values in stored.items()}
        rest = self.otherwise.values(others, rows - count)
        places = np.empty(rows, np.int64)
        places[mask], places[~mask] = np.arange(count), np.arange(count, rows)
        return pa.concat_arrays([rewritten, rest]).take(pa.array(places))

    def not_rewritten(self, stored: Stored, rows: int) -> pa.Array:
        """Return a mask of the rows rewritten neither here nor in `otherwise`."""
        (is_rewritten,) = project(stored, [self.is_rewritten], rows)
        if isinstance(self.otherwise, Rewritten):
            return pc.and_not(self.otherwise.not_rewritten(stored, rows), is_rewritten)
        return pc.invert(is_rewritten)


@dataclass(frozen=True, slots=True)
class Computed(Fill):
    """The virtual generated `column` of `table`, computed from the stored columns `inputs`."""

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
class StillAbsent(Fill):
    """NULL: the column remains absent in a copy of the rows."""

    type: pa.DataType

    def values(self, stored: Stored, rows: int) -> pa.Array:
        return pa.nulls(rows, self.type)


@dataclass(frozen=True, slots=True)
class Absence(Fill):
    """Absence mask of `column` for a file without one: false if the file has the column."""

    column: "ScanColumn"

    def needs(self) -> Iterator["ScanColumn"]:
        yield self.column

    def values(self, stored: Stored, rows: int) -> pa.Array:
        is_absent = column_name(self.column.id) not in stored
        return pa.repeat(pa.scalar(is_absent), rows)


@dataclass(frozen=True, slots=True)
class ScanColumn:
    """A column to read: its result type, and its value in rows where it is absent."""

    id: ColumnID
    type: pa.DataType
    fill: Fill
    where: str = ""
    """The column's name in errors."""
    is_held: bool = True
    """Whether the stored column with this id is this column."""
    doubts_null: bool = False
    """Whether a stored NULL may be a column that is absent from TiDB's row."""


def scan_column(
    table: TableInfo, info: ColumnInfo, past: Past | None = None, *, for_copy: bool = False
) -> ScanColumn:
    """Return how to read the column `info` of `table` from a physical table.

    Args:
        past: the definitions of the tables that owned the physical table; None: only `table`.
        for_copy: return the column for `copied_columns`, which copies rows.

    Raises:
        UnsupportedError: A virtual column's expression is not supported.
    """
    past = past or Past((table,))
    tp, where = arrow_type(info.type), f"{table.full_name}.{info.name}"
    if info.is_virtual:
        inputs = stored_inputs(table, [info.name])
        read = tuple(scan_column(table, column, past) for column in inputs)
        return ScanColumn(info.id, tp, Computed(table, info, read), where)
    if not for_copy and past.is_reused(info):
        what = "a column whose id belonged to another in the former table of an exchanged partition"
        return ScanColumn(info.id, tp, Unreadable(UnsupportedError(what, where)), where, False)
    if for_copy and not past.is_finished(info.id):
        # The DDL is not finished: TiDB may still cancel it and leave the rows unchanged.
        return ScanColumn(info.id, tp, StillAbsent(tp), where)
    doubts = not for_copy and past.may_leave_out_null(info)
    source_and_past = past.source(info.id)
    if source_and_past is None:
        fill = _absent_fill(info, past, where, for_copy=for_copy)
        return ScanColumn(info.id, tp, fill, where, doubts_null=doubts)
    source, earlier = source_and_past
    read_source = scan_column(table, source, earlier)
    converted = Converted(
        read_source, source.type, info.type, where, source.session, source.rows_untouched
    )
    return ScanColumn(info.id, tp, converted, where, doubts_null=doubts)


def _absent_fill(info: ColumnInfo, past: Past, where: str, *, for_copy: bool) -> Fill:
    """Return the value of a column, which MODIFY COLUMN has not made, in rows without it."""
    fill: Fill = _default(info)
    if for_copy:
        fill = StillAbsent(arrow_type(info.type))
    rewrites = [r for r in past.rewrites(info.id) if r.is_finished or not for_copy]
    first = past.first(info.id) if past.has_base and not for_copy else None
    if first is not None and not _has_default_of(info, first):
        what = "a column that may be absent from rows of a base loaded before EXCHANGE PARTITION"
        fill = Unreadable(UnsupportedError(what, where))
    elif not for_copy and all(_has_default_of(info, r.column) for r in rewrites):
        return fill
    for rewrite in reversed(rewrites):
        value = _default(_with_default_of(info, rewrite.column))
        if not rewrite.is_finished:
            what = "a column that a failed MODIFY COLUMN may have filled before EXCHANGE PARTITION"
            value = Unreadable(UnsupportedError(what, where))
        _, not_made = columns_to_copy(rewrite.made.id, arrow_type(rewrite.made.type))
        fill = Rewritten(not_made, value, fill)
    return fill


def _has_default_of(info: ColumnInfo, other: ColumnInfo) -> bool:
    return _with_default_of(info, other) == info


def _with_default_of(info: ColumnInfo, other: ColumnInfo) -> ColumnInfo:
    default, bit = other.origin_default, other.origin_default_bit
    return replace(info, origin_default=default, origin_default_bit=bit)


def _default(info: ColumnInfo) -> Fill:
    try:
        return Default(origin_value(info))
    except CodecError as error:
        return Unreadable(error)


def columns_to_copy(id: ColumnID, tp: pa.DataType) -> tuple[ScanColumn, ScanColumn]:
    """Return how to read a column as stored, and its absence mask, to copy rows."""
    column = ScanColumn(id, tp, StillAbsent(tp))
    return column, ScanColumn(absence(id), pa.bool_(), Absence(column))


def stored_names(columns: Sequence[ScanColumn]) -> list[str]:
    """Return the names of the stored columns that `project` may need, without duplicates."""
    names: dict[str, None] = {}
    for column in columns:
        if not isinstance(column.fill, Computed):
            names[column_name(column.id)] = None
            if not _is_null(column.fill):
                names[column_name(absence(column.id))] = None
        names.update(dict.fromkeys(stored_names(list(column.fill.needs()))))
    return list(names)


def project(stored: Stored, columns: Sequence[ScanColumn], rows: int) -> list[pa.Array]:
    """Compute the columns of a scan.

    Args:
        stored: those of `stored_names(columns)` that the file has, by name.
        rows: the number of rows.

    Raises:
        UnsupportedError: A value cannot be determined without TiDB.
        UnrepresentableValueError: An unsigned integer exceeds its type.
        CodecError: An origin default is not a value of its type.
        CorruptionError: A stored column cannot be cast to the type of the scan.
    """
    return [_column(stored, column, rows) for column in columns]


def copied_columns(stored: Stored, columns: Sequence[ScanColumn], rows: int) -> dict[str, pa.Array]:
    """Compute the columns to store in a copy of the rows, with their absence masks, by name.

    Raises:
        CorruptionError: A stored column cannot be cast to the type in `columns`.
    """
    copied: dict[str, pa.Array] = {}
    for column in columns:
        values, is_absent = project(stored, columns_to_copy(column.id, column.type), rows)
        copied |= {column_name(column.id): values, column_name(absence(column.id)): is_absent}
    # The absence mask of a Converted column shows which rows were rewritten. So it is replaced
    # last, and not at all if a Rewritten column, which depends on it, cannot be computed.
    for kind in (Rewritten, Converted):
        for column in columns:
            name = column_name(absence(column.id))
            if isinstance(column.fill, kind) and pc.any(copied[name]).as_py():
                try:
                    values, is_absent = _filled(stored, column, copied[name], rows)
                except (UnsupportedError, CodecError, UnrepresentableValueError):
                    if kind is Rewritten:
                        return copied
                    continue
                copied |= {column_name(column.id): values, name: is_absent}
    return copied


def trimmed(copied: pa.Table) -> pa.Table:
    """Leave out columns that no row has, and the absence masks of columns that all rows have."""
    for mask in [name for name in copied.column_names if is_absence(name)]:
        is_absent = copied.column(mask)
        if pc.all(is_absent).as_py():
            copied = copied.drop_columns([mask, absence_name(mask)])
        elif not pc.any(is_absent).as_py():
            copied = copied.drop_columns([mask])
    return copied


def _filled(
    stored: Stored, column: ScanColumn, is_absent: pa.Array, rows: int
) -> tuple[pa.Array, pa.Array]:
    """Return a column with the results of MODIFY COLUMN, and the rows where it remains absent."""
    still_absent = pa.repeat(pa.scalar(False), rows)
    if isinstance(column.fill, Rewritten):
        still_absent = pc.and_(is_absent, column.fill.not_rewritten(stored, rows))
    return _column(stored, column, rows), still_absent


def is_whole(stored: Stored, column: ScanColumn) -> bool:
    """Return whether a column is stored and the stored value of every row is its value."""
    if not column.is_held or column.doubts_null or column_name(column.id) not in stored:
        return False
    return _holds_all(stored, column)


def _holds_all(stored: Stored, column: ScanColumn) -> bool:
    needs_no_fill = isinstance(column.fill, Absence) or _is_null(column.fill)
    return needs_no_fill or column_name(absence(column.id)) not in stored


def _is_null(fill: object) -> bool:
    """Return whether an absent value is NULL, as it is stored anyway."""
    return isinstance(fill, Default) and not fill.value.is_valid


def _column(stored: Stored, column: ScanColumn, rows: int) -> pa.Array:
    array = stored.get(column_name(column.id)) if column.is_held else None
    if array is None:
        return column.fill.values(stored, rows)
    values = _cast(array, column)
    if column.doubts_null:
        _check_nulls(stored, column, values)
    if _holds_all(stored, column):
        return values
    is_absent = stored[column_name(absence(column.id))].to_numpy(zero_copy_only=False)
    count = int(np.count_nonzero(is_absent))
    if not count:
        return values
    others = {
        name: filter_rows(stored[name], is_absent)
        for name in stored_names(list(column.fill.needs()))
        if name in stored
    }
    filled = column.fill.values(others, count)
    places = np.arange(rows)
    places[is_absent] = rows + np.arange(count)
    return joined([values, filled]).take(pa.array(places))


def _check_nulls(stored: Stored, column: ScanColumn, values: pa.Array) -> None:
    is_doubtful = values.is_null()
    if (is_absent := stored.get(column_name(absence(column.id)))) is not None:
        is_doubtful = pc.and_not(is_doubtful, is_absent)
    if pc.any(is_doubtful).as_py():
        what = "a NULL that may have been absent from the row before EXCHANGE PARTITION"
        raise UnsupportedError(what, column.where)


def _cast(array: pa.Array, column: ScanColumn) -> pa.Array:
    """Cast a stored column, whose type may be older: widening (INT to BIGINT) retains the id."""
    if array.type == column.type:
        return array
    try:
        return pc.cast(array, column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if pa.types.is_uint64(array.type) and pa.types.is_unsigned_integer(column.type):
            if isinstance(column.fill, StillAbsent):
                return array
            value = str(pc.max(array).as_py())
            raise UnrepresentableValueError(column.where, value, str(column.type)) from error
        reason = f"{array.type} cannot be cast to {column.type}"
        raise CorruptionError("stored column", 0, reason) from error


def dictionary_of(tp: pa.DataType) -> pa.DictionaryType:
    """Return the Arrow type of a column of `tp` that is read as a dictionary."""
    return pa.dictionary(pa.int32(), tp)


def batch_of(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> pa.RecordBatch:
    """Return a record batch that has its row count even without columns."""
    if columns:
        return pa.RecordBatch.from_arrays(list(columns), names=list(names))
    empty = pa.StructArray.from_arrays([pa.nulls(rows)], names=["rows"])
    return pa.RecordBatch.from_struct_array(empty).select([])
