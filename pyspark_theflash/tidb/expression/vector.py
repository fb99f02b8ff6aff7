"""Values of one expression for all rows of a batch, in the forms that expressions compute in.

INT, UINT    int64, uint64
DECIMAL      Python ints in an object array: the value times 10^digits. Exact at any precision
REAL         float64
TEXT         an Arrow array of strings, or of binary for bytes without a charset
TIME         DATE, DATETIME, TIMESTAMP: packed uint64 (`codec/time.py`), so zero dates are values
DURATION     int64 microseconds
NULL         nothing but NULL, which fits every type
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.failure import LackingError, OutOfRangeError

# pyarrow-stubs know too little of the compute functions.
pc: Final[Any] = pyarrow.compute
Array: TypeAlias = Any
"""Of Arrow, or of NumPy where it says so."""

TEXT_TYPE: Final = FieldType(MySQLType.VARCHAR, charset="utf8mb4", collate="utf8mb4_bin")
BYTES_TYPE: Final = FieldType(MySQLType.VARCHAR, charset="binary", collate="binary")

EXPLICIT, IMPLICIT, SYSTEM, COERCIBLE, NUMERIC, IGNORABLE = 0, 2, 3, 4, 5, 6
"""Coercibilities of COLLATE, columns and casts, system constants, literals, numbers, NULL."""


class Kind(Enum):
    """The form of a vector's values."""

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
    """Values of one kind; `data` means nothing where `null` holds.

    Attributes:
        digits: of DECIMAL, the scale; of TIME and DURATION, the fractional-second digits.
        shown: of a DECIMAL made of a quotient, the digits that a column of text gets. Functions of
            text get as many as fit a display width, which is not known here.
        is_date: of TIME, a DATE; None where some rows are one.
        is_cut: of DECIMAL, a CAST has taken digits, which TiDB keeps where it makes a DOUBLE of it.
        is_mixed: of DECIMAL, rows differ in the digits that their text has; of TEXT, some rows are
            of an ENUM or SET, so that it is not known what they are among numbers.
        collation: of TEXT, how it compares; where nothing says so, as `TEXT_TYPE` does.
        coercibility: of TEXT, how firmly the collation is set (`tidb/expression/collation.py`).
        number: what a TEXT is among numbers: of ENUM, SET, BIT and `0x41`.
        is_constant: all rows are equal, whatever the columns hold.
        is_column: a column as it is stored.
        is_choice: the result of IF, CASE, NULLIF or the like.
        is_year: of UINT, a YEAR; None where some rows are one.
        single: of REAL, a FLOAT: it prints as one.
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
        """Digits after the point in a column of text."""
        return self.digits if self.shown < 0 else self.shown

    @property
    def is_bit(self) -> bool:
        """A BIT column: a number wherever that is possible."""
        return self.number is not None and self.is_bytes and not self.is_constant

    @property
    def is_hexadecimal(self) -> bool:
        """A literal such as `0x41` or `b'1'`, which is bytes and a number."""
        return self.number is not None and self.is_bytes and self.is_constant

    @property
    def is_named(self) -> bool:
        """An ENUM or SET: a text, and a number."""
        return self.number is not None and not self.is_bytes

    @property
    def is_bytes(self) -> bool:
        """TEXT without a charset."""
        return self.kind is Kind.TEXT and bool(pa.types.is_binary(self.data.type))

    def take(self, rows: npt.NDArray[np.int64]) -> "Vector":
        """The values of some rows, in their order."""
        data = self.data.take(pa.array(rows)) if self.kind is Kind.TEXT else self.data[rows]
        number = self.number.take(rows) if self.number is not None else None
        return replace(self, data=data, null=self.null[rows], number=number)

    def spread(self, row_count: int) -> "Vector":
        """A constant's one value for all rows."""
        return self.take(np.zeros(row_count, np.int64))

    def constant(self) -> Array:
        """A constant's value, None for NULL.

        Raises:
            LackingError: it is not a constant.
        """
        if not self.is_constant:
            raise LackingError("an argument that is not a constant")
        if self.null[0]:
            return None
        return self.data[0].as_py() if self.kind is Kind.TEXT else self.data[0]

    def with_null(self, null: Mask) -> "Vector":
        """NULL also where `null` holds."""
        if self.kind is Kind.TEXT:
            data = pc.if_else(pa.array(null), pa.scalar(None, self.data.type), self.data)
            number = self.number.with_null(null) if self.number is not None else None
            return replace(self, data=data, null=self.null | null, number=number)
        return replace(self, null=self.null | null)


