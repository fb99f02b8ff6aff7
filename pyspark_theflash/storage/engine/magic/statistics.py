"""Statistics of the row groups of a data file: smallest and largest values, NULLs.

They are JSON in the metadata of the footer, which has a checksum in the manifest, under
`theflash.statistics`: for each column, lists with one entry for each row group.

    low, high   the bounds of the values; null: unknown. Numbers are exact. Dates and times are
                integers, decimals their text. A long string is cut in `low`, unknown in `high`
    nulls       the number of NULLs, with those of deletes

Bounds hold for all versions in the row group, visible or not. Floats with a NaN have no bounds.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.storage.engine.magic.file import combine_chunks, is_text
from pyspark_theflash.storage.mvcc.version import is_absence
from pyspark_theflash.tidb.codec.array import fixed_width
from pyspark_theflash.tidb.codec.document import load, shaped

STATISTICS: Final = b"theflash.statistics"
"""Key in the footer's metadata."""
INT64_DIGITS: Final = 18
TEXT_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Statistics of a column, with one value for each row group."""

    type: pa.DataType
    low: pa.Array
    high: pa.Array
    nulls: npt.NDArray[np.int64]


class StatisticsWriter:
    """Collects the statistics of a file's row groups in order."""

    def __init__(self, repeating: Collection[str]) -> None:
        """Leave out the strings of `repeating`, which are in most row groups."""
        self._repeating = repeating
        self._columns: dict[str, dict[str, list[Any]]] = {}

    def add(self, group: pa.Table) -> None:
        """Append a row group."""
        for name in group.column_names:
            tp = group.schema.field(name).type
            if name.startswith("_") or is_absence(name) or not _has_order(tp):
                continue
            if is_text(tp) and name in self._repeating:
                continue
            column = group.column(name)
            entry = (*_bounds(column), column.null_count)
            lists = self._columns.setdefault(name, {"low": [], "high": [], "nulls": []})
            for values, value in zip(lists.values(), entry, strict=True):
                values.append(value)

    def encoded(self) -> dict[bytes, str]:
        """Return the footer's metadata; empty if there are no statistics."""
        if not self._columns:
            return {}
        return {STATISTICS: json.dumps(self._columns, separators=(",", ":"))}


def decoded(text: bytes, schema: pa.Schema, groups: int) -> Mapping[str, ColumnStatistics]:
    """Decode the statistics of a file with this schema. Raises `CodecError`."""
    with shaped("statistics"):
        return {
            name: _column(schema.field(name).type, lists, groups)
            for name, lists in load(text).items()
        }


def _column(tp: pa.DataType, lists: Mapping[str, list[Any]], groups: int) -> ColumnStatistics:
    low, high = (_array(lists[name], tp) for name in ("low", "high"))
    nulls = np.array(lists["nulls"], np.int64)
    if {len(low), len(high), len(nulls)} != {groups}:
        raise ValueError("statistics of another number of row groups")
    return ColumnStatistics(tp, low, high, nulls)


def _has_order(tp: pa.DataType) -> bool:
    return bool(
        is_text(tp)
        or pa.types.is_integer(tp)
        or pa.types.is_floating(tp)
        or pa.types.is_decimal(tp)
        or pa.types.is_temporal(tp)
    )


def _bounds(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Return the smallest and the largest value as JSON; None: unknown."""
    tp = column.type
    if pa.types.is_floating(tp) and pc.any(pc.is_nan(column)).as_py():
        return None, None
    if pa.types.is_temporal(tp):
        column = combine_chunks(column).view(_integers(tp))
    if pa.types.is_decimal128(tp) and tp.precision <= INT64_DIGITS and not column.null_count:
        # pc.min_max takes ten times as long.
        ints = fixed_width(combine_chunks(column), 16).view(np.int64)[:, 0]
        return _decimal(ints.min(), tp.scale), _decimal(ints.max(), tp.scale)
    bounds = pc.min_max(column)
    low, high = bounds["min"], bounds["max"]
    if not low.is_valid:
        return None, None
    if is_text(tp):
        return _cut(low), _cut(high) if len(high.as_buffer()) <= TEXT_BYTES else None
    return (str(low), str(high)) if pa.types.is_decimal(tp) else (low.as_py(), high.as_py())


def _decimal(unscaled: np.int64, scale: int) -> str:
    return str(Decimal(int(unscaled)).scaleb(-scale))


def _cut(value: pa.Scalar) -> str | None:
    """Return the first characters of a string, or bytes in hex; None if it is not UTF-8."""
    data: bytes = value.as_buffer().to_pybytes()
    if pa.types.is_binary(value.type):
        return data[:TEXT_BYTES].hex()
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return data[:TEXT_BYTES].decode(errors="ignore")


def _array(values: Sequence[Any], tp: pa.DataType) -> pa.Array:
    if pa.types.is_binary(tp):
        return pa.array([None if v is None else bytes.fromhex(v) for v in values], tp)
    if pa.types.is_decimal(tp):
        return pa.array(values, pa.string()).cast(tp)
    if pa.types.is_temporal(tp):
        return pa.array(values, _integers(tp)).view(tp)
    return pa.array(values, tp)


def _integers(tp: pa.DataType) -> pa.DataType:
    return pa.int32() if tp.bit_width == 32 else pa.int64()
