"""Values of one expression for all rows of a batch, in the representations used to compute.

INT, UINT    int64, uint64
DECIMAL      Python ints in an object array: the value times 10^digits. Exact at any precision
REAL         float64
TEXT         an Arrow array of strings, or of binary for bytes without a charset
TIME         DATE, DATETIME, TIMESTAMP: packed uint64 (`codec/time.py`), so zero dates are values
DURATION     int64 microseconds
NULL         NULL in every row; converts to any type
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.failure import LackingError, OutOfRangeError

Array: TypeAlias = Any
"""An Arrow array, or a NumPy array where stated."""

TEXT_TYPE: Final = FieldType(MySQLType.VARCHAR, charset="utf8mb4", collate="utf8mb4_bin")
BYTES_TYPE: Final = FieldType(MySQLType.VARCHAR, charset="binary", collate="binary")

EXPLICIT, IMPLICIT, SYSTEM, COERCIBLE, NUMERIC, IGNORABLE = 0, 2, 3, 4, 5, 6
"""Coercibilities of COLLATE, columns and casts, system constants, literals, numbers, NULL."""


class Kind(Enum):
    """Representation of a vector's values."""

    NULL = "NULL"
    INT = "BIGINT"
    UINT = "BIGINT UNSIGNED"
    DECIMAL = "DECIMAL"
    REAL = "DOUBLE"
    TEXT = "TEXT"
    TIME = "DATETIME"
    DURATION = "TIME"


INTEGERS: Final = frozenset({Kind.INT, Kind.UINT})


@dataclass(frozen=True, slots=True)
class Vector:
    """Values of one kind; `data` is undefined where `null` is true.

    Attributes:
        digits: Scale of DECIMAL; fractional-second digits of TIME and DURATION.
        shown: For a DECIMAL computed from a quotient, the fractional digits in a text column. In
            text functions the digits depend on a display width, which is not available here.
        is_date: For TIME, whether it is DATE; None if only some rows are.
        is_cut: For DECIMAL, a CAST rounded digits off, which TiDB retains when converting it to
            DOUBLE.
        is_mixed: For DECIMAL, the scale of the text differs between rows; for TEXT, some rows
            come from an ENUM or SET, so their numeric value is unknown.
        collation: Collation of TEXT; `TEXT_TYPE` by default.
        coercibility: Coercibility of the collation of TEXT (`tidb/expression/collation.py`).
        number: Numeric value of a TEXT: of ENUM, SET, BIT and `0x41`.
        is_constant: All rows are equal and do not depend on columns.
        is_column: A stored column, unchanged.
        is_choice: The result of IF, CASE, NULLIF or similar.
        is_year: For UINT, whether it is YEAR; None if only some rows are.
        single: For REAL, a FLOAT, which is printed with fewer digits.
    """

    kind: Kind
    data: Any
    null: Mask
    digits: int = 0
    shown: int = -1
    is_date: bool | None = False
    is_cut: bool = False
    is_mixed: bool = False
    collation: FieldType = TEXT_TYPE
    coercibility: int = COERCIBLE
    number: "Vector | None" = None
    is_constant: bool = False
    is_column: bool = False
    is_choice: bool = False
    is_year: bool | None = False
    single: bool = False

    def __len__(self) -> int:
        return len(self.null)

    @property
    def shown_digits(self) -> int:
        """Number of fractional digits in a text column."""
        return self.digits if self.shown < 0 else self.shown

    @property
    def is_bit(self) -> bool:
        """Whether it is a BIT column, a number in all contexts that accept one."""
        return self.number is not None and self.is_bytes and not self.is_constant

    @property
    def is_hexadecimal(self) -> bool:
        """Whether it is a literal such as `0x41` or `b'1'`, both bytes and a number."""
        return self.number is not None and self.is_bytes and self.is_constant

    @property
    def is_named(self) -> bool:
        """Whether it is an ENUM or SET, both a text and a number."""
        return self.number is not None and not self.is_bytes

    @property
    def is_bytes(self) -> bool:
        """Whether it is TEXT without a charset."""
        return self.kind is Kind.TEXT and bool(pa.types.is_binary(self.data.type))

    def take(self, rows: npt.NDArray[np.int64]) -> "Vector":
        """Return the rows selected by index."""
        data = self.data.take(pa.array(rows)) if self.kind is Kind.TEXT else self.data[rows]
        number = self.number.take(rows) if self.number is not None else None
        return replace(self, data=data, null=self.null[rows], number=number)

    def spread(self, row_count: int) -> "Vector":
        """Repeat the value of a constant for all rows."""
        return self.take(np.zeros(row_count, np.int64))

    def shared(self, row_count: int) -> "Vector":
        """Return the constant, not a TEXT, for all rows, as views of the one value."""
        data, null = (np.broadcast_to(each, (row_count,)) for each in (self.data, self.null))
        return replace(self, data=data, null=null)

    def constant(self) -> Array:
        """Return the value of a constant, None for NULL. Raises `LackingError`."""
        if not self.is_constant:
            raise LackingError("an argument that is not a constant")
        if self.null[0]:
            return None
        return self.data[0].as_py() if self.kind is Kind.TEXT else self.data[0]

    def with_null(self, null: Mask) -> "Vector":
        """Return the vector with NULL where `null` is true."""
        if self.kind is Kind.TEXT:
            data = pc.if_else(pa.array(null), pa.scalar(None, self.data.type), self.data)
            number = self.number.with_null(null) if self.number is not None else None
            return replace(self, data=data, null=self.null | null, number=number)
        return replace(self, null=self.null | null)


