"""Row checksums, which `tidb_enable_row_level_checksum` appends to rows of format v2.

    u8 header | u32 CRC-32 (IEEE) | second u32 CRC-32, if bit 3 of the header is set

The low three bits of the header are the version, which defines the bytes that the checksum covers:

    0, TiDB 7.1 to 8.2   the values of all columns in order of column id, key columns included
    1, TiDB 8.3          the row from its first byte to the header, then its record key
    2, since TiDB 8.4    the row from its first byte to the header, then the handle of its key

Version 0 encodes integers, YEAR, ENUM, SET and BIT as 8 bytes, FLOAT and DOUBLE as a double, VECTOR
as in the row, and all other types as u32 length and text; all little-endian. NULL and virtual
columns are skipped. While a column is added, dropped or changed, rows have two checksums, for the
old and the new state of the table. Such a row is accepted if its values match one of them, with all
columns or with one column left out.

A checksum is not checked if part of the covered data is not available: for versions 1 and 2 the
record keys; for version 0, if the row has a column that was not requested, or if a column of the
primary key is neither in the row nor in a record key. See TiDB's `util/rowcodec` (`row.go`,
`common.go`).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import invariant
from pyspark_theflash.tidb.codec.array import join_bytes, primitive, take
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles
from pyspark_theflash.tidb.codec.key import HANDLE_AT
from pyspark_theflash.tidb.codec.reader import Mask, Positions, Reader
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedColumn, RowBuffer
from pyspark_theflash.tidb.codec.text import format_column

EXTRA: Final = 0x08
_VERSION_MASK: Final = 0x07
_COLUMNS, _KEY, _HANDLE = 0, 1, 2
_INT_KEY_BYTES: Final = HANDLE_AT + 8
_TEXTS: Final = STRING_TYPES | {
    MySQLType.DATE,
    MySQLType.NEWDATE,
    MySQLType.DATETIME,
    MySQLType.TIMESTAMP,
    MySQLType.TIME,
    MySQLType.NEWDECIMAL,
    MySQLType.JSON,
}


@dataclass(frozen=True, slots=True)
class RecordKeys:
    """Record keys (`key.RawKey`) of rows, one per row.

    `handle` has the columns of a clustered primary key, in key order; empty for tables with
    `_tidb_rowid`.
    """

    raw: RowBuffer
    handle: Sequence[ColumnSpec] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """Decoded columns of rows, which a checksum of version 0 covers.

    `has_unknown` is bool[n]: the rows that hold columns not in `specs`.
    """

    specs: Sequence[ColumnSpec]
    columns: Sequence[DecodedColumn]
    has_unknown: Mask


def check_checksums(
    reader: Reader, rows: Positions, at: Positions, content: Content, keys: RecordKeys | None
) -> None:
    """Check the checksums of `rows`, with headers at the positions `at`. Raises `CodecError`."""
    versions = reader.bytes_at(at) & _VERSION_MASK
    reader.check(versions <= _HANDLE, "unknown checksum version", at)
    if keys is not None:
        invariant(len(keys.raw) == len(reader.starts), "there is one key per row")
        for version, key_from in ((_KEY, 0), (_HANDLE, HANDLE_AT)):
            members = np.flatnonzero(versions == version)
            _check_bytes(reader, rows[members], at[members], keys.raw, key_from)
    members = np.flatnonzero(versions == _COLUMNS)
    if len(members):
        _check_columns(reader, rows[members], at[members], content, keys)


def _check_bytes(
    reader: Reader, rows: Positions, at: Positions, keys: RowBuffer, key_from: int
) -> None:
    """Check checksums of versions 1 and 2; `key_from` is where the covered part of a key begins."""
    data, key_data = reader.view(), np.ascontiguousarray(keys.buffer).data
    bounds = zip(
        reader.starts[rows].tolist(),
        (at + 1).tolist(),
        (keys.offsets[rows] + key_from).tolist(),
        keys.offsets[rows + 1].tolist(),
        strict=True,
    )
    sums = [crc32(key_data[k:end], crc32(data[i:j])) for i, j, k, end in bounds]
    reader.check(np.array(sums, np.int64) == _stored_sums(reader, at + 1), "wrong checksum", at)


def _stored_sums(reader: Reader, at: Positions) -> Positions:
    sums: Positions = (reader.words_at(at) & np.uint64(0xFFFFFFFF)).view(np.int64)
    return sums


def _check_columns(
    reader: Reader, rows: Positions, at: Positions, content: Content, keys: RecordKeys | None
) -> None:
    """Check checksums of version 0."""
    specs = sorted(zip(content.specs, content.columns, strict=True), key=lambda pair: pair[0].id)
    checkable = ~content.has_unknown[rows]
    if keys is None:
        for spec, column in specs:
            if spec.type.flag & ColumnFlag.PRI_KEY and column.absent is not None:
                checkable &= ~column.absent[rows]
    rows, at = rows[checkable], at[checkable]
    key_columns = _key_columns(keys, rows) if keys is not None else {}
    parts = []
    for spec, column in specs:
        values = take(column.values, rows)
        if spec.id in key_columns and column.absent is not None:
            values = pc.if_else(column.absent[rows], key_columns[spec.id], values)
        parts.append(_covered_bytes(values, spec.type))
    first, extra = _stored_sums(reader, at + 1), _stored_sums(reader, at + 5)
    has_extra = reader.bytes_at(at) & EXTRA != 0
    sums = _sums(parts, len(rows))
    matches = (sums == first) | (has_extra & (sums == extra))
    for left_out in range(len(parts) if (has_extra & ~matches).any() else 0):
        sums = _sums(parts[:left_out] + parts[left_out + 1 :], len(rows))
        matches |= has_extra & ((sums == first) | (sums == extra))
    reader.check(matches, "wrong checksum", at)


def _sums(parts: Sequence[pa.Array], row_count: int) -> Positions:
    if not parts:
        return np.zeros(row_count, np.int64)
    return np.array([crc32(row) for row in join_bytes(*parts).to_pylist()], np.int64)


def _key_columns(keys: RecordKeys, rows: Positions) -> dict[int, pa.Array]:
    """Decode the columns of the clustered primary key from the record keys, by column id."""
    raw = keys.raw.select(rows)
    reader = Reader(raw, "record key")
    sizes = reader.ends - reader.starts
    reader.check(sizes >= _INT_KEY_BYTES, "key without a handle", reader.starts)
    if not keys.handle or not len(rows):
        return {}
    if len(keys.handle) == 1 and (sizes == _INT_KEY_BYTES).all():
        words = reader.big_endian_at(reader.starts + HANDLE_AT, 8) ^ np.uint64(1 << 63)
        spec = keys.handle[0]
        whole = pa.uint64() if spec.type.is_unsigned else pa.int64()
        return {spec.id: primitive(words, whole)}
    handles = reader.slices(reader.starts + HANDLE_AT, reader.ends)
    columns = decode_common_handles(handles, [_as_bytes(spec.type) for spec in keys.handle])
    return {spec.id: column for spec, column in zip(keys.handle, columns, strict=True)}


def _as_bytes(field_type: FieldType) -> FieldType:
    """Treat strings as bytes. Weights are decoded but not used, because rows store the string."""
    if field_type.tp not in STRING_TYPES:
        return field_type
    return replace(field_type, charset="binary", collate="binary")


def _covered_bytes(values: pa.Array, field_type: FieldType) -> pa.Array:
    """Encode each value for a checksum of version 0; a null has no bytes."""
    encoded: pa.Array
    if field_type.tp in _TEXTS:
        texts = format_column(values, field_type).cast(pa.binary())
        lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy().astype("<u4")
        encoded = join_bytes(primitive(lengths, pa.binary(4)).cast(pa.binary()), texts)
    elif field_type.tp == MySQLType.VECTOR:
        vectors = (v and struct.pack(f"<I{len(v)}f", len(v), *v) for v in values.to_pylist())
        encoded = pa.array([bytes(4) if v == [] else v for v in vectors], pa.binary())
    else:
        encoded = primitive(_words(values), pa.binary(8)).cast(pa.binary())
    return pc.if_else(values.is_valid(), encoded, b"")


def _words(values: pa.Array) -> npt.NDArray[np.uint64]:
    numbers = pc.fill_null(values, 0).to_numpy()
    wide = numbers.astype("<f8" if numbers.dtype.kind == "f" else "<i8")
    words: npt.NDArray[np.uint64] = wide.view(np.uint64)
    return words
