"""Collation of several text operands, and their conversion to its charset.

As `util/collate` and `expression/collation.go` in TiDB: the operand with the lower coercibility
determines the collation; among columns, `binary` precedes `_bin`, and others conflict. Bytes are
decoded as UTF-8 if the collation is that of a text; texts are encoded as UTF-8 if it is `binary`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.expression.convert import to_text
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.vector import (
    BYTES_TYPE,
    COERCIBLE,
    EXPLICIT,
    IGNORABLE,
    NUMERIC,
    SYSTEM,
    TEXT_TYPE,
    Kind,
    Vector,
)

_Derived: TypeAlias = tuple[int, FieldType]
"""Coercibility and collation."""

_BINARY: Final = "binary"
_UNICODE: Final = ("utf8", "utf8mb4")
_BIN: Final = frozenset({"ascii_bin", "latin1_bin", "utf8_bin", "utf8mb4_bin", "gbk_bin"})


def derive_collation(operands: Sequence[Vector]) -> tuple[FieldType, int]:
    """Return the collation and coercibility of a comparison of operands, or of a text made of them.

    Raises:
        LackingError: The collations conflict, or their combination is not supported.
    """
    coercibility, collation = reduce(_of_two, [_own(operand) for operand in operands])
    if coercibility == NUMERIC:
        has_bits = any(operand.is_bit for operand in operands)
        return BYTES_TYPE if has_bits else TEXT_TYPE, COERCIBLE
    return collation, coercibility


def as_texts(operands: Sequence[Vector], deciding: Sequence[Vector] = ()) -> list[Vector]:
    """Convert operands to texts with the common collation and charset of `deciding` (or of them).

    Raises:
        LackingError: As in `derive_collation`, or bytes cannot be decoded in the charset.
    """
    collation, coercibility = derive_collation(deciding or operands)
    return [
        replace(_in_charset(to_text(v), collation), collation=collation, coercibility=coercibility)
        for v in operands
    ]


def _own(vector: Vector) -> _Derived:
    if vector.kind is Kind.TEXT and not vector.is_bit:
        return vector.coercibility, vector.collation
    return IGNORABLE if vector.kind is Kind.NULL else NUMERIC, BYTES_TYPE


def _of_two(left: _Derived, right: _Derived) -> _Derived:
    collations = left[1].collate, right[1].collate
    if collations[0] == collations[1] or (left[0] != right[0] and _BINARY in collations):
        return min(left, right, key=lambda each: each[0])
    if _BINARY in collations:
        return left if collations[0] == _BINARY else right
    if left[1].charset == right[1].charset:
        if left[0] != right[0]:
            return min(left, right, key=lambda each: each[0])
        if left[0] != EXPLICIT and (binaries := [d for d in (left, right) if d[1].collate in _BIN]):
            return binaries[0]
    else:
        firm, loose = sorted((left, right), key=lambda each: (each[0], _rank(each[1])))
        if firm[1].charset in _UNICODE or (firm[0] < loose[0] and loose[0] >= SYSTEM):
            return firm
    raise LackingError(f"mixing collations {', '.join(sorted(collations))}")


def _rank(collation: FieldType) -> int:
    """Return the rank of a charset: utf8mb4 includes all others, utf8 all others but utf8mb4."""
    return -_UNICODE.index(collation.charset) if collation.charset in _UNICODE else 1


def _in_charset(text: Vector, collation: FieldType) -> Vector:
    if text.is_bytes == (collation.collate == _BINARY):
        return text
    charset = text.collation.charset if collation.collate == _BINARY else collation.charset
    if charset == "gbk":
        raise LackingError("mixing bytes and a text of charset gbk")
    if not text.is_bytes:
        return replace(text, data=pc.cast(text.data, pa.binary()))
    try:
        data = pc.cast(text.data, pa.string())
    except pa.ArrowInvalid:
        raise LackingError("mixing a text and bytes that are not UTF-8") from None
    if (
        charset not in _UNICODE
        and not np.asarray(pc.fill_null(pc.string_is_ascii(data), True)).all()
    ):
        raise LackingError(f"mixing non-ASCII bytes and a text of charset {charset}")
    return replace(text, data=data)
