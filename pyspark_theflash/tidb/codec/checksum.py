"""Row checksums: what TiDB's `tidb_enable_row_level_checksum` puts behind rows of format v2.

    u8 header | u32 CRC-32 (IEEE) | another u32 where bit 3 of the header is set

The lowest three bits of the header are the version, which says what the sum covers:

    0, TiDB 7.1 to 8.2   the values, column by column in the order of ids, the key's too
    1, TiDB 8.3          the row from its first byte to the header, then its record key
    2, since TiDB 8.4    the row from its first byte to the header, then what its key has as handle

Values, of version 0: integers, YEAR, ENUM, SET and BIT as 8 bytes, FLOAT and DOUBLE as a double,
VECTOR as it is in the row, all others as their text behind its u32 length; all little-endian. NULL
and virtual columns do not count. While a column is being added, dropped or changed there are two
sums: with the table as it was and as it will be, so that one of both matches what one column more
or less gives.

A sum that covers what is not at hand cannot be checked: those of versions 1 and 2 without the keys;
that of version 0 where the row holds a column that was not asked for, or lacks one of the primary
key and there are no keys. As in TiDB's `util/rowcodec` (`row.go`, `common.go`).
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
from pyspark_theflash.tidb.codec.array import ArrowArray, join_bytes, primitive, take
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
    """Where rows are: one record key a row, as TiDB makes it (`key.RawKey`).

    `handle` are the columns of a clustered primary key, in key order; none where rows have a
    `_tidb_rowid`.
    """

    raw: RowBuffer
    handle: Sequence[ColumnSpec] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """What rows were decoded to: what a checksum of version 0 covers.

    `has_unknown` is bool[n]: which rows hold columns besides these.
    """

    specs: Sequence[ColumnSpec]
    columns: Sequence[DecodedColumn]
    has_unknown: Mask


def check_checksums(
    reader: Reader, rows: Positions, at: Positions, content: Content, keys: RecordKeys | None
) -> None:
    """That the checksums (their headers) at the given places are those of the given rows.

    Raises:
        CodecError: one is wrong, or of a version that is not known.
    """
    versions = reader.bytes_at(at) & _VERSION_MASK
    reader.check(versions <= _HANDLE, "a checksum of an unknown version", at)
    if keys is not None:
        invariant(len(keys.raw) == len(reader.starts), "there is one key a row")
        for version, key_from in ((_KEY, 0), (_HANDLE, HANDLE_AT)):
            same = np.flatnonzero(versions == version)
            _check_bytes(reader, rows[same], at[same], keys.raw, key_from)
    same = np.flatnonzero(versions == _COLUMNS)
    if len(same):
        _check_columns(reader, rows[same], at[same], content, keys)


def _check_bytes(
    reader: Reader, rows: Positions, at: Positions, keys: RowBuffer, key_from: int
) -> None:
    data, key_data = reader.view(), np.ascontiguousarray(keys.buffer).data
    places = zip(
        reader.starts[rows].tolist(),
        (at + 1).tolist(),
        (keys.offsets[rows] + key_from).tolist(),
        keys.offsets[rows + 1].tolist(),
        strict=True,
    )
    sums = [crc32(key_data[k:end], crc32(data[i:j])) for i, j, k, end in places]
    reader.check(np.array(sums, np.int64) == _stored(reader, at + 1), "a wrong checksum", at)


def _stored(reader: Reader, at: Positions) -> Positions:
    sums: Positions = (reader.words_at(at) & np.uint64(0xFFFFFFFF)).view(np.int64)
    return sums


def _check_columns(
    reader: Reader, rows: Positions, at: Positions, content: Content, keys: RecordKeys | None
) -> None:
    specs = sorted(zip(content.specs, content.columns, strict=True), key=lambda pair: pair[0].id)
    checkable = ~content.has_unknown[rows]
    if keys is None:
        for spec, column in specs:
            if spec.type.flag & ColumnFlag.PRI_KEY and column.absent is not None:
                checkable &= ~column.absent[rows]
    rows, at = rows[checkable], at[checkable]
    from_keys = _from_keys(keys, rows) if keys is not None else {}
    parts = []
    for spec, column in specs:
        values = take(column.values, rows)
        if spec.id in from_keys and column.absent is not None:
            values = pc.if_else(column.absent[rows], from_keys[spec.id], values)
        parts.append(_datums(values, spec.type))
    first, extra = _stored(reader, at + 1), _stored(reader, at + 5)
    has_extra = reader.bytes_at(at) & EXTRA != 0
    sums = _sums(parts, len(rows))
    right = (sums == first) | (has_extra & (sums == extra))
    for left_out in range(len(parts) if (has_extra & ~right).any() else 0):
        sums = _sums(parts[:left_out] + parts[left_out + 1 :], len(rows))
        right |= has_extra & ((sums == first) | (sums == extra))
    reader.check(right, "a wrong checksum", at)


def _sums(parts: Sequence[ArrowArray], row_count: int) -> Positions:
    if not parts:
        return np.zeros(row_count, np.int64)
    return np.array([crc32(row) for row in join_bytes(*parts).to_pylist()], np.int64)


def _from_keys(keys: RecordKeys, rows: Positions) -> dict[int, ArrowArray]:
    """The columns of the primary key, as far as keys hold them, by id."""
    raw = keys.raw.select(rows)
    reader = Reader(raw, "record key")
    sizes = reader.ends - reader.starts
    reader.check(sizes >= _INT_KEY_BYTES, "a key without a handle", reader.starts)
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
    """Strings as what keys hold; where those are weights the row has the string itself."""
    if field_type.tp not in STRING_TYPES:
        return field_type
    return replace(field_type, charset="binary", collate="binary")


def _datums(values: ArrowArray, field_type: FieldType) -> ArrowArray:
    """Each value as its bytes that are summed up; none for a null."""
    encoded: ArrowArray
    if field_type.tp in _TEXTS:
        texts = format_column(values, field_type).cast(pa.binary())
        lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy().astype("<u4")
        encoded = join_bytes(primitive(lengths, pa.binary(4)).cast(pa.binary()), texts)
    elif field_type.tp == MySQLType.VECTOR:
        vectors = (v and struct.pack(f"<I{len(v)}f", len(v), *v) for v in values.to_pylist())
        encoded = pa.array([bytes(4) if v == [] else v for v in vectors], pa.binary())
    else:
        encoded = primitive(_words(values), pa.binary(8)).cast(pa.binary())
    present: ArrowArray = pc.if_else(values.is_valid(), encoded, b"")
    return present


def _words(values: ArrowArray) -> npt.NDArray[np.uint64]:
    numbers = pc.fill_null(values, 0).to_numpy()
    wide = numbers.astype("<f8" if numbers.dtype.kind == "f" else "<i8")
    words: npt.NDArray[np.uint64] = wide.view(np.uint64)
    return words
