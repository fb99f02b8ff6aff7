"""Turning stored columns into the ones a scan asked for.

A file holds the columns that its rows had when they were written. A scan may ask for one that the
file lacks, or that some of its rows do not hold (`storage.mvcc.version`). Its value is then

    Default     ADD COLUMN came later, or NULL    the column's origin default, the same for all rows
    Converted   MODIFY COLUMN made a new one      the old column's value in the new type
    Rewritten   MODIFY COLUMN wrote rows anew     the origin default of that time in those rows
    Computed    a virtual generated column        its expression over the row's other columns

A scan works these out. What copies rows (a compaction, a move to other partitions) copies absence
as well: `carried` and `kept_columns`. So a value that cannot be worked out fails the scans that ask
for its column and nothing else, and a partition that is exchanged takes the defaults of its new
table. Only what MODIFY COLUMN has made is written down by a compaction, all of it: TiDB has
rewritten those rows, too, and each scan would convert them again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

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
from pyspark_theflash.storage.mvcc.version import absence, column_name
from pyspark_theflash.tidb.codec.array import joined
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, STRING_TYPES, FieldType
from pyspark_theflash.tidb.codec.time import packed_times
from pyspark_theflash.tidb.schema.default import origin_value
from pyspark_theflash.tidb.schema.generated import compute_column, stored_inputs
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.tidb.schema.owners import Past

Stored: TypeAlias = Mapping[str, pa.Array]


@dataclass(frozen=True, slots=True)
class Default:
    """One value for every row."""

    value: pa.Scalar = field(repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # Arrow pickles and prints a scalar as Python's value, and Python's dates end at year 9999,
        # where impossible ones begin.
        return _unpickled_default, (self.values({}, 1),)

    def needs(self) -> Iterator["ScanColumn"]:
        """Yield the columns that the values are computed from."""
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
    session: ReorgSession | None = None
    rows_untouched: bool = False
    """No DDL for other columns has written `source` into rows that did not hold it."""

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
        """Whether a default is printed that has no fraction, though its type has one.

        The zero default of a DATETIME(n) has none in TiDB until its row is rewritten, for any
        reason.
        """
        old, fill = self.from_type, self.source.fill
        is_text = old.fsp > 0 and old.tp in DATETIME_TYPES and self.to_type.tp in STRING_TYPES
        if not (is_text and isinstance(fill, Default) and fill.value.is_valid):
            return False
        return bool(packed_times(pa.repeat(fill.value, 1))[0] == 0)

    def _without_fraction(self, values: pa.Array, old: pa.Array, stored: Stored) -> pa.Array:
        """Where rows do not hold the default, its text without a fraction."""
        _, absence = kept_columns(self.source.id, self.source.type)
        is_absent = project(stored, [absence], len(old))[0]
        if not pc.any(is_absent).as_py():
            return values
        if not self.rows_untouched:
            what = "text made of the zero default of a time with a fraction"
            raise UnsupportedError(what, self.where)
        return pc.if_else(is_absent, self._convert(old, replace(self.from_type, decimal=0)), values)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """`value` where `is_meant`, a column of booleans, is true; elsewhere what `otherwise` gives."""

    is_meant: "ScanColumn"
    value: Default | Unreadable
    otherwise: "Default | Unreadable | Rewritten | Kept"

    def needs(self) -> Iterator["ScanColumn"]:
        yield self.is_meant
        yield from self.otherwise.needs()

    def values(self, stored: Stored, rows: int) -> pa.Array:
        (meant,) = project(stored, [self.is_meant], rows)
        mask = meant.to_numpy(zero_copy_only=False)
        count = int(np.count_nonzero(mask))
        if not count:
            return self.otherwise.values(stored, rows)
        found = self.value.values({}, count)
        if count == rows:
            return found
        others = {name: filter_rows(values, ~mask) for name, values in stored.items()}
        rest = self.otherwise.values(others, rows - count)
        places = np.empty(rows, np.int64)
        places[mask], places[~mask] = np.arange(count), np.arange(count, rows)
        return pa.concat_arrays([found, rest]).take(pa.array(places))

    def are_others(self, stored: Stored, rows: int) -> pa.Array:
        """Which rows are meant neither here nor in `otherwise`."""
        (meant,) = project(stored, [self.is_meant], rows)
        if isinstance(self.otherwise, Rewritten):
            return pc.and_not(self.otherwise.are_others(stored, rows), meant)
        return pc.invert(meant)


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
    fill: Default | Unreadable | Converted | Rewritten | Computed | Kept | Absence
    where: str = ""
    """Names the column in errors."""
    is_held: bool = True
    """Whether what files have under the id is this column."""
    doubts_null: bool = False
    """Whether a stored NULL may stand for a column that TiDB's row does not hold."""


