"""Common handles: row handles of tables whose clustered primary key is not a single integer.

    datum | datum | ...  one per primary-key column, in key form; padded with zeros to 9 bytes

    (5, 'ab', 1998-12-01)   03 8000000000000005 | 01 6162000000000000f9 | 04 1960820000000000

A common handle has at least nine bytes, which distinguishes it from the 8 bytes of an integer
handle. Byte order is key order. See TiDB's `kv.CommonHandle` and `codec.EncodeKey`.

Strings are stored as sort keys (see `collation`). Under a collation that is not bytewise these are
weights, from which the string cannot be restored.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, UnsupportedError, invariant
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.array import binary, join_bytes, variable_width
from pyspark_theflash.tidb.codec.bytes import bytes_at, encode_bytes_array
from pyspark_theflash.tidb.codec.collation import is_bytewise, sort_keys
from pyspark_theflash.tidb.codec.column import Piece, assemble
from pyspark_theflash.tidb.codec.datum import DatumFlag, Form, form_of, values_at
from pyspark_theflash.tidb.codec.decimal import encode_decimals
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.number import comparable_from_floats
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words
from pyspark_theflash.tidb.codec.row import ColumnSpec, RowBuffer
from pyspark_theflash.tidb.codec.time import packed_times

MIN_BYTES: Final = 9
_LAYER: Final = "common handle"
_SIGN: Final = np.uint64(1 << 63)
_FLAGS: Final = {
    Form.INT: DatumFlag.INT,
    Form.UINT: DatumFlag.UINT,
    Form.FLOAT: DatumFlag.FLOAT,
    Form.DECIMAL: DatumFlag.DECIMAL,
    Form.BYTES: DatumFlag.BYTES,
}


def encode_common_handles(
    columns: Sequence[pa.Array], types: Sequence[FieldType], prefix_lengths: Sequence[int]
) -> pa.Array:
    """Encode the handles of rows as a binary array.

    Args:
        columns: The key columns in key order, without nulls, of the Arrow types of `types`.
        prefix_lengths: The length of each column's indexed prefix, in characters (for binary
            strings in bytes), or -1 for the whole value.

    Raises:
        UnsupportedError: A collation is unknown, or a type cannot be in a key.
    """
    invariant(all(column.null_count == 0 for column in columns), "a handle holds no NULL")
    parts = [
        _encode(column, field_type, prefix_length)
        for column, field_type, prefix_length in zip(columns, types, prefix_lengths, strict=True)
    ]
    joined = join_bytes(*parts)
    pad_sizes = np.maximum(MIN_BYTES - np.diff(variable_width(joined)[1]), 0)
    if not pad_sizes.any():
        return joined
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(pad_sizes)])
    return join_bytes(joined, binary(np.zeros(bounds[-1], np.uint8), bounds))


def decode_common_handles(handles: pa.Array, types: Sequence[FieldType]) -> tuple[pa.Array, ...]:
    """Decode handles into the key columns, of the Arrow types of `types`.

    Strings under a collation that is not bytewise are decoded as weights, of type binary. A handle
    does not hold trailing spaces of PAD SPACE strings, nor the part of a value after its prefix.

    Raises:
        CodecError: A handle is invalid.
        UnsupportedError: A type cannot be in a key.
    """
    reader = Reader(RowBuffer.from_arrow(handles), _LAYER)
    long_enough = reader.ends - reader.starts >= MIN_BYTES
    reader.check(long_enough, f"fewer than {MIN_BYTES} bytes", reader.starts)
    at = reader.starts
    columns = []
    for number, field_type in enumerate(types, 1):
        column, at = _decode(reader, at, f"{number} of the key", field_type)
        columns.append(column)
    _check_padding(reader, at)
    return tuple(columns)


def key_strings(strings: pa.Array, field_type: FieldType, prefix_length: int) -> pa.Array:
    """Encode strings as in a key; the prefix length is as in `encode_common_handles`.

    Raises:
        UnsupportedError: The collation is unknown.
    """
    if prefix_length >= 0:
        cut = pc.binary_slice if field_type.is_binary_string else pc.utf8_slice_codeunits
        strings = cut(strings, 0, prefix_length)
    return sort_keys(strings, field_type)


def _key_flag(field_type: FieldType) -> DatumFlag:
    """Return the datum flag of values of a type in keys."""
    form = form_of(field_type)
    if form not in _FLAGS:
        raise UnsupportedError(f"type {field_type.tp.name} in a clustered key", "table")
    return DatumFlag.DURATION if field_type.tp == MySQLType.TIME else _FLAGS[form]


def _encode(column: pa.Array, field_type: FieldType, prefix_length: int) -> pa.Array:
    flag = _key_flag(field_type)
    if flag == DatumFlag.BYTES:
        encoded = encode_bytes_array(key_strings(column, field_type, prefix_length))
        return join_bytes(bytes([flag]), encoded)
    if flag == DatumFlag.DECIMAL:
        return _fixed_size(flag, encode_decimals(column))
    words = _comparable(column, field_type, flag)
    return _fixed_size(flag, words.astype(">u8").view(np.uint8).reshape(-1, 8))


def _fixed_size(flag: DatumFlag, contents: npt.NDArray[np.uint8]) -> pa.Array:
    """Prefix values of the same size with their flag."""
    count, size = contents.shape
    data = np.empty((count, size + 1), np.uint8)
    data[:, 0], data[:, 1:] = flag, contents
    return binary(data, np.arange(count + 1) * (size + 1))


def _comparable(column: pa.Array, field_type: FieldType, flag: DatumFlag) -> Words:
    """Encode numbers and times as comparable 64-bit words."""
    if flag == DatumFlag.FLOAT:
        return comparable_from_floats(column.cast(pa.float64()).to_numpy())
    if field_type.tp in DATETIME_TYPES:
        return packed_times(column)
    words: Words
    if flag == DatumFlag.UINT:
        words = column.cast(pa.uint64()).to_numpy()
    else:
        signed = column.cast(pa.int64()).to_numpy()
        words = (signed * 1000 if flag == DatumFlag.DURATION else signed).view(np.uint64) ^ _SIGN
    return words


def _decode(
    reader: Reader, at: Positions, name: str, field_type: FieldType
) -> tuple[pa.Array, Positions]:
    """Decode one column; also return the positions after it."""
    flag = _key_flag(field_type)
    reader.check_ends(at + 1, reader.ends, at)
    reader.check(reader.bytes_at(at) == flag, f"datum flag is not {flag}", at)
    if flag == DatumFlag.BYTES:
        raw, end = bytes_at(reader, at + 1, reader.ends)
        return _as_text(reader, raw, field_type), end
    values = values_at(reader, flag, at + 1, reader.ends)
    spec = ColumnSpec(ColumnID(0), name, field_type)
    pieces = [Piece(np.arange(len(at)), values)]
    return assemble(reader, spec, pieces, len(at)).values, values.end


def _as_text(reader: Reader, raw: pa.Array, field_type: FieldType) -> pa.Array:
    if field_type.is_binary_string or not is_bytewise(field_type):
        return raw
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise CodecError(reader.layer, "string is not valid UTF-8") from error


def _check_padding(reader: Reader, at: Positions) -> None:
    """Check that only zeros up to the ninth byte follow the last datum."""
    padded = (at < reader.ends) & (reader.ends - reader.starts == MIN_BYTES)
    reader.check((at == reader.ends) | padded, "trailing bytes after the last column", at)
    rest = (8 * (reader.ends - at)[padded]).astype(np.uint64)
    words = reader.big_endian_at(reader.ends[padded] - 8, 8)
    is_zero = (words << (np.uint64(64) - rest)) == 0
    reader.check(is_zero, "padding is not zero", at[padded])
