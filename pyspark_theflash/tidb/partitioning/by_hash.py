"""HASH and KEY partitioning, which distribute rows by a number computed from their columns.

HASH uses `abs(value % partitions)`, with unsigned values reinterpreted as int64, and 0 for NULL.
KEY uses the CRC-32 of its columns' concatenated texts, modulo the partitions: strings as collation
sort keys, so that equal ones share a partition; NULL as a zero byte (`LocateKeyPartition` in TiDB).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.array import join_bytes
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.expression.evaluate import TypedArray
from pyspark_theflash.tidb.partitioning.placement import ExpressionPlacement, Indexes

_COLLATED = STRING_TYPES | {MySQLType.ENUM, MySQLType.SET}


@dataclass(frozen=True, slots=True)
class HashPlacement(ExpressionPlacement):
    """HASH (expr)."""

    count: int

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        values, null = self.numbers(columns, rows)
        places = np.abs(np.fmod(values.view(np.int64), np.int64(self.count)))
        return np.where(null, 0, places)


@dataclass(frozen=True, slots=True)
class KeyPlacement:
    """KEY (columns)."""

    columns: tuple[str, ...]
    count: int
    where: str

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        parts = [_key_bytes(*columns[name], self.where) for name in self.columns]
        joined = join_bytes(*parts).dictionary_encode()
        sums = [zlib.crc32(value) % self.count for value in joined.dictionary.to_pylist()]
        places: Indexes = np.array(sums, np.int64)[np.asarray(joined.indices)]
        return places


def key_placement(columns: Sequence[tuple[str, FieldType]], count: int, where: str) -> KeyPlacement:
    """Return the placement of KEY, for columns by name and type.

    Raises:
        UnsupportedError: A column is TIMESTAMP, which TiDB formats in the session's time zone.
    """
    if any(field_type.tp == MySQLType.TIMESTAMP for _, field_type in columns):
        raise UnsupportedError("partitioning by key of a TIMESTAMP", where)
    return KeyPlacement(tuple(name for name, _ in columns), count, where)


def _key_bytes(values: pa.Array, field_type: FieldType, where: str) -> pa.Array:
    try:
        texts = format_column(values, field_type)
        if field_type.tp in _COLLATED:
            texts = sort_keys(texts, field_type)
    except UnsupportedError as error:
        raise UnsupportedError(error.what, where) from None
    return pc.fill_null(pc.cast(texts, pa.binary()), b"\0")