def integers(data: npt.NDArray[Any], null: Mask) -> Vector:
    """Return INT or UINT, by the array's type."""
    return Vector(Kind.UINT if data.dtype == np.uint64 else Kind.INT, data, null)


def booleans(data: Mask, null: Mask) -> Vector:
    """Return INT with 1 for true and 0 for false."""
    return Vector(Kind.INT, data.astype(np.int64), null)


def decimals(unscaled: npt.NDArray[np.object_], null: Mask, digits: int, shown: int = -1) -> Vector:
    """Return DECIMAL with the values `unscaled / 10^digits`."""
    return Vector(Kind.DECIMAL, unscaled, null, digits, shown)


def reals(data: npt.NDArray[np.float64], null: Mask) -> Vector:
    """Return REAL; TiDB has neither infinities nor NaN. Raises `OutOfRangeError`."""
    if not np.isfinite(data[~null]).all():
        raise OutOfRangeError(Kind.REAL.value)
    return Vector(Kind.REAL, data, null)


def texts(data: Array, like: Vector | None = None) -> Vector:
    """Return TEXT, with the collation of the text `like` that it is derived from."""
    null = np.asarray(data.is_null())
    if like is not None:
        collation, coercibility = like.collation, like.coercibility
        return Vector(Kind.TEXT, data, null, collation=collation, coercibility=coercibility)
    collation = BYTES_TYPE if pa.types.is_binary(data.type) else TEXT_TYPE
    return Vector(Kind.TEXT, data, null, collation=collation)


def nothing(row_count: int) -> Vector:
    """Return NULL for every row."""
    return Vector(Kind.NULL, np.zeros(row_count, np.int64), np.ones(row_count, np.bool_))


def null_of(operands: Sequence[Vector]) -> Mask:
    """Return where any operand is NULL; operands may have one row, if others have more."""
    return reduce(np.logical_or, [v.null for v in operands])


def map_rows(
    function: Callable[..., Any], operands: Sequence[Vector], null: Mask
) -> npt.NDArray[np.object_]:
    """Apply a Python function to the rows that are not `null`, once per distinct row.

    Operands may have one row, if `null` has more. For functions that have no vectorised form, such
    as hashing and parsing.
    """
    result = np.empty(len(null), object)
    rows = np.flatnonzero(~null)
    if not len(rows):
        return result
    codes = np.zeros(len(rows), np.int64)
    is_one = [len(operand) < len(null) for operand in operands]
    for operand in (each for each, one in zip(operands, is_one, strict=True) if not one):
        of_operand, count = _codes(operand, rows)
        _, codes = np.unique(codes * count + of_operand, return_inverse=True)
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    columns = [
        _python_values(operand) * len(first) if one else _python_values(operand.take(rows[first]))
        for operand, one in zip(operands, is_one, strict=True)
    ]
    distinct = np.empty(len(first), object)
    for place, arguments in enumerate(zip(*columns, strict=True)):
        distinct[place] = function(*arguments)
    result[rows] = distinct[codes]
    return result


def _codes(operand: Vector, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """Return a code for each row, equal for equal values, and an exclusive upper bound of codes."""
    chosen = operand.take(rows)
    if operand.kind is Kind.TEXT:
        encoded = chosen.data.dictionary_encode(null_encoding="encode")
        codes = np.asarray(encoded.indices).astype(np.int64)
        return codes, len(encoded.dictionary) or 1
    # Compare bits, so that -0.0 and 0.0 differ.
    bits = chosen.data.view(np.int64) if operand.kind is Kind.REAL else chosen.data
    values, codes = np.unique(bits, return_inverse=True)
    # Distinguish NULL from the placeholder value in its row.
    return codes * 2 + chosen.null, 2 * len(values)


def _python_values(vector: Vector) -> list[Any]:
    if vector.kind is Kind.TEXT:
        return list(vector.data.to_pylist())
    values = vector.data.tolist()
    return [None if null else v for v, null in zip(values, vector.null.tolist(), strict=True)]
