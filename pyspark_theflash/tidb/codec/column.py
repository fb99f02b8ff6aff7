"""Arrow columns from values located in encoded rows.

A row decoder produces `Piece`s: for some of the rows, the values of one column in one form.
`assemble` combines the pieces of a column into an Arrow array of the column's type and checks the
values. NULL and rows that do not hold the column become null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.array import joined, primitive, take
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.datum import Form, Values
from pyspark_theflash.tidb.codec.decimal import decimals_at
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, STRING_TYPES, MySQLType
from pyspark_theflash.tidb.codec.json import check_values
from pyspark_theflash.tidb.codec.reader import Mask, Positions, Reader
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedColumn, DecodedRows
from pyspark_theflash.tidb.codec.time import DAY_US, unpack_dates, unpack_times_of_day
from pyspark_theflash.tidb.codec.vector import vectors_at

_WHOLE_NUMBER_TYPES: Final = INTEGER_TYPES | {MySQLType.BIT, MySQLType.ENUM, MySQLType.SET}
# 839 hours. The largest TIME is 838:59:59.999999.
_END_DURATION_NS: Final = (838 * 3600 + 3600) * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Values of one column in `rows` (ascending, distinct row numbers).

    `step` is the index of the column's pair within those rows, in row format v1.
    """

    rows: Positions
    values: Values
    step: int = 0

    def take(self, members: Positions) -> "Piece":
        """Select rows of the piece by index."""
        return Piece(self.rows[members], self.values.take(members), self.step)


PiecesByID: TypeAlias = Mapping[ColumnID, Sequence[Piece]]


def decode_pieces(reader: Reader, pieces: PiecesByID, columns: Sequence[ColumnSpec]) -> DecodedRows:
    """Assemble the requested columns from the pieces of all columns of the rows.

    Raises:
        CodecError: A row holds a column twice, or a value that is invalid for its type.
        UnsupportedError: TiDB does not store columns of this type.
    """
    row_count = len(reader.starts)
    if not row_count:
        return DecodedRows(tuple(map(_empty_column, columns)), frozenset())
    unknown = frozenset(pieces) - {spec.id for spec in columns}
    for column_id in unknown:
        _rows_present(reader, pieces[column_id], row_count)
    decoded = (assemble(reader, spec, pieces.get(spec.id, ()), row_count) for spec in columns)
    return DecodedRows(tuple(decoded), unknown)


def _empty_column(spec: ColumnSpec) -> DecodedColumn:
    return DecodedColumn(pa.nulls(0, arrow_type(spec.type)), None)


def assemble(
    reader: Reader, spec: ColumnSpec, pieces: Sequence[Piece], row_count: int
) -> DecodedColumn:
    """Assemble one column from its pieces. Raises `CodecError`, `UnsupportedError`."""
    tp = arrow_type(spec.type)
    if len(pieces) == 1 and len(pieces[0].rows) == row_count:
        values = pieces[0].values
        only_nulls = values.form is Form.NULL
        column = pa.nulls(row_count, tp) if only_nulls else _to_arrow(reader, spec, values)
        return DecodedColumn(column, None)
    present = _rows_present(reader, pieces, row_count)
    slots = np.full(row_count, -1, np.int64)
    chunks: list[pa.Array] = []
    filled = 0
    for piece in pieces:
        if piece.values.form is not Form.NULL:
            slots[piece.rows] = np.arange(filled, filled + len(piece.rows))
            filled += len(piece.rows)
            chunks.append(_to_arrow(reader, spec, piece.values))
    absent = None if present.all() else ~present
    if not chunks:
        return DecodedColumn(pa.nulls(row_count, tp), absent)
    return DecodedColumn(take(joined(chunks), slots), absent)


def _rows_present(reader: Reader, pieces: Sequence[Piece], row_count: int) -> Mask:
    """Return which rows hold the column: bool[n]. Raises `CodecError`."""
    present = np.zeros(row_count, np.bool_)
    for piece in pieces:
        reader.check(~present[piece.rows], "duplicate column", piece.values.start - 1)
        present[piece.rows] = True
    return present