def scan_column(
    table: TableInfo, info: ColumnInfo, past: Past | None = None, *, for_copy: bool = False
) -> ScanColumn:
    """How to read a column of `table` as `info` has it, in a physical table with this past.

    Args:
        past: None where the table has always been as it is now.
        for_copy: tell what `carried` shall write down.

    Raises:
        UnsupportedError: a virtual column whose expression is not evaluated here.
    """
    past = past or Past((table,))
    tp, where = arrow_type(info.type), f"{table.full_name}.{info.name}"
    if info.is_virtual:
        inputs = stored_inputs(table, [info.name])
        read = tuple(scan_column(table, column, past) for column in inputs)
        return ScanColumn(info.id, tp, Computed(table, info, read), where)
    if not for_copy and past.is_reused(info):
        what = "a column whose id another one had in the former table of an exchanged partition"
        return ScanColumn(info.id, tp, Unreadable(UnsupportedError(what, where)), where, False)
    if for_copy and not past.is_finished(info.id):
        # TiDB may yet leave rows as they are.
        return ScanColumn(info.id, tp, Kept(tp), where)
    doubts = not for_copy and past.may_leave_out_null(info)
    found = past.source(info.id)
    if found is None:
        fill = _left_out(info, past, where, for_copy=for_copy)
        return ScanColumn(info.id, tp, fill, where, doubts_null=doubts)
    source, earlier = found
    read_source = scan_column(table, source, earlier)
    converted = Converted(
        read_source, source.type, info.type, where, source.session, source.rows_untouched
    )
    return ScanColumn(info.id, tp, converted, where, doubts_null=doubts)


def _left_out(
    info: ColumnInfo, past: Past, where: str, *, for_copy: bool
) -> Default | Unreadable | Rewritten | Kept:
    """What rows have that were written without a column."""
    fill: Default | Unreadable | Rewritten | Kept = _default(info)
    if for_copy:
        fill = Kept(arrow_type(info.type))
    rewrites = [r for r in past.rewrites(info.id) if r.is_finished or not for_copy]
    first = past.first(info.id) if past.has_base and not for_copy else None
    if first is not None and not _has_default_of(info, first):
        what = "a column that rows of a base may have left out before EXCHANGE PARTITION"
        fill = Unreadable(UnsupportedError(what, where))
    elif not for_copy and all(_has_default_of(info, r.column) for r in rewrites):
        return fill
    for rewrite in reversed(rewrites):
        value = _default(_with_default_of(info, rewrite.column))
        if not rewrite.is_finished:
            what = "a column that a refused MODIFY COLUMN may have filled before EXCHANGE PARTITION"
            value = Unreadable(UnsupportedError(what, where))
        _, not_made = kept_columns(rewrite.made.id, arrow_type(rewrite.made.type))
        fill = Rewritten(not_made, value, fill)
    return fill


def _has_default_of(info: ColumnInfo, other: ColumnInfo) -> bool:
    return _with_default_of(info, other) == info


def _with_default_of(info: ColumnInfo, other: ColumnInfo) -> ColumnInfo:
    default, bit = other.origin_default, other.origin_default_bit
    return replace(info, origin_default=default, origin_default_bit=bit)


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
            if not _is_null(column.fill):
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
        values, is_absent = project(stored, kept_columns(column.id, column.type), rows)
        copied |= {column_name(column.id): values, column_name(absence(column.id)): is_absent}
    # What tells of a row that it was rewritten is written down last, and not without the others.
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


def _filled(
    stored: Stored, column: ScanColumn, is_absent: pa.Array, rows: int
) -> tuple[pa.Array, pa.Array]:
    """A column with what MODIFY COLUMN has made of it, and which rows do not hold it yet."""
    left = pa.repeat(pa.scalar(False), rows)
    if isinstance(column.fill, Rewritten):
        left = pc.and_(is_absent, column.fill.are_others(stored, rows))
    return _column(stored, column, rows), left


def is_whole(stored: Stored, column: ScanColumn) -> bool:
    """Whether a column is stored, and of each row what is stored is its value."""
    if not column.is_held or column.doubts_null or column_name(column.id) not in stored:
        return False
    return _holds_all(stored, column)


def _holds_all(stored: Stored, column: ScanColumn) -> bool:
    is_told = isinstance(column.fill, Absence) or _is_null(column.fill)
    return is_told or column_name(absence(column.id)) not in stored


def _is_null(fill: object) -> bool:
    """Whether rows that do not hold a column have NULL, as it is stored."""
    return isinstance(fill, Default) and not fill.value.is_valid


def _column(stored: Stored, column: ScanColumn, rows: int) -> pa.Array:
    found = stored.get(column_name(column.id)) if column.is_held else None
    if found is None:
        return column.fill.values(stored, rows)
    values = _cast(found, column)
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
        what = "a NULL that rows may have left out before EXCHANGE PARTITION"
        raise UnsupportedError(what, column.where)


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
