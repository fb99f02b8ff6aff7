"""Text forms of query results: TiDB's (`codec.text`) for types that TiDB has.

integers, floats, decimals, dates   as TiDB prints them
times                               2024-02-29 12:00:00.500000; without a fraction of 0
intervals                           -838:59:59, as TIME; otherwise `2 months 1 days 00:00:00`
booleans                            true, false
lists, structs, maps                JSON
"""

import json
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column

_NS: Final = 1_000_000_000
_MIDNIGHT: Final = r"^(.*)\.0+$"


def result_texts(batch: pa.RecordBatch) -> list[pa.Array]:
    """Convert the columns to `string`, or `binary` for bytes. Nulls remain."""
    return [_texts(column) for column in batch.columns]


def _texts(values: pa.Array) -> pa.Array:
    tp = values.type
    if pa.types.is_dictionary(tp):
        values = values.dictionary_decode()
    elif pa.types.is_floating(tp):
        single = MySQLType.FLOAT if pa.types.is_float32(tp) else MySQLType.DOUBLE
        if pc.all(pc.is_finite(values), min_count=0).as_py():
            return format_column(values, FieldType(single))
    elif pa.types.is_timestamp(tp):
        local = pc.cast(values, pa.timestamp(tp.unit))
        return pc.replace_substring_regex(pc.cast(local, pa.string()), _MIDNIGHT, r"\1")
    if pa.types.is_binary(values.type):
        return values
    plain = pa.types.is_null(tp) or pa.types.is_boolean(tp) or pa.types.is_integer(tp)
    if plain or pa.types.is_string(values.type) or pa.types.is_date(tp) or pa.types.is_decimal(tp):
        return pc.cast(values, pa.string())
    show = _interval if pa.types.is_interval(tp) else _other
    return pa.array([None if v is None else show(v) for v in values.to_pylist()], pa.string())


def _interval(value: Any) -> str:  # noqa: ANN401 (pyarrow has no type for MonthDayNano)
    sign = "-" if value.nanoseconds < 0 else ""
    seconds, ns = divmod(abs(value.nanoseconds), _NS)
    fraction = f".{ns // 1000:06}" if ns else ""
    clock = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
    if not value.months and not value.days:
        return clock
    return f"{value.months} months {value.days} days {clock}"


def _other(value: object) -> str:
    is_nested = isinstance(value, dict | list | tuple)
    return json.dumps(value, ensure_ascii=False, default=str) if is_nested else str(value)