def integers(data: npt.NDArray[Any], null: Mask) -> Vector:
    """INT or UINT, by the array's type."""
    return Vector(Kind.UINT if data.dtype == np.uint64 else Kind.INT, data, null)


def booleans(data: Mask, null: Mask) -> Vector:
    """1 or 0."""
    return Vector(Kind.INT, data.astype(np.int64), null)


def decimals(unscaled: npt.NDArray[np.object_], null: Mask, digits: int, shown: int = -1) -> Vector:
    """DECIMAL of which the values are `unscaled / 10^digits`."""
    return Vector(Kind.DECIMAL, unscaled, null, digits, shown)


def reals(data: npt.NDArray[np.float64], null: Mask) -> Vector:
    """REAL; TiDB has neither infinities nor NaN.

    Raises:
        OutOfRangeError: a value is not finite.
    """
    if not np.isfinite(data[~null]).all():
        raise OutOfRangeError(Kind.REAL.value)
    return Vector(Kind.REAL, data, null)


def texts(data: Array, like: Vector | None = None) -> Vector:
    """TEXT, which compares as the text `like` that it was made of."""
    null = np.asarray(data.is_null())
    if like is not None:
        collation, coercibility = like.collation, like.coercibility
        return Vector(Kind.TEXT, data, null, collation=collation, coercibility=coercibility)
    collation = BYTES_TYPE if pa.types.is_binary(data.type) else TEXT_TYPE
    return Vector(Kind.TEXT, data, null, collation=collation)


def nothing(row_count: int) -> Vector:
    """NULL for every row."""
    return Vector(Kind.NULL, np.zeros(row_count, np.int64), np.ones(row_count, np.bool_))


def null_of(operands: Sequence[Vector]) -> Mask:
    """Where any operand is NULL."""
    null: Mask = np.logical_or.reduce([v.null for v in operands])
    return null


def map_rows(
    function: Callable[..., Any], operands: Sequence[Vector], null: Mask
) -> npt.NDArray[np.object_]:
    """`function` of the Python values of each row that is not `null`, once a different row.

    For what has no vectorised form: hashes, parsing text.
    """
    result = np.empty(len(null), object)
    rows = np.flatnonzero(~null)
    if not len(rows):
        return result
    codes = np.zeros(len(rows), np.int64)
    for operand in operands:
        of_operand, count = _codes(operand, rows)
        _, codes = np.unique(codes * count + of_operand, return_inverse=True)
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    columns = [_python_values(operand.take(rows[first])) for operand in operands]
    distinct = np.empty(len(first), object)
    for place, arguments in enumerate(zip(*columns, strict=True)):
        distinct[place] = function(*arguments)
    result[rows] = distinct[codes]
    return result


def _codes(operand: Vector, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """A number for each value, equal where values are, and one above the largest."""
    chosen = operand.take(rows)
    if operand.kind is Kind.TEXT:
        encoded = chosen.data.dictionary_encode(null_encoding="encode")
        codes = np.asarray(encoded.indices).astype(np.int64)
        return codes, len(encoded.dictionary) or 1
    # By their bits, which tell -0.0 from 0.0.
    bits = chosen.data.view(np.int64) if operand.kind is Kind.REAL else chosen.data
    values, codes = np.unique(bits, return_inverse=True)
    # NULL apart from the value that stands in its place.
    return codes * 2 + chosen.null, 2 * len(values)


def _python_values(vector: Vector) -> list[Any]:
    if vector.kind is Kind.TEXT:
        return list(vector.data.to_pylist())
    values = vector.data.tolist()
    return [None if null else v for v, null in zip(values, vector.null.tolist(), strict=True)]
