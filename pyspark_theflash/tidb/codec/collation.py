"""Sort keys of strings under TiDB's collations: the bytes that represent strings in keys.

Under a bytewise collation a key holds the string itself, so the value can be read back from the
key. Under any other collation it holds the weights of the string's characters. The rules are those
of TiDB's `util/collate`, for a cluster with new_collations_enabled_on_first_bootstrap:

    binary, utf8mb4_0900_bin                        the bytes
    ascii_bin, latin1_bin, utf8_bin, utf8mb4_bin    the bytes without trailing spaces
    utf8mb4_0900_ai_ci                              weights
    other supported collations (`_WEIGHTS`)         weights of the string without trailing spaces

Text is UTF-8 under every charset.
"""

from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.tidb.codec.array import binary, variable_width
from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.codec.weights import Weights, load_weights

Bytes: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.int64]

_LAYER: Final = "collation"
_NOT_UTF8: Final = "text is not valid UTF-8"
_BYTEWISE: Final = frozenset(
    {"ascii_bin", "binary", "latin1_bin", "utf8_bin", "utf8mb4_0900_bin", "utf8mb4_bin"}
)
# Collations under which trailing spaces are significant.
_NO_PAD: Final = frozenset({"binary", "utf8mb4_0900_ai_ci", "utf8mb4_0900_bin"})
# Weight table of each collation that is not bytewise.
_WEIGHTS: Final = {
    "gbk_bin": "gbk_bin",
    "gbk_chinese_ci": "gbk_chinese_ci",
    "utf8_general_ci": "general_ci",
    "utf8_unicode_ci": "unicode_ci",
    "utf8mb4_0900_ai_ci": "unicode_0900_ai_ci",
    "utf8mb4_general_ci": "general_ci",
    "utf8mb4_unicode_ci": "unicode_ci",
}
# Text is weighed in pieces of this size: each byte of it needs some tens of bytes of memory.
_PIECE_BYTES: Final = 1 << 18
_MAX_BYTES: Final = (1 << 31) - 1


def is_bytewise(field_type: FieldType) -> bool:
    """Whether keys hold strings of this type unchanged, apart from trailing spaces."""
    return field_type.collate in _BYTEWISE


def compares_bytes(field_type: FieldType) -> bool:
    """Whether strings of this type compare by all of their bytes, in byte order."""
    return field_type.collate in _BYTEWISE & _NO_PAD


def sort_keys(values: pa.Array, field_type: FieldType) -> pa.Array:
    """Encode strings or bytes as binary sort keys; nulls remain null.

    The byte order of the keys is the order of the strings under the type's collation.

    Raises:
        CodecError: Text is not valid UTF-8, under a collation with weights.
        UnsupportedError: The collation is unknown, or the keys take 2 GiB or more.
    """
    collate = field_type.collate
    if collate not in _BYTEWISE and collate not in _WEIGHTS:
        raise UnsupportedError(f"collation {collate}", "column")
    text = _as_text(values, is_utf8=collate in _WEIGHTS)
    if collate not in _NO_PAD:
        text = pc.ascii_rtrim(text, characters=" ")
    if collate in _WEIGHTS:
        return _weigh(text, load_weights(_WEIGHTS[collate]))
    if pa.types.is_large_string(text.type):
        _check_size(pc.sum(pc.binary_length(text)).as_py() or 0)
    return text.cast(pa.binary())


def _as_text(values: pa.Array, *, is_utf8: bool) -> pa.Array:
    """Cast the values to strings; with `is_utf8`, check that they are valid UTF-8."""
    large = pa.types.is_large_binary(values.type) or pa.types.is_large_string(values.type)
    tp = pa.large_string() if large else pa.string()
    try:
        return values.cast(options=pc.CastOptions(tp, allow_invalid_utf8=not is_utf8))
    except pa.ArrowInvalid as error:
        raise CodecError(_LAYER, _NOT_UTF8) from error


def _check_size(total: int) -> None:
    if total > _MAX_BYTES:
        raise UnsupportedError("an array of sort keys of 2 GiB or more", "column")


def _weigh(text: pa.Array, weights: Weights) -> pa.Array:
    """Return the weights of each string as a binary array."""
    if not len(text):
        return pa.nulls(0, pa.binary())
    data, bounds = variable_width(text.fill_null("") if text.null_count else text)
    cuts = np.searchsorted(bounds, np.arange(bounds[0], bounds[-1], _PIECE_BYTES))
    pieces, sizes, total = [], [np.zeros(1, np.int64)], 0
    for begin, end in pairwise(np.unique(np.concatenate([[0], cuts, [len(text)]])).tolist()):
        piece, size = _weigh_piece(data, bounds[begin : end + 1], weights)
        pieces.append(piece)
        sizes.append(size)
        total += len(piece)
        _check_size(total)
    keys = binary(np.concatenate(pieces), np.cumsum(np.concatenate(sizes)))
    return pc.if_else(text.is_valid(), keys, None) if text.null_count else keys


def _weigh_piece(data: Bytes, bounds: Ints, weights: Weights) -> tuple[Bytes, Ints]:
    """Return the concatenated weights of some strings, and the size of each string's weights."""
    piece = data[bounds[0] : bounds[-1]]
    try:
        codes = np.frombuffer(piece.tobytes().decode().encode("utf-32-le"), "<u4")
    except UnicodeDecodeError as error:
        raise CodecError(_LAYER, _NOT_UTF8) from error
    char_bounds = bounds - bounds[0]
    if len(codes) < len(piece):  # There are characters of several bytes.
        char_counts = np.zeros(len(piece) + 1, np.int64)
        np.cumsum((piece & 0xC0) != 0x80, out=char_counts[1:])
        char_bounds = char_counts[char_bounds]
    joined, weight_bounds = weights.of(codes)
    return joined, np.diff(weight_bounds[char_bounds])
