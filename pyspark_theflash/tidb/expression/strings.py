"""Text functions. Positions count characters, or bytes in a text without a charset."""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.codec.time import Int64s
from pyspark_theflash.tidb.expression.allowance import check_time, require
from pyspark_theflash.tidb.expression.collation import as_texts
from pyspark_theflash.tidb.expression.convert import to_integer, to_signed, to_text
from pyspark_theflash.tidb.expression.vector import (
    Array,
    Kind,
    Vector,
    integers,
    map_rows,
    null_of,
    texts,
)

# Length of a substring without a length argument.
_UNLIMITED: Final = 2**62
_SHARP_S: Final = "ß"
_CHARACTER_BYTES: Final = 4
_CHECK_ROWS: Final = 256


def concat(operands: Sequence[Vector]) -> Vector:
    """`CONCAT`."""
    parts = as_texts(operands)
    arrays = _operands(parts)
    separator = pa.scalar(b"" if parts[0].is_bytes else "", arrays[0].type)
    return texts(pc.binary_join_element_wise(*arrays, separator), parts[0])


def _operands(parts: Sequence[Vector]) -> list[Array]:
    """Return texts to concatenate, constants of one row as scalars; checks the size."""
    rows = max(map(len, parts))
    are_constant = [len(part) < rows for part in parts]
    sizes = [pc.sum(pc.binary_length(part.data)).as_py() or 0 for part in parts]
    require(sum(s * rows if one else s for s, one in zip(sizes, are_constant, strict=True)))
    return [p.data[0] if one else p.data for p, one in zip(parts, are_constant, strict=True)]


def concat_ws(operands: Sequence[Vector]) -> Vector:
    """`CONCAT_WS`: NULLs are skipped."""
    parts = as_texts(operands)
    # The separator is also counted once for each text.
    _operands([parts[0]] * len(parts))
    separator, *arrays = _operands(parts)
    empty = pa.scalar(b"" if parts[0].is_bytes else "", separator.type)
    # Arrow's join with null_handling="skip" drops all-null rows (observed in 26.0.1).
    has_value, pieces = pa.scalar(False), []
    for values in arrays:
        before = pc.if_else(has_value, separator, empty)
        piece = pc.binary_join_element_wise(before, values, empty)
        pieces.append(pc.fill_null(piece, empty))
        has_value = pc.or_(has_value, pc.is_valid(values))
    joined = pc.binary_join_element_wise(*pieces, empty)
    return texts(pc.if_else(pc.is_valid(separator), joined, None), parts[0])


def upper(operands: Sequence[Vector]) -> Vector:
    """`UPPER`."""
    text = to_text(operands[0])
    if text.is_bytes:
        return texts(text.data, text)
    if not pc.any(pc.match_substring(text.data, _SHARP_S)).as_py():
        return texts(pc.utf8_upper(text.data), text)
    # ß has no simple upper case in Unicode, but Arrow converts it to a capital.
    uppercase = map_rows(_upper_keeping_sharp_s, [text], text.null)
    return texts(pa.array(uppercase, pa.string()), text)


def _upper_keeping_sharp_s(value: str) -> str:
    parts = pa.array(value.split(_SHARP_S), pa.string())
    return _SHARP_S.join(pc.utf8_upper(parts).to_pylist())


def lower(operands: Sequence[Vector]) -> Vector:
    """`LOWER`."""
    text = to_text(operands[0])
    return texts(text.data if text.is_bytes else pc.utf8_lower(text.data), text)


def length(operands: Sequence[Vector]) -> Vector:
    """`LENGTH`, in bytes."""
    text = to_text(operands[0])
    return _counts(pc.binary_length(text.data), text.null)


def char_length(operands: Sequence[Vector]) -> Vector:
    """`CHAR_LENGTH`."""
    text = to_text(operands[0])
    return _counts(_size(text), text.null)


def _size(text: Vector) -> Array:
    return pc.binary_length(text.data) if text.is_bytes else pc.utf8_length(text.data)


def _counts(values: Array, null: Mask) -> Vector:
    return integers(np.asarray(pc.fill_null(values, 0)).astype(np.int64), null)


def substring(operands: Sequence[Vector]) -> Vector:
    """`SUBSTRING(text, position[, length])`; a negative position counts from the end."""
    text, null = to_text(operands[0]), null_of(operands)
    position = to_signed(operands[1])
    count = to_signed(operands[2]) if len(operands) > 2 else np.full(len(null), _UNLIMITED)
    size = np.asarray(pc.fill_null(_size(text), 0)).astype(np.int64)
    start = np.where(position < 0, position + size, position - 1)
    start = np.where((start < 0) | (start > size), size, start)
    stop = start + np.clip(count, 0, size)
    return _sliced(text, start, np.minimum(stop, size), null)


def left(operands: Sequence[Vector]) -> Vector:
    """`LEFT`."""
    text, null = to_text(operands[0]), null_of(operands)
    size = np.asarray(pc.fill_null(_size(text), 0)).astype(np.int64)
    stop = np.clip(to_signed(operands[1]), 0, size)
    return _sliced(text, np.zeros_like(stop), stop, null)


