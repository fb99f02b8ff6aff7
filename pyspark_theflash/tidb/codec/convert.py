"""Conversion of a column's old values when MODIFY COLUMN changes its type.

TiDB either leaves the rows unchanged, because they are valid under the new type too (INT to BIGINT,
a longer VARCHAR, additional ENUM elements), or rewrites every row with the converted value. A
replica does not see the rewrite: it stores the values of the old type and converts them when they
are read as the new type. Under a strict sql_mode a value that does not fit makes the DDL fail, so
values that do not fit are converted by the rules without strict mode: clamped, cut, zero, or NULL.

Some results depend on the session that changed the column. TiDB records its time zone and sql_mode
in the DDL job:

    TIMESTAMP to or from any type (also to          its time zone
    TIMESTAMP with fewer fractional digits)
    TIME to a date                                  its time zone, and the day of the change
    text with a time zone to a date                 its time zone
    date and time rounded up to the next second     its time zone, near a change of the clocks
    dates like February 30 from text or numbers     its sql_mode
    NULL to TIMESTAMP NOT NULL                      the time at which the row was rewritten

If the required setting is unknown, the conversion raises `UnsupportedError` for values that depend
on it. A zero date, for example, does not depend on the time zone.

The rules are those of TiDB 6.6 (`ConvertTo` in types/datum.go, `CastValue` in table/column.go,
`needChangeColumnData` in ddl/column.go). The modules `convert_*` implement them, by kind of the new
type; `loose_number` and `loose_time` parse numbers, dates and times in free-form text.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.array import take
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession, TypeChange
from pyspark_theflash.tidb.codec.convert_choice import to_enum, to_set
from pyspark_theflash.tidb.codec.convert_json import from_json, to_json
from pyspark_theflash.tidb.codec.convert_number import (
    to_bit,
    to_decimal,
    to_float,
    to_integer,
    to_year,
)
from pyspark_theflash.tidb.codec.convert_string import to_string
from pyspark_theflash.tidb.codec.convert_time import to_datetime, to_session_time, to_time
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)

_CHOICES: Final = frozenset({MySQLType.ENUM, MySQLType.SET})
_FRACTIONS: Final = frozenset({MySQLType.NEWDECIMAL, MySQLType.FLOAT, MySQLType.DOUBLE})
_TIMES: Final = DATETIME_TYPES | {MySQLType.TIME}
_BIT: Final = frozenset({MySQLType.BIT})
_YEAR: Final = frozenset({MySQLType.YEAR})
_JSON: Final = frozenset({MySQLType.JSON})
# Old types from which TiDB rejects a change, by new type.
_REJECTED: Final[Mapping[MySQLType, frozenset[MySQLType]]] = {
    MySQLType.BIT: _TIMES | STRING_TYPES | _YEAR | _JSON,
    **dict.fromkeys(_CHOICES, _TIMES | _FRACTIONS | _BIT | _YEAR | _JSON),
    **dict.fromkeys(DATETIME_TYPES, _FRACTIONS | _CHOICES | _BIT),
    MySQLType.TIME: _CHOICES | _BIT,
}
_CONVERTERS: Final[Mapping[MySQLType, Callable[[TypeChange, pa.Array], pa.Array]]] = {
    **dict.fromkeys(INTEGER_TYPES, to_integer),
    **dict.fromkeys(STRING_TYPES, to_string),
    **dict.fromkeys(DATETIME_TYPES, to_datetime),
    MySQLType.TIME: to_time,
    MySQLType.YEAR: to_year,
    MySQLType.NEWDECIMAL: to_decimal,
    MySQLType.FLOAT: to_float,
    MySQLType.DOUBLE: to_float,
    MySQLType.BIT: to_bit,
    MySQLType.ENUM: to_enum,
    MySQLType.SET: to_set,
    MySQLType.JSON: to_json,
}


def convert_column(
    values: pa.Array,
    from_type: FieldType,
    to_type: FieldType,
    where: str,
    session: ReorgSession | None = None,
) -> pa.Array:
    """Convert stored values from a column's old type to its new type, as MODIFY COLUMN does.

    Args:
        values: Values of type `arrow_type(from_type)`.
        from_type: The column's type when the values were written.
        to_type: The column's new type.
        where: Name of the column for errors.
        session: Session that changed the column, if recorded.

    Returns:
        As many values, of type `arrow_type(to_type)`. Nulls remain null. A value that TiDB cannot
        convert may become null, also in a NOT NULL column.

    Raises:
        UnsupportedError: TiDB rejects the pair of types or it is not implemented, or the result
            depends on information that is not recorded.
    """
    change = TypeChange(from_type, to_type, where, session)
    target = arrow_type(to_type)
    if _keeps_rows(from_type, to_type):
        return pc.cast(values, target)
    _check_pair(change)
    if values.null_count and to_type.tp == MySQLType.TIMESTAMP and to_type.is_not_null:
        raise change.unsupported("NULL became the time at which the row was rewritten")
    if values.null_count == len(values):
        return pa.nulls(len(values), target)
    return _convert(change, values)


def _check_pair(change: TypeChange) -> None:
    old, new = change.old, change.new
    if old.tp in _REJECTED.get(new.tp, ()) or not {old.tp, new.tp} <= _CONVERTERS.keys():
        raise UnsupportedError(
            f"a change of type from {old.tp.name} to {new.tp.name}", change.where
        )


def _convert(change: TypeChange, values: pa.Array) -> pa.Array:
    present = values.drop_null()
    if change.old.tp == MySQLType.TIMESTAMP:
        change, present = to_session_time(change, present)
    from_json_value = change.old.tp == MySQLType.JSON and change.new.tp not in STRING_TYPES
    converted = (from_json if from_json_value else _CONVERTERS[change.new.tp])(change, present)
    if len(present) == len(values):
        return converted
    is_present = pc.is_valid(values).to_numpy(zero_copy_only=False)
    slots = np.where(is_present, np.cumsum(is_present) - 1, -1)
    return take(converted, slots)


def _keeps_rows(old: FieldType, new: FieldType) -> bool:
    """Whether TiDB leaves the rows unchanged, and casting the values suffices.

    False for integers, for which the conversion gives the same result as a cast.
    """
    if old.tp in STRING_TYPES and new.tp in STRING_TYPES:
        if old.is_binary_string != new.is_binary_string:
            return False
        if MySQLType.STRING in (old.tp, new.tp):
            same_padding = old.tp == new.tp and not old.is_binary_string
            return old == new or (same_padding and not _is_shortened(old, new))
        return not _is_shortened(old, new)
    if old.tp != new.tp:
        return False
    if old.tp in _CHOICES:
        return new.elems[: len(old.elems)] == old.elems
    if old.is_unsigned != new.is_unsigned:
        return False
    if old.tp == MySQLType.NEWDECIMAL:
        return (old.flen, old.decimal) == (new.flen, new.decimal)
    return old.tp not in INTEGER_TYPES and not _is_shortened(old, new)


def _is_shortened(old: FieldType, new: FieldType) -> bool:
    return new.flen > 0 and (new.flen < old.flen or new.decimal < old.decimal)