def _to_arrow(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    """Convert values to an Arrow array without nulls, checking them against the column's type."""
    tp = spec.type.tp
    if tp in _WHOLE_NUMBER_TYPES:
        return _whole_numbers(reader, spec, values)
    if tp in STRING_TYPES:
        return _strings(reader, spec, values)
    if tp == MySQLType.NEWDECIMAL:
        headers = _expect(reader, spec, values, Form.DECIMAL)
        return decimals_at(reader, values.start, headers, arrow_type(spec.type))
    if tp in (MySQLType.FLOAT, MySQLType.DOUBLE):
        return _floats(reader, spec, values)
    if tp in (MySQLType.DATE, MySQLType.NEWDATE):
        return _dates(reader, spec, values)
    if tp in (MySQLType.DATETIME, MySQLType.TIMESTAMP):
        return _timestamps(reader, spec, values)
    if tp == MySQLType.TIME:
        return _durations(reader, spec, values)
    if tp == MySQLType.JSON:
        _expect(reader, spec, values, Form.JSON)
        check_values(reader, values.start, values.end)
        return reader.slices(values.start, values.end)
    if tp == MySQLType.VECTOR:
        _expect(reader, spec, values, Form.VECTOR)
        return vectors_at(reader, values.start, values.end)
    raise UnsupportedError(f"type {tp.name}", f"column {spec.name}")


def _expect(reader: Reader, spec: ColumnSpec, values: Values, *forms: Form) -> npt.NDArray[Any]:
    """Check that the form is one of `forms`, and return the numbers."""
    if values.form not in forms:
        reason = f"{values.form.value} in column {spec.name} of type {spec.type.tp.name}"
        raise reader.error(reason, int(values.start[0]) - 1)
    return values.numbers if values.numbers is not None else np.zeros(0, np.int64)


def _whole_numbers(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    """Convert integers to the column's type.

    For an unsigned column without strict SQL mode TiDB stores 2^64 - 1 in place of a number that is
    too large, for any width of the column. An array with such numbers is returned as uint64.
    """
    numbers = _expect(reader, spec, values, Form.INT, Form.UINT)
    tp = arrow_type(spec.type)
    target = np.dtype(tp.to_pandas_dtype())
    if target != numbers.dtype:
        # NumPy compares integers of any type with Python ints exactly. A bound is checked only
        # where it restricts the type of the numbers.
        own, bounds = np.iinfo(numbers.dtype), np.iinfo(target.name)
        if target.kind == "u" and spec.type.tp in INTEGER_TYPES and own.min == 0:
            largest = numbers == own.max
            if largest.any() and (largest | (numbers <= bounds.max)).all():
                return primitive(numbers, pa.uint64())
        reason = f"integer out of range of column {spec.name}"
        if bounds.min > own.min:
            reader.check(numbers >= bounds.min, reason, values.start)
        if bounds.max < own.max:
            reader.check(numbers <= bounds.max, reason, values.start)
    return primitive(numbers.astype(target, copy=False), tp)


def _strings(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    _expect(reader, spec, values, Form.BYTES)
    raw = reader.slices(values.start, values.end)
    if spec.type.is_binary_string:
        return raw
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid as error:
        reason = f"invalid UTF-8 in column {spec.name}"
        raise reader.error(reason, int(values.start[0])) from error


def _floats(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    numbers = _expect(reader, spec, values, Form.FLOAT)
    tp = arrow_type(spec.type)
    with np.errstate(over="ignore", invalid="ignore"):  # Values that are not finite raise below.
        result = numbers.astype(tp.to_pandas_dtype())
    reason = f"float not finite or out of range of column {spec.name}"
    reader.check(np.isfinite(result), reason, values.start)
    return primitive(result, tp)


def _durations(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    """Convert nanoseconds to microseconds."""
    ns = _expect(reader, spec, values, Form.INT)
    us, rest = np.divmod(ns, 1000)
    fits = (rest == 0) & (ns < _END_DURATION_NS) & (ns > -_END_DURATION_NS)
    reader.check(fits, f"invalid duration in column {spec.name}", values.start)
    return primitive(us, arrow_type(spec.type))


def _dates(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    packed = _expect(reader, spec, values, Form.UINT)
    days, well_formed = unpack_dates(packed)
    well_formed &= (packed & np.uint64((1 << 41) - 1)) == 0
    reader.check(well_formed, f"invalid date in column {spec.name}", values.start)
    return primitive(days.astype(np.int32), pa.date32())


def _timestamps(reader: Reader, spec: ColumnSpec, values: Values) -> pa.Array:
    packed = _expect(reader, spec, values, Form.UINT)
    days, date_is_well_formed = unpack_dates(packed)
    micros, time_is_well_formed = unpack_times_of_day(packed)
    well_formed = date_is_well_formed & time_is_well_formed
    reader.check(well_formed, f"invalid date and time in column {spec.name}", values.start)
    return primitive(days * DAY_US + micros, arrow_type(spec.type))