def right(operands: Sequence[Vector]) -> Vector:
    """`RIGHT`."""
    text, null = to_text(operands[0]), null_of(operands)
    size = np.asarray(pc.fill_null(_size(text), 0)).astype(np.int64)
    return _sliced(text, size - np.clip(to_signed(operands[1]), 0, size), size, null)


def _sliced(text: Vector, start: Int64s, stop: Int64s, null: Mask) -> Vector:
    """Slice each row from `start` to `stop`: one Arrow call per distinct pair."""
    slice_text = pc.binary_slice if text.is_bytes else pc.utf8_slice_codeunits
    pairs, codes = np.unique(np.stack([start, stop], axis=1), axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(pairs) + 1))
    shuffled = text.data.take(pa.array(order))
    pieces = [
        slice_text(shuffled.slice(ends[n], ends[n + 1] - ends[n]), int(first), int(last))
        for n, (first, last) in enumerate(pairs)
    ]
    result = pa.concat_arrays(pieces).take(pa.array(np.argsort(order)))
    return texts(result, text).with_null(null)


def trim(operands: Sequence[Vector]) -> Vector:
    """`TRIM(direction removed FROM text)`, as `(text, removed, direction)`."""
    text, removed = as_texts(operands[:2], operands[:1])
    return _trimmed(text, removed, str(operands[2].constant()))


def ltrim(operands: Sequence[Vector]) -> Vector:
    """`LTRIM`."""
    return _trimmed(to_text(operands[0]), None, "leading")


def rtrim(operands: Sequence[Vector]) -> Vector:
    """`RTRIM`."""
    return _trimmed(to_text(operands[0]), None, "trailing")


def _trimmed(text: Vector, removed: Vector | None, direction: str) -> Vector:
    """Remove a prefix or suffix as often as it occurs; spaces by default."""

    def cut(value: Array, repeated: Array) -> Array:
        if not repeated:
            return value
        start, end = 0, len(value)
        if direction in ("leading", "both"):
            while value.startswith(repeated, start):
                start += len(repeated)
        if direction in ("trailing", "both"):
            while value.endswith(repeated, start, end):
                end -= len(repeated)
        return value[start:end]

    if removed is None:
        space = b" " if text.is_bytes else " "
        trimmed = map_rows(lambda value: cut(value, space), [text], text.null)
    else:
        trimmed = map_rows(cut, [text, removed], null_of([text, removed]))
    return texts(pa.array(trimmed, text.data.type), text)


def replace_text(operands: Sequence[Vector]) -> Vector:
    """`REPLACE`, which is case-sensitive."""
    parts = as_texts(operands, operands[:1])
    total_bytes, at = 0, 0

    def replaced(text: Array, old: Array, new: Array) -> Array:
        nonlocal total_bytes, at
        count = text.count(old) if old else 0
        total_bytes += _bytes_at_most(text, count * (len(new) - len(old)), new)
        require(total_bytes)
        at += 1
        if not at % _CHECK_ROWS:
            check_time()
        return text.replace(old, new) if count else text

    values = map_rows(replaced, parts, null_of(parts))
    require(sum(_bytes_at_most(value) for value in values if value is not None))
    return texts(pa.array(values, parts[0].data.type), parts[0])


def _bytes_at_most(text: Array, more: int = 0, other: Array = "") -> int:
    """Return an upper bound of the size of a text that grows by `more` characters of `other`."""
    is_narrow = isinstance(text, bytes) or (text.isascii() and other.isascii())
    return (len(text) + more) * (1 if is_narrow else _CHARACTER_BYTES)


def _map_bytes(function: Callable[[bytes], Any], text: Vector) -> Array:
    # The result of HEX is twice as long; others are short.
    require(2 * text.data.nbytes)
    as_bytes = texts(pc.cast(text.data, pa.binary()))
    return map_rows(function, [as_bytes], text.null)


def _printed(function: Callable[[bytes], str]) -> Callable[[Sequence[Vector]], Vector]:
    def apply(operands: Sequence[Vector]) -> Vector:
        return texts(pa.array(_map_bytes(function, to_text(operands[0])), pa.string()))

    return apply


md5: Final = _printed(lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest())
sha1: Final = _printed(lambda data: hashlib.sha1(data, usedforsecurity=False).hexdigest())
_hex: Final = _printed(lambda data: data.hex().upper())


def crc32(operands: Sequence[Vector]) -> Vector:
    """`CRC32`."""
    text = to_text(operands[0])
    sums = _map_bytes(zlib.crc32, text)
    return integers(np.where(text.null, 0, sums).astype(np.uint64), text.null)


def hexadecimal(operands: Sequence[Vector]) -> Vector:
    """`HEX` of the 64 bits of a number, or of the bytes of a text."""
    value = operands[0]
    if value.is_bit and value.number is not None:
        value = value.number
    if value.kind in (Kind.TEXT, Kind.TIME, Kind.DURATION):
        return _hex(operands)
    whole = to_integer(value)
    bits = Vector(Kind.UINT, whole.data.view(np.uint64), whole.null)
    return texts(pa.array(map_rows("{:X}".format, [bits], whole.null), pa.string()))
