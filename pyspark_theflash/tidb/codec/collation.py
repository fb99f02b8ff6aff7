"""How strings compare: the bytes that stand for them in keys.

Under a collation that compares bytes a key holds the string itself, so it can be made from the
value and read back. Under any other it holds the weights of the string's characters. As in TiDB's
`util/collate`, for a cluster with new_collations_enabled_on_first_bootstrap:

    binary, utf8mb4_0900_bin                        the bytes
    ascii_bin, latin1_bin, utf8_bin, utf8mb4_bin    the bytes without trailing spaces
    utf8mb4_0900_ai_ci                              weights
    all others                                      weights of the string without trailing spaces

Text is UTF-8 under every charset.
"""

from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.tidb.codec.array import ArrowArray, binary, nulls, variable_width
from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.codec.weights import Weights, load_weights

Bytes: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.int64]

_LAYER: Final = "collation"
_NOT_UTF8: Final = "bytes that are not UTF-8"
_BYTEWISE: Final = frozenset(
    {"ascii_bin", "binary", "latin1_bin", "utf8_bin", "utf8mb4_0900_bin", "utf8mb4_bin"}
)
# Trailing spaces count.
_NO_PAD: Final = frozenset({"binary", "utf8mb4_0900_ai_ci", "utf8mb4_0900_bin"})
_WEIGHTS: Final = {
    "gbk_bin": "gbk_bin",
    "gbk_chinese_ci": "gbk_chinese_ci",
    "utf8_general_ci": "general_ci",
    "utf8_unicode_ci": "unicode_ci",
    "utf8mb4_0900_ai_ci": "unicode_0900_ai_ci",
    "utf8mb4_general_ci": "general_ci",
    "utf8mb4_unicode_ci": "unicode_ci",
}
# How much text is looked up at a time: each byte takes some tens of bytes while that is done.
_PIECE_BYTES: Final = 1 << 18
_MAX_BYTES: Final = (1 << 31) - 1


def is_bytewise(field_type: FieldType) -> bool:
    """Whether a key holds strings of this type themselves."""
    return field_type.collate in _BYTEWISE


def sort_keys(values: ArrowArray, field_type: FieldType) -> ArrowArray:
    """What `values` (strings or bytes; nulls stay) compare by, as a binary array.

    Equal keys are equal strings, and the order of the keys is that of the strings.

    Raises:
        CodecError: text that is not UTF-8, under a collation that weighs characters.
        UnsupportedError: the collation is not known here, or the keys take 2 GiB or more.
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


def _as_text(values: ArrowArray, *, is_utf8: bool) -> ArrowArray:
    """The values as an array of strings, which really are strings if `is_utf8`."""
    large = pa.types.is_large_binary(values.type) or pa.types.is_large_string(values.type)
    tp = pa.large_string() if large else pa.string()
    try:
        return values.cast(options=pc.CastOptions(tp, allow_invalid_utf8=not is_utf8))
    except pa.ArrowInvalid as error:
        raise CodecError(_LAYER, _NOT_UTF8) from error


def _check_size(total: int) -> None:
    if total > _MAX_BYTES:
        raise UnsupportedError("2 GiB of sort keys at once", "column")


def _weigh(text: ArrowArray, weights: Weights) -> ArrowArray:
    """The weights of each string."""
    if not len(text):
        return nulls(0, pa.binary())
    data, bounds = variable_width(text.fill_null("") if text.null_count else text)
    cuts = np.searchsorted(bounds, np.arange(bounds[0], bounds[-1], _PIECE_BYTES))
    joined, sizes, total = [], [np.zeros(1, np.int64)], 0
    for begin, end in pairwise(np.unique(np.concatenate([[0], cuts, [len(text)]])).tolist()):
        piece, size = _weigh_piece(data, bounds[begin : end + 1], weights)
        joined.append(piece)
        sizes.append(size)
        total += len(piece)
        _check_size(total)
    keys = binary(np.concatenate(joined), np.cumsum(np.concatenate(sizes)))
    return pc.if_else(text.is_valid(), keys, None) if text.null_count else keys


def _weigh_piece(data: Bytes, bounds: Ints, weights: Weights) -> tuple[Bytes, Ints]:
    """The weights of some strings joined, and how many bytes each has."""
    own = data[bounds[0] : bounds[-1]]
    try:
        codes = np.frombuffer(own.tobytes().decode().encode("utf-32-le"), "<u4")
    except UnicodeDecodeError as error:
        raise CodecError(_LAYER, _NOT_UTF8) from error
    places = bounds - bounds[0]
    if len(codes) < len(own):  # then bytes are not characters
        counted = np.zeros(len(own) + 1, np.int64)
        np.cumsum((own & 0xC0) != 0x80, out=counted[1:])
        places = counted[places]
    joined, ends = weights.of(codes)
    return joined, np.diff(ends[places])
